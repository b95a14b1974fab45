//! What became of the connections, and whether that is what was promised.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::ensure;
use comfy_table::Table;
use naru_tests::connections::{Cause, Failure, Tally};
use serde::Serialize;

use super::{
    lab::Mode,
    script::{BACKENDS, Backend, QUIET},
};
use crate::{sample::machine, table::table};

/// Broken connections that are printed one by one.
const SHOWN: usize = 20;

/// A whole run of the lab.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: String,
    backends: usize,
    /// Held open on each VIP.
    connections: usize,
    /// From the first connection to the last step's end.
    seconds: f64,
    /// An exchange without trouble, over all connections.
    round_trip: Spread,
    /// A `naru backend` command.
    command: Spread,
    steps: Vec<StepReport>,
}

/// What one step did.
#[derive(Debug, Serialize)]
pub struct StepReport {
    /// Its name.
    pub name: &'static str,
    /// The backend that was killed in it.
    pub victim: Option<Backend>,
    /// How long it took until every connection was heard of.
    pub seconds: f64,
    /// What became of the connections of each VIP.
    pub outcomes: [Outcome; Mode::ALL.len()],
}

/// What became of the connections of one VIP in one step.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// How the VIP follows its flows.
    pub tracking: Mode,
    /// Open when the step began.
    pub open: u64,
    /// Opened during the step.
    pub opened: u64,
    /// Closed in order by their clients during the step.
    pub closed: u64,
    /// Broken though their backend lived, by cause.
    pub broken: Causes,
    /// Open with the killed backend when the step began.
    pub on_victim: u64,
    /// Those of the killed backend that failed, by cause; with connections that could not be opened meanwhile.
    pub lost: Causes,
    /// From the end of the command that set the backend down, where there was one, to the failures of its connections;
    /// below zero where one failed before.
    pub lost_after_change: Option<Spread>,
    /// From a message that the killed backend did not answer to the failure of the connection.
    pub lost_after_message: Option<Spread>,
    /// Each connection in `broken`.
    pub each: Vec<Broken>,
}

/// Number of connections by cause.
pub type Causes = BTreeMap<Cause, usize>;

/// A connection that broke though its backend lived.
#[derive(Debug, Serialize)]
pub struct Broken {
    /// Seconds from the first connection of the lab.
    pub at: f64,
    /// How.
    pub cause: Cause,
    /// The backend that it was with, if it got that far.
    pub backend: Option<String>,
}

/// Times in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    median: f64,
    highest: f64,
}

impl Outcome {
    /// The difference of two tallies, with the connections of `victim` apart, which was set down at `killed`.
    pub fn of(
        tracking: Mode,
        (before, after): (&Tally, &Tally),
        victim: Option<Backend>,
        killed: Option<Instant>,
        started: Instant,
    ) -> Self {
        let victim = victim.map(|backend| backend.to_string());
        let failures = &after.failures[before.failures.len()..];
        let spared = |failure: &&Failure| victim.is_some() && (failure.backend.is_none() || failure.backend == victim);
        let (lost, broken): (Vec<_>, Vec<_>) = failures.iter().partition(spared);
        let greeted = || lost.iter().filter(|failure| failure.backend.is_some());
        let after_change = |failure: &&Failure| killed.map(|killed| signed_millis(killed, failure.at));
        let each = |failure: &&Failure| Broken {
            at: failure.at.duration_since(started).as_secs_f64(),
            cause: failure.cause,
            backend: failure.backend.clone(),
        };
        Self {
            tracking,
            open: before.open_now(),
            opened: after.opened - before.opened,
            closed: after.closed - before.closed,
            broken: by_cause(&broken),
            on_victim: victim.as_ref().and_then(|victim| before.open.get(victim)).copied().unwrap_or(0),
            lost: by_cause(&lost),
            lost_after_change: Spread::of(greeted().filter_map(after_change)),
            lost_after_message: Spread::of(
                greeted().filter_map(|failure| Some(signed_millis(failure.sent?, failure.at))),
            ),
            each: broken.iter().map(each).collect(),
        }
    }

    fn broken(&self) -> usize {
        self.broken.values().sum()
    }
}

impl Report {
    /// Puts a run together.
    pub fn new(
        connections: usize,
        seconds: f64,
        [round_trips, commands]: [&[Duration]; 2],
        steps: Vec<StepReport>,
    ) -> Self {
        let spread = |times: &[Duration]| {
            let spread = Spread::of(times.iter().map(|time| time.as_secs_f64() * 1e3));
            spread.expect("connections are opened and commands are given in every run")
        };
        let (round_trip, command) = (spread(round_trips), spread(commands));
        Self { machine: machine(), backends: BACKENDS, connections, seconds, round_trip, command, steps }
    }

