//! What maps held up to ABI 4, where it is not what today's hold.

use std::collections::HashSet;

use aya::Pod;
use lb_common::{Address, Be32, MacPin, NO_ID, NextHop, Slot, SlotWord, Vip4Key, Vip6Key};

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
        let backend: Backend = read(value);
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

/// The keys of IPv4 VIPs, in a hash map.
pub fn put_keys4(keys: &Bytes, today: &mut Maps) -> Result<(), Error> {
    keys.each(|key, route| today.put_key(read::<Vip4Key>(key).into(), read(route)))
}

/// Those of IPv6 VIPs.
pub fn put_keys6(keys: &Bytes, today: &mut Maps) -> Result<(), Error> {
    keys.each(|key, route| today.put_key(read::<Vip6Key>(key).into(), read(route)))
}

/// The slots: each was a [`Slot`].
pub fn put_slots(slots: &Bytes, today: &mut Maps) -> Result<(), Error> {
    slots.each(|key, value| today.put_slot(index(key), read(value)).map(drop))
}

/// How many slots there are to be, and how much is to be said of those that move.
pub fn slot_capacity(slots: &Bytes) -> Result<(u32, u32), Error> {
    let mut moving = HashSet::new();
    slots.each(|_, value| {
        let slot: Slot = read(value);
        if slot.is_moving() {
            moving.insert(slot);
        }
        Ok(())
    })?;
    let entries = slots.entries.next_multiple_of(SlotWord::A_LINE);
    // As much again for the next change.
    Ok((entries, Capacity::moves(entries).max(2 * moving.len() as u32)))
}

/// A value from its bytes.
fn read<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>(), "maps are read whose layout is known");
    // SAFETY: as many bytes as it has, and any bytes are a value of a `Pod`.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}
