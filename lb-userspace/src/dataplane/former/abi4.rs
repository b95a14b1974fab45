//! What maps held up to ABI 4, where it is not what today's hold.

use std::{collections::HashSet, sync::atomic::AtomicU64};

use aya::Pod;
use lb_common::{Address, Be32, MacPin, NO_ID, NextHop, Slot, SlotWord};

use super::{bytes::Bytes, index};
use crate::{
    dataplane::{Error, maps::Maps},
    plan::{Capacity, Entry},
};

/// A backend.
#[repr(C)]
#[derive(Clone, Copy)]
struct Backend {
    address: Address,
    outer_source: Address,
    outer_source_mask: Be32,
    outer_sum: u32,
    vip: u32,
    forward: u32,
    weight: u32,
    state: u32,
    successor: u32,
    /// The half in use; none where there is none of that number.
    in_use: u32,
    halves: [NextHop; 2],
    pin: MacPin,
    reserved: [u32; 2],
}

// SAFETY: `repr(C)`, `Copy`, made of integers without padding, any bytes valid.
unsafe impl Pod for Backend {}

/// Size of a backend in bytes.
pub const BACKEND_LEN: usize = size_of::<Backend>();

const _: () = assert!(BACKEND_LEN == 128);

/// The backends.
pub fn put_backends(backends: &Bytes, today: &mut Maps) -> Result<(), Error> {
    backends.each(|key, value| {
        // SAFETY: as many bytes as a backend has, by whoever reads maps of this layout, and any bytes are one.
        let backend = unsafe { value.as_ptr().cast::<Backend>().read_unaligned() };
        let Backend { address, outer_source, outer_source_mask, outer_sum, vip, forward, weight, state, .. } = backend;
        let Backend { successor, in_use, halves, pin, reserved: _, .. } = backend;
        let next_hop = halves.get(in_use as usize).copied();
        if vip != NO_ID {
            let entry = Entry {
                address,
                outer_source,
                outer_source_mask,
                outer_sum,
                vip,
                forward,
                weight,
                state,
                successor,
                next_hop,
                pin,
            };
            today.put_backend(index(key), entry);
        }
        Ok(())
    })
}

/// The slots: each was a [`Slot`].
pub fn put_slots(slots: &Bytes, today: &mut Maps) -> Result<(), Error> {
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
