//! A flood through a whole idle time, against so small a flow table that the slowest fills it: beside connections that
//! are silent for half of that time, over a way of 100 ms. No drain has a deadline. Nobody's connection breaks, old or
//! new, and another VIP's drain ends as if there were no flood.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use lb_userspace::api::types::Status;
use naru_tests::{
    connections::{Habit, Options, Population},
    delay,
    lab::{Host, Lab},
    live::{ACK, Generator, SYN, Sink, Stream},
    maps,
    naru::{Naru, attach_decap},
    server::Server,
    vip_text::VipText,
};
use patience::LIMIT;

const FLOODED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
const PORT: u16 = 7;
const BACKENDS: usize = 4;
/// Each has a port of its own from that on, for their flows are of the same clients.
const STREAMS: u16 = 4;
/// As few as the config allows.
const MAX_FLOWS: u64 = 1024;
const IDLE: Duration = Duration::from_secs(10);
/// On average; up to a quarter more, so that it is half of the idle time at most.
const PAUSE: Duration = Duration::from_secs(4);
const DISTANCE: Duration = Duration::from_millis(100);
/// Between two bursts of the flood.
const BEAT: Duration = Duration::from_millis(50);

struct Bed {
    generators: Vec<Generator>,
    _sink: Sink,
    naru: Naru,
    _servers: Vec<Server>,
    lab: Lab,
}

fn target(vip: Ipv4Addr) -> SocketAddr {
    SocketAddr::new(vip.into(), PORT)
}

impl Bed {
    fn new() -> Self {
        let lab = Lab::builder().clients(2).backends(BACKENDS).queue_per_cpu();
        let mut lab = lab.vips([FLOODED, OTHER].map(IpAddr::from)).build().unwrap();
        let targets = [FLOODED, OTHER].map(target);
        let start = |host: &Host| Server::start_talking(host, lab.dir(), &targets).unwrap();
        let servers = lab.backends().iter().map(start).collect();
        lab.backends().iter().for_each(|backend| attach_decap(&lab, backend).unwrap());
        let idle = humantime_seconds(IDLE);
        let vip = |name, address| {
            let ports = (0..STREAMS).map(|stream| format!("tcp/{}", PORT + stream));
            let vip = VipText::new(name, address, ports, "ipip").text("tcp_idle", &idle);
            vip.backends(lab.backends().iter().map(Host::ipv4)).to_string()
        };
        let vips = vip("flooded", FLOODED) + &vip("other", OTHER);
        let config = Naru::node(&lab, &vips).replace("[node]\n", &format!("[node]\nmax_flows = {MAX_FLOWS}\n"));
        let naru = Naru::start_with_config(&lab, &config).unwrap();
        naru.wait_until_ready().unwrap();
        lab.clients().iter().for_each(|client| delay::lengthen(client, DISTANCE).unwrap());
        let far = delay::time_to_connect(lab.client(), FLOODED, PORT).unwrap();
        assert!(far >= DISTANCE, "a connection took {far:?}");
        let sink = Sink::open(&mut lab).unwrap();
        // Of one, two and four packets a flow, from a SYN on; and of one that is none.
        let streams: [_; STREAMS as usize] = [(SYN, 0), (SYN, 1), (SYN, 2), (ACK, 0)];
        let streams = (0..).zip(streams).map(|(number, (first, row_bits))| {
            let mut flags = [ACK; 16];
            flags[0] = first;
            let target = SocketAddr::new(FLOODED.into(), PORT + number);
            Stream { target, flags, flow_bits: u32::BITS, row_bits }
        });
        let generators = streams.map(|stream| Generator::new(&lab, stream).unwrap()).collect();
        Self { generators, _sink: sink, naru, _servers: servers, lab }
    }

    /// Connections that talk now and then: as long as they are let, or for so long on average.
    fn population(&self, vip: Ipv4Addr, connections: usize, pause: Duration, lifetime: Option<Duration>) -> Population {
        let habits = vec![Habit { parts: 1, pause, lifetime }];
        let options = Options { target: target(vip), connections, habits, timeout: Duration::from_secs(20) };
        let population = Population::start(self.lab.clients(), options).unwrap();
        population.wait_until_heard(Instant::now(), LIMIT).unwrap();
        population
    }

