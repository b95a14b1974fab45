//! What sweeps over the flow table count.

use lb_common::{FlowEntry, Progress};

use super::mmap::Mapped;

/// Counts that sweeps keep, of established and of embryonic flows.
pub struct Sweeps(pub(super) Mapped<u64, 1>);

/// Which flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Flows of which two packets were seen.
    Established = 0,
    /// Flows of which one packet was seen.
    Embryonic = 1,
}

impl Table {
    /// Those that an entry is of.
    pub fn of(entry: FlowEntry) -> Self {
        if entry.progress() == Progress::Once { Self::Embryonic } else { Self::Established }
    }
}

impl Sweeps {
    /// Entries of the map. What is in the third and the fourth is of versions before.
    pub const ENTRIES: u32 = 5;
    const CUT: u32 = 4;

    /// Entries that sweeps have taken out.
    pub fn deleted(&self, table: Table) -> u64 {
        self.0.load(table as u32)
    }

    /// Flows that were left of drains whose deadline has passed, and that were cut.
    pub fn cut(&self) -> u64 {
        self.0.load(Self::CUT)
    }

    /// Adds to [`Self::cut`].
    pub fn add_cut(&self, count: u64) {
        self.0.store(Self::CUT, self.cut() + count);
    }

    /// Adds to [`Self::deleted`].
    pub fn add_deleted(&self, table: Table, count: u64) {
        self.0.store(table as u32, self.deleted(table) + count);
    }
}
