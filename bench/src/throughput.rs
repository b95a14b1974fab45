//! Packets per second through a pair of veths, counted where they come back.
//!
//! A generator makes frames in the kernel (BPF_PROG_TEST_RUN with live frames, Linux 5.18) and sends them into one end;
//! the program under test is attached to the other, and sends them back (XDP_TX); a program on the first end counts and
//! drops them. Generator, program and sink share one core, so that what is measured is one packet's way through all of
//! them. The same way with a program that only swaps the frame's addresses is what there is to compare with.

use std::{fmt, path::Path, thread, time::Duration};

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf,
    maps::{PerCpuArray, PerCpuValues},
    programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode},
    util::nr_cpus,
};
use clap::Args;
use lb_common::NextHop;
use lb_userspace::objects;
use naru_tests::{
    frames::{BALANCER_MAC, CLIENT_MAC},
    netns::Netns,
};
use nix::net::if_::if_nametoindex;
use serde::Serialize;

use crate::{
    balancer::{Balancer, IPIP_4IN4, STATES, State},
    sample::{Sample, Summary, machine, stay_on_this_cpu},
    table::table,
    traffic::{Flows, Kind, Order, Traffic},
};

/// What the bench takes.
#[derive(Args, Debug)]
pub struct Options {
    /// Packets in one measurement; of more than half a million new flows some find no room
    #[arg(long, default_value_t = 500_000)]
    packets: u32,
    /// Rounds; in each of them every case is measured once
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What packets are measured. The last two are alike to a program that does not remember flows.
const TRAFFIC: [(Kind, Flows); 3] =
    [(Kind::Ack, Flows::Bits(0)), (Kind::Ack, Flows::Bits(20)), (Kind::Syn, Flows::New)];
/// The end that the generator sends into and the sink is at.
const NEAR: &str = "near";
/// The end that the program under test is at.
const FAR: &str = "far";
/// Of the veths: room for encapsulated frames.
const MTU: u32 = 1600;
/// Frames that the sink takes in between two looks at the clock.
const STAMPED: u64 = 1024;
/// What the outer header of the mode under test takes, in bytes.
const OUTER_LEN: u64 = 20;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Reflect,
    Balancer(State),
}

/// Frames of one kind, ready to be sent to a subject.
struct Case {
    subject: Subject,
    traffic: Traffic,
    frame: Vec<u8>,
    generator: Ebpf,
    /// Nanoseconds per frame that came back.
    time: Sample,
    sent: u64,
    lost: u64,
    /// Packets that the load balancer has forwarded, those included that were not measured.
    forwarded: u64,
}

/// The pair of veths, the sink, and all that may be attached to the far end.
struct Wire {
    /// Index of the near end.
    near: u32,
    sink: Ebpf,
    /// While it is attached.
    reflect: Option<Ebpf>,
    balancers: Vec<Balancer>,
}

/// A line of the report.
#[derive(Debug, Serialize)]
struct Row {
    program: &'static str,
    state: Option<State>,
    packets: String,
    /// Absent where every packet is of a new flow.
    flows: Option<u32>,
    /// Million packets per second.
    rate: Summary,
    /// As a share of the bare reflect's, on the same packets.
    of_reflect: Summary,
    /// Nanoseconds per packet beyond the bare reflect's.
    over_reflect: Summary,
    /// The share of frames that did not come back, 0 to 1.
    lost: f64,
    #[serde(skip)]
    cells: [String; 5],
}

/// Measures and reports.
pub fn run(options: &Options) -> anyhow::Result<()> {
    stay_on_this_cpu()?;
    let place = Place::new()?;
    let rows = place.0.run(|| measure(options))?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows, options);
    }
    Ok(())
}

