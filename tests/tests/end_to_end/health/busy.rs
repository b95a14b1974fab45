//! A host that has no CPU left for its probes, of backends that all work.

use std::{
    process::{Child, Command},
    thread::{available_parallelism, sleep},
    time::{Duration, Instant},
};

use lb_userspace::model::ProblemKind;
use naru_tests::{
    crowd::{self, Counts},
    lab::Lab,
    naru::Naru,
};
use patience::LIMIT;

const BACKENDS: u32 = 300;
const INTERVAL: Duration = Duration::from_secs(1);
const HEALTH: &str =
    "slots = 211\nhealth = { type = \"tcp\", interval = \"1s\", timeout = \"1s\", rise = 1, fall = 2 }";

/// Programs for each CPU that do nothing but keep it busy.
const A_CPU: usize = 2;

/// Their priority: before the daemon's, and behind that of tests that run beside this one.
const BURNERS: i32 = 10;

/// How long it is looked at.
const LASTS: Duration = Duration::from_secs(15);

/// What is wrong is this host's, so no verdict may follow from it, and it is told. With all CPUs busy a daemon at the
/// same priority has its share of them yet, which may do; one at the lowest priority has nearly nothing.
#[test]
#[ignore = "needs root"]
fn a_host_that_is_too_busy_probes_less_often_and_says_so_and_no_verdict_changes() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let _server = crowd::serve(&lab, &lab.backends()[0]).unwrap();
    let naru = Naru::start_with_config(&lab, &Naru::node(&lab, &crowd::vips(BACKENDS, HEALTH))).unwrap();
    naru.wait_until_ready().unwrap();
    crowd::wait_until_known(&naru, BACKENDS, LIMIT).unwrap();

    renice(&naru, BURNERS);
    let burners = Burners::begin();
    let (busy, _) = measure(&naru, "all CPUs are busy", || sleep(LASTS));
    assert!(busy.probes > 0, "nothing was probed: {busy:?}");

    // The counts are read with CPU time to do so.
    let mut told = None;
    let (starved, took) = measure(&naru, "nothing is left for the daemon", || {
        renice(&naru, 19);
        sleep(LASTS);
        naru.wait_for("it is told that this host is too busy", LIMIT, |naru| {
            told = problem(naru)?;
            Ok(told.is_some())
        })
        .unwrap();
        renice(&naru, 0);
    });
    println!("it is told: {}", told.unwrap());
    assert!(starved.late + starved.void > 0, "it coped, so that this test has shown nothing: {starved:?}");
    let in_time = u64::from(BACKENDS) * took.as_secs() / INTERVAL.as_secs();
    assert!(starved.probes < in_time, "intervals are not longer: {starved:?}, in time were {in_time}");

    drop(burners);
    naru.wait_for("it is no problem any more", LIMIT, |naru| Ok(problem(naru)?.is_none())).unwrap();
    let counts = Counts::of(&naru).unwrap();
    println!("in all: {counts:?}");
    assert_eq!(counts.flips, 0, "verdicts changed of backends that work");
    let log = naru.log();
    assert!(!log.contains("fails its probes") && !log.contains("works again"), "{log}");
}

/// What the daemon says of it.
fn problem(naru: &Naru) -> anyhow::Result<Option<String>> {
    let problems = naru.status()?.problems;
    let is_it = |problem: &String| problem.contains("too busy to probe in time");
    Ok(problems
        .into_iter()
        .filter(|problem| problem.kind == ProblemKind::Health)
        .map(|problem| problem.reason)
        .find(is_it))
}

/// What is counted meanwhile, and how long that was.
fn measure(naru: &Naru, what: &str, meanwhile: impl FnOnce()) -> (Counts, Duration) {
    let before = Counts::of(naru).unwrap();
    let from = Instant::now();
    meanwhile();
    let took = from.elapsed();
    let now = Counts::of(naru).unwrap();
    let counts = Counts {
        probes: now.probes - before.probes,
        failed: now.failed - before.failed,
        void: now.void - before.void,
        late: now.late - before.late,
        flips: now.flips - before.flips,
    };
    println!("{what}: in {took:.1?} {counts:?}");
    (counts, took)
}

/// Gives all threads of the daemon, which are a process group, another priority.
fn renice(naru: &Naru, nice: i32) {
    let pid = naru.pid().unwrap().to_string();
    let output = patience::output(Command::new("renice").args(["-n", &nice.to_string(), "-g", &pid])).unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Programs that keep all CPUs busy, as long as this is there.
struct Burners(Vec<Child>);

impl Burners {
    fn begin() -> Self {
        let cpus = available_parallelism().unwrap().get();
        let burn = |_| {
            let loops = ["-n", &BURNERS.to_string(), "sh", "-c", "while :; do :; done"];
            Command::new("nice").args(loops).spawn().unwrap()
        };
        Self((0..A_CPU * cpus).map(burn).collect())
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for burner in &mut self.0 {
            drop(burner.kill());
            drop(burner.wait());
        }
    }
}
