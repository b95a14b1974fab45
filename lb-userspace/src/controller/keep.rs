//! Keeps what the next start must know where that was not kept with a change: what operators have done, always so, and
//! what was applied last, where it could not be written. A disk that does not answer holds up nobody for long: what is
//! to be written is written once it does.

use std::{fs::File, path::PathBuf, sync::Arc, time::Duration};

use nix::fcntl::Flock;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    Controller,
    book::Sheet,
    file::Text,
    history::{self, Page},
};
use crate::{disk::WriteError, model::Operations};

/// How long whoever did something waits for it to be kept.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How long whoever only tries again waits.
pub(super) const MOMENT: Duration = Duration::from_millis(100);

/// What is not kept yet.
#[derive(Debug, Default)]
pub struct Unkept {
    /// The state directory, where it is not this daemon's yet.
    pub directory: Option<PathBuf>,
    /// What was applied last.
    pub page: Option<(Page, Text)>,
    /// What operators have done.
    pub operations: Option<(Sheet, Arc<Operations>)>,
    /// A file that is told of until it is removed.
    pub damaged: Option<PathBuf>,
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Kept {
    /// The state directory.
    pub lock: Option<Result<Flock<File>, String>>,
    /// What was applied last.
    pub page: Option<Result<Text, WriteError>>,
    /// What operators have done.
    pub operations: Option<(Result<(), WriteError>, Arc<Operations>)>,
    /// The file that was told of has been removed.
    pub is_damaged_gone: bool,
}

impl Unkept {
    /// Keeps it. May wait for a disk.
    fn keep(self) -> Kept {
        let Self { directory, page, operations, damaged } = self;
        let lock = directory.as_deref().map(history::lock);
        if matches!(lock, Some(Err(_))) {
            return Kept { lock, ..Kept::default() };
        }
        let put = |(page, text): (Page, Text)| page.put(page.reserve(&text)?, &text).map(|()| text);
        Kept {
            lock,
            page: page.map(put),
            operations: operations.map(|(sheet, operations)| (sheet.put(), operations)),
            is_damaged_gone: damaged.is_some_and(|path| !path.exists()),
        }
    }
}

impl Kept {
    /// Whether all of it is kept.
    fn is_all(&self) -> bool {
        let Self { lock, page, operations, is_damaged_gone: _ } = self;
        !matches!(lock, Some(Err(_)))
            && !matches!(page, Some(Err(_)))
            && operations.as_ref().is_none_or(|(written, _)| written.is_ok())
    }
}

impl Controller {
    /// Keeps what is not kept yet. Waits for so long at most, and then goes on without.
    pub(super) async fn keep(&mut self, patience: Duration) {
        loop {
            let mut keeping = match self.keeping.take() {
                Some(keeping) => keeping,
                None => match self.history.unkept(&self.applied.file.text, &self.applied.operations) {
                    Some(unkept) => spawn_blocking(|| unkept.keep()),
                    None => return,
                },
            };
            match self.at_most(patience, &mut keeping).await {
                None => {
                    if patience >= PATIENCE {
                        self.history.book.note_slow();
                    }
                    self.keeping = Some(keeping);
                    return;
                }
                Some(kept) => {
                    let is_all = kept.is_all();
                    self.history.note_kept(kept);
                    // Something else may have been done meanwhile.
                    if !is_all || self.history.has_kept(&self.applied.operations) {
                        return;
                    }
                }
            }
        }
    }

    /// What comes of work, or `None` where it takes longer; attends to everything but changes meanwhile.
    async fn at_most(&mut self, patience: Duration, work: &mut JoinHandle<Kept>) -> Option<Kept> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            tokio::select! {
                biased;
                done = &mut *work => return done.ok(),
                () = tokio::time::sleep_until(deadline) => return None,
                () = self.attend() => {}
            }
        }
    }
}
