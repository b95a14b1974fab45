//! What probes say, put over the config: gathered for a moment, so that a thousand backends that fail at once are one
//! change, and done before everything that waits. So is each step of those that get their slots back in parts; one timer
//! is for all of them, and rings ten times a second at most.

use std::{
    collections::HashSet,
    mem,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::mpsc, task::block_in_place};

use super::{Controller, due::due, file::Desired, handle::Request};
use crate::{
    health::{Flip, Paths, Probes, Punctuality, Rounds},
    model::{Difference, ProblemKind, Verdicts, slow_start_now},
    plan::{self, Entry},
};

/// How long verdicts are gathered before they are put in force.
const GATHER: Duration = Duration::from_millis(50);

/// How long nothing may be found out of a backend before it is told.
const VOID: Duration = Duration::from_secs(10);

/// How long until what could not be put in force is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The probes, and what they have said.
pub struct Health {
    rounds: Rounds,
    told: mpsc::UnboundedReceiver<Flip>,
    verdicts: Verdicts,
    /// What is probed.
    followed: Option<Arc<Desired>>,
    lines: Lines,
    /// Probes begun, and begun late, when that was last looked at.
    begun: (u64, u64),
    /// Not in force yet, in the order in which they came.
    flips: Vec<Flip>,
    /// When they are put in force.
    due: Option<tokio::time::Instant>,
    /// When some backend gets more of its slots back.
    step_due: Option<tokio::time::Instant>,
}

impl Health {
    /// With the verdicts from before.
    pub fn new(verdicts: &Verdicts) -> Self {
        let (rounds, told) = Rounds::new();
        let (followed, lines, begun, due, step_due) = Default::default();
        let (verdicts, flips) = (verdicts.clone(), Vec::new());
        Self { rounds, told, verdicts, followed, lines, begun, flips, due, step_due }
    }

    /// Waits for something to be done: takes note of verdicts, and returns when they, or a step, are due.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                Some(flip) = self.told.recv() => {
                    if self.verdicts.has(&flip.vip, flip.backend) != flip.fails {
                        self.verdicts.set(&flip.vip, flip.backend, flip.fails);
                        self.flips.push(flip);
                        self.due.get_or_insert_with(|| tokio::time::Instant::now() + GATHER);
                    }
                }
                () = due(self.due.into_iter().chain(self.step_due).min()) => {
                    (self.due, self.step_due) = (None, None);
                    return;
                }
            }
        }
    }

    /// Probes what is wanted.
    pub fn follow(&mut self, wanted: &Arc<Desired>) {
        if self.followed.as_ref().is_some_and(|followed| Arc::ptr_eq(followed, wanted)) {
            return;
        }
        self.rounds.follow(&wanted.config, &self.verdicts);
        self.verdicts.prune(&wanted.config);
        self.followed = Some(Arc::clone(wanted));
        self.await_step(wanted);
    }

    /// What is followed, or is about to be, is taken back: of backends that are not probed as long as it is, `verdicts` stand.
    /// What is not in force of the others is due.
    pub fn take_back(&mut self, verdicts: &Verdicts) {
        if let Some(followed) = &self.followed {
            self.verdicts = mem::take(&mut self.verdicts).with_others_of(verdicts, &followed.config);
        }
        self.due = Some(tokio::time::Instant::now());
    }

    /// Waits until some backend of `wanted` gets more of its slots back.
    fn await_step(&mut self, wanted: &Desired) {
        let left = wanted.verdicts.until_next(&wanted.config, slow_start_now());
        self.step_due = left.map(|left| tokio::time::Instant::now() + left);
    }

    /// How probes keep to their times.
    pub fn punctuality(&self) -> &Arc<Punctuality> {
        self.rounds.punctuality()
    }

    /// The ways of probes that go as clients' packets do.
    pub fn paths(&self) -> &Paths {
        self.rounds.paths()
    }

    /// Has the files that probes go by read again.
    pub fn renew(&mut self) {
        self.rounds.renew();
    }

    /// What is probed.
    pub fn probes(&self) -> &Arc<Probes> {
        self.rounds.probes()
    }
}