    /// Prints the tables.
    pub fn print(&self) {
        println!("{}", self.changes());
        println!(
            "\nConnections broken though their backend lived / open when the step began, and (in brackets) failed with \
             their\nbackend, for each kind of tracking. {} connections on each of {} VIPs with the same {} backends, \
             {:.0} s.\n",
            self.connections,
            Mode::ALL.len(),
            self.backends,
            self.seconds
        );
        println!("{}", self.deaths());
        println!(
            "\nHow the connections of a killed backend failed, in ms: median (highest). AFTER CHANGE: from the end of \
             the command that\nset the backend down; below zero if before it, as a crashed server's kernel closes its \
             connections itself. AFTER MESSAGE:\nfrom the message that was not answered; a connection that was silent \
             hears of the change by its next one. While the cable\nis pulled, the client's kernel repeats the message \
             at growing intervals, and a repetition is what hears of it.\nIn ms: a round trip {}, a command \
             {}.\nMachine: {}",
            self.round_trip, self.command, self.machine
        );
        self.print_each();
    }

    /// Whether what was promised was kept, and whether the lab would have noticed.
    ///
    /// # Errors
    ///
    /// With everything that was not.
    pub fn verdict(&self) -> anyhow::Result<()> {
        let mut wrong = Vec::new();
        for StepReport { name, outcomes, .. } in &self.steps {
            for outcome in outcomes {
                let (mode, broken) = (outcome.tracking.word(), outcome.broken());
                if broken > 0 && (outcome.tracking == Mode::Adaptive || *name == QUIET) {
                    wrong.push(format!("`{name}` broke {broken} connections on `{mode}`: {}", words(&outcome.broken)));
                }
                let late = outcome.lost.get(&Cause::TimedOut).copied().unwrap_or(0);
                if late > 0 && outcome.tracking == Mode::Adaptive {
                    wrong.push(format!("{late} connections of the backend that `{name}` killed timed out on `{mode}`"));
                }
            }
        }
        if self.outcomes(Mode::Never).all(|(_, outcome)| outcome.broken() == 0) {
            wrong.push("no connection broke on `never`: no change put one at risk, so this run proves nothing".into());
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }

    fn outcomes(&self, mode: Mode) -> impl Iterator<Item = (&StepReport, &Outcome)> {
        self.steps.iter().map(move |step| (step, &step.outcomes[mode as usize]))
    }

    /// A line for each step.
    fn changes(&self) -> Table {
        let mut table = table(["STEP", "KILLED", "ADAPTIVE", "ALWAYS", "NEVER", "OPENED", "CLOSED", "SECONDS"], 1);
        for StepReport { name, victim, seconds, outcomes } in &self.steps {
            let mut row = vec![name.to_string(), victim.map(|victim| victim.to_string()).unwrap_or_default()];
            row.extend(outcomes.iter().map(|outcome| {
                let lost = match outcome.lost.values().sum::<usize>() {
                    0 => String::new(),
                    lost => format!(" ({lost})"),
                };
                format!("{} / {}{lost}", outcome.broken(), outcome.open)
            }));
            row.push(outcomes.iter().map(|outcome| outcome.opened).sum::<u64>().to_string());
            row.push(outcomes.iter().map(|outcome| outcome.closed).sum::<u64>().to_string());
            row.push(format!("{seconds:.0}"));
            table.add_row(row);
        }
        let mut totals = vec!["all".to_owned(), String::new()];
        totals.extend(Mode::ALL.map(|mode| {
            let broken: usize = self.outcomes(mode).map(|(_, outcome)| outcome.broken()).sum();
            broken.to_string()
        }));
        table.add_row(totals);
        table
    }

    /// A line for each mode of each step that kills a backend.
    fn deaths(&self) -> Table {
        let mut table =
            table(["STEP", "TRACKING", "OPEN WITH IT", "FAILED", "CAUSES", "AFTER CHANGE", "AFTER MESSAGE"], 1);
        for step in self.steps.iter().filter(|step| step.victim.is_some()) {
            for outcome in &step.outcomes {
                let time = |spread: Option<Spread>| spread.map(|spread| spread.to_string()).unwrap_or_default();
                table.add_row([
                    step.name.to_owned(),
                    outcome.tracking.word().to_owned(),
                    outcome.on_victim.to_string(),
                    outcome.lost.values().sum::<usize>().to_string(),
                    words(&outcome.lost),
                    time(outcome.lost_after_change),
                    time(outcome.lost_after_message),
                ]);
            }
        }
        table
    }

    /// Broken connections of `adaptive` one by one: there should be none.
    fn print_each(&self) {
        let mut count = 0;
        for (step, outcome) in self.outcomes(Mode::Adaptive) {
            for Broken { at, cause, backend } in outcome.each.iter().take(SHOWN.saturating_sub(count)) {
                let backend = backend.as_deref().unwrap_or("no backend yet");
                println!("adaptive: broken {at:.3} s after the start, in `{}`, on {backend}: {cause:?}", step.name);
            }
            count += outcome.each.len();
        }
        if count > SHOWN {
            println!("adaptive: … and {} more, which --json lists", count - SHOWN);
        }
    }
}

impl Spread {
    /// `None` of nothing.
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<_> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (median, highest) = (*sorted.get(sorted.len() / 2)?, *sorted.last()?);
        Some(Self { median, highest })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.1})", self.median, self.highest)
    }
}

