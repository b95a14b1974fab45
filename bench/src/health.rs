//! What probes cost: CPU time and memory of the daemon while it probes many backends, and whether it keeps to their times.
//!
//! All backends are one real server (`naru_tests::crowd`), which shares this machine's CPUs with the daemon.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use naru_tests::{
    crowd::{self, Counts},
    lab::Lab,
    naru::Naru,
};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use crate::{sample::machine, table::table};

/// What the bench takes.
#[derive(Args, Debug)]
pub struct Options {
    /// Backends, ten a VIP
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    backends: u32,
    /// From one probe of a backend to the next, in milliseconds
    #[arg(long, default_value_t = 3_000)]
    interval: u64,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Measure only the kinds that contain this, such as "http path"
    #[arg(long)]
    only: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is asked, and which way.
const KINDS: [(&str, &str); 4] = [("tcp", "path"), ("tcp", "address"), ("http", "path"), ("http", "address")];
/// Of each VIP.
const SLOTS: &str = "slots = 211\n";

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    machine: String,
    backends: u32,
    interval_ms: u64,
    rows: Vec<Row>,
}

/// Probes of one type, which go one way.
#[derive(Debug, Serialize)]
struct Row {
    /// What is asked.
    probe: &'static str,
    /// Which way.
    via: &'static str,
    /// Probes a second.
    rate: f64,
    /// CPU time of the daemon, as a share of one CPU: with probes, and before there were any.
    cpu: [f64; 2],
    /// Microseconds of the daemon's CPU time for each probe.
    per_probe: f64,
    /// CPU time of everything on this machine with probes, the server above all, as a share of one CPU.
    machine_cpu: f64,
    /// Resident memory of the daemon in bytes: with probes, and before there were any.
    memory: [u64; 2],
    /// Probes that began more than 100 ms late.
    late: u64,
    /// Verdicts that changed.
    flips: u64,
    /// Probes of which nothing follows.
    void: u64,
}

/// Measures and reports.
pub fn run(options: &Options) -> anyhow::Result<()> {
    naru_tests::naru::naru_binary()?;
    let is_asked_for = |kind: &(&str, &str)| match &options.only {
        Some(only) => format!("{} {}", kind.0, kind.1).contains(only),
        None => true,
    };
    let kinds: Vec<_> = KINDS.into_iter().filter(is_asked_for).collect();
    ensure!(!kinds.is_empty(), "no kind contains {:?}", options.only);
    let rows = kinds.into_iter().map(|(probe, via)| measure(options, probe, via));
    let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
    let report = Report { machine: machine(), backends: options.backends, interval_ms: options.interval, rows };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    let is_calm = |row: &Row| row.flips == 0;
    ensure!(report.rows.iter().all(is_calm), "verdicts changed although the server works all the time");
    Ok(())
}

fn print(Report { machine, backends, interval_ms, rows }: &Report) {
    const MIB: f64 = (1 << 20) as f64;
    let head = [
        "PROBE",
        "VIA",
        "A SECOND",
        "CPU",
        "BEFORE",
        "µs A PROBE",
        "MACHINE",
        "MEMORY",
        "BEFORE",
        "LATE",
        "VOID",
        "FLIPS",
    ];
    let mut text = table(head, 2);
    let share = |share: f64| format!("{:.1} %", 100.0 * share);
    for Row { probe, via, rate, cpu, per_probe, machine_cpu, memory, late, flips, void } in rows {
        let [cpu, cpu_before, machine_cpu] = [cpu[0], cpu[1], *machine_cpu].map(share);
        let [memory, memory_before] = memory.map(|bytes| format!("{:.0} MiB", bytes as f64 / MIB));
        let [late, void, flips] = [late, void, flips].map(u64::to_string);
        let [rate, per_probe] = [rate, per_probe].map(|number| format!("{number:.0}"));
        let [probe, via] = [*probe, *via].map(str::to_owned);
        let cpus = [probe, via, rate, cpu, cpu_before, per_probe, machine_cpu];
        text.add_row(cpus.into_iter().chain([memory, memory_before, late, void, flips]));
    }
    println!("{text}");
    println!(
        "\n{backends} backends, each probed every {interval_ms} ms; one server behind all. CPU: of the daemon, as a share \
         of one. It has what\npackets cost in the network stacks of both sides, as far as that is done while the daemon \
         sends: over veth, nearly all. MACHINE:\nof everything that runs. BEFORE: without probes. LATE: began more than \
         100 ms after their time.\n{machine}"
    );
}

