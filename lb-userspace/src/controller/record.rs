//! What of a change goes to disk: room for it is taken before a map is touched, it is written, flushed and put in place
//! once the maps are written. All of it may wait for a disk, so it is for a thread of its own.
//!
//! A crash of the machine takes the maps as well: to flush before they are written would save nothing, and cost each
//! change the time of a disk.

use std::path::PathBuf;

use super::{file::Text, page::Page};
use crate::disk::{ReplaceError, Replaced, Reserved, WriteError};

/// What is to be written.
#[derive(Debug)]
pub struct Order {
    /// The config file and its text so far, where it is to be replaced.
    pub file: Option<(PathBuf, Text)>,
    /// Where to keep what was applied.
    pub page: Option<Page>,
    /// The new text of both.
    pub text: Text,
}

/// A change that there is room for on disk. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Record {
    /// Room for the config file, and the text that it is to replace.
    file: Option<(Reserved, Text)>,
    applied: Option<(Page, Result<Reserved, WriteError>)>,
    text: Text,
}

/// A change that is in place.
#[derive(Debug)]
pub struct Recorded {
    /// The config file that was replaced.
    pub replaced: Option<Replaced>,
    /// What became of keeping what was applied, where that was to be done.
    pub applied: Option<Result<Text, WriteError>>,
}

impl Order {
    /// Takes room for it all. That nothing can be kept is a failure only if it could be before.
    pub fn reserve(self) -> Result<Record, WriteError> {
        let Self { file, page, text } = self;
        let file = match file {
            Some((path, before)) => Some((Reserved::beside(&path, text.len())?, before)),
            None => None,
        };
        let applied = match page.map(|page| (page.reserve(&text), page)) {
            Some((Err(error), page)) if page.is_needed() => return Err(error),
            Some((room, page)) => Some((page, room)),
            None => None,
        };
        Ok(Record { file, applied, text })
    }
}

impl Record {
    /// Whether it replaces the config file.
    pub fn is_edit(&self) -> bool {
        self.file.is_some()
    }

    /// Writes it all, and puts it in place. If the config file cannot be replaced, nothing is.
    pub fn put(self) -> Result<Recorded, ReplaceError> {
        let Self { file, applied, text } = self;
        let replaced = match file {
            Some((room, before)) => Some(room.write(&text)?.replace(&before)?),
            None => None,
        };
        let applied = applied.map(|(page, room)| page.put(room?, &text).map(|()| text));
        Ok(Recorded { replaced, applied })
    }
}
