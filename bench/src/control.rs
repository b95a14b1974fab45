//! Control-plane speed, through the real daemon and its CLI: from the start of `naru run` over a config until the maps
//! are written, and from a command that changes one backend, by an edit of the file or an operation, to its end. Beside
//! it what a table costs: time to compute it, memory, and how evenly it shares.

use std::{
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use comfy_table::Table;
use lb_common::{Address, SlotWord};
use lb_userspace::{
    api::types::Applied,
    model::Vip,
    plan::maglev::{self, WeightedBackend},
};
use naru_tests::{
    lab::{Host, Lab},
    naru::Naru,
    vip_text::VipText,
};
use serde::Serialize;

use crate::{
    sample::{Sample, Summary, machine},
    table::table,
};

/// What the bench takes.
#[derive(Args, Debug)]
pub struct Options {
    /// Changes of one backend to measure in each round and at each size
    #[arg(long, default_value_t = 7)]
    changes: u32,
    /// Rounds; in each of them every size is loaded once
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// A config to measure with.
#[derive(Clone, Copy, Debug, Serialize)]
struct Size {
    vips: usize,
    /// Of each VIP.
    backends: usize,
    /// Of each VIP.
    slots: u32,
}

const SIZES: [Size; 6] = [
    Size { vips: 1, backends: 10, slots: DEFAULT },
    Size { vips: 1, backends: 100, slots: LARGE },
    Size { vips: 100, backends: 10, slots: DEFAULT },
    Size { vips: 512, backends: 16, slots: DEFAULT },
    Size { vips: 10_000, backends: 10, slots: SMALL },
    Size { vips: 10_000, backends: 10, slots: DEFAULT },
];
const DEFAULT: u32 = Vip::DEFAULT_SLOTS;
const LARGE: u32 = 65_537;
const SMALL: u32 = 1_021;

/// Tables to compute: backends and slots.
const TABLES: [(u32, u32); 8] =
    [(2, 211), (8, 1_021), (16, 2_039), (16, DEFAULT), (100, DEFAULT), (100, LARGE), (1_000, DEFAULT), (1_000, LARGE)];

/// What was measured of one config. Times are milliseconds, memory is bytes.
#[derive(Default)]
struct Case {
    load: Sample,
    maps: Sample,
    apply: Sample,
    command: Sample,
    drain: Sample,
    adopt: Sample,
    map_memory: u64,
    daemon_memory: u64,
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    configs: Vec<Row>,
    tables: Vec<TableRow>,
}

/// A config, measured.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    size: Size,
    /// From the start of the daemon until every map is written, as the daemon says, in milliseconds.
    load: Summary,
    /// From the request for one change to the last map write, as the daemon says, in milliseconds.
    maps: Summary,
    /// From that request to the written file, as the daemon says, in milliseconds.
    apply: Summary,
    /// The whole `naru backend set`, in milliseconds.
    command: Summary,
    /// From the request to drain a backend, or to restore it, to the last map write, as the daemon says, in
    /// milliseconds.
    drain: Summary,
    /// From the restart of a killed daemon until what runs is what the config says, as the daemon says, in
    /// milliseconds.
    adopt: Summary,
    /// Memory of all maps in bytes, as `naru status` says.
    map_memory: u64,
    /// Resident memory of the daemon in bytes.
    daemon_memory: u64,
}

/// A table, measured.
#[derive(Debug, Serialize)]
struct TableRow {
    backends: u32,
    slots: u32,
    /// To compute it, in milliseconds.
    build: Summary,
    /// Memory of its slots in bytes.
    memory: usize,
    /// By how much the largest share exceeds the mean, in percent.
    imbalance: f64,
    /// Slots that change hands between other backends when one is removed, in percent of the table.
    displaced: f64,
}

/// Measures and reports.
pub fn run(options: &Options) -> anyhow::Result<()> {
    // Builds the daemon, if need be, before the clock runs.
    naru_tests::naru::naru_binary()?;
    let mut cases: [Case; SIZES.len()] = Default::default();
    let mut builds: [Sample; TABLES.len()] = Default::default();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {} …", options.rounds);
        for (size, case) in SIZES.into_iter().zip(&mut cases) {
            measure(size, case, options.changes).with_context(|| format!("{size:?}"))?;
        }
        for ((backends, slots), build) in TABLES.into_iter().zip(&mut builds) {
            for _ in 0..options.changes {
                let equal = equal(backends);
                build.add(timed(|| {
                    ensure!(maglev::table(&equal, slots).len() == slots as usize, "a table of another size");
                    Ok(())
                })?);
            }
        }
    }
    let report = Report {
        configs: SIZES.into_iter().zip(&cases).map(|(size, case)| Row::new(size, case)).collect(),
        tables: TABLES.into_iter().zip(&builds).map(|(table, build)| TableRow::new(table, build)).collect(),
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report, options);
    }
    Ok(())
}