fn measure(options: &Options, probe: &'static str, via: &'static str) -> anyhow::Result<Row> {
    eprintln!("{} backends by {probe} over {via} …", options.backends);
    let lab = Lab::builder().backends(1).build()?;
    let host = &lab.backends()[0];
    let _server = crowd::serve(&lab, host)?;
    let naru = Naru::start_with_config(&lab, &Naru::node(&lab, &crowd::vips(options.backends, SLOTS)))?;
    naru.wait_until_ready()?;
    let window = Duration::from_secs(options.seconds);
    let before = Usage::of(&naru)?;
    sleep(window.min(Duration::from_secs(10)));
    let idle = Usage::of(&naru)?.since(&before);
    let memory_before = naru.memory("VmRSS")?;
    let health = format!("health = {{ type = \"{probe}\", via = \"{via}\", interval = \"{}ms\" }}\n", options.interval);
    naru.write_config(&naru.config()?.replace(SLOTS, &format!("{SLOTS}{health}")))?;
    naru.cli(&["apply"])?;
    let limit = Duration::from_millis(10 * options.interval) + Duration::from_secs(60);
    crowd::wait_until_known(&naru, options.backends, limit)?;
    let counts = Counts::of(&naru)?;
    let (before, machine_before) = (Usage::of(&naru)?, Usage::of_machine()?);
    sleep(window);
    let done = Counts::of(&naru)?;
    let busy = Usage::of(&naru)?.since(&before);
    let machine_busy = Usage::of_machine()?.since(&machine_before);
    let probes = done.probes - counts.probes;
    ensure!(probes > 0, "nothing was probed");
    Ok(Row {
        probe,
        via,
        rate: probes as f64 / busy.seconds,
        cpu: [busy.share(), idle.share()],
        per_probe: 1e6 * (busy.share() - idle.share()).max(0.0) * busy.seconds / probes as f64,
        machine_cpu: machine_busy.share(),
        memory: [naru.memory("VmRSS")?, memory_before],
        late: done.late - counts.late,
        flips: done.flips,
        void: done.void,
    })
}

/// CPU time that a daemon has used, or all have, and when that was read.
struct Usage {
    at: Instant,
    cpu: f64,
}

/// What it used in a while.
struct Used {
    seconds: f64,
    cpu: f64,
}

impl Usage {
    fn of(naru: &Naru) -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", naru.pid()?))?;
        // Behind the name, which may have anything: fields 14 and 15 are user and system time (proc_pid_stat(5)).
        let (_, fields) = stat.rsplit_once(')').context("a line of another form")?;
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Self::now(ticks)
    }

    fn of_machine() -> anyhow::Result<Self> {
        const IDLE: [usize; 2] = [3, 4];
        /// What virtual machines and their host take is in others.
        const KINDS: usize = 7;
        let stat = std::fs::read_to_string("/proc/stat")?;
        let all = stat.lines().next().context("nothing is known of the CPUs")?.split_whitespace().skip(1);
        let busy = all.take(KINDS).enumerate().filter(|(kind, _)| !IDLE.contains(kind));
        Self::now(busy.filter_map(|(_, field)| field.parse::<u64>().ok()).sum())
    }

    fn now(ticks: u64) -> anyhow::Result<Self> {
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the system does not say what a tick is")?;
        Ok(Self { at: Instant::now(), cpu: ticks as f64 / per_second as f64 })
    }

    fn since(&self, before: &Self) -> Used {
        Used { seconds: (self.at - before.at).as_secs_f64(), cpu: self.cpu - before.cpu }
    }
}

impl Used {
    fn share(&self) -> f64 {
        self.cpu / self.seconds
    }
}
