//! What probes cost: CPU time and memory of the daemon while it probes many backends, and whether it keeps to their times.
//!
//! All backends are addresses of one real server in a namespace of its own, behind the load balancer's interface. Server
//! and daemon share this machine's CPUs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use naru_tests::{lab::Lab, naru::Naru, server::Server, vip_text::VipText};
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
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

const TYPES: [&str; 2] = ["tcp", "http"];
const PORT: u16 = 80;
const A_VIP: u32 = 10;
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

/// Probes of one type.
#[derive(Debug, Serialize)]
struct Row {
    /// What is asked.
    probe: &'static str,
    /// Probes a second.
    rate: f64,
    /// CPU time of the daemon, as a share of one CPU: with probes, and before there were any.
    cpu: [f64; 2],
    /// Microseconds of the daemon's CPU time for each probe.
    per_probe: f64,
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
    let rows = TYPES.into_iter().map(|probe| measure(options, probe)).collect::<anyhow::Result<Vec<_>>>()?;
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
    let mut text =
        table(["PROBE", "A SECOND", "CPU", "BEFORE", "µs A PROBE", "MEMORY", "BEFORE", "LATE", "VOID", "FLIPS"], 1);
    for Row { probe, rate, cpu, per_probe, memory, late, flips, void } in rows {
        let [cpu, cpu_before] = cpu.map(|share| format!("{:.1} %", 100.0 * share));
        let [memory, memory_before] = memory.map(|bytes| format!("{:.0} MiB", bytes as f64 / MIB));
        let [late, void, flips] = [late, void, flips].map(u64::to_string);
        let (probe, rate, per_probe) = ((*probe).to_owned(), format!("{rate:.0}"), format!("{per_probe:.0}"));
        text.add_row([probe, rate, cpu, cpu_before, per_probe, memory, memory_before, late, void, flips]);
    }
    println!("{text}");
    println!(
        "\n{backends} backends, each probed every {interval_ms} ms at its own address; one server behind all. CPU: of the \
         daemon, as a share\nof one. BEFORE: without probes. LATE: began more than 100 ms after their time.\n{machine}"
    );
}

fn measure(options: &Options, probe: &'static str) -> anyhow::Result<Row> {
    eprintln!("{} backends by {probe} …", options.backends);
    let lab = Lab::builder().backends(1).build()?;
    let host = &lab.backends()[0];
    // Every address of the backends is the server's.
    host.ip("route add local 10.64.0.0/14 dev lo\n")?;
    lab.balancer().ip(&format!("route add 10.64.0.0/14 via {}\n", host.ipv4()))?;
    let _server = Server::start(host, lab.dir(), &[SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))], &[])?;
    let naru = Naru::start_with_config(&lab, &Naru::node(&lab, &vips(options.backends)))?;
    naru.wait_until_ready()?;
    let window = Duration::from_secs(options.seconds);
    let before = Usage::of(&naru)?;
    sleep(window.min(Duration::from_secs(10)));
    let idle = Usage::of(&naru)?.since(&before);
    let memory_before = naru.memory("VmRSS")?;
    let health =
        format!("health = {{ type = \"{probe}\", via = \"address\", interval = \"{}ms\" }}\n", options.interval);
    naru.write_config(&naru.config()?.replace(SLOTS, &format!("{SLOTS}{health}")))?;
    naru.cli(&["apply"])?;
    wait_until_known(&naru, options)?;
    let counts = Counts::of(&naru)?;
    let before = Usage::of(&naru)?;
    sleep(window);
    let busy = Usage::of(&naru)?.since(&before);
    let done = Counts::of(&naru)?;
    let probes = done.probes - counts.probes;
    ensure!(probes > 0.0, "nothing was probed");
    Ok(Row {
        probe,
        rate: probes / busy.seconds,
        cpu: [busy.share(), idle.share()],
        per_probe: 1e6 * (busy.share() - idle.share()).max(0.0) * busy.seconds / probes,
        memory: [naru.memory("VmRSS")?, memory_before],
        late: (done.late - counts.late) as u64,
        flips: done.flips as u64,
        void: done.void as u64,
    })
}

/// Waits until every backend has answered.
fn wait_until_known(naru: &Naru, options: &Options) -> anyhow::Result<()> {
    let limit = Duration::from_millis(10 * options.interval) + Duration::from_secs(60);
    naru.wait_for("every backend has answered", limit, |naru| {
        // A scrape is as old as a second.
        sleep(Duration::from_secs(1));
        let text = naru.metrics()?;
        let good = text.lines().filter(|line| line.starts_with("naru_health_probes_total") && line.contains("good"));
        let known = good.filter(|line| !line.ends_with(" 0")).count();
        Ok(known == options.backends as usize)
    })
}

fn vips(backends: u32) -> String {
    let vip = |number: u32| {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 64, 0, 0)) + number);
        let text = VipText::new(format!("vip{number}"), address, [format!("tcp/{PORT}")], "ipip");
        let text = text.lines(SLOTS);
        let first = u32::from(Ipv4Addr::new(10, 64, 0, 1)) + number * A_VIP;
        (first..first + A_VIP).fold(text, |text, address| text.backend(Ipv4Addr::from(address))).to_string()
    };
    (0..backends / A_VIP).map(vip).collect()
}

/// CPU time that a daemon has used, and when that was read.
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

/// Counts of all probes.
struct Counts {
    probes: f64,
    void: f64,
    flips: f64,
    late: f64,
}

impl Counts {
    fn of(naru: &Naru) -> anyhow::Result<Self> {
        // Not what was scraped a moment ago.
        sleep(Duration::from_secs(1));
        let text = naru.metrics()?;
        let sum = |name: &str, label: &str| -> f64 {
            let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Ok(Self {
            probes: sum("naru_health_probes_total{", ""),
            void: sum("naru_health_probes_total{", "void"),
            flips: sum("naru_health_flips_total{", ""),
            late: sum("naru_health_late_probes_total", ""),
        })
    }
}