fn measure(size: Size, case: &mut Case, changes: u32) -> anyhow::Result<()> {
    let lab = Lab::builder().backends(size.backends).build()?;
    let mut naru = Naru::prepare(&lab, &config(&lab, size))?;
    case.load.add(started(&mut naru)?);

    let backend = lab.backends()[0].ipv4().to_string();
    let vip = format!("vip-{}", size.vips / 2);
    for change in 1..=changes {
        let weight = change.to_string();
        let command = ["backend", "set", &vip, &backend, "--weight", &weight, "--output", "json"];
        let mut answer = String::new();
        case.command.add(timed(|| {
            answer = naru.cli(&command)?;
            Ok(())
        })?);
        let applied: Applied = serde_json::from_str(&answer).context("the answer is no change")?;
        ensure!(applied.changes.len() == 1, "one change was asked for: {:?}", applied.changes);
        case.maps.add(applied.maps_us as f64 / 1e3);
        case.apply.add(applied.elapsed_us as f64 / 1e3);
    }
    for change in 1..=changes {
        let operation = if change % 2 == 1 { "drain" } else { "restore" };
        let answer = naru.cli(&["backend", operation, &vip, &backend, "--output", "json"])?;
        let applied: Applied = serde_json::from_str(&answer).context("the answer is no change")?;
        ensure!(applied.changes.len() == 1, "one change was asked for: {:?}", applied.changes);
        case.drain.add(applied.maps_us as f64 / 1e3);
    }
    let status = naru.status()?;
    ensure!(status.vips == size.vips && status.unreachable.is_empty(), "not all is well: {status:?}");
    case.map_memory = status.map_memory_bytes;
    case.daemon_memory = resident(status.pid)?;
    naru.kill9()?;
    case.adopt.add(started(&mut naru)?);
    naru.stop()
}

/// VIPs of port 80 on addresses in a row, each served by all backends of the lab.
fn config(lab: &Lab, size: Size) -> String {
    let mut text = format!("[node]\ninterfaces = {:?}\nmax_slots = 200_000_000\n\n", lab.interfaces());
    for number in 0..size.vips {
        let [high, low] = (number as u16).to_be_bytes();
        let (name, address) = (format_args!("vip-{number}"), format_args!("198.18.{high}.{low}"));
        let vip = VipText::new(name, address, ["tcp/80"], "ipip").value("slots", size.slots);
        text += &vip.backends(lab.backends().iter().map(Host::ipv4)).to_string();
    }
    text
}

impl Row {
    fn new(size: Size, case: &Case) -> Self {
        let Case { load, maps, apply, command, drain, adopt, map_memory, daemon_memory } = case;
        Self {
            size,
            load: load.summary(),
            maps: maps.summary(),
            apply: apply.summary(),
            command: command.summary(),
            drain: drain.summary(),
            adopt: adopt.summary(),
            map_memory: *map_memory,
            daemon_memory: *daemon_memory,
        }
    }
}

