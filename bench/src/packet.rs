//! Nanoseconds per packet, by BPF_PROG_TEST_RUN.
//!
//! The kernel does not restore a packet between the repetitions of one call, so a small entry program does: it takes off
//! what the last repetition put on, writes the next flow into the headers, and calls the program under test by tail call.
//! The same entry with a target that does nothing is subtracted. Floors are targets that do the least that a forwarder must
//! do to the bytes of the packet: put a constant header in front, or rewrite the Ethernet addresses.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::ProgramArray,
    programs::{ProgramFd, TestRun, TestRunOptions, Xdp},
};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use lb_userspace::objects;
use naru_tests::{forwarder::Forwarder, frames::Packet};
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};
use serde::Serialize;

use crate::sample::{Sample, Summary, machine};

/// What the bench takes.
#[derive(Args, Debug)]
pub struct Options {
    /// Repetitions in one measurement
    #[arg(long, default_value_t = 2_000_000)]
    repeat: u32,
    /// Rounds; in each of them every case is measured once
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Numbers of flows, each a power of two.
const FLOWS: [u32; 2] = [1, 1 << 20];
const BACKENDS: u32 = 16;
const XDP_TX: u32 = 3;

/// A program under test, ready to run.
struct Case {
    name: &'static str,
    ipv6: bool,
    flows: u32,
    /// What of the floors its work contains.
    floor: Option<&'static str>,
    entry: Ebpf,
    frame: Vec<u8>,
    sample: Sample,
}

/// A forward mode under test.
struct Mode {
    name: &'static str,
    forward: &'static str,
    ipv6_vip: bool,
    ipv6_backend: bool,
    floor: &'static str,
}

const MODES: [Mode; 6] = [
    Mode { name: "ipip 4in4", forward: "ipip", ipv6_vip: false, ipv6_backend: false, floor: ENCAPSULATE4 },
    Mode { name: "ipip 6in4", forward: "ipip", ipv6_vip: true, ipv6_backend: false, floor: ENCAPSULATE4 },
    Mode { name: "ipip 4in6", forward: "ipip", ipv6_vip: false, ipv6_backend: true, floor: ENCAPSULATE6 },
    Mode { name: "ipip 6in6", forward: "ipip", ipv6_vip: true, ipv6_backend: true, floor: ENCAPSULATE6 },
    Mode { name: "l2 IPv4", forward: "l2", ipv6_vip: false, ipv6_backend: false, floor: REWRITE },
    Mode { name: "l2 IPv6", forward: "l2", ipv6_vip: true, ipv6_backend: true, floor: REWRITE },
];

const NOTHING: &str = "nothing";
const ENCAPSULATE4: &str = "bare 20-byte encapsulation";
const ENCAPSULATE6: &str = "bare 40-byte encapsulation";
const REWRITE: &str = "bare MAC rewrite";
const FLOORS: [(&str, &str); 4] = [
    (NOTHING, "bench_nothing"),
    (ENCAPSULATE4, "bench_encapsulate4"),
    (ENCAPSULATE6, "bench_encapsulate6"),
    (REWRITE, "bench_rewrite"),
];

/// A line of the report. Times are nanoseconds per packet without those of the entry program.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    family: &'static str,
    flows: u32,
    time: Summary,
    /// With those of the entry program, as measured.
    total: Summary,
    /// Beyond the floor of the same frame and number of flows.
    over_floor: Option<Summary>,
    floor: Option<&'static str>,
    /// Times that at one flow, of the medians.
    against_one_flow: Option<f64>,
}

