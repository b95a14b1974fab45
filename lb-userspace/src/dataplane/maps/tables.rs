//! The slots of all tables, and what sweeps count.

use lb_common::{NO_ID, Slot, Tick};

use super::{Maps, mmap::Mapped};
use crate::{
    dataplane::sys,
    plan::{Continuation, Owner, maglev},
};

/// The slots of all tables, which sweeps read while the data plane's owner writes.
pub struct Slots(pub(super) Mapped<Slot, 1>);

impl Slots {
    /// The slot at `index`; none where there are not as many.
    pub fn at(&self, index: u32) -> Option<Slot> {
        (index < self.0.entries).then(|| Slot::load(&self.0.cell(index)[0]))
    }

    /// How many there are.
    pub fn entries(&self) -> u32 {
        self.0.entries
    }

    /// Counts the slots of a table by the backend that they give new flows to, into `counts` by its id.
    pub fn count(&self, base: u32, slots: u32, counts: &mut [u32]) {
        for slot in (base..base + slots).map_while(|index| self.at(index)) {
            if let Some(count) = counts.get_mut(slot.current() as usize) {
                *count += 1;
            }
        }
    }
}

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

impl Maps {
    /// Computes and writes a table; the flows of a table in `before` go on as `flows` says. Returns how many slots were
    /// others before.
    pub fn put_table(
        &self,
        base: u32,
        slots: u32,
        owners: &[Owner],
        flows: Option<&Continuation>,
        before: &Self,
    ) -> usize {
        let backends: Vec<_> = owners.iter().map(|owner| owner.backend).collect();
        let table = maglev::table(&backends, slots);
        let now = sys::now();
        let mut written = 0;
        for (offset, owner) in (0..).zip(table) {
            let owner = owners.get(owner as usize).map_or(NO_ID, |owner| owner.id);
            let slot = match flows {
                Some(flows) => given_to(before.slot(flows.base + offset), owner, now, flows),
                None => Slot::settled(owner),
            };
            if self.put_slot(base + offset, slot) {
                written += 1;
            }
        }
        written
    }

    /// The slot at `index`, which must be one.
    pub fn slot(&self, index: u32) -> Slot {
        self.slots.at(index).unwrap_or_else(|| panic!("slot {index} of {}", self.slots.entries()))
    }

    /// Writes a slot; whether it was another one before.
    pub fn put_slot(&self, index: u32, slot: Slot) -> bool {
        let [cell] = self.slots.0.cell(index);
        let differs = Slot::load(cell) != slot;
        if differs {
            slot.store(cell);
        }
        differs
    }
}

/// A slot after a change that gives it to `owner`.
fn given_to(before: Slot, owner: u32, now: Tick, flows: &Continuation) -> Slot {
    let before = if flows.successors.is_empty() {
        before
    } else {
        before.renamed(|id| flows.successors.get(&id).copied().unwrap_or(id))
    };
    before.given_to(owner, now)
}
