//! The sweeper: walks the flow tables beside everything else, takes out what has ended, and finds out which slots and
//! which backends the rest still needs, all by [`Rules`].
//!
//! A sweep works on a copy of what it must know ([`Sweep`]), on any thread, and changes nothing but flow entries. What
//! it found ([`Swept`]) is applied between two changes ([`Upkeep`](super::Upkeep)): slots age and are settled, and what
//! the config no longer has is freed. All that it needs is in the maps, so that it makes no difference which daemon
//! began.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::FlowOutcome::{Kept, Opened, Promoted};

use super::{Error, Swept, rules::Rules};
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
        let (slots, backends) = (self.slots.entries(), self.rules.backends());
        let mut swept = Swept::new(self.generation, self.number, self.inserted, slots, backends);
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
