//! The model: a million connections and a thousand changes, without packets. The tables are naru's Maglev tables, the
//! rules are those that its data plane and its daemon run by; beside them others over the same tables.

mod fleet;
mod population;
mod tracking;

use std::thread;

use anyhow::ensure;
use rand::{SeedableRng as _, rngs::SmallRng};
use serde::Serialize;

use self::{
    fleet::{Fleet, SLOTS, Tables},
    population::{Events, Population},
    tracking::{Adaptive, Plain, Tracking},
};
use crate::table::table;

/// What is modelled.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections open at a time.
    pub connections: usize,
    /// Changes of one backend each.
    pub changes: usize,
    /// Seconds from one change to the next; each is a run of its own.
    pub intervals: Vec<f64>,
    /// `tcp_idle` of naru's VIP, in seconds.
    pub tcp_idle: u32,
}

/// The first one of so many parts is left out of the statistics: the flow table fills.
const WARM_UP: usize = 5;
/// Points of the time series.
const POINTS: usize = 100;
/// Of every random choice.
const SEED: u64 = 2021;

/// What was modelled.
#[derive(Debug, Serialize)]
pub struct Report {
    connections: usize,
    changes: usize,
    slots: u32,
    tcp_idle: u32,
    runs: Vec<Run>,
}

/// One kind of tracking through all changes.
#[derive(Debug, Serialize)]
struct Run {
    /// Seconds from one change to the next.
    interval: f64,
    tracking: &'static str,
    /// Connections that were sent to another backend although their own was active.
    broken: u64,
    /// Connections that were sent to another backend although their own, drained or removed, still served them.
    evicted: u64,
    /// Connections of backends that were down.
    lost: u64,
    /// The share of the open connections that have an entry.
    tracked: Shares,
    /// The same over time, at equal distances.
    series: Vec<Point>,
}

/// Shares of one over all changes but the first.
#[derive(Debug, Serialize)]
struct Shares {
    mean: f64,
    median: f64,
    percentile_95: f64,
    peak: f64,
}

#[derive(Debug, Serialize)]
struct Point {
    /// Seconds from the beginning.
    at: f64,
    tracked: f64,
}

/// Runs the model: a thread for each interval.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    ensure!(options.changes >= WARM_UP, "a model of fewer than {WARM_UP} changes tells nothing");
    let positive = options.intervals.iter().all(|interval| *interval > 0.0);
    ensure!(positive, "time has to pass between changes: give --interval above 0");
    let runs = thread::scope(|scope| {
        let start = |interval: &f64| {
            let interval = *interval;
            scope.spawn(move || simulate(interval, options))
        };
        let threads: Vec<_> = options.intervals.iter().map(start).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Vec<Run>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    });
    let Options { connections, changes, tcp_idle, .. } = *options;
    Ok(Report { connections, changes, slots: SLOTS, tcp_idle, runs })
}

/// All kinds of tracking through the same changes.
fn simulate(interval: f64, options: &Options) -> Vec<Run> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut fleet = Fleet::new();
    let tables = fleet.tables();
    let mut adaptive = Course::new(Adaptive::new(&tables, options.tcp_idle), options);
    let mut others = [Plain::always(&tables), Plain::jet(&tables), Plain::never(&tables)]
        .map(|tracking| Course::new(tracking, options));
    for number in 0..options.changes {
        let now = number as f64 * interval;
        let died = fleet.change(&mut random);
        let tables = fleet.tables();
        adaptive.change(died, &fleet, &tables, now, interval);
        for other in &mut others {
            other.change(died, &fleet, &tables, now, interval);
        }
    }
    let [always, jet, never] = others;
    vec![
        adaptive.run("adaptive", interval),
        always.run("always", interval),
        jet.run("JET's rule", interval),
        never.run("never", interval),
    ]
}

/// One kind of tracking on its way.
struct Course<T> {
    tracking: T,
    population: Population,
    events: Events,
    /// After each change.
    tracked: Vec<f64>,
}

impl<T: Tracking> Course<T> {
    fn new(tracking: T, options: &Options) -> Self {
        let population = Population::new(options.connections, &tracking, SmallRng::seed_from_u64(SEED));
        Self { tracking, population, events: Events::default(), tracked: Vec::new() }
    }

