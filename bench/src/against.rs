//! Nanoseconds per packet of this build beside those of another: `bench packet` of both at once on one CPU, a few cases
//! at a time and several times. The kernel lets the two run in turn, some milliseconds each: whatever else happens on
//! the machine, or on others of the same processor, happens to both. What it says that packets took is without the
//! other's turns where tasks are preempted at their own word only (`bpf_test_timer_continue`, net/bpf/test_run.c); a
//! kernel that preempts them anywhere (`/sys/kernel/debug/sched/preempt` says `full` or `lazy`) would count these in,
//! for both. Of each run the faster rounds count, those included in which the other one had not begun or had ended.

use std::{
    env::current_exe,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    floor::NOTHING,
    sample::{Sample, Summary, machine, stay_on_this_cpu},
    table::table,
};

/// What the comparison takes.
#[derive(Args, Debug)]
// The bench that takes these has a group of that name already.
#[group(skip)]
pub struct Options {
    /// Put another build's figures beside these, by default those of plain forwarding: a git revision of this
    /// repository, which `cargo xtask bench` checks out and builds; to `naru-bench` itself, the path of another
    /// `naru-bench`
    #[arg(long, value_name = "REVISION")]
    pub against: Option<PathBuf>,
    /// With `--against`: how often both builds are run
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..), value_name = "TIMES")]
    turns: u32,
}

/// What each run measures.
pub struct Run<'a> {
    /// Repetitions in one measurement.
    pub repeat: u32,
    /// Rounds within one run.
    pub rounds: u32,
    /// Which cases, by what their first columns contain; each is a run of its own.
    pub only: &'a [String],
}

/// A line of what `bench packet --json` prints, of this build or one of long ago.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(flatten)]
    case: Case,
    /// With the entry program.
    total: Summary,
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
    other: Runs,
    this: Runs,
}

/// What the runs of one build say of a case, in nanoseconds per packet.
#[derive(Debug)]
struct Runs {
    /// Without the entry program.
    net: Sample,
    /// The fastest with the entry program, and that program's own fastest.
    fastest: [f64; 2],
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
    /// What the other and this one took at their fastest.
    fastest: [f64; 2],
}

/// Measures both builds and reports.
///
/// # Errors
///
/// One of the two cannot be run or understood, or they have no case in common.
pub fn run(other: &Path, options: &Options, run: &Run<'_>, json: bool) -> anyhow::Result<()> {
    let this = current_exe().context("this program does not know where it lies")?;
    // And whatever is started from here.
    stay_on_this_cpu()?;
    let mut pairs = Vec::new();
    for turn in 1..=options.turns {
        eprintln!("turn {turn} of {} …", options.turns);
        for only in run.only {
            // Each of the two goes first as often as the other, or nearly.
            let (theirs, ours) = if turn % 2 == 1 {
                let theirs = start(other, run, only)?;
                (theirs, start(&this, run, only)?)
            } else {
                let ours = start(&this, run, only)?;
                (start(other, run, only)?, ours)
            };
            add(&mut pairs, &theirs.report()?, &ours.report()?);
        }
    }
    ensure!(!pairs.is_empty(), "the two builds have no case in common that {} names", run.only.join(" or "));
    let rows: Vec<Row> = pairs.into_iter().map(Row::from).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows, options, run);
    }
    Ok(())
}

