//! What the next start must know and is not kept yet, and what became of keeping it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::fcntl::Flock;

use super::{
    book::{Place, Sheet, Unread},
    directory,
    file::Text,
    page::Page,
};
use crate::{disk::WriteError, model::Operations};

/// What is not kept yet.
#[derive(Debug, Default)]
pub struct Unkept {
    /// The state directory, where it is not this daemon's yet, and what is to be read there before anything is written.
    pub directory: Option<(PathBuf, Place)>,
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
    /// The state directory, and what operators had done whose daemon had it before.
    pub lock: Option<Result<(Flock<File>, Operations), String>>,
    /// What was applied last.
    pub page: Option<Result<Text, WriteError>>,
    /// What operators have done.
    pub operations: Option<(Result<(), WriteError>, Arc<Operations>)>,
    /// The file that was told of has been removed.
    pub is_damaged_gone: bool,
}

impl Unkept {
    /// Keeps it. May wait for a disk.
    pub fn keep(self) -> Kept {
        let Self { directory, page, operations, damaged } = self;
        if let Some((directory, place)) = directory {
            // What is found there goes with what was done since, and is written in the next round.
            return Kept { lock: Some(take_late(&directory, &place)), ..Kept::default() };
        }
        let put = |(page, text): (Page, Text)| page.put(page.reserve(&text)?, &text).map(|()| text);
        Kept {
            lock: None,
            page: page.map(put),
            operations: operations.map(|(sheet, operations)| (sheet.put(), operations)),
            is_damaged_gone: damaged.is_some_and(|path| !path.exists()),
        }
    }
}

/// Takes a state directory that could not be had before, and reads what is there.
fn take_late(directory: &Path, place: &Place) -> Result<(Flock<File>, Operations), String> {
    let lock = directory::lock(directory)?;
    match place.read() {
        Ok(found) => Ok((lock, found)),
        Err(Unread::Other(config, _)) => {
            Err(format!("it is the one of {config}: give each daemon its own (`state` in [node]) and restart"))
        }
        Err(Unread::Damaged(error)) => Err(format!("what is kept there cannot be read: {error}; restart the daemon")),
    }
}

impl Kept {
    /// Whether all of it is kept.
    pub fn is_all(&self) -> bool {
        let Self { lock, page, operations, is_damaged_gone: _ } = self;
        !matches!(lock, Some(Err(_)))
            && !matches!(page, Some(Err(_)))
            && operations.as_ref().is_none_or(|(written, _)| written.is_ok())
    }
}
