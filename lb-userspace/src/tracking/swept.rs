//! What a sweep found.

use std::{collections::HashSet, time::Duration};

/// What a sweep found.
#[derive(Clone, Debug)]
pub struct Swept {
    pub(super) generation: u32,
    pub(super) number: u64,
    /// Entries that are left in the established and in the embryonic table.
    pub(super) entries: [u64; 2],
    /// Entries that either table was ever given, as of the beginning.
    pub(super) inserted: [u64; 2],
    /// By backend id: its entries, in both tables.
    pub(super) by_backend: Vec<u64>,
    /// Ids of the VIPs that have entries.
    pub(super) vips: HashSet<u32>,
    /// A bit for each slot that a flow is on which does not belong to the slot's current owner.
    pub(super) pinned: Vec<u64>,
    /// Entries that were taken out.
    pub expired: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Swept {
    /// Nothing yet, of a sweep that begins: see the fields.
    pub(crate) fn new(generation: u32, number: u64, inserted: [u64; 2], slots: u32, backends: usize) -> Self {
        Self {
            generation,
            number,
            entries: [0; 2],
            inserted,
            by_backend: vec![0; backends],
            vips: HashSet::new(),
            pinned: vec![0; slots.div_ceil(u64::BITS) as usize],
            expired: 0,
            elapsed: Duration::ZERO,
        }
    }

    /// Whether a flow is on this slot that does not belong to the slot's current owner.
    pub(crate) fn is_pinned(&self, slot: u32) -> bool {
        self.pinned.get(slot as usize / 64).is_some_and(|word| word & 1 << (slot % 64) != 0)
    }

    /// Whether a VIP has entries.
    pub(super) fn has_flows(&self, vip: u32) -> bool {
        self.vips.contains(&vip)
    }
}