/// The whole run, in the namespace of the veths.
fn measure(options: &Options) -> anyhow::Result<Vec<Row>> {
    let mut wire = Wire::new()?;
    let subjects: Vec<_> = [Subject::Reflect].into_iter().chain(STATES.map(Subject::Balancer)).collect();
    let mut cases = Vec::new();
    for subject in subjects {
        for (kind, flows) in TRAFFIC {
            cases.push(Case::new(subject, Traffic { kind, flows, ipv6: false }, &wire)?);
        }
    }
    eprintln!("{} cases, {} rounds of {} packets each …", cases.len(), options.rounds, options.packets);
    for case in &mut cases {
        case.introduce_flows(&mut wire)?;
    }
    for round in 0..options.rounds as usize {
        let len = cases.len();
        for index in 0..len {
            let case = &mut cases[(index + round) % len];
            case.measure(&mut wire, options.packets).with_context(|| case.to_string())?;
        }
    }
    for balancer in &wire.balancers {
        let mine = cases.iter().filter(|case| case.subject == Subject::Balancer(balancer.state));
        balancer.check(mine.map(|case| (case.traffic, case.forwarded)))?;
    }
    Ok(cases.iter().map(|case| row(case, &cases)).collect())
}

impl Case {
    fn new(subject: Subject, traffic: Traffic, wire: &Wire) -> anyhow::Result<Self> {
        let generator = generator(traffic, Order::Rounds, wire.near)?;
        let frame = traffic.frame();
        Ok(Self { subject, traffic, frame, generator, time: Sample::default(), sent: 0, lost: 0, forwarded: 0 })
    }

    /// Lets the load balancer see every flow, so that what it remembers of flows it remembers when the measurement
    /// begins.
    fn introduce_flows(&mut self, wire: &mut Wire) -> anyhow::Result<()> {
        let packets = self.traffic.introduction();
        wire.attach(self.subject)?;
        let before = wire.forwarded(self.subject)?;
        if self.traffic.flows == Flows::New {
            send(&mut self.generator, &self.frame, packets)?;
        } else {
            let mut introduction = generator(self.traffic, Order::Introduction, wire.near)?;
            send(&mut introduction, &self.frame, packets)?;
        }
        wire.received()?;
        self.forwarded = wire.forwarded(self.subject)? - before;
        self.forget_new_flows(wire);
        wire.detach(self.subject)
    }

    /// Lets the load balancer forget flows that came anew, so that the next ones find places.
    fn forget_new_flows(&self, wire: &mut Wire) {
        if let (Flows::New, Subject::Balancer(state)) = (self.traffic.flows, self.subject) {
            wire.balancer(state).forget_embryos(self.traffic);
        }
    }

    /// Sends frames and counts those that come back.
    fn measure(&mut self, wire: &mut Wire, packets: u32) -> anyhow::Result<()> {
        wire.attach(self.subject)?;
        let before = wire.forwarded(self.subject)?;
        wire.reset()?;
        send(&mut self.generator, &self.frame, packets)?;
        let received = wire.received()?;
        let forwarded = wire.forwarded(self.subject)? - before;
        self.forget_new_flows(wire);
        wire.detach(self.subject)?;
        let Received { frames, bytes, .. } = received;
        let sent = u64::from(packets);
        let (len, allowed) = match self.subject {
            Subject::Reflect => (self.frame.len() as u64, 0..=0),
            Subject::Balancer(_) => (self.frame.len() as u64 + OUTER_LEN, frames..=sent),
        };
        ensure!(bytes == frames * len, "{frames} frames of {len} bytes have come back with {bytes} bytes");
        ensure!(
            allowed.contains(&forwarded),
            "{forwarded} packets were forwarded, where {sent} were sent and {frames} came back"
        );
        self.forwarded += forwarded;
        self.sent += sent;
        self.lost += sent - frames;
        self.time.add(received.nanoseconds_per_frame().context("too few frames came back to measure")?);
        Ok(())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traffic { kind, flows, ipv6: _ } = self.traffic;
        write!(f, "{}, {kind}, {flows}", self.subject)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reflect => f.write_str(self.name()),
            Self::Balancer(state) => write!(f, "{} {state}", self.name()),
        }
    }
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Reflect => "bare reflect",
            Self::Balancer(_) => IPIP_4IN4.name,
        }
    }

    fn state(self) -> Option<State> {
        match self {
            Self::Reflect => None,
            Self::Balancer(state) => Some(state),
        }
    }
}

