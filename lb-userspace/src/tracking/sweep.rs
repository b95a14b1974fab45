//! The sweeper: walks the flow tables beside everything else, takes out what has ended, and finds out which slots and
//! which backends the rest still needs, all by [`Rules`].
//!
//! A sweep works on a copy of what it must know ([`Sweep`]), on any thread, and changes nothing but flow entries. What
//! it found ([`Swept`]) is applied between two changes ([`Upkeep`](super::Upkeep)): slots age and are settled, and what
//! the config no longer has is freed. All that it needs is in the maps, so that it makes no difference which daemon
//! began.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::FlowOutcome::{Kept, Opened, Promoted};

use super::{Error, rules::Rules};
use crate::dataplane::{self, FlowTable, FlowTables, Slots, Sweeps, Table};

/// How long a backend is down before its silent connections are given up: should it come back later, its own side of
/// them is most likely gone.
pub const GIVEN_UP_AFTER: Duration = Duration::from_secs(60);

/// A walk over the flow tables to be made.
pub struct Sweep {
    /// Of the generation whose tables these are.
    generation: u32,
    /// Sweeps of this daemon are numbered.
    number: u64,
    tables: FlowTables,
    slots: Arc<Slots>,
    sweeps: Arc<Sweeps>,
    rules: Rules,
    /// Whether anything is to be freed, if the sweep finds no flow of it.
    frees: bool,
    inserted: [u64; 2],
}

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
    pub(crate) fn new(generation: u32, number: u64, inserted: [u64; 2], slots: u32, rules: &Rules) -> Self {
        Self {
            generation,
            number,
            entries: [0; 2],
            inserted,
            by_backend: vec![0; rules.backends()],
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

impl Sweep {
    /// A walk over the tables of `dataplane`.
    pub(super) fn new(
        number: u64,
        dataplane: &dataplane::View,
        is_given_up: impl Fn(u32) -> bool,
    ) -> Result<Self, Error> {
        let (state, counted) = (dataplane.state(), |outcome| dataplane.flow_packets(outcome));
        Ok(Self {
            generation: dataplane.generation(),
            number,
            tables: dataplane.flow_tables(),
            slots: Arc::clone(dataplane.slots()),
            sweeps: Arc::clone(dataplane.sweeps()),
            rules: Rules::new(state, is_given_up, dataplane::now()),
            frees: state.has_removed(),
            inserted: [counted(Promoted)?, counted(Opened)? + counted(Kept)?],
        })
    }

    /// Makes it, on this thread, for as long as it takes.
    ///
    /// # Errors
    ///
    /// The kernel does not let a table be read or written.
    pub fn run(self) -> Result<Swept, Error> {
        // Packets that were on their way when slots were last written have entered their flows.
        dataplane::grace();
        let started = Instant::now();
        let mut swept = Swept::new(self.generation, self.number, self.inserted, self.slots.entries(), &self.rules);
        // Flows go from the embryonic table to the other one: in this order none is overlooked.
        self.walk(Table::Embryonic, &self.tables.embryonic, &mut swept)?;
        self.walk(Table::Established, &self.tables.established, &mut swept)?;
        swept.elapsed = started.elapsed();
        if self.frees {
            // Packets that found an entry before it was taken out have left.
            dataplane::grace();
        }
        Ok(swept)
    }

    fn walk(&self, which: Table, table: &FlowTable, swept: &mut Swept) -> Result<(), Error> {
        for batch in table.batches() {
            let now = dataplane::now();
            let mut ended = Vec::new();
            for (key, entry) in batch? {
                match self.rules.entry_after(&key, entry, now) {
                    None => ended.push(key),
                    Some(kept) => {
                        if kept != entry {
                            table.replace(&key, kept)?;
                        }
                        self.rules.note(which, &key, kept, |index| self.slots.at(index), swept);
                    }
                }
            }
            let deleted = table.delete(&ended)? as u64;
            self.sweeps.add_deleted(which, deleted);
            swept.expired += deleted;
        }
        Ok(())
    }
}
