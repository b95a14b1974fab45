//! Control-plane speed, through the real daemon and its CLI: from the start of `naru run` over a config until it serves,
//! and from a command that changes one backend to its end.

use std::{
    fmt::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use lb_userspace::api::types::{Applied, Status};
use naru_tests::{lab::Lab, naru::Naru};
use serde::Serialize;

use crate::sample::{Sample, Summary, machine};

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

const VIPS: [usize; 4] = [1, 100, 1_000, 5_000];
const BACKENDS: usize = 8;

/// What was measured at one number of VIPs. Times are milliseconds, memory is bytes.
#[derive(Default)]
struct Case {
    load: Sample,
    apply: Sample,
    command: Sample,
    adopt: Sample,
    map_memory: u64,
    daemon_memory: u64,
}

/// A line of the report.
#[derive(Debug, Serialize)]
struct Row {
    vips: usize,
    backends: usize,
    /// From the start of the daemon until it serves with every map written, in milliseconds.
    load: Summary,
    /// From the request to the last map write and the written file, as the daemon says, in milliseconds.
    apply: Summary,
    /// The whole `naru backend set`, in milliseconds.
    command: Summary,
    /// From the restart of a killed daemon until it serves over what runs, in milliseconds.
    adopt: Summary,
    /// Memory of all maps in bytes, as `naru status` says.
    map_memory: u64,
    /// Resident memory of the daemon in bytes.
    daemon_memory: u64,
}

/// Measures and reports.
pub fn run(options: &Options) -> anyhow::Result<()> {
    // Builds the daemon, if need be, before the clock runs.
    naru_tests::naru::naru_binary()?;
    let mut cases: [Case; VIPS.len()] = Default::default();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {} …", options.rounds);
        for (vips, case) in VIPS.into_iter().zip(&mut cases) {
            measure(vips, case, options.changes).with_context(|| format!("{vips} VIPs"))?;
        }
    }
    let rows: Vec<Row> = VIPS.into_iter().zip(&cases).map(|(vips, case)| Row::new(vips, case)).collect();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows, options);
    }
    Ok(())
}

fn measure(vips: usize, case: &mut Case, changes: u32) -> anyhow::Result<()> {
    let lab = Lab::builder().backends(BACKENDS).build()?;
    let mut naru = Naru::prepare(&lab, &config(&lab, vips))?;
    case.load.add(timed(|| naru.restart())?);

    let backend = lab.backends()[0].ipv4().to_string();
    let vip = format!("vip-{}", vips / 2);
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
        case.apply.add(applied.elapsed_us as f64 / 1e3);
    }
    let status: Status = naru.read(&["status"])?;
    ensure!(status.vips == vips && status.unreachable.is_empty(), "not all is well: {status:?}");
    case.map_memory = status.map_memory_bytes;
    case.daemon_memory = resident(status.pid)?;
    naru.kill9()?;
    case.adopt.add(timed(|| naru.restart())?);
    naru.stop()
}

/// VIPs of port 80 on addresses in a row, each served by all backends of the lab.
fn config(lab: &Lab, vips: usize) -> String {
    let backends: Vec<String> =
        lab.backends().iter().map(|host| format!("  {{ address = \"{}\" }},\n", host.ipv4())).collect();
    let backends = backends.concat();
    let mut text = format!("[node]\ninterfaces = {:?}\n", lab.interfaces());
    for number in 0..vips {
        let [high, low] = (number as u16).to_be_bytes();
        write!(
            text,
            "\n[[vip]]\nname = \"vip-{number}\"\naddress = \"198.18.{high}.{low}\"\nports = [\"tcp/80\"]\n\
             forward = \"ipip\"\nbackends = [\n{backends}]\n"
        )
        .expect("a string takes everything");
    }
    text
}

impl Row {
    fn new(vips: usize, case: &Case) -> Self {
        let Case { load, apply, command, adopt, map_memory, daemon_memory } = case;
        Self {
            vips,
            backends: vips * BACKENDS,
            load: load.summary(),
            apply: apply.summary(),
            command: command.summary(),
            adopt: adopt.summary(),
            map_memory: *map_memory,
            daemon_memory: *daemon_memory,
        }
    }
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

fn print(rows: &[Row], options: &Options) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["VIPS", "BACKENDS", "LOAD", "ONE CHANGE", "COMMAND", "ADOPT", "MAPS", "DAEMON"]);
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let time = |Summary { median, low, high }: Summary| {
        let median = Duration::from_secs_f64(median / 1e3);
        format!("{median:.1?} ({low:.0}–{high:.0})")
    };
    let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
    for row in rows {
        let Row { vips, backends, load, apply, command, adopt, map_memory, daemon_memory } = row;
        table.add_row([
            vips.to_string(),
            backends.to_string(),
            time(*load),
            time(*apply),
            time(*command),
            time(*adopt),
            mib(*map_memory),
            mib(*daemon_memory),
        ]);
    }
    println!("{table}");
    println!(
        "\nMedians and quartiles (in ms) of {} rounds with {} changes each.\nLOAD: from `naru run` until it serves with \
         every map written. ONE CHANGE: one backend's weight, from the request to the last map write and the written \
         file.\nCOMMAND: the whole `naru backend set`. ADOPT: from `naru run` after kill -9 until it serves.\nMachine: {}",
        options.rounds,
        options.changes,
        machine()
    );
}