/// Measures and reports.
pub fn run(options: &Options) -> anyhow::Result<()> {
    stay_on_this_cpu()?;
    let forwarders = MODES.iter().map(Mode::forwarder).collect::<anyhow::Result<Vec<_>>>()?;
    let mut cases = cases(&forwarders)?;
    eprintln!("{} cases, {} rounds of {} packets each …", cases.len(), options.rounds, options.repeat);
    for case in &mut cases {
        // Fills the caches, and is not counted.
        case.measure(options.repeat / 10)?;
    }
    let before = forwarders.iter().map(packets).collect::<anyhow::Result<Vec<_>>>()?;
    for round in 0..options.rounds as usize {
        let len = cases.len();
        for index in 0..len {
            // Another case begins each round, so that none is always the one behind a certain other.
            let case = &mut cases[(index + round) % len];
            let nanoseconds = case.measure(options.repeat)?;
            case.sample.add(nanoseconds);
        }
    }
    let expected = u64::from(options.rounds) * u64::from(options.repeat) * FLOWS.len() as u64;
    for ((mode, forwarder), before) in MODES.iter().zip(&forwarders).zip(before) {
        let sent = packets(forwarder)? - before;
        ensure!(sent == expected, "{}: {sent} packets were forwarded where {expected} were run", mode.name);
    }
    let rows = rows(&cases);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows, options);
    }
    Ok(())
}

impl Mode {
    /// The real forwarder with one VIP of this mode.
    fn forwarder(&self) -> anyhow::Result<Forwarder> {
        let address = self.vip().ip();
        let backends: Vec<String> = (1..=BACKENDS)
            .map(|host| if self.ipv6_backend { format!("2001:db8:b::{host:x}") } else { format!("10.0.1.{host}") })
            .map(|address| format!("{{ address = \"{address}\" }}"))
            .collect();
        Forwarder::new(&format!(
            "[[vip]]\nname = \"bench\"\naddress = \"{address}\"\nports = [\"tcp/80\"]\nforward = \"{}\"\n\
             backends = [{}]\n",
            self.forward,
            backends.join(", ")
        ))
        .with_context(|| format!("{}: the forwarder does not load", self.name))
    }

    fn vip(&self) -> SocketAddr {
        vip(self.ipv6_vip)
    }
}

fn vip(ipv6: bool) -> SocketAddr {
    let text = if ipv6 { "[2001:db8:f::10]:80" } else { "203.0.113.10:80" };
    text.parse().expect("a socket address")
}

/// All floors for both families, and all modes; each at all numbers of flows.
fn cases(forwarders: &[Forwarder]) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for flows in FLOWS {
        for ipv6 in [false, true] {
            for (name, program) in FLOORS {
                cases.push(Case::new(name, None, ipv6, flows, Target::Floor(program))?);
            }
        }
        for (mode, forwarder) in MODES.iter().zip(forwarders) {
            let target = Target::Program(forwarder.program()?);
            cases.push(Case::new(mode.name, Some(mode.floor), mode.ipv6_vip, flows, target)?);
        }
    }
    Ok(cases)
}

