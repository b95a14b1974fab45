//! What of a change goes to disk: written and flushed beside the files before a map is touched, put in their place once
//! the maps are written. Both may wait for a disk, so both are for a thread of their own.

use std::path::PathBuf;

use super::history::{Page, Print, print};
use crate::disk::{ReplaceError, Replaced, Staged, WriteError};

/// What is to be written.
#[derive(Debug)]
pub struct Order {
    /// The config file and its text so far, where it is to be replaced.
    pub file: Option<(PathBuf, String)>,
    /// Where to keep what was applied.
    pub page: Option<Page>,
    /// The new text of both.
    pub text: String,
}

/// A change that is on disk, but not in place. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Record {
    /// The new text of the config file, and the one that it is to replace.
    file: Option<(Staged, String)>,
    applied: Option<Result<Staged, WriteError>>,
    print: Print,
}

/// A change that is in place.
#[derive(Debug)]
pub struct Recorded {
    /// The config file that was replaced.
    pub replaced: Option<Replaced>,
    /// What became of keeping what was applied, where that was to be done.
    pub applied: Option<Result<Print, WriteError>>,
}

impl Order {
    /// Writes it all. That nothing can be kept is a failure only if it could be before.
    pub fn stage(self) -> Result<Record, WriteError> {
        let Self { file, page, text } = self;
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
        Ok(Record { file, applied, print: print(&text) })
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
        Ok(Recorded { replaced, applied: self.applied.map(|staged| staged.and_then(put)) })
    }
}