/// A run of a bench that was started; ended when this goes.
struct Started {
    command: Command,
    child: Option<Child>,
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(bench: &Path, Run { repeat, rounds, .. }: &Run<'_>, only: &str) -> anyhow::Result<Started> {
    let mut command = Command::new(bench);
    command.args(["packet", "--json", "--only", only]);
    command.args(["--repeat", &repeat.to_string(), "--rounds", &rounds.to_string()]);
    // What it prints fits into a pipe: it waits for no reader.
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    Ok(Started { command, child: Some(child) })
}

impl Started {
    /// What it says when it has ended.
    fn report(mut self) -> anyhow::Result<Vec<Line>> {
        let command = &self.command;
        let child = self.child.take().context("it was waited for before")?;
        let output = child.wait_with_output().with_context(|| format!("cannot wait for {command:?}"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?} failed ({}):\n{}", output.status, errors.trim_end());
        serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} printed what is no report"))
    }
}

/// Adds the cases that both have.
fn add(pairs: &mut Vec<Pair>, theirs: &[Line], ours: &[Line]) {
    // Floors are measured with every mode: what they take is no case of its own.
    for Line { case, .. } in ours.iter().filter(|line| line.case.state.is_some()) {
        let (Some(other), Some(this)) = (times(theirs, case), times(ours, case)) else { continue };
        let case = case.clone();
        let index = pairs.iter().position(|pair| pair.case == case).unwrap_or_else(|| {
            pairs.push(Pair { case, other: Runs::default(), this: Runs::default() });
            pairs.len() - 1
        });
        pairs[index].other.add(other);
        pairs[index].this.add(this);
    }
}

/// What a case took in the faster rounds, with the entry program, and what that took alone.
fn times(lines: &[Line], case: &Case) -> Option<[f64; 2]> {
    let total = |case: &Case| lines.iter().find(|line| line.case == *case).map(|line| line.total.low);
    let nothing = Case { program: NOTHING.name.to_owned(), state: None, ..case.clone() };
    Some([total(case)?, total(&nothing)?])
}

impl Default for Runs {
    fn default() -> Self {
        Self { net: Sample::default(), fastest: [f64::INFINITY; 2] }
    }
}

impl Runs {
    fn add(&mut self, [total, nothing]: [f64; 2]) {
        self.net.add(total - nothing);
        self.fastest = [self.fastest[0].min(total), self.fastest[1].min(nothing)];
    }

    /// What the case took at its fastest without what the entry program took at its fastest.
    fn fastest(&self) -> f64 {
        let [total, nothing] = self.fastest;
        total - nothing
    }
}

impl From<Pair> for Row {
    fn from(Pair { case, other, this }: Pair) -> Self {
        let difference = this.net.less(&other.net).summary();
        let fastest = [other.fastest(), this.fastest()];
        Self { case, other: other.net.summary(), this: this.net.summary(), difference, fastest }
    }
}

fn print(rows: &[Row], options: &Options, run: &Run<'_>) {
    let header = [
        "PROGRAM",
        "TRACKING",
        "SLOTS",
        "PACKETS",
        "",
        "FLOWS",
        "OTHER",
        "THIS",
        "MORE",
        "QUARTILES",
        "FASTEST",
        "MORE",
    ];
    let mut table = table(header, 5);
    for Row { case, other, this, difference, fastest: [theirs, ours] } in rows {
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
            format!("{theirs:.1} and {ours:.1}"),
            format!("{:+.1}", ours - theirs),
        ]);
    }
    println!("{table}");
    println!(
        "\nNanoseconds per packet without the entry program: medians of {} runs of each build, both at once on one \
         CPU, and of each run the first quartile of {} rounds of {} packets.\nMORE: what this build takes more than \
         the other, run by run; FASTEST: the fastest runs of both.\nMachine: {}",
        options.turns,
        run.rounds,
        run.repeat,
        machine()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(program: &str, state: &str, flows: &str, low: f64) -> Line {
        let text = format!(
            r#"{{"program": "{program}", "state": {state}, "family": "IPv4", "packets": "ACK", "flows": {flows},
                "time": {{"median": 1, "low": 1, "high": 1}}, "floor": null,
                "total": {{"median": 900, "low": {low}, "high": 999}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn cases_of_both_builds_are_compared_turn_by_turn() {
        const SETTLED: &str = r#"{"tracking": "adaptive", "moving": false}"#;
        let mut pairs = Vec::new();
        for (turn, more) in [(0.0, 2.0), (50.0, 3.0), (7.0, 2.5)] {
            let case = |program: &str, low: f64| line(program, SETTLED, "1", low + turn);
            let nothing = |low: f64| line(NOTHING.name, "null", "1", low + turn);
            let theirs = [nothing(20.0), case("gone", 9.0), case("ipip 4in4", 50.0)];
            let ours = [nothing(21.0), case("ipip 4in4", 51.0 + more), line("ipip 4in4", SETTLED, "null", 80.0)];
            add(&mut pairs, &theirs, &ours);
        }
        let rows: Vec<Row> = pairs.into_iter().map(Row::from).collect();
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!((rows[0].case.program.as_str(), rows[0].case.flows), ("ipip 4in4", Some(1)));
        assert_eq!((rows[0].other.median, rows[0].this.median, rows[0].difference.median), (30.0, 32.5, 2.5));
        assert_eq!(rows[0].fastest, [30.0, 32.0]);
    }
}
