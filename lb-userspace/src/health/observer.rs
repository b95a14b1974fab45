//! What is known of one backend of one VIP by its probes: makes a verdict of each answer, and tells of those that change.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc;

use super::{
    judge::{Judge, Verdict},
    probe::Outcome,
};
use crate::model::Health;

/// Takes note of the answers of a backend.
#[derive(Debug)]
pub struct Observer {
    vip: String,
    backend: IpAddr,
    health: Arc<Health>,
    state: Mutex<Status>,
    flips: mpsc::UnboundedSender<Flip>,
}

/// What is known of a backend that is probed.
#[derive(Clone, Debug)]
pub struct Status {
    /// Since when the verdict stands.
    pub since: SystemTime,
    /// What came last.
    pub last: Option<Last>,
    /// How often a verdict has changed into another.
    pub flips: u64,
    /// Probes with a good answer, without one, and of which nothing follows, for this host was too busy.
    pub counts: [u64; 3],
    /// Since when nothing follows from any probe.
    pub void_since: Option<SystemTime>,
    judge: Judge,
    /// Another goes on in its place: what still comes is nothing to it.
    is_over: bool,
}

/// What came of a probe.
#[derive(Clone, Debug)]
pub struct Last {
    /// When.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What was wrong with the answer; `None` where it was good.
    pub failure: Option<String>,
}

/// A backend of which the verdict has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Name of the VIP.
    pub vip: String,
    /// The backend's address.
    pub backend: IpAddr,
    /// Whether it fails now.
    pub fails: bool,
    /// What came last, in words.
    pub reason: String,
}

impl Status {
    /// Where this verdict is known, and nothing else.
    pub fn new(verdict: Verdict) -> Self {
        let (last, void_since) = Default::default();
        let judge = Judge::new(verdict);
        Self { since: SystemTime::now(), last, flips: 0, counts: [0; 3], void_since, judge, is_over: false }
    }

    /// Whether it works.
    pub fn verdict(&self) -> Verdict {
        self.judge.verdict()
    }

    /// Whether the next answer may lead to another verdict.
    pub fn is_forming(&self) -> bool {
        self.judge.is_forming()
    }

    /// Answers in a row that speak against the verdict, and as many as change it.
    pub fn against(&self, health: &Health) -> (u32, u32) {
        (self.judge.against(), self.judge.needed(health.rise, health.fall))
    }
}

impl Observer {
    /// Of a backend of which so much is known.
    pub fn new(
        vip: &str,
        backend: IpAddr,
        health: Arc<Health>,
        status: Status,
        flips: mpsc::UnboundedSender<Flip>,
    ) -> Self {
        Self { vip: vip.to_owned(), backend, health, state: Mutex::new(status), flips }
    }

    /// How the backend is asked, and what makes a verdict.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// What is known.
    pub fn status(&self) -> MutexGuard<'_, Status> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What another begins with that goes on in its place: the verdict stands. It takes no more note of anything.
    pub fn hand_over(&self) -> Status {
        let mut status = self.status();
        let handed = Status { judge: Judge::new(status.verdict()), ..status.clone() };
        // In one: a verdict that changed in between would be nobody's.
        status.is_over = true;
        handed
    }

    /// Takes note of an answer.
    pub fn note(&self, outcome: &Outcome, took: Duration) {
        let mut status = self.status();
        if status.is_over {
            return;
        }
        let (is_good, failure) = match outcome {
            Outcome::Good => (Some(true), None),
            Outcome::Bad(failure) => (Some(false), Some(failure.to_string())),
            Outcome::Void(failure) => (None, Some(failure.to_string())),
        };
        status.counts[match is_good {
            Some(true) => 0,
            Some(false) => 1,
            None => 2,
        }] += 1;
        match is_good {
            Some(_) => status.void_since = None,
            None => _ = status.void_since.get_or_insert_with(SystemTime::now),
        }
        let reason = failure.clone().unwrap_or_else(|| "good answers".to_owned());
        status.last = Some(Last { at: SystemTime::now(), took, failure });
        let Health { rise, fall, .. } = *self.health;
        let before = status.judge.verdict();
        let Some(verdict) = is_good.and_then(|is_good| status.judge.note(is_good, rise, fall)) else { return };
        status.since = SystemTime::now();
        let fails = verdict == Verdict::Down;
        status.flips += u64::from(fails || before != Verdict::Unknown);
        // Whoever no longer listens is about to end.
        let _ = self.flips.send(Flip { vip: self.vip.clone(), backend: self.backend, fails, reason });
    }
}
