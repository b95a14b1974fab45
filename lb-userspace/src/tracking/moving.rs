//! Slots on which flows of several backends may be.

use std::collections::HashMap;

use lb_common::Tick;

use crate::dataplane::Slots;

/// The slots of one table that move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MovingSlots {
    /// How many.
    pub count: u32,
    /// How many of them only flows in the tables keep from being settled.
    pub settling: u32,
    /// Whether UDP flows without an entry belong to the settled owner on some.
    pub keep_udp: bool,
    /// When the first of the others ceased to be its settled owner's own.
    pub since: Tick,
    /// Backend id → slots on which flows without an entry still belong to it, although it is not their current owner.
    pub held: HashMap<u32, Held>,
}

/// A table with slots that move.
#[derive(Clone)]
pub(super) struct Moving {
    /// Sweeps that had been begun when the table was last written.
    pub since: u64,
    pub slots: MovingSlots,
}

/// Slots that are held for a backend's flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// How many.
    pub slots: u32,
    /// When the last of them ceased to be its own.
    pub since: Tick,
}

impl MovingSlots {
    /// Those of the table that begins at `base`, as of `now`.
    pub(super) fn of(slots: &Slots, base: u32, count: u32, now: Tick) -> Self {
        let mut moving = Self::default();
        for slot in (base..base + count).map_while(|index| slots.at(index)).filter(|slot| slot.is_moving()) {
            moving.count += 1;
            if slot.is_settling() {
                moving.settling += 1;
                continue;
            }
            let since = slot.since();
            moving.keep_udp |= slot.keeps_udp();
            if moving.held.is_empty() || now.since(since) > now.since(moving.since) {
                moving.since = since;
            }
            let held = moving.held.entry(slot.settled_owner()).or_insert(Held { slots: 0, since });
            held.slots += 1;
            if now.since(since) < now.since(held.since) {
                held.since = since;
            }
        }
        moving
    }
}