fn by_cause(failures: &[&Failure]) -> Causes {
    let mut causes = Causes::new();
    for failure in failures {
        *causes.entry(failure.cause).or_default() += 1;
    }
    causes
}

fn words(causes: &Causes) -> String {
    let words: Vec<_> = causes.iter().map(|(cause, count)| format!("{cause:?} {count}")).collect();
    words.join(", ")
}

/// Milliseconds from `from` to `to`, below zero where `to` came first.
fn signed_millis(from: Instant, to: Instant) -> f64 {
    match to.checked_duration_since(from) {
        Some(time) => time.as_secs_f64() * 1e3,
        None => -from.duration_since(to).as_secs_f64() * 1e3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of one step in which these connections failed on `adaptive` and on `never`.
    fn report(victim: Option<Backend>, adaptive: &[(&str, Cause)], never: &[(&str, Cause)]) -> Report {
        let now = Instant::now();
        let failure = |(backend, cause): &(&str, Cause)| Failure {
            at: now,
            cause: *cause,
            backend: Some((*backend).to_owned()).filter(|name| !name.is_empty()),
            sent: None,
        };
        let before = Tally { open: [("b1".to_owned(), 7), ("b2".to_owned(), 5)].into(), ..Tally::default() };
        let outcome = |mode, failures: &[(&str, Cause)]| {
            let after = Tally { failures: failures.iter().map(failure).collect(), ..before.clone() };
            Outcome::of(mode, (&before, &after), victim, None, now)
        };
        let outcomes = [outcome(Mode::Adaptive, adaptive), outcome(Mode::Always, &[]), outcome(Mode::Never, never)];
        let step = StepReport { name: "step", victim, seconds: 0.0, outcomes };
        let times = [Duration::from_millis(1)];
        Report::new(12, 1.0, [&times, &times], vec![step])
    }

    #[test]
    fn what_the_killed_backend_takes_along_is_not_broken() {
        let failures = [("b1", Cause::Reset), ("", Cause::Refused), ("b2", Cause::Closed)];
        let reported = |victim| {
            let report = report(victim, &failures, &[]);
            let [Outcome { open, on_victim, broken, lost, .. }, ..] = &report.steps[0].outcomes;
            (*open, *on_victim, broken.values().sum::<usize>(), lost.values().sum::<usize>())
        };
        assert_eq!(reported(Some(Backend(0))), (12, 7, 1, 2));
        assert_eq!(reported(None), (12, 0, 3, 0));
    }

    #[test]
    fn a_broken_promise_and_a_missing_control_are_told() {
        let verdict = |victim, adaptive, never| match report(victim, adaptive, never).verdict() {
            Ok(()) => "kept".to_owned(),
            Err(error) => error.to_string(),
        };
        let (reset, late) = ([("b1", Cause::Reset)], [("b1", Cause::TimedOut)]);
        assert_eq!(verdict(None, &[], &reset), "kept");
        assert_eq!(verdict(None, &reset, &reset), "`step` broke 1 connections on `adaptive`: Reset 1");
        assert!(verdict(None, &[], &[]).ends_with("this run proves nothing"));
        let alive = [("b2", Cause::Reset)];
        assert_eq!(verdict(Some(Backend(0)), &reset, &alive), "kept");
        assert_eq!(
            verdict(Some(Backend(0)), &late, &alive),
            "1 connections of the backend that `step` killed timed out on `adaptive`"
        );
    }
}
