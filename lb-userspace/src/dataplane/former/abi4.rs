//! What maps held up to ABI 4, where it is not what today's hold.

use std::{collections::HashSet, sync::atomic::AtomicU64};

use lb_common::{Slot, SlotWord};

use super::{bytes::Bytes, index};
use crate::{
    dataplane::{Error, maps::Maps},
    plan::Capacity,
};

/// The slots: each was a [`Slot`].
pub fn put_slots(slots: &Bytes, today: &Maps) -> Result<(), Error> {
    slots.each(|key, value| today.put_slot(index(key), slot(value)).map(drop))
}

/// How many slots there are to be, and how much is to be said of those that move.
pub fn slot_capacity(slots: &Bytes) -> Result<(u32, u32), Error> {
    let mut moving = HashSet::new();
    slots.each(|_, value| {
        let slot = slot(value);
        if slot.is_moving() {
            moving.insert(slot);
        }
        Ok(())
    })?;
    let entries = slots.entries.next_multiple_of(SlotWord::A_LINE);
    // As much again for the next change.
    Ok((entries, Capacity::moves(entries).max(2 * moving.len() as u32)))
}

fn slot(value: &[u8]) -> Slot {
    let word = u64::from_ne_bytes(value.try_into().expect("a slot had eight bytes"));
    Slot::load(&AtomicU64::new(word))
}