    /// A change at `now`, and the `interval` after it.
    fn change(&mut self, died: Option<u32>, fleet: &Fleet, tables: &Tables, now: f64, interval: f64) {
        let Self { tracking, population, events, tracked } = self;
        if let Some(backend) = died {
            population.doom(backend);
        }
        tracking.change(fleet, tables, now);
        let Events { broken, evicted, lost } = population.pass(interval, tracking, fleet);
        events.broken += broken;
        events.evicted += evicted;
        events.lost += lost;
        tracked.push(population.tracked());
        tracking.sweep(population.pinned(), now + interval);
    }

    fn run(self, tracking: &'static str, interval: f64) -> Run {
        let Events { broken, evicted, lost } = self.events;
        let step = self.tracked.len().div_ceil(POINTS);
        let point = |(number, tracked): (usize, &f64)| Point { at: (number + 1) as f64 * interval, tracked: *tracked };
        let series = self.tracked.iter().enumerate().skip(step - 1).step_by(step).map(point).collect();
        let tracked = Shares::of(&self.tracked[self.tracked.len() / WARM_UP..]);
        Run { interval, tracking, broken, evicted, lost, tracked, series }
    }
}

impl Shares {
    fn of(shares: &[f64]) -> Self {
        let mut sorted = shares.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize];
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Self { mean, median: at(0.5), percentile_95: at(0.95), peak: at(1.0) }
    }
}

impl Report {
    /// Prints the table.
    pub fn print(&self) {
        let mut table = table(
            ["A CHANGE EVERY", "TRACKING", "BROKEN", "EVICTED", "LOST", "TRACKED (MEAN)", "MEDIAN", "95 %", "PEAK"],
            2,
        );
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        for Run { interval, tracking, broken, evicted, lost, tracked, .. } in &self.runs {
            let Shares { mean, median, percentile_95, peak } = tracked;
            let mut row = vec![format!("{interval} s"), (*tracking).to_owned()];
            row.extend([broken, evicted, lost].map(ToString::to_string));
            row.extend([mean, median, percentile_95, peak].map(|share| percent(*share)));
            table.add_row(row);
        }
        println!("{table}");
        println!(
            "\n{} connections open at a time, {}.\n{} changes of one of 100 backends (added, removed, drained, active \
             again, down, up again, reweighted), {} slots, tcp_idle {} s.",
            self.connections,
            population::DESCRIPTION,
            self.changes,
            self.slots,
            self.tcp_idle
        );
        println!(
            "BROKEN: sent to another backend although their own was active. EVICTED: although their own, drained or \
             removed, still\nserved them. LOST: of backends that were down. TRACKED: connections with an entry, of \
             those open; without the first fifth\nof the changes. JET (Mendelson et al., CoNEXT 2021, abstract) \
             claims tables \"an order of magnitude smaller\" than full\ntracking; its authors' code, with a horizon \
             of 47 for 468 servers, says \"about 10%\". JET's rule runs here over the same\nMaglev tables, with every \
             backend that is not active as its horizon. It presumes that backends leave only by dying, and\nknows \
             neither weights nor drains: what it breaks here is outside of what it claims."
        );
    }

    /// Whether `adaptive` broke nothing, and the changes would have broken something.
    ///
    /// # Errors
    ///
    /// With what is not so.
    pub fn verdict(&self) -> anyhow::Result<()> {
        for run in &self.runs {
            let broken = run.broken + run.evicted;
            match run.tracking {
                "adaptive" | "always" => {
                    ensure!(broken == 0, "{} broke {broken} connections every {} s", run.tracking, run.interval);
                }
                "never" => ensure!(broken > 0, "`never` broke no connection: this model proves nothing"),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adaptive_breaks_nothing_where_never_does_and_tracks_less_than_always() {
        let options = Options { connections: 20_000, changes: 25, intervals: vec![60.0], tcp_idle: 900 };
        let report = run(&options).unwrap();
        report.verdict().unwrap();
        let [adaptive, always, jet, never] = &report.runs[..] else { panic!("four kinds of tracking") };
        assert_eq!((always.tracked.mean, never.tracked.mean), (1.0, 0.0));
        assert!((0.001..0.5).contains(&adaptive.tracked.mean), "{:?}", adaptive.tracked);
        assert!((0.05..0.2).contains(&jet.tracked.mean), "{:?}", jet.tracked);
        assert!(adaptive.lost > 0 && adaptive.series.len() == 25);
    }

    #[test]
    fn the_same_model_comes_out_the_same() {
        let options = Options { connections: 5_000, changes: 10, intervals: vec![5.0], tcp_idle: 60 };
        let tell = || serde_json::to_string(&run(&options).unwrap()).unwrap();
        assert_eq!(tell(), tell());
    }
}