    fn drain(&self, vip: &str, backends: std::ops::Range<usize>) {
        for backend in &self.lab.backends()[backends] {
            self.naru.cli(&["backend", "drain", vip, &backend.ipv4().to_string()]).unwrap();
        }
    }

    /// Floods, at so many packets a second, while `work` is done on another thread and for `time` at least.
    fn flood<R: Send>(&mut self, rate: u32, time: Duration, work: impl FnOnce(&Naru) -> R + Send) -> R {
        let Self { generators, naru, .. } = self;
        let burst = (rate as f64 * BEAT.as_secs_f64()) as u32;
        thread::scope(|scope| {
            let work = scope.spawn(|| work(naru));
            let begun = Instant::now();
            let mut next = begun;
            let count = generators.len();
            for generator in (0..).map(|number| number % count) {
                generators[generator].send(burst).unwrap();
                next += BEAT;
                thread::sleep(next.saturating_duration_since(Instant::now()));
                if begun.elapsed() >= time && work.is_finished() {
                    break;
                }
            }
            work.join().unwrap()
        })
    }

    fn refused(&self, vip: &str) -> u64 {
        let status: Status = self.naru.status().unwrap();
        status.tracking.refused.get(vip).copied().unwrap_or(0)
    }
}

fn humantime_seconds(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

fn nothing_breaks(rate: u32) {
    let mut bed = Bed::new();
    let old = bed.population(FLOODED, 24, PAUSE, None);
    bed.drain("flooded", 0..BACKENDS / 2);
    let new = bed.population(FLOODED, 24, PAUSE, None);
    let passing = bed.population(FLOODED, 24, Duration::from_millis(500), Some(Duration::from_secs(3)));
    let populations = [("old", old), ("new", new), ("passing", passing)];
    // Ports that another population has are none of this one's failures.
    let before = populations.each_ref().map(|(_, population)| population.tally().failures.len());
    // Until the slots would have left their first phase, were nothing refused, and flows been silent for too long.
    bed.flood(rate, 3 * IDLE, |_| ());
    for ((name, population), before) in populations.into_iter().zip(before) {
        population.wait_until_heard(Instant::now(), LIMIT).unwrap();
        let failures = population.end().failures.split_off(before);
        assert!(failures.is_empty(), "{name}, {rate} packets a second: {failures:?}");
    }
    let entries: u64 = maps::flow_entries(bed.naru.bpffs()).unwrap().iter().sum();
    let refused = bed.refused("flooded");
    eprintln!("{rate} packets a second: {entries} entries, {refused} flows refused");
    assert!(refused > 0, "the flood did not fill the table");
    let status: Status = bed.naru.status().unwrap();
    assert!(status.tracking.max_flows >= entries, "{entries} entries");
}

#[test]
#[ignore = "needs root"]
fn five_hundred_packets_a_second_through_an_idle_time_break_nothing() {
    nothing_breaks(500);
}

#[test]
#[ignore = "needs root"]
fn half_a_million_packets_a_second_through_an_idle_time_break_nothing() {
    nothing_breaks(500_000);
}

#[test]
#[ignore = "needs root"]
fn a_drain_of_another_vip_ends_as_if_there_were_no_flood() {
    for rate in [500, 500_000] {
        let mut bed = Bed::new();
        let passing = bed.population(OTHER, 24, Duration::from_millis(500), Some(Duration::from_secs(2)));
        bed.drain("flooded", 0..BACKENDS / 2);
        // The flood has filled what it can before the drain begins.
        bed.flood(rate, IDLE, |_| ());
        assert!(bed.refused("flooded") > 0);
        let address = bed.lab.backends()[0].ipv4().to_string();
        let took = bed.flood(rate, Duration::ZERO, |naru| {
            let begun = Instant::now();
            naru.cli(&["backend", "drain", "other", &address, "--wait", "--timeout", "60s"]).unwrap();
            begun.elapsed()
        });
        let failures = passing.end().failures;
        assert!(failures.is_empty(), "{rate} packets a second: {failures:?}");
        // Its idle time, the last of the connections that it had, and some sweeps.
        eprintln!("{rate} packets a second: the drain took {took:?}, {} flows refused", bed.refused("other"));
        assert!(took < 3 * IDLE, "{rate} packets a second: the drain took {took:?}");
        assert_eq!(bed.refused("other"), 0, "flows of the other VIP");
    }
}
