//! Half of a thousand backends that fail at once, and then come and go for a minute.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use lb_userspace::api::types::Backend;
use naru_tests::{lab::Lab, naru::Naru, netns, server::Server, site::HTTP, vip_text::VipText};
use patience::LIMIT;

use super::health;

const VIPS: u32 = 10;
/// Of each VIP, in each half.
const HALF: u32 = 50;
/// Those that stay, and those that come and go.
const HALVES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 64, 0, 0), Ipv4Addr::new(10, 65, 0, 0)];
const HEALTH: &str = "health = { type = \"tcp\", via = \"address\", interval = \"2s\", fast_interval = \"1s\", \
                      timeout = \"2s\", rise = 1, fall = 1 }";

/// How long they go and come, and how long each lasts.
const FLAPPING: Duration = Duration::from_secs(60);
const LASTS: Duration = Duration::from_millis(2500);

/// A verdict changes no more often than this, however long they flap: each relapse doubles the good answers that it takes
/// to come back, and after the second one they do not last as long as that takes. A few more, for a machine that is busy.
const MOST: u64 = 9;

/// What the log may have of verdicts in ten seconds.
const LINES: usize = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// A limit for what only must not hang: the times that answers take are printed.
const PROMPT: Duration = Duration::from_secs(10);

#[test]
#[ignore = "needs root"]
fn half_of_a_thousand_backends_fail_and_flap_and_the_daemon_stays_calm() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let host = &lab.backends()[0];
    // Every address of the backends is the server's.
    host.ip("route add local 10.64.0.0/15 dev lo\n").unwrap();
    lab.balancer().ip(&format!("route add 10.64.0.0/15 via {}\n", host.ipv4())).unwrap();
    let _server = Server::start(host, lab.dir(), &[(Ipv4Addr::UNSPECIFIED, HTTP).into()], &[]).unwrap();
    let naru = Naru::start_with_config(&lab, &Naru::node(&lab, &vips())).unwrap();
    naru.wait_until_ready().unwrap();
    wait_for(&naru, [2 * HALF * VIPS, 0]);

    let fail = |fails: bool| {
        let verb = if fails { "add" } else { "del" };
        host.ip(&format!("route {verb} prohibit {}/16 table local\n", HALVES[1])).unwrap();
    };
    let ended = AtomicBool::new(false);
    let from = Instant::now();
    let times = thread::scope(|scope| {
        let asks = scope.spawn(|| ask(&naru, &ended));
        fail(true);
        wait_for(&naru, [HALF * VIPS, HALF * VIPS]);
        println!("half of {} backends are out after {:.1?}", 2 * HALF * VIPS, from.elapsed());
        let flaps = FLAPPING.as_millis() / (2 * LASTS).as_millis();
        for _ in 0..flaps {
            fail(false);
            sleep(LASTS);
            fail(true);
            sleep(LASTS);
        }
        let flips = count_flips(&naru);
        println!("they have flapped {flaps} times in {:.1?}: {} verdicts have changed", from.elapsed(), flips.total);
        assert!(flips.of_others == 0, "{} verdicts changed of backends that work", flips.of_others);
        println!("the verdict that changed most often has {} times", flips.most);
        assert!(flips.most <= MOST, "a verdict has changed {} times", flips.most);
        fail(false);
        let mended = Instant::now();
        wait_for(&naru, [2 * HALF * VIPS, 0]);
        println!("all are back {:.1?} after they work again", mended.elapsed());
        ended.store(true, Ordering::Relaxed);
        asks.join().unwrap()
    });
    let log = naru.log();
    let lines = log.lines().filter(|line| line.contains("fails its probes") || line.contains("works again")).count();
    println!("the log has {lines} lines of verdicts in {:.1?}", from.elapsed());
    let windows = 1 + from.elapsed().as_secs() / WINDOW.as_secs();
    assert!(lines <= LINES * windows as usize, "{lines} lines in {windows} windows: {log}");
    assert!(log.contains("more verdicts change than are told one by one"), "{log}");
    for (what, mut times) in ["status", "all backends"].into_iter().zip(times) {
        times.sort();
        let [median, worst] = [times[times.len() / 2], times[times.len() - 1]];
        println!("{what}: {} answers, the median took {median:.1?}, the worst {worst:.1?}", times.len());
        assert!(worst < PROMPT, "an answer took {worst:?}");
    }
}

/// Asks for the status and for all backends, as long as the flapping goes on; how long each answer took.
fn ask(naru: &Naru, ended: &AtomicBool) -> [Vec<Duration>; 2] {
    let (client, runtime) = (naru.client(), netns::runtime());
    let mut times = [Vec::new(), Vec::new()];
    while !ended.load(Ordering::Relaxed) {
        let asked = Instant::now();
        runtime.block_on(client.status()).unwrap();
        times[0].push(asked.elapsed());
        let asked = Instant::now();
        runtime.block_on(client.backends(None)).unwrap();
        times[1].push(asked.elapsed());
        sleep(Duration::from_millis(50));
    }
    times
}

fn vips() -> String {
    let vip = |number: u32| {
        let vip = VipText::new(
            format!("vip{number}"),
            Ipv4Addr::new(203, 0, 113, number as u8),
            [format!("tcp/{HTTP}")],
            "ipip",
        );
        let backends = HALVES.iter().flat_map(|half| {
            let first = half.to_bits() + 1 + number * HALF;
            (first..first + HALF).map(Ipv4Addr::from_bits)
        });
        vip.lines(HEALTH).backends(backends).to_string()
    };
    (0..VIPS).map(vip).collect()
}

fn backends(naru: &Naru) -> anyhow::Result<Vec<Backend>> {
    naru.read(&["backend", "list"])
}

/// Waits until so many are up, and so many are out.
fn wait_for(naru: &Naru, [up, out]: [u32; 2]) {
    let is_so = |naru: &Naru| {
        let found = backends(naru)?;
        let count = |verdict: &str, state: &str| {
            found.iter().filter(|own| health(own).verdict == verdict && own.state == state).count() as u32
        };
        let now = [count("up", "active"), count("down", "failed")];
        anyhow::ensure!(now == [up, out], "{now:?}");
        Ok(true)
    };
    naru.wait_for(&format!("{up} backends are up and {out} out"), LIMIT, is_so).unwrap();
}

/// Verdicts that have changed.
struct Flips {
    /// Of those that come and go.
    total: u64,
    /// Of the one of them of which most have.
    most: u64,
    /// Of the other half.
    of_others: u64,
}

fn count_flips(naru: &Naru) -> Flips {
    let found = backends(naru).unwrap();
    let of = |half: Ipv4Addr| {
        let in_half =
            move |own: &&Backend| matches!(own.address, std::net::IpAddr::V4(v4) if v4.octets()[1] == half.octets()[1]);
        found.iter().filter(in_half).map(|own| health(own).flips)
    };
    let [stay, flap] = HALVES;
    Flips { total: of(flap).sum(), most: of(flap).max().unwrap(), of_others: of(stay).sum() }
}
