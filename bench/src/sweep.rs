//! What the sweeper costs: CPU time of the daemon while it sweeps a million tracked flows and while it takes them out,
//! packets lost meanwhile, and how long a change takes beside a sweep.
//!
//! The flows are made by packets through the real program. The load is a client's datagrams at a steady rate, each
//! counted where it comes out of the load balancer again. They are taken in by softirqs, which no thread holds up, or,
//! if asked for, by a kernel thread (threaded NAPI), from a ring of 256 places: whatever has the CPUs for longer than
//! these last then loses packets, be it a sweep or another program of this machine.

use std::{
    collections::HashMap,
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use clap::Args;
use lb_userspace::api::types::Applied;
use naru_tests::{
    lab::{Host, Lab},
    live::{self, ACK, Generator, SYN, Sink, Stream},
    maps,
    naru::{METRICS, Naru},
    vip_text::VipText,
};
use nix::{
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use serde::Serialize;

use crate::{
    sample::{Sample, Summary, machine},
    table::table,
};

/// What the bench takes.
#[derive(Args, Debug)]
pub struct Options {
    /// Seconds of each of the two measurements under load
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Changes beside a sweep, and as many without one
    #[arg(long, default_value_t = 6)]
    changes: usize,
    /// Have a kernel thread take in the packets, which sweeps and all else that runs here compete with (Linux 5.12)
    #[arg(long)]
    threaded_napi: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// There are 2 to the power of this many flows.
const FLOW_BITS: u32 = 20;
const FLOWS: u64 = 1 << FLOW_BITS;
/// Room for all of them, and for as many again.
const MAX_FLOWS: u64 = 2 * FLOWS;
const VIP: &str = "swept";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const PORT: u16 = 80;
const BACKENDS: usize = 4;
/// Datagrams that are counted together.
const BURST: u64 = 2_000;
/// Of them, this many are sent at a time, a millisecond after the last ones: 50,000 a second.
const STEP: u64 = 50;
const STEP_TIME: Duration = Duration::from_millis(1);
/// How long the last packets of a burst may be on their way.
const ARRIVAL: Duration = Duration::from_millis(50);
/// Between two looks at the daemon's threads.
const LOOK: Duration = Duration::from_millis(5);
/// No sweep may be longer in coming.
const PATIENCE: Duration = Duration::from_secs(60);
/// The share of a CPU that sweeps may take.
const SHARE: f64 = 0.05;
/// Bursts that may lose packets while there happens to be a sweep, because something else has both CPUs.
const CHANCE: u64 = 2;

/// A whole run.
#[derive(Debug, Serialize)]
struct Report {
    machine: String,
    flows: u64,
    /// Whether a kernel thread took in the packets.
    threaded_napi: bool,
    /// While all flows stay.
    steady: Window,
    /// While they are taken out.
    expiring: Window,
    /// Entries that are left at the end of that.
    left: u64,
    /// Changes of a backend beside a sweep.
    beside: Changes,
    /// Changes while there is none.
    alone: Changes,
    /// Resident memory of the daemon in bytes: before there were flows, and the most that it ever was.
    daemon_bytes: [u64; 2],
}

/// A measurement under load.
#[derive(Debug, Serialize)]
struct Window {
    seconds: f64,
    /// Milliseconds of each sweep, to [`LOOK`].
    sweeps: Vec<f64>,
    /// CPU time of the sweeps, in seconds, to [`LOOK`] each.
    sweep_cpu: f64,
    /// CPU time of the whole daemon in seconds.
    daemon_cpu: f64,
    /// The load while no sweep ran.
    between: Load,
    /// The load while one did.
    during: Load,
}

/// What became of the load.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Load {
    /// Of [`BURST`] packets each.
    bursts: u64,
    /// Bursts of which packets were lost.
    torn: u64,
    /// Packets that were lost.
    lost: u64,
}

/// Times of changes in milliseconds.
#[derive(Debug, Serialize)]
struct Changes {
    count: usize,
    /// In the daemon, from the request to the last write to a map.
    maps: Summary,
    /// The whole command.
    command: Summary,
}

/// Measures, reports, and says whether what was promised was kept.
pub fn run(options: &Options) -> anyhow::Result<()> {
    // Builds it, if need be, before anything waits.
    naru_tests::naru::naru_binary()?;
    let report = measure(options)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    report.verdict()
}

fn measure(options: &Options) -> anyhow::Result<Report> {
    let time = Duration::from_secs(options.seconds);
    eprintln!("building the lab, opening {FLOWS} flows …");
    let site = Site::build()?;
    let daemon_before = site.naru.memory("VmRSS")?;
    site.open_flows()?;
    if options.threaded_napi {
        site.thread_napi()?;
    }
    eprintln!("{} s of load …", options.seconds);
    let steady = site.observe(time)?;
    eprintln!("{} changes beside sweeps, {0} without …", options.changes);
    let [beside, alone] = site.change(options.changes)?;
    eprintln!("{} s of load while the flows are taken out …", options.seconds);
    site.naru.cli(&["vip", "set", VIP, "--tcp-idle", "2s"])?;
    let expiring = site.observe(time)?;
    let [left, _] = maps::flow_entries(site.naru.bpffs())?;
    let daemon_bytes = [daemon_before, site.naru.memory("VmHWM")?];
    let threaded_napi = options.threaded_napi;
    Ok(Report { machine: machine(), flows: FLOWS, threaded_napi, steady, expiring, left, beside, alone, daemon_bytes })
}

impl Report {
    fn verdict(&self) -> anyhow::Result<()> {
        let mut wrong = Vec::new();
        for (name, window) in [("all flows stay", &self.steady), ("flows are taken out", &self.expiring)] {
            if window.sweeps.is_empty() || window.during.bursts == 0 {
                wrong.push(format!("while {name}, there was no sweep under load: give more --seconds"));
            }
            if window.share() >= SHARE {
                wrong.push(format!("while {name}, sweeps took {:.1} % of a CPU", window.share() * 100.0));
            }
            if window.during.is_worse_than(window.between) {
                let Window { during, between, .. } = window;
                wrong.push(format!("while {name}, sweeps lost packets: {during:?}, without them {between:?}"));
            }
        }
        if self.left >= self.flows / 2 {
            wrong.push(format!("{} of {} flows are left: nothing was taken out", self.left, self.flows));
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }
}

impl Window {
    /// Of one CPU, 0 to 1.
    fn share(&self) -> f64 {
        self.sweep_cpu / self.seconds
    }
}

impl Load {
    /// Whether more was lost than during `other`, and not by chance.
    fn is_worse_than(self, other: Self) -> bool {
        self.torn > CHANCE && self.torn * other.bursts > 2 * other.torn * self.bursts
    }
}

/// The lab with everything in it.
struct Site {
    sink: Sink,
    client: UdpSocket,
    naru: Naru,
    lab: Lab,
    daemon: Pid,
    watch: Watch,
}

impl Site {
    fn build() -> anyhow::Result<Self> {
        let mut lab = Lab::builder().backends(BACKENDS).queue_per_cpu().build()?;
        lab.remove_on_interrupt()?;
        let naru = Naru::start_with_config(&lab, &config(&lab))?;
        naru.wait_until_ready()?;
        let sink = Sink::open(&mut lab)?;
        lab.client().ip(&format!("addr add {}/32 dev lo\n", live::CLIENTS))?;
        // A socket stays in the namespace that it was made in.
        let client = lab.client().run(|| UdpSocket::bind((live::CLIENTS, 0)))?;
        client.connect(target())?;
        let daemon = naru.pid()?;
        let watch = Watch::start(daemon)?;
        Ok(Self { sink, client, naru, lab, daemon, watch })
    }

    /// Has a kernel thread take in what comes to the load balancer.
    fn thread_napi(&self) -> anyhow::Result<()> {
        // Which interfaces sysfs has is settled when it is mounted, and `ip netns exec` mounts it anew.
        let netns = self.lab.balancer().netns().name();
        let set = "echo 1 > /sys/class/net/eth0/threaded";
        let status = Command::new("ip").args(["netns", "exec", netns, "sh", "-c", set]).status()?;
        ensure!(status.success(), "this kernel has no threaded NAPI: it needs to be Linux 5.12");
        Ok(())
    }

    /// Makes all flows: two packets each.
    fn open_flows(&self) -> anyhow::Result<()> {
        let mut flags = [ACK; 16];
        flags[0] = SYN;
        let stream = Stream { target: target(), flags, flow_bits: FLOW_BITS, row_bits: 1 };
        let mut generator = Generator::new(&self.lab, stream)?;
        // Again where a packet was lost.
        for _ in 0..3 {
            generator.send(2 << FLOW_BITS)?;
            if maps::flow_entries(self.naru.bpffs())? == [FLOWS, 0] {
                return Ok(());
            }
        }
        let entries = maps::flow_entries(self.naru.bpffs())?;
        bail!("{entries:?} flows are established and embryonic instead of {FLOWS} and none")
    }

    /// Sends load for a while.
    fn observe(&self, time: Duration) -> anyhow::Result<Window> {
        let (mut between, mut during) = (Load::default(), Load::default());
        let (seen, cpu_before) = (self.watch.seen(), cpu_time(self.daemon)?);
        let began = Instant::now();
        while began.elapsed() < time {
            let sweeping = self.watch.sweeping();
            let lost = self.burst()?;
            // One that began or ended meanwhile counts.
            let load = if sweeping || self.watch.sweeping() { &mut during } else { &mut between };
            load.bursts += 1;
            load.torn += u64::from(lost > 0);
            load.lost += lost;
        }
        let seconds = began.elapsed().as_secs_f64();
        let daemon_cpu = cpu_time(self.daemon)? - cpu_before;
        let sweeps = self.watch.seen().split_off(seen.len());
        Ok(Window {
            seconds,
            sweep_cpu: sweeps.iter().map(|sweep| sweep.cpu.as_secs_f64()).sum(),
            sweeps: sweeps.iter().map(|sweep| millis(sweep.last - sweep.first)).collect(),
            daemon_cpu: daemon_cpu.as_secs_f64(),
            between,
            during,
        })
    }

    /// Sends a burst; how many packets of it did not come out.
    fn burst(&self) -> anyhow::Result<u64> {
        let expected = self.sink.absorbed()? + BURST;
        let mut next = Instant::now();
        for _ in 0..BURST / STEP {
            for _ in 0..STEP {
                self.client.send(&[0; 18])?;
            }
            // From when these were sent: if this thread was held up, it does not make up for it.
            next = Instant::now().max(next + STEP_TIME);
            sleep(next.saturating_duration_since(Instant::now()));
        }
        let sent = Instant::now();
        loop {
            let missing = expected.saturating_sub(self.sink.absorbed()?);
            if missing == 0 || sent.elapsed() > ARRIVAL {
                return Ok(missing);
            }
            sleep(Duration::from_millis(1));
        }
    }

    /// Changes a backend's weight, beside sweeps and without.
    fn change(&self, count: usize) -> anyhow::Result<[Changes; 2]> {
        let address = self.lab.backends()[0].ipv4().to_string();
        let mut weights = [50, 100].into_iter().cycle();
        let mut change = || -> anyhow::Result<[f64; 2]> {
            let weight = weights.next().expect("a cycle").to_string();
            let began = Instant::now();
            let applied: Applied = self.naru.read(&["backend", "set", VIP, &address, "--weight", &weight])?;
            Ok([applied.maps_us as f64 / 1e3, millis(began.elapsed())])
        };
        let (mut beside, mut alone) = (Vec::new(), Vec::new());
        while beside.len() < count {
            self.watch.wait(false)?;
            self.watch.wait(true)?;
            let times = change()?;
            // Otherwise the sweep ended before the change was over.
            if self.watch.sweeping() {
                beside.push(times);
                self.watch.wait(false)?;
                alone.push(change()?);
            }
        }
        Ok([Changes::of(&beside), Changes::of(&alone)])
    }
}

impl Changes {
    fn of(times: &[[f64; 2]]) -> Self {
        let summary = |index: usize| {
            let mut sample = Sample::default();
            times.iter().for_each(|times| sample.add(times[index]));
            sample.summary()
        };
        Self { count: times.len(), maps: summary(0), command: summary(1) }
    }
}

/// Looks for the daemon's `sweep` threads, of which each makes one sweep.
struct Watch {
    shared: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Watched {
    sweeps: Mutex<Vec<Sweep>>,
    sweeping: AtomicBool,
    stop: AtomicBool,
}

/// A sweep, as far as it was seen.
#[derive(Clone, Copy)]
struct Sweep {
    first: Instant,
    last: Instant,
    cpu: Duration,
}

impl Watch {
    fn start(daemon: Pid) -> anyhow::Result<Self> {
        let shared = Arc::new(Watched::default());
        let watched = Arc::clone(&shared);
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(move || watched.run(daemon))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    fn sweeping(&self) -> bool {
        self.shared.sweeping.load(Ordering::Relaxed)
    }

    fn seen(&self) -> Vec<Sweep> {
        self.shared.sweeps.lock().expect("nothing panics while it holds the list").clone()
    }

    /// Waits until there is a sweep, or none.
    fn wait(&self, sweeping: bool) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.sweeping() != sweeping {
            ensure!(began.elapsed() < PATIENCE, "no sweep began or ended within {} s", PATIENCE.as_secs());
            sleep(LOOK / 5);
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends with the process at the latest.
            let _ = thread.join();
        }
    }
}

impl Watched {
    fn run(&self, daemon: Pid) {
        // Place of each thread's sweep in the list.
        let mut places = HashMap::new();
        while !self.stop.load(Ordering::Relaxed) {
            let threads = sweep_threads(daemon);
            let mut sweeps = self.sweeps.lock().expect("nothing panics while it holds the list");
            for (thread, cpu) in &threads {
                let now = Instant::now();
                let place = *places.entry(*thread).or_insert_with(|| {
                    sweeps.push(Sweep { first: now, last: now, cpu: Duration::ZERO });
                    sweeps.len() - 1
                });
                sweeps[place] = Sweep { last: now, cpu: *cpu, ..sweeps[place] };
            }
            drop(sweeps);
            places.retain(|thread, _| threads.contains_key(thread));
            self.sweeping.store(!threads.is_empty(), Ordering::Relaxed);
            sleep(LOOK);
        }
    }
}

/// The daemon's threads that sweep, and the CPU time of each.
fn sweep_threads(daemon: Pid) -> HashMap<u32, Duration> {
    let tasks = fs::read_dir(format!("/proc/{daemon}/task")).into_iter().flatten().flatten();
    let of_thread = |task: fs::DirEntry| {
        // A thread that ends meanwhile has no files any more.
        let comm = fs::read_to_string(task.path().join("comm")).ok()?;
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanoseconds = schedstat.split(' ').next()?.parse().ok()?;
        let id = task.file_name().to_str()?.parse().ok()?;
        (comm.trim_end() == "sweep").then_some((id, Duration::from_nanos(nanoseconds)))
    };
    tasks.filter_map(of_thread).collect()
}

/// CPU time of all threads that a process ever had.
fn cpu_time(process: Pid) -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::pid_cpu_clock_id(process)?)?.into())
}

fn target() -> SocketAddr {
    SocketAddr::new(ADDRESS.into(), PORT)
}

fn config(lab: &Lab) -> String {
    let ports = ["tcp", "udp"].map(|protocol| format!("{protocol}/{PORT}"));
    let vip = VipText::new(VIP, ADDRESS, ports, "ipip").text("tracking", "always").text("tcp_idle", "12h");
    let vip = vip.backends(lab.backends().iter().map(Host::ipv4));
    let interfaces = lab.interfaces();
    format!("[node]\ninterfaces = {interfaces:?}\nmetrics = \"{METRICS}\"\nmax_flows = {MAX_FLOWS}\n\n{vip}")
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn print(report: &Report) {
    let by = if report.threaded_napi { "a kernel thread" } else { "softirqs" };
    let Report { flows, left, beside, alone, daemon_bytes: [before, most], .. } = report;
    let mut table = table(["", "ALL FLOWS STAY", "FLOWS ARE TAKEN OUT"], 1);
    let mut row = |name: &str, cell: &dyn Fn(&Window) -> String| {
        table.add_row([name.to_owned(), cell(&report.steady), cell(&report.expiring)]);
    };
    let percent = |part: f64, whole: f64| format!("{:.2} %", 100.0 * part / whole);
    row("seconds", &|window| format!("{:.0}", window.seconds));
    row("sweeps", &|window| window.sweeps.len().to_string());
    row("a sweep, longest, ms", &|window| {
        let mut sample = Sample::default();
        window.sweeps.iter().for_each(|time| sample.add(*time));
        let longest = window.sweeps.iter().copied().fold(0.0, f64::max);
        format!("{:.0}, {longest:.0}", sample.summary().median)
    });
    row("CPU of the sweeps, of one core", &|window| percent(window.sweep_cpu, window.seconds));
    row("CPU of the daemon, of one core", &|window| percent(window.daemon_cpu, window.seconds));
    for (name, load) in
        [("between sweeps", (|window| window.between) as fn(&Window) -> Load), ("during sweeps", |w| w.during)]
    {
        row(&format!("packets {name}"), &|window| (load(window).bursts * BURST).to_string());
        row("  of which were lost, in bursts", &|window| format!("{} in {}", load(window).lost, load(window).torn));
    }
    println!("{table}\n");
    let mut table = crate::table::table(["CHANGES OF A BACKEND", "NUMBER", "TO THE LAST WRITE, MS", "COMMAND, MS"], 1);
    for (name, Changes { count, maps, command }) in [("beside a sweep", beside), ("without", alone)] {
        let spread = |time: &Summary| format!("{:.2} ({:.2}–{:.2})", time.median, time.low, time.high);
        table.add_row([name.to_owned(), count.to_string(), spread(maps), spread(command)]);
    }
    println!("{table}");
    println!(
        "\n{flows} flows of a VIP that tracks always, and one of UDP; {left} left at the end. Load: 50,000 datagrams \
         a second, taken in\nby {by} from a ring of 256 places. LOST: those that did not come out of the load \
         balancer. Changes: median (quartiles).\nMemory of the daemon: {} KiB before there were flows, {} KiB at \
         most.\nMachine: {}",
        before / 1024,
        most / 1024,
        report.machine
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let load = Load { bursts: 100, torn: 2, lost: 20 };
        let window = || Window {
            seconds: 10.0,
            sweeps: vec![300.0],
            sweep_cpu: 0.25,
            daemon_cpu: 0.5,
            between: load,
            during: load,
        };
        let changes = || Changes::of(&[[1.0, 2.0]]);
        Report {
            machine: String::new(),
            flows: 1000,
            threaded_napi: false,
            steady: window(),
            expiring: window(),
            left: 10,
            beside: changes(),
            alone: changes(),
            daemon_bytes: [0; 2],
        }
    }

    fn faults(change: impl FnOnce(&mut Report)) -> String {
        let mut report = report();
        change(&mut report);
        report.verdict().map_or_else(|faults| faults.to_string(), |()| String::new())
    }

    #[test]
    fn every_broken_promise_is_told() {
        assert_eq!(faults(|_| {}), "");
        assert_eq!(faults(|report| report.steady.sweep_cpu = 0.6), "while all flows stay, sweeps took 6.0 % of a CPU");
        assert!(
            faults(|report| report.expiring.during.torn = 5).contains("while flows are taken out, sweeps lost packets")
        );
        assert!(faults(|report| report.left = 1000).contains("nothing was taken out"));
        assert!(faults(|report| report.steady.sweeps.clear()).contains("there was no sweep"));
    }
}
