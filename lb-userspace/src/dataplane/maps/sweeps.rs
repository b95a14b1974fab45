//! What sweeps over the flow tables count, and how the tables are told apart.

use super::mmap::Mapped;

/// Counts that sweeps keep, of the established and of the embryonic table.
pub struct Sweeps(pub(super) Mapped<u64, 1>);

/// One of the flow tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Flows of which two packets were seen.
    Established = 0,
    /// Flows of which one packet was seen.
    Embryonic = 1,
}

impl Sweeps {
    /// Entries of the map.
    pub const ENTRIES: u32 = 4;

    /// Entries that sweeps have deleted from a table.
    pub fn deleted(&self, table: Table) -> u64 {
        self.0.load(table as u32)
    }

    /// Adds to [`Self::deleted`].
    pub fn add_deleted(&self, table: Table, count: u64) {
        self.0.store(table as u32, self.deleted(table) + count);
    }

    /// Entries that a table has lost to newer ones, as far as is known.
    pub fn evicted(&self, table: Table) -> u64 {
        self.0.load(2 + table as u32)
    }

    /// Notes a new value of [`Self::evicted`], which never goes down.
    pub fn note_evicted(&self, table: Table, count: u64) {
        self.0.store(2 + table as u32, count.max(self.evicted(table)));
    }
}
