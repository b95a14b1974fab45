//! Nanoseconds per packet of this build beside those of another: `bench packet` of both in turn, several times, so that
//! what the machine does meanwhile happens to both.

use std::{
    env::current_exe,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    sample::{Sample, Summary, machine},
    table::table,
};

/// What the comparison takes.
#[derive(Args, Debug)]
// The bench that takes these has a group of that name already.
#[group(skip)]
pub struct Options {
    /// Put another build's figures beside these, by default those of plain forwarding: a git revision of this repository,
    /// which `cargo xtask bench` checks out and builds; to `naru-bench` itself, the path of another `naru-bench`
    #[arg(long, value_name = "REVISION")]
    pub against: Option<PathBuf>,
    /// With `--against`: how often each build is run, this one and the other in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), value_name = "TIMES")]
    turns: u32,
}

/// What each run measures.
pub struct Run<'a> {
    /// Repetitions in one measurement.
    pub repeat: u32,
    /// Rounds within one run.
    pub rounds: u32,
    /// Which cases.
    pub only: &'a str,
}

/// A line of what `bench packet --json` prints, of this build or one of long ago.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(flatten)]
    case: Case,
    time: Summary,
}

/// What a line is of.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Case {
    program: String,
    state: Option<State>,
    family: String,
    packets: String,
    flows: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct State {
    tracking: String,
    moving: bool,
}

/// A case as both builds have it.
#[derive(Debug)]
struct Pair {
    case: Case,
    other: Sample,
    this: Sample,
}

/// A line of the report, in nanoseconds per packet.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    case: Case,
    other: Summary,
    this: Summary,
    /// What this build takes more, run by run.
    difference: Summary,
}

/// Measures both builds and reports.
///
/// # Errors
///
/// One of the two cannot be run or understood, or they have no case in common.
pub fn run(other: &Path, options: &Options, run: &Run<'_>, json: bool) -> anyhow::Result<()> {
    let this = current_exe().context("this program does not know where it lies")?;
    let mut pairs = Vec::new();
    for turn in 1..=options.turns {
        eprintln!("turn {turn} of {} …", options.turns);
        // Each of the two goes first as often as the other.
        let (theirs, ours) = if turn % 2 == 1 {
            let theirs = measure(other, run)?;
            (theirs, measure(&this, run)?)
        } else {
            let ours = measure(&this, run)?;
            (measure(other, run)?, ours)
        };
        add(&mut pairs, theirs, ours);
    }
    ensure!(!pairs.is_empty(), "the two builds have no case in common that {:?} names", run.only);
    let rows: Vec<Row> = pairs.into_iter().map(Row::from).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows, options, run);
    }
    Ok(())
}

/// What one run of this bench says.
fn measure(bench: &Path, Run { repeat, rounds, only }: &Run<'_>) -> anyhow::Result<Vec<Line>> {
    let mut command = Command::new(bench);
    command.args(["packet", "--json", "--only", only]);
    command.args(["--repeat", &repeat.to_string(), "--rounds", &rounds.to_string()]);
    let output = command.stderr(Stdio::piped()).output().with_context(|| format!("cannot run {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed ({}):\n{}", output.status, errors.trim_end());
    serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} printed what is no report"))
}

/// Adds the cases that both have.
fn add(pairs: &mut Vec<Pair>, theirs: Vec<Line>, ours: Vec<Line>) {
    for Line { case, time } in ours {
        let Some(other) = theirs.iter().find(|line| line.case == case) else { continue };
        if case.program == crate::packet::NOTHING.name {
            continue;
        }
        let index = pairs.iter().position(|pair| pair.case == case).unwrap_or_else(|| {
            pairs.push(Pair { case, other: Sample::default(), this: Sample::default() });
            pairs.len() - 1
        });
        pairs[index].other.add(other.time.median);
        pairs[index].this.add(time.median);
    }
}

impl From<Pair> for Row {
    fn from(Pair { case, other, this }: Pair) -> Self {
        let difference = this.less(&other).summary();
        Self { case, other: other.summary(), this: this.summary(), difference }
    }
}

fn print(rows: &[Row], options: &Options, run: &Run<'_>) {
    let header = ["PROGRAM", "TRACKING", "SLOTS", "PACKETS", "", "FLOWS", "OTHER", "THIS", "MORE", "QUARTILES"];
    let mut table = table(header, 5);
    for Row { case, other, this, difference } in rows {
        let Case { program, state, family, packets, flows } = case;
        let (tracking, slots) = state
            .as_ref()
            .map_or(("", ""), |State { tracking, moving }| (tracking, if *moving { "moving" } else { "settled" }));
        table.add_row([
            program.clone(),
            tracking.to_owned(),
            slots.to_owned(),
            family.clone(),
            packets.clone(),
            flows.map_or_else(|| "new".to_owned(), |flows| flows.to_string()),
            format!("{:.1}", other.median),
            format!("{:.1}", this.median),
            format!("{:+.1}", difference.median),
            format!("{:+.1} to {:+.1}", difference.low, difference.high),
        ]);
    }
    println!("{table}");
    println!(
        "\nNanoseconds per packet without the entry program: medians of {} runs of each build, in turn, of {} rounds of {} \
         packets.\nMORE: what this build takes more than the other, run by run.\nMachine: {}",
        options.turns,
        run.rounds,
        run.repeat,
        machine()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(program: &str, flows: &str, median: f64) -> Line {
        let text = format!(
            r#"{{"program": "{program}", "state": {{"tracking": "adaptive", "moving": false}}, "family": "IPv4",
                "packets": "ACK", "flows": {flows}, "total": {{"median": 1, "low": 1, "high": 1}}, "floor": null,
                "time": {{"median": {median}, "low": 0, "high": 0}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn cases_of_both_builds_are_compared_turn_by_turn() {
        let mut pairs = Vec::new();
        for (turn, more) in [(0.0, 2.0), (50.0, 3.0), (7.0, 2.5)] {
            let theirs = vec![line("gone", "1", 9.0), line("ipip 4in4", "1", 30.0 + turn)];
            let ours = vec![line("ipip 4in4", "1", 30.0 + turn + more), line("ipip 4in4", "null", 80.0)];
            add(&mut pairs, theirs, ours);
        }
        let rows: Vec<Row> = pairs.into_iter().map(Row::from).collect();
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!((rows[0].case.program.as_str(), rows[0].case.flows), ("ipip 4in4", Some(1)));
        assert_eq!((rows[0].other.median, rows[0].this.median, rows[0].difference.median), (37.0, 39.5, 2.5));
    }
}
