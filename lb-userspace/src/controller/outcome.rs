//! What came of changes.

use std::time::Duration;

use crate::plan::{Change, Removal};

/// What a change did, all of it before the answer.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The changes; each prints as one line.
    pub changes: Vec<Change>,
    /// Number of writes to the maps.
    pub writes: usize,
    /// From the request to the last write to the maps: packets have followed the change since.
    pub to_maps: Duration,
    /// From the request to the end, when the file has been written too.
    pub elapsed: Duration,
    /// What the operator should look at although it is allowed.
    pub warnings: Vec<String>,
}

/// What an apply of the file would do.
#[derive(Clone, Debug)]
pub struct Diff {
    /// The changes; each prints as one line.
    pub changes: Vec<Change>,
    /// What it would take away that takes force.
    pub removal: Option<Removal>,
    /// What whoever applies it would be warned of.
    pub warnings: Vec<String>,
}

/// How many applies there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applies {
    /// That did what they should.
    pub succeeded: u64,
    /// That changed nothing because something was wrong.
    pub failed: u64,
}
