//! What of a change goes to disk: written and flushed beside the files before a map is touched, put in their place once
//! the maps are written. Both may wait for a disk, so both are for a thread of their own.

use std::{path::PathBuf, sync::Arc};

use super::history::{Page, Print, Sheet, print};
use crate::disk::{ReplaceError, Replaced, Staged, WriteError};

/// What is to be written.
#[derive(Debug)]
pub struct Order {
    /// The config file and its text so far, where it is to be replaced.
    pub file: Option<(PathBuf, Arc<str>)>,
    /// Where to keep what was applied.
    pub page: Option<Page>,
    /// The new text of both.
    pub text: Arc<str>,
    /// What operators have done, where that is to be kept.
    pub operations: Option<Sheet>,
}

/// A change that is on disk, but not in place. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Record {
    /// The new text of the config file, and the one that it is to replace.
    file: Option<(Staged, Arc<str>)>,
    applied: Option<Result<Staged, WriteError>>,
    print: Print,
    operations: Option<Result<Staged, WriteError>>,
}

/// A change that is in place.
#[derive(Debug)]
pub struct Recorded {
    /// The config file that was replaced.
    pub replaced: Option<Replaced>,
    /// What became of keeping what was applied, where that was to be done.
    pub applied: Option<Result<Print, WriteError>>,
    /// The same of what operators have done.
    pub operations: Option<Result<(), WriteError>>,
}

impl Order {
    /// Writes it all. That nothing can be kept is a failure only if it could be before. That what operators have done
    /// cannot be kept is none: it is done all the same, and kept once that is possible.
    pub fn stage(self) -> Result<Record, WriteError> {
        let Self { file, page, text, operations } = self;
        let file = match file {
            Some((path, before)) => Some((Staged::beside(&path, &text)?, before)),
            None => None,
        };
        let applied = page.map(|page| (page.stage(&text), page.is_needed()));
        let applied = match applied {
            Some((Err(error), true)) => return Err(error),
            Some((staged, _)) => Some(staged),
            None => None,
        };
        let operations = operations.map(|sheet| sheet.stage());
        Ok(Record { file, applied, print: print(&text), operations })
    }
}

impl Record {
    /// Puts it all in place. If the config file cannot be replaced, nothing is.
    pub fn put(self) -> Result<Recorded, ReplaceError> {
        let replaced = match self.file {
            Some((staged, before)) => Some(staged.replace(&before)?),
            None => None,
        };
        let put = |staged: Staged| staged.put().map(|()| self.print);
        let applied = self.applied.map(|staged| staged.and_then(put));
        let operations = self.operations.map(|staged| staged.and_then(Staged::put));
        Ok(Recorded { replaced, applied, operations })
    }
}