impl TableRow {
    fn new((backends, slots): (u32, u32), build: &Sample) -> Self {
        let all = equal(backends);
        let owners = maglev::table(&all, slots);
        let mut shares = vec![0u32; all.len()];
        owners.iter().for_each(|owner| shares[*owner as usize] += 1);
        let largest = shares.into_iter().max().unwrap_or_default();
        // Without the last backend the indexes of the others are the same.
        let without = maglev::table(&all[..all.len() - 1], slots);
        let displaced = owners.iter().zip(&without).filter(|(a, b)| a != b && **a != backends - 1).count();
        Self {
            backends,
            slots,
            build: build.summary(),
            memory: slots as usize * size_of::<SlotWord>(),
            imbalance: 100.0 * (f64::from(largest * backends) / f64::from(slots) - 1.0),
            displaced: 100.0 * displaced as f64 / f64::from(slots),
        }
    }
}

/// Backends of one weight.
fn equal(count: u32) -> Vec<WeightedBackend> {
    let address = |host| Address::from_v4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits() + host).into());
    (0..count).map(|host| WeightedBackend { key: address(host), weight: 100 }).collect()
}

/// Milliseconds from the start of the daemon until the last map is written. The socket may listen sooner and answers
/// later.
fn started(naru: &mut Naru) -> anyhow::Result<f64> {
    let begun = SystemTime::now();
    naru.restart()?;
    let status = naru.status()?;
    let applied = UNIX_EPOCH + Duration::from_micros(status.config.applied_at_us);
    Ok(applied.duration_since(begun).context("the config was applied before the daemon was started")?.as_secs_f64()
        * 1e3)
}

/// Milliseconds that `action` takes.
fn timed(action: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let started = Instant::now();
    action()?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let path = Path::new("/proc").join(pid.to_string()).join("status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn print(report: &Report, options: &Options) {
    let time = |Summary { median, low, high }: Summary| {
        let median = Duration::from_secs_f64(median / 1e3);
        format!("{median:.1?} ({low:.2}–{high:.2})")
    };
    let memory = |bytes: f64| match bytes / f64::from(1 << 20) {
        mib if mib < 1.0 => format!("{:.0} KiB", 1024.0 * mib),
        mib => format!("{mib:.0} MiB"),
    };
    let header = [
        "VIPS",
        "BACKENDS",
        "SLOTS",
        "LOAD",
        "MAPS CHANGED",
        "FILE WRITTEN",
        "COMMAND",
        "DRAIN",
        "ADOPT",
        "MAPS",
        "DAEMON",
    ];
    let rows = report.configs.iter().map(|row| {
        let Row { size, load, maps, apply, command, drain, adopt, map_memory, daemon_memory } = row;
        vec![
            size.vips.to_string(),
            size.backends.to_string(),
            size.slots.to_string(),
            time(*load),
            time(*maps),
            time(*apply),
            time(*command),
            time(*drain),
            time(*adopt),
            memory(*map_memory as f64),
            memory(*daemon_memory as f64),
        ]
    });
    println!("{}\n", filled(header, rows));
    let rows = report.tables.iter().map(|row| {
        let TableRow { backends, slots, build, memory: bytes, imbalance, displaced } = row;
        vec![
            backends.to_string(),
            slots.to_string(),
            time(*build),
            memory(*bytes as f64),
            format!("{imbalance:.2} %"),
            format!("{displaced:.2} %"),
        ]
    });
    println!("{}", filled(["BACKENDS", "SLOTS", "COMPUTED IN", "MEMORY", "LARGEST SHARE", "DISPLACED"], rows));
    println!(
        "\nMedians and quartiles (in ms) of {} rounds with {} changes each. BACKENDS and SLOTS are those of each VIP.\n\
         LOAD: from `naru run` until every map is written. MAPS CHANGED: one backend's weight, from the request to \
         the last map write; FILE WRITTEN: to the config file on the disk.\nCOMMAND: the whole `naru backend set`. \
         DRAIN: `naru backend drain` and `restore`, from the request to the last map write. ADOPT: from \
         `naru run` after kill -9 until the maps are those of the config.\nLARGEST SHARE: above the mean. DISPLACED: \
         slots that change hands between other backends when one is removed.\nMachine: {}",
        options.rounds,
        options.changes,
        machine()
    );
}

/// A table of numbers only.
fn filled<const N: usize>(header: [&str; N], rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = table(header, 0);
    table.add_rows(rows);
    table
}
