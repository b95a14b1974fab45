//! What probes cost: CPU time and memory of the daemon while it probes many backends, and whether it keeps to their times.
//!
//! All backends are addresses of one real server in a namespace of its own, behind the load balancer's interface; it has
//! all VIPs, and takes them out of their tunnel. Server and daemon share this machine's CPUs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use naru_tests::{
    lab::{Host, Lab},
    naru::{Naru, attach_decap_to},
    server::Server,
    vip_text::VipText,
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
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is asked, and which way.
const KINDS: [(&str, &str); 4] = [("tcp", "path"), ("tcp", "address"), ("http", "path"), ("http", "address")];
const PORT: u16 = 80;
const A_VIP: u32 = 10;
/// Of the server, which backends of different VIPs share: decapsulation takes packets to no more than 256.
const ADDRESSES: u32 = 250;
/// The first one of the server's.
const BACKENDS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
/// The first VIP.
const VIPS: Ipv4Addr = Ipv4Addr::new(203, 64, 0, 0);
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
    let rows = KINDS.into_iter().map(|(probe, via)| measure(options, probe, via));
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
    let _server = serve(&lab, host)?;
    let naru = Naru::start_with_config(&lab, &Naru::node(&lab, &vips(options.backends)))?;
    naru.wait_until_ready()?;
    let window = Duration::from_secs(options.seconds);
    let before = Usage::of(&naru)?;
    sleep(window.min(Duration::from_secs(10)));
    let idle = Usage::of(&naru)?.since(&before);
    let memory_before = naru.memory("VmRSS")?;
    let health = format!("health = {{ type = \"{probe}\", via = \"{via}\", interval = \"{}ms\" }}\n", options.interval);
    naru.write_config(&naru.config()?.replace(SLOTS, &format!("{SLOTS}{health}")))?;
    naru.cli(&["apply"])?;
    wait_until_known(&naru, options)?;
    let counts = Counts::of(&naru)?;
    let (before, machine_before) = (Usage::of(&naru)?, Usage::of_machine()?);
    sleep(window);
    let done = Counts::of(&naru)?;
    let busy = Usage::of(&naru)?.since(&before);
    let machine_busy = Usage::of_machine()?.since(&machine_before);
    let probes = done.probes - counts.probes;
    ensure!(probes > 0.0, "nothing was probed");
    Ok(Row {
        probe,
        via,
        rate: probes / busy.seconds,
        cpu: [busy.share(), idle.share()],
        per_probe: 1e6 * (busy.share() - idle.share()).max(0.0) * busy.seconds / probes,
        machine_cpu: machine_busy.share(),
        memory: [naru.memory("VmRSS")?, memory_before],
        late: (done.late - counts.late) as u64,
        flips: done.flips as u64,
        void: done.void as u64,
    })
}

/// Has a host serve every VIP, out of a tunnel, and at every address of the backends.
fn serve(lab: &Lab, host: &Host) -> anyhow::Result<Server> {
    host.ip(&format!("route add local {BACKENDS}/14 dev lo\nroute add local {VIPS}/14 dev lo\n"))?;
    lab.balancer().ip(&format!("route add {BACKENDS}/14 via {}\n", host.ipv4()))?;
    let addresses: Vec<_> = (0..ADDRESSES).map(|number| after(BACKENDS, number).into()).collect();
    attach_decap_to(lab, host, &addresses)?;
    Server::start(host, lab.dir(), &[SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))], &[])
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
        let text = VipText::new(format!("vip{number}"), after(VIPS, number), [format!("tcp/{PORT}")], "ipip");
        let first = number * A_VIP % ADDRESSES;
        let backends = (first..first + A_VIP).map(|number| after(BACKENDS, number));
        backends.fold(text.lines(SLOTS), VipText::backend).to_string()
    };
    (0..backends / A_VIP).map(vip).collect()
}

fn after(first: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + number)
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