impl Wire {
    /// Makes both ends in this thread's namespace, with the sink at the near one and nothing yet at the far one.
    fn new() -> anyhow::Result<Self> {
        let next_hop = NextHop::new(CLIENT_MAC, BALANCER_MAC, if_nametoindex(FAR)?, MTU, 0);
        let balancers = STATES.map(|state| Balancer::new(IPIP_4IN4, state, next_hop));
        let balancers = balancers.into_iter().collect::<anyhow::Result<_>>()?;
        Ok(Self { near: if_nametoindex(NEAR)?, sink: attached("bench_count", NEAR)?, reflect: None, balancers })
    }

    /// Puts a program at the far end.
    fn attach(&mut self, subject: Subject) -> anyhow::Result<()> {
        match subject {
            Subject::Reflect => self.reflect = Some(attached("bench_rewrite", FAR)?),
            Subject::Balancer(state) => self.balancer(state).forwarder.attach(FAR)?,
        }
        Ok(())
    }

    /// Takes it off again.
    fn detach(&mut self, subject: Subject) -> anyhow::Result<()> {
        match subject {
            Subject::Reflect => self.reflect = None,
            Subject::Balancer(state) => self.balancer(state).forwarder.detach(FAR)?,
        }
        Ok(())
    }

    /// Packets that a load balancer has forwarded.
    fn forwarded(&mut self, subject: Subject) -> anyhow::Result<u64> {
        match subject {
            Subject::Reflect => Ok(0),
            Subject::Balancer(state) => Ok(self.balancer(state).packets()?.iter().sum()),
        }
    }

    fn balancer(&mut self, state: State) -> &mut Balancer {
        let found = self.balancers.iter_mut().find(|balancer| balancer.state == state);
        found.expect("there is one for each state")
    }

    /// Has the sink count anew.
    fn reset(&mut self) -> anyhow::Result<()> {
        let counts = self.sink.map_mut("RECEIVED").context("no map RECEIVED")?;
        let mut counts: PerCpuArray<_, [u64; 4]> = counts.try_into()?;
        let zeros = vec![[0; 4]; nr_cpus().map_err(|(_, error)| error)?];
        Ok(counts.set(0, PerCpuValues::try_from(zeros)?, 0)?)
    }

    /// What the sink has taken in, once there comes no more.
    fn received(&self) -> anyhow::Result<Received> {
        let counts: PerCpuArray<_, [u64; 4]> = self.sink.map("RECEIVED").context("no map RECEIVED")?.try_into()?;
        let mut last = counts.get(&0, 0)?;
        loop {
            thread::sleep(Duration::from_millis(1));
            let now = counts.get(&0, 0)?;
            if *now == *last {
                let counting: Vec<_> = now.iter().filter(|[frames, ..]| *frames > 0).collect();
                ensure!(counting.len() == 1, "frames came back on {} CPUs instead of one", counting.len());
                let [frames, bytes, first, last] = *counting[0];
                return Ok(Received { frames, bytes, first, last });
            }
            last = now;
        }
    }
}

/// What the sink has taken in.
struct Received {
    frames: u64,
    bytes: u64,
    /// When it had the first [`STAMPED`] frames, in nanoseconds.
    first: u64,
    /// When it had the last multiple of them.
    last: u64,
}

impl Received {
    /// In the middle of all frames: the kernel takes tens of milliseconds to begin and to end.
    fn nanoseconds_per_frame(&self) -> Option<f64> {
        let between = (self.frames / STAMPED).checked_sub(1).filter(|stamps| *stamps > 0)? * STAMPED;
        Some((self.last - self.first) as f64 / between as f64)
    }
}

/// The namespace of the veths, removed when this is dropped.
struct Place(Netns);

