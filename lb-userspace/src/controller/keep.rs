//! Keeps what the next start must know where that was not kept with a change: what operators have done, always so, and
//! what was applied last, where it could not be written. A disk that does not answer holds up nobody for long: what is
//! to be written is written once it does.

use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::{Controller, unkept::Kept};
use crate::model::Operations;

/// How long whoever did something waits for it to be kept.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How long whoever only tries again waits.
pub(super) const MOMENT: Duration = Duration::from_millis(100);

impl Controller {
    /// Keeps what is not kept yet. Waits for so long at most, and then goes on without.
    pub(super) async fn keep(&mut self, patience: Duration) {
        // A disk that is known to hang is not waited for by everyone anew.
        let patience = if self.keeping.is_some() { MOMENT } else { patience };
        loop {
            let mut keeping = match self.keeping.take() {
                Some(keeping) => keeping,
                None => match self.state_directory.unkept(&self.applied.sources.text, &self.applied.operations) {
                    Some(unkept) => spawn_blocking(|| unkept.keep()),
                    None => return,
                },
            };
            match self.at_most(patience, &mut keeping).await {
                None => {
                    if patience >= PATIENCE && !self.state_directory.has_kept(&self.applied.operations) {
                        self.state_directory.book.note_slow();
                    }
                    self.keeping = Some(keeping);
                    return;
                }
                Some(Err(error)) => return log::error!("what the next start must know was not kept: {error}"),
                Some(Ok(kept)) => {
                    let is_all = kept.is_all();
                    if let Some(found) = self.state_directory.note_kept(kept) {
                        self.take_over(found).await;
                        continue;
                    }
                    // Something else may have been done meanwhile.
                    if !is_all || self.state_directory.has_kept(&self.applied.operations) {
                        return;
                    }
                }
            }
        }
    }

    /// Puts in force what operators had done whose daemon had the state directory before, but for what was done here
    /// since to the same backends.
    async fn take_over(&mut self, mut found: Operations) {
        for (vip, backend, operation) in self.applied.operations.iter() {
            found.set(vip, backend, operation.clone());
        }
        for (vip, backend, operation) in found.prune(&self.applied.sources.config) {
            log::info!("vip {vip}: there is no backend {backend}: what was done to it is forgotten ({operation})");
        }
        if found == *self.applied.operations {
            return;
        }
        let wanted = self.applied.with(found);
        match self.resolve_and_switch(wanted, None, Instant::now()).await {
            Ok(applied) => {
                applied.changes.iter().for_each(|change| log::info!("found in the state directory: {change}"));
            }
            Err(error) => log::error!("what was found in the state directory is not in force: {error}"),
        }
    }

    /// What comes of work, or `None` where it takes longer; attends to everything but changes meanwhile. Verdicts are put in
    /// force: nothing here is about to become what is applied.
    async fn at_most(&mut self, patience: Duration, work: &mut JoinHandle<Kept>) -> Option<Result<Kept, JoinError>> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            self.judge_if_due();
            tokio::select! {
                biased;
                done = &mut *work => return Some(done),
                () = tokio::time::sleep_until(deadline) => return None,
                () = self.attend() => {}
            }
        }
    }
}