enum Target<'a> {
    Floor(&'static str),
    Program(&'a ProgramFd),
}

impl Case {
    fn new(
        name: &'static str,
        floor: Option<&'static str>,
        ipv6: bool,
        flows: u32,
        target: Target<'_>,
    ) -> anyhow::Result<Self> {
        let client: SocketAddr = if ipv6 { "[2001:db8:c::1]:1024" } else { "10.0.0.1:1024" }.parse()?;
        let frame = Packet::data(client, vip(ipv6), &[0x6e; 10]).frame();
        let mut entry = EbpfLoader::new()
            .override_global("FRAME_LEN", &(frame.len() as u32), true)
            .override_global("FLOW_MASK", &(flows - 1), true)
            .override_global("IPV6", &u32::from(ipv6), true)
            .load(objects::LAB)?;
        load(&mut entry, "bench_entry")?;
        let floor_fd = match target {
            Target::Floor(program) => Some(load(&mut entry, program)?.try_clone()?),
            Target::Program(_) => None,
        };
        let mut targets: ProgramArray<_> = entry.map_mut("TARGET").context("no map TARGET")?.try_into()?;
        match (&target, &floor_fd) {
            (Target::Program(program), _) => targets.set(0, program, 0)?,
            (Target::Floor(_), Some(program)) => targets.set(0, program, 0)?,
            (Target::Floor(_), None) => {}
        }
        Ok(Self { name, ipv6, flows, floor, entry, frame, sample: Sample::default() })
    }

    /// Nanoseconds per repetition, those of the entry program included.
    fn measure(&mut self, repeat: u32) -> anyhow::Result<f64> {
        let program: &mut Xdp = self.entry.program_mut("bench_entry").context("no bench_entry")?.try_into()?;
        let mut out = vec![0; self.frame.len() + 256];
        let result = program.test_run(TestRunOptions {
            data_in: Some(&self.frame),
            data_out: Some(&mut out),
            repeat,
            ..TestRunOptions::new()
        })?;
        ensure!(result.return_value == XDP_TX, "{}: the last packet's verdict was {}", self.name, result.return_value);
        Ok(result.duration.as_nanos() as f64)
    }
}

fn load<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a ProgramFd> {
    let program: &mut Xdp = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    program.load().with_context(|| format!("{name} does not load"))?;
    Ok(program.fd()?)
}

/// Packets that a forwarder has sent so far.
fn packets(forwarder: &Forwarder) -> anyhow::Result<u64> {
    let counters = forwarder.dataplane().counters()?;
    Ok(counters.backends.iter().map(|backend| backend.counters.packets).sum())
}

fn rows(cases: &[Case]) -> Vec<Row> {
    let find = |name, ipv6, flows| {
        let found = cases.iter().find(|case| case.name == name && case.ipv6 == ipv6 && case.flows == flows);
        &found.expect("every case has its floors").sample
    };
    let net = |case: &Case| case.sample.less(find(NOTHING, case.ipv6, case.flows));
    let row = |case: &Case| {
        let time = net(case).summary();
        let floor = case.floor.map(|floor| case.sample.less(find(floor, case.ipv6, case.flows)).summary());
        let one = find(case.name, case.ipv6, FLOWS[0]).less(find(NOTHING, case.ipv6, FLOWS[0])).summary();
        Row {
            name: case.name,
            family: if case.ipv6 { "IPv6" } else { "IPv4" },
            flows: case.flows,
            time,
            total: case.sample.summary(),
            over_floor: floor,
            floor: case.floor,
            against_one_flow: (case.flows != FLOWS[0] && case.floor.is_some()).then(|| time.median / one.median),
        }
    };
    cases.iter().map(row).collect()
}

fn print(rows: &[Row], options: &Options) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["PROGRAM", "PACKET", "FLOWS", "TOTAL", "NS/PACKET", "QUARTILES", "OVER FLOOR", "TIMES ONE FLOW"]);
    for index in 2..8 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in rows {
        let Row { name, family, flows, time, total, over_floor, floor: _, against_one_flow } = row;
        table.add_row([
            (*name).to_owned(),
            (*family).to_owned(),
            flows.to_string(),
            format!("{:.0}", total.median),
            format!("{:.0}", time.median),
            format!("{:.0}–{:.0}", time.low, time.high),
            over_floor.map_or_else(String::new, |over| format!("+{:.0}", over.median)),
            against_one_flow.map_or_else(String::new, |times| format!("{times:.2}")),
        ]);
    }
    println!("{table}");
    println!(
        "\nMedians of {} interleaved rounds of {} packets (TCP, ACK, 10 bytes of payload) on one core.\n\
         NS/PACKET: TOTAL without the entry program.\nOVER FLOOR: beyond the bare encapsulation or rewrite that the mode contains, on the same packets.\n\
         Machine: {}",
        options.rounds,
        options.repeat,
        machine()
    );
}

/// One CPU for all: per-CPU caches and counters stay where they are.
fn stay_on_this_cpu() -> anyhow::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}