/// The verdicts that the maps hold.
pub fn kept(state: &plan::State) -> Verdicts {
    let mut verdicts = Verdicts::default();
    let has_some = |entry: &&Entry| entry.fails || entry.slow_start.is_some();
    for entry in state.backends().values().filter(has_some).filter(|entry| !entry.is_removed()) {
        let Some(vip) = state.vips().get(&entry.vip) else { continue };
        let (vip, backend) = (vip.name.as_str(), IpAddr::from(entry.address));
        if entry.fails {
            verdicts.set(vip, backend, true);
        }
        if let Some(own) = entry.slow_start {
            verdicts.set_return(vip, backend, own);
        }
    }
    verdicts
}

impl Controller {
    /// Verdicts, or steps, are due: they go before all changes that wait.
    pub(super) fn note_due(&mut self) {
        self.changes.push_front(Request::Judge);
    }

    /// Puts what probes say in force, and gives backends that are back as many of their slots as it is time for.
    pub(super) fn judge(&mut self) {
        let flips = mem::take(&mut self.health.flips);
        let Desired { verdicts: before, config, .. } = &*self.applied;
        let verdicts = self.health.verdicts.clone().after(before, config, slow_start_now());
        if verdicts == **before {
            // As it was before: what has come and gone within a moment moves nothing.
            self.health.await_step(&self.applied);
            return;
        }
        let from = Instant::now();
        let wanted = self.applied.judged(verdicts);
        const WHAT: &str = "verdicts";
        match block_in_place(|| self.switch(wanted)) {
            Ok((done, old)) => {
                self.problems.mend(ProblemKind::Health, WHAT);
                self.follow_moved(&done.changes);
                self.health.lines.tell(&lines(&flips, &old.verdicts, &self.applied));
                self.log_panics(&old);
                log::debug!("verdicts in force in {:?}: {}, writes {}", from.elapsed(), flips.len(), done.writes);
            }
            Err(error) => {
                let reason = format!("what probes say of backends cannot be put in force: {error}");
                self.problems.note(ProblemKind::Health, WHAT, &reason);
                self.health.flips = flips;
                self.health.due = Some(tokio::time::Instant::now() + AGAIN);
            }
        }
        self.publish();
    }

    /// Takes note whether probes keep to their times.
    pub(super) fn note_punctuality(&mut self) {
        const WHAT: &str = "probes";
        let now = self.health.punctuality().counts();
        let before = std::mem::replace(&mut self.health.begun, now);
        let (begun, late) = (now.0 - before.0, now.1 - before.1);
        // One in a hundred may be.
        if late * 100 > begun {
            let reason = "this host is too busy to probe in time: intervals are longer than the config says";
            self.problems.note(ProblemKind::Health, WHAT, reason);
        } else {
            self.problems.mend(ProblemKind::Health, WHAT);
        }
    }

    /// Takes note of backends of which nothing is found out.
    pub(super) fn note_void(&mut self) {
        const WHAT: &str = "void";
        let now = SystemTime::now();
        let mut void = self.health.probes().iter().flat_map(|(vip, backends)| {
            backends.iter().filter_map(move |(backend, probed)| {
                let status = probed.status();
                let time = now.duration_since(status.void_since?).ok()?;
                let reason = status.last.as_ref().and_then(|last| last.failure.clone())?;
                (time > VOID.max(3 * probed.health().interval)).then_some((vip, backend, reason))
            })
        });
        match void.next() {
            None => self.problems.mend(ProblemKind::Health, WHAT),
            Some((vip, backend, reason)) => {
                let others = match void.count() {
                    0 => String::new(),
                    count => format!(" (and of {count} more)"),
                };
                let reason = format!(
                    "nothing is found out of backend {backend} of vip {vip}{others}, whose verdict stays as it is: {reason}"
                );
                self.problems.note(ProblemKind::Health, WHAT, &reason);
            }
        }
    }

