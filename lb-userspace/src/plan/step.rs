//! A step of a plan: what is written to which map.

use std::collections::HashMap;

use lb_common::{VipRecord, VipRoute};

use super::{Entry, VipKey, maglev::WeightedBackend};

/// One map write, or a pause between map writes.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write the entry of a backend.
    PutBackend {
        /// Its id.
        id: u32,
        /// All of it; of an entry in use only weight, state, successor, next hop and pin may differ from what is there.
        entry: Entry,
        /// The id was free: its counters start from zero.
        fresh: bool,
    },
    /// Compute and write a slot table.
    PutTable {
        /// First slot.
        base: u32,
        /// Number of slots.
        slots: u32,
        /// The backends that have a place in it.
        owners: Vec<Owner>,
        /// The flows that go on under the new table; `None` where nothing is to be remembered of a table before.
        flows: Option<Continuation>,
    },
    /// Write the record of a VIP.
    PutVip {
        /// Its id.
        id: u32,
        /// All of it.
        record: VipRecord,
        /// The id was free: its counters start from zero.
        fresh: bool,
    },
    /// Insert or replace a VIP key.
    PutKey {
        /// The key.
        key: VipKey,
        /// What it leads to.
        route: VipRoute,
    },
    /// Delete a VIP key.
    RemoveKey {
        /// The key.
        key: VipKey,
    },
    /// Wait until no packet is on its way along anything that was taken away so far.
    Grace,
    /// Free the id of a VIP to which no key leads.
    FreeVip {
        /// The id.
        id: u32,
    },
    /// Free the id of a backend that no slot names.
    FreeBackend {
        /// The id.
        id: u32,
        /// The id that continues its counts: the same backend, with another outer header or way of forwarding.
        successor: Option<u32>,
    },
}

/// What the flows of a table that was there before belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continuation {
    /// First slot of the table before, in the maps in use.
    pub base: u32,
    /// Ids in its slots, and those that the same real servers have now.
    pub successors: HashMap<u32, u32>,
}

/// A backend in a slot table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// What the table is computed from.
    pub backend: WeightedBackend,
    /// What the slots hold.
    pub id: u32,
    /// Of how many eighths of its slots it takes the flows: of all ([`SlowStart::WHOLE`](lb_common::SlowStart::WHOLE)), of
    /// none, or of a part. Others have the rest.
    pub eighths: u32,
}