impl Place {
    /// Makes it, after removing those of processes that are gone.
    fn new() -> anyhow::Result<Self> {
        const PREFIX: &str = "naru-throughput-";
        for name in Netns::names(PREFIX) {
            let pid = name.trim_start_matches(PREFIX);
            if !Path::new("/proc").join(pid).exists() {
                Netns::open(&name)?.delete()?;
            }
        }
        let name = format!("{PREFIX}{}", std::process::id());
        let netns = Netns::create([name.as_str()])?.pop().context("one namespace was made")?;
        let place = Self(netns);
        // What the kernel would send of its own, the sink would count.
        place.0.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        place.0.ip(&format!(
            "link add {NEAR} mtu {MTU} type veth peer name {FAR} mtu {MTU}\nlink set {NEAR} up\nlink set {FAR} up\n"
        ))?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.0.delete() {
            eprintln!("{error:#}; the next run will try again");
        }
    }
}

/// A program of the lab, on an interface until it is dropped.
fn attached(name: &str, interface: &str) -> anyhow::Result<Ebpf> {
    let mut ebpf = Ebpf::load(objects::LAB)?;
    let program: &mut Xdp = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    program.load().with_context(|| format!("{name} does not load"))?;
    program.attach(interface, XdpMode::Driver).with_context(|| format!("cannot attach {name} to {interface}"))?;
    Ok(ebpf)
}

/// The generator of this traffic, sending to an interface.
fn generator(traffic: Traffic, order: Order, egress: u32) -> anyhow::Result<Ebpf> {
    let mut generator = traffic.load(order, egress, 1)?;
    program(&mut generator)?.load()?;
    Ok(generator)
}

fn program(generator: &mut Ebpf) -> anyhow::Result<&mut Xdp> {
    Ok(generator.program_mut("bench_generate").context("no program bench_generate")?.try_into()?)
}

/// Sends frames.
fn send(generator: &mut Ebpf, frame: &[u8], frames: u32) -> anyhow::Result<()> {
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat: frames,
        attrs: TestRunAttrs::new().xdp_live_frames(0),
        ..TestRunOptions::new()
    };
    program(generator)?.test_run(options).context("the kernel sends no live frames: it needs to be Linux 5.18")?;
    Ok(())
}

fn row(case: &Case, cases: &[Case]) -> Row {
    let reflect = cases.iter().find(|other| other.subject == Subject::Reflect && other.traffic == case.traffic);
    let reflect = &reflect.expect("every packet is reflected, too").time;
    let Summary { median, low, high } = case.time.summary();
    let rate = |nanoseconds: f64| 1e3 / nanoseconds;
    Row {
        program: case.subject.name(),
        state: case.subject.state(),
        packets: case.traffic.kind.to_string(),
        flows: case.traffic.flows.number(),
        rate: Summary { median: rate(median), low: rate(high), high: rate(low) },
        of_reflect: reflect.times(&case.time).summary(),
        over_reflect: case.time.less(reflect).summary(),
        lost: case.lost as f64 / case.sent as f64,
        cells: [
            case.subject.name().to_owned(),
            case.subject.state().map_or_else(String::new, |state| state.tracking.to_string()),
            case.subject.state().map_or_else(String::new, |state| state.slots().to_owned()),
            case.traffic.kind.to_string(),
            case.traffic.flows.to_string(),
        ],
    }
}

fn print(rows: &[Row], options: &Options) {
    let mut table = table(
        ["PROGRAM", "TRACKING", "SLOTS", "PACKETS", "FLOWS", "MPPS", "QUARTILES", "OF REFLECT", "OVER REFLECT", "LOST"],
        4,
    );
    for row in rows {
        let Row { cells, rate, of_reflect, over_reflect, lost, .. } = row;
        table.add_row(cells.iter().cloned().chain([
            format!("{:.2}", rate.median),
            format!("{:.2}–{:.2}", rate.low, rate.high),
            format!("{:.2}", of_reflect.median),
            format!("{:+.0} ns", over_reflect.median),
            format!("{:.1} %", lost * 100.0),
        ]));
    }
    println!("{table}");
    println!(
        "\nMedians of {} interleaved rounds of {} packets, sent, forwarded and counted on one core.\n\
         MPPS: millions of packets a second that came back. OF REFLECT: as a share of the bare reflect's; OVER \
         REFLECT: what a packet takes beyond its way through that.\n\
         Machine: {}",
        options.rounds,
        options.packets,
        machine()
    );
}
