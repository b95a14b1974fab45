//! What is lost behind the data plane, followed: at which interfaces it is counted, and what to say when it grows.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use crate::dataplane::{self, LossCounts, LossInterfaces, LostFrames};

/// For how long after a loss there is something to say.
const FRESH: Duration = Duration::from_secs(600);

/// At which interfaces is counted, and what was found there.
#[derive(Default)]
pub struct Losses {
    losses: Option<dataplane::Losses>,
    /// Where [`Self::follow`] last had it counted.
    interfaces: LossInterfaces,
    found: Found,
}

/// The counts, or why there are none.
#[derive(Clone, Default)]
pub struct Found {
    counts: Option<LossCounts>,
    problem: Option<String>,
    /// By interface what was lost in all, and when that was last seen to grow.
    grown: BTreeMap<u32, (u64, Option<Instant>)>,
}

impl Losses {
    /// Begins to count.
    pub fn open(bpffs: &Path) -> Self {
        match dataplane::Losses::open(bpffs) {
            Ok(losses) => {
                let mut found = Found { counts: Some(losses.counts().clone()), ..Found::default() };
                found.report(losses.missing());
                Self { losses: Some(losses), found, ..Self::default() }
            }
            Err(error) => {
                let mut losses = Self::default();
                losses.found.report(Some(&error));
                losses
            }
        }
    }

    /// What was found, for those who read.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Counts at these interfaces, and looks what has grown.
    pub fn follow(&mut self, interfaces: LossInterfaces, exists: impl Fn(u32) -> bool) {
        let Some(losses) = &mut self.losses else { return };
        match losses.follow(&interfaces, exists).and_then(|()| losses.counts().frames()) {
            Ok(frames) => {
                self.interfaces = interfaces;
                self.found.look(&frames);
                self.found.report(losses.missing());
            }
            Err(error) => self.found.report(Some(&error)),
        }
    }

    /// Counts where packets are about to leave by as well, if it does not yet.
    pub fn follow_egress(&mut self, egress: &BTreeSet<u32>, exists: impl Fn(u32) -> bool) {
        let LossInterfaces { ingress, egress: known } = &self.interfaces;
        if !egress.is_subset(known) {
            self.follow(LossInterfaces { ingress: ingress.clone(), egress: known | egress }, exists);
        }
    }
}

impl Found {
    /// What was lost, by interface.
    pub fn frames(&self) -> Vec<LostFrames> {
        self.counts.as_ref().and_then(|counts| counts.frames().ok()).unwrap_or_default()
    }

    /// What the operator should look at.
    pub fn warnings(&self, name: impl Fn(u32) -> String) -> Vec<String> {
        let fresh = self.grown.iter().filter(|(_, (_, grown))| grown.is_some_and(|grown| grown.elapsed() < FRESH));
        // Without a count, which would make it another warning each time.
        let lost = fresh.map(|(ifindex, _)| {
            let name = name(*ifindex);
            format!("{name} has lost frames that naru sent, within the last ten minutes: `naru stats` has the causes")
        });
        self.problem.iter().cloned().chain(lost).collect()
    }

    fn look(&mut self, frames: &[LostFrames]) {
        let now = Instant::now();
        let before = std::mem::take(&mut self.grown);
        for LostFrames { ifindex, frames } in frames {
            let sum: u64 = frames.iter().sum();
            // What was lost before this daemon looked is no news.
            let (known, grown) = before.get(ifindex).copied().unwrap_or((sum, None));
            self.grown.insert(*ifindex, (sum, if sum > known { Some(now) } else { grown }));
        }
    }

    /// Notes what is not counted, and that all is again.
    fn report(&mut self, missing: Option<&dataplane::LossesError>) {
        let problem = missing.map(ToString::to_string);
        if self.problem == problem {
            return;
        }
        match &problem {
            Some(problem) => log::warn!("{problem}"),
            None => log::info!("frames that are lost behind naru are counted again"),
        }
        self.problem = problem;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grows_is_told_of() {
        let mut losses = Found::default();
        let lost = |count| [LostFrames { ifindex: 2, frames: [0, count, 0] }];
        let name = |ifindex| format!("eth{ifindex}");
        losses.look(&lost(5));
        assert!(losses.warnings(name).is_empty(), "lost before this daemon");
        losses.look(&lost(7));
        losses.look(&lost(7));
        let [warning] = &losses.warnings(name)[..] else { panic!("one warning") };
        assert!(warning.starts_with("eth2 has lost frames that naru sent"), "{warning}");
    }
}
