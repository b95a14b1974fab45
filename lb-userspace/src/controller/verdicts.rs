//! What probes say, put over the config: gathered for a moment, so that a thousand backends that fail at once are one
//! change, and done before everything that waits.

use std::{
    mem,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::block_in_place};

use super::{Controller, due::due, file::Desired, handle::Request};
use crate::{
    health::{Flip, Prober, Probes},
    model::{ProblemKind, Verdicts},
    plan,
};

/// How long verdicts are gathered before they are put in force.
const GATHER: Duration = Duration::from_millis(50);

/// How long until what could not be put in force is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Backends of which a change is logged one by one.
const LISTED: usize = 20;

/// The probes, and what they have said.
pub struct Health {
    prober: Prober,
    told: mpsc::UnboundedReceiver<Flip>,
    verdicts: Verdicts,
    /// Not in force yet, in the order in which they came.
    flips: Vec<Flip>,
    /// When they are put in force.
    due: Option<tokio::time::Instant>,
}

impl Health {
    /// With the verdicts from before.
    pub fn new(verdicts: &Verdicts) -> Self {
        let (prober, told) = Prober::new();
        Self { prober, told, verdicts: verdicts.clone(), flips: Vec::new(), due: None }
    }

    /// Waits for something to be done: takes note of verdicts, and returns when they are due.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                Some(flip) = self.told.recv() => {
                    self.verdicts.set(&flip.vip, flip.backend, flip.fails);
                    self.flips.push(flip);
                    self.due.get_or_insert_with(|| tokio::time::Instant::now() + GATHER);
                }
                () = due(self.due) => {
                    self.due = None;
                    return;
                }
            }
        }
    }

    /// Probes what is wanted.
    pub fn follow(&mut self, wanted: &Desired) {
        self.prober.follow(&wanted.config, &self.verdicts);
        self.verdicts.prune(&wanted.config);
    }

    /// What is probed.
    pub fn probes(&self) -> &Arc<Probes> {
        self.prober.probes()
    }
}

/// The verdicts that the maps hold.
pub fn kept(state: &plan::State) -> Verdicts {
    let mut verdicts = Verdicts::default();
    for entry in state.backends().values().filter(|entry| entry.fails && !entry.is_removed()) {
        if let Some(vip) = state.vips().get(&entry.vip) {
            verdicts.set(vip.name.as_str(), IpAddr::from(entry.address), true);
        }
    }
    verdicts
}

impl Controller {
    /// Verdicts are due: they go before all changes that wait.
    pub(super) fn note_due(&mut self) {
        self.changes.push_front(Request::Judge);
    }

    /// Puts what probes say in force.
    pub(super) fn judge(&mut self) {
        let flips = mem::take(&mut self.health.flips);
        if self.health.verdicts == *self.applied.verdicts {
            // As it was before: what has come and gone within a moment moves nothing.
            return;
        }
        let from = Instant::now();
        let wanted = self.applied.judged(self.health.verdicts.clone());
        const WHAT: &str = "verdicts";
        match block_in_place(|| self.switch(wanted)) {
            Ok((done, old)) => {
                self.problems.mend(ProblemKind::Health, WHAT);
                self.follow_moved(&done.changes);
                log_flips(&flips);
                self.log_last_resorts(&old);
                log::info!("{} verdicts are in force in {:?}: writes {}", flips.len(), from.elapsed(), done.writes);
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

    /// Tells of VIPs of which all backends fail from now on, or not all any more.
    fn log_last_resorts(&self, old: &Desired) {
        let difference = old.config.difference(&self.applied.config);
        for vip in difference.come {
            let was = difference.gone.iter().find(|old| old.name == vip.name).is_some_and(|old| old.is_last_resort());
            match (was, vip.is_last_resort()) {
                (false, true) => log::error!("vip {}: all backends fail their probes: all of them serve", vip.name),
                (true, false) => log::warn!("vip {}: not all backends fail any more: those that do are out", vip.name),
                _ => {}
            }
        }
    }
}

fn log_flips(flips: &[Flip]) {
    for Flip { vip, backend, fails, reason } in flips.iter().take(LISTED) {
        match fails {
            true => log::warn!("vip {vip}: backend {backend} fails its probes: {reason}"),
            false => log::info!("vip {vip}: backend {backend} works again"),
        }
    }
    if let more @ 1.. = flips.len().saturating_sub(LISTED) {
        log::warn!("{more} more verdicts have changed: see `naru health`");
    }
}