    /// Tells of VIPs of which all backends serve from now on although some fail, or not any more.
    fn log_panics(&self, old: &Desired) {
        let Difference { gone, come } = old.config.difference(&self.applied.config);
        let panicked: HashSet<&str> =
            gone.iter().filter(|vip| vip.is_in_panic()).map(|vip| vip.name.as_str()).collect();
        for vip in come {
            let was = panicked.contains(vip.name.as_str());
            match (was, vip.is_in_panic()) {
                (false, true) => log::error!("vip {}: too few backends work: those that fail serve as well", vip.name),
                (true, false) => log::warn!("vip {}: enough backends work: those that fail are out", vip.name),
                _ => {}
            }
        }
    }
}

/// What the log tells of a backend.
enum Line<'a> {
    /// Its verdict has changed; whether it gets its slots back in parts.
    Flip(&'a Flip, bool),
    /// Its slow start is over.
    Whole(&'a str, IpAddr),
}

/// What is to be told where these verdicts have changed, and `after` is in force after `before`.
fn lines<'a>(flips: &'a [Flip], before: &'a Verdicts, after: &Desired) -> Vec<Line<'a>> {
    let now = &after.verdicts;
    let flips = flips.iter().map(|flip| Line::Flip(flip, now.returns().of(&flip.vip, flip.backend).is_some()));
    let is_whole =
        |(vip, backend): &(&str, IpAddr)| now.returns().of(vip, *backend).is_none() && !now.has(vip, *backend);
    let whole = before.returns().iter().map(|(vip, backend, _)| (vip, backend)).filter(is_whole);
    flips.chain(whole.map(|(vip, backend)| Line::Whole(vip, backend))).collect()
}

/// Lines of the log that verdicts may have.
#[derive(Default)]
struct Lines {
    /// When this window began.
    begun: Option<Instant>,
    /// Lines in it.
    told: usize,
    /// Verdicts without a line since there was one for them all.
    untold: usize,
}

impl Lines {
    /// How long a window is.
    const WINDOW: Duration = Duration::from_secs(10);
    /// Lines in a window.
    const MOST: usize = 20;

    fn tell(&mut self, lines: &[Line<'_>]) {
        if self.begun.is_none_or(|begun| begun.elapsed() >= Self::WINDOW) {
            self.tell_rest();
            (self.begun, self.told) = (Some(Instant::now()), 0);
        }
        let told = lines.len().min(Self::MOST - self.told);
        for line in &lines[..told] {
            match line {
                Line::Flip(Flip { vip, backend, fails: true, reason }, _) => {
                    log::warn!("vip {vip}: backend {backend} fails its probes: {reason}");
                }
                Line::Flip(Flip { vip, backend, .. }, false) => log::info!("vip {vip}: backend {backend} works again"),
                Line::Flip(Flip { vip, backend, .. }, true) => {
                    log::info!("vip {vip}: backend {backend} works again, and gets its slots back in parts");
                }
                Line::Whole(vip, backend) => log::info!("vip {vip}: backend {backend} has all of its slots again"),
            }
        }
        if told < lines.len() && self.untold == 0 {
            log::warn!("more verdicts change than are told one by one: see `naru health`");
        }
        self.told += told;
        self.untold += lines.len() - told;
    }

    /// Tells how many had no line.
    fn tell_rest(&mut self) {
        if let untold @ 1.. = std::mem::take(&mut self.untold) {
            log::warn!("{untold} more verdicts have changed since: see `naru health`");
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{BackendRecord, SlowStart, VipName, VipRecord};

    use super::{super::file::ConfigFile, *};
    use crate::health::Verdict;

    const TEXT: &str = r#"
        [node]
        interfaces = []
        [[vip]]
        name = "web"
        address = "203.0.113.10"
        ports = ["tcp/80"]
        forward = "l2"
        health = { type = "tcp", slow_start = "1s" }
        backends = [{ address = "10.0.1.11" }, { address = "10.0.1.12" }]
    "#;
    const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 11));

    fn desired(verdicts: Verdicts) -> Desired {
        let file = ConfigFile { path: "f".into(), overrides: Default::default() };
        let contents = file.parse(TEXT.to_owned(), None).unwrap();
        Desired::new(contents, &Arc::default(), &Arc::new(verdicts)).0
    }

    fn returned(began: u32) -> Verdicts {
        let mut verdicts = Verdicts::default();
        verdicts.set_return("web", OWN, SlowStart::new(began));
        verdicts
    }

    /// Also where the time for it has passed while the daemon was away.
    #[tokio::test]
    async fn a_step_is_due_as_a_verdict_is() {
        for age in [3, 1_000] {
            let desired = desired(returned(slow_start_now().wrapping_sub(age)));
            let mut health = Health::new(&desired.verdicts);
            health.await_step(&desired);
            assert!(health.step_due.is_some());
            tokio::time::timeout(patience::LIMIT, health.next()).await.expect("a step in time");
            assert!(health.step_due.is_none());
            let after = health.verdicts.clone().after(&desired.verdicts, &desired.config, slow_start_now());
            assert_ne!(after, *desired.verdicts);
        }
        let mut health = Health::new(&Verdicts::default());
        health.await_step(&desired(Verdicts::default()));
        assert!(health.step_due.is_none(), "nobody waits for anything");
    }

    /// Whether that change is followed already or not.
    #[tokio::test]
    async fn where_a_change_is_taken_back_verdicts_stand_and_those_that_wait_are_due() {
        let other = IpAddr::from([10, 0, 1, 12]);
        let mut verdicts = Verdicts::default();
        verdicts.set("web", OWN, true);
        let before = desired(verdicts.clone());
        let file = ConfigFile { path: "f".into(), overrides: Default::default() };
        let without = TEXT.replace("{ address = \"10.0.1.11\" }, ", "");
        let without = Desired::new(file.parse(without, None).unwrap(), &Arc::default(), &before.verdicts).0;
        assert_eq!(*without.verdicts, Verdicts::default());
        for is_followed in [false, true] {
            let mut health = Health::new(&verdicts);
            health.follow(&Arc::new(before.clone()));
            if is_followed {
                health.follow(&Arc::new(without.clone()));
                assert!(!health.verdicts.has("web", OWN));
            }
            health.verdicts.set("web", other, true);
            health.take_back(&verdicts);
            assert_eq!(health.verdicts.iter().collect::<Vec<_>>(), [("web", OWN), ("web", other)]);
            health.follow(&Arc::new(before.clone()));
            assert_eq!(health.probes()["web"][&OWN].status().verdict(), Verdict::Down);
            assert!(health.due.is_some());
        }
    }

    #[test]
    fn what_the_maps_hold_is_what_is_known_at_a_start() {
        let now = slow_start_now();
        let mut state = plan::State::default();
        let vip = VipRecord { name: VipName::new("web").unwrap(), ..VipRecord::default() };
        state.put_vip(7, vip);
        let mut put = |id, address: &str, marks| {
            let record = BackendRecord { marks, ..BackendRecord::default() };
            let backend =
                lb_common::Backend { address: address.parse::<IpAddr>().unwrap().into(), vip: 7, ..Default::default() };
            state.put_backend(id, Entry::new(backend, record, None));
        };
        put(1, "10.0.1.11", SlowStart::new(now).marks());
        put(2, "10.0.1.12", BackendRecord::FAILS);
        put(3, "10.0.1.13", 0);
        let mut expected = returned(now);
        expected.set("web", [10, 0, 1, 12].into(), true);
        assert_eq!(kept(&state), expected);
    }

    #[test]
    fn the_log_tells_of_a_slow_start_as_it_begins_and_as_it_ends() {
        let flip = Flip { vip: "web".into(), backend: OWN, fails: false, reason: String::new() };
        let (before, after) = (Verdicts::default(), desired(returned(slow_start_now())));
        assert!(matches!(&*lines(std::slice::from_ref(&flip), &before, &after), [Line::Flip(_, true)]));
        assert!(lines(&[], &after.verdicts, &after).is_empty(), "nor of a step");
        let whole = desired(before);
        assert!(matches!(&*lines(&[], &after.verdicts, &whole), [Line::Whole("web", OWN)]));
    }
}
