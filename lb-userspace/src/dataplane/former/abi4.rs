//! What maps held by ABI 4, where it is not what today's hold.

use std::{collections::HashSet, path::Path};

use aya::{Pod, maps::MapData};
use lb_common::{
    Address, Be32, FlowEntry, FlowKey, FlowKind, FlowParts, MacPin, NO_ID, NextHop, Position, Progress, Slot, SlotWord,
    Tick, Vip4Key, Vip6Key, maps,
};
use lb_ebpf::wire::TCP;

use super::bytes::{Bytes, Memory, index};
use crate::{
    dataplane::{
        Error,
        maps::{FlowTable, Journal, Maps, pin_in},
    },
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
    _reserved: [u32; 2],
}

// SAFETY: `repr(C)`, `Copy`, made of integers without padding, any bytes valid.
unsafe impl Pod for Backend {}

/// Size of a backend in bytes.
pub const BACKEND_LEN: usize = size_of::<Backend>();

const _: () = assert!(BACKEND_LEN == 128);

/// The backends.
pub fn put_backends(backends: &Bytes, today: &mut Maps) -> Result<(), Error> {
    backends.each(|key, value| {
        let former: Backend = read(value);
        if former.vip != NO_ID {
            let entry = Entry {
                address: former.address,
                outer_source: former.outer_source,
                outer_source_mask: former.outer_source_mask,
                outer_sum: former.outer_sum,
                vip: former.vip,
                forward: former.forward,
                weight: former.weight,
                state: former.state,
                successor: former.successor,
                next_hop: former.halves.get(former.in_use as usize).copied(),
                pin: former.pin,
                mtu: 0,
                drain_deadline: 0,
                fails: false,
                slow_start: None,
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

/// An address of an interface: its last byte was lowest.
pub fn own_mac(former: &[u8], today: &mut [u8]) {
    today.copy_from_slice(former);
    if let Some(mac) = today.get_mut(..6) {
        mac.reverse();
    }
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

/// Sets what VIPs keep of backends that they have no more, and what was dropped, in the maps pinned in `today`: by ABI 4 a
/// VIP counted on its own, and drops were counted by reason alone. May be repeated.
pub fn carry_counts(pins: &Path, today: &Path) -> Result<(), Error> {
    let map = |name| Bytes::of(name, MapData::from_pin(pins.join(name)).map_err(Error::map("open", name))?);
    // What was counted, with what was carried before.
    let sums = |counters, carried| -> Result<Vec<Vec<u64>>, Error> {
        let mut sums = Vec::new();
        map(carried)?.each(|_, value| {
            sums.push(words(value));
            Ok(())
        })?;
        map(counters)?.each(|key, value| {
            if let Some(sum) = sums.get_mut(index(key) as usize) {
                sum.iter_mut().zip(words(value)).for_each(|(sum, counted)| *sum = sum.wrapping_add(counted));
            }
            Ok(())
        })?;
        Ok(sums)
    };
    let mut vips = sums("VIP_COUNTERS", maps::VIP_CARRIED)?;
    let backends = sums(maps::BACKEND_COUNTERS, maps::BACKEND_CARRIED)?;
    map(maps::BACKENDS)?.each(|key, value| {
        let Backend { vip, .. } = read(value);
        if let (Some(vip), Some(counted)) = (vips.get_mut(vip as usize), backends.get(index(key) as usize)) {
            // A packet that was dropped counted for the VIP alone; one that came meanwhile, for the backend alone.
            vip.iter_mut().zip(counted).for_each(|(vip, counted)| *vip = vip.saturating_sub(*counted));
        }
        Ok(())
    })?;
    let today = |name| {
        let map = MapData::from_pin(pin_in(today, name)).map_err(Error::map("open", name))?;
        Bytes::of(name, map)?.memory()
    };
    let mut carried = today(maps::VIP_CARRIED)?;
    for (id, counted) in (0..).zip(vips) {
        write(carried.value_mut(id), &counted);
    }
    let drops = sums("DROP_COUNTERS", "DROP_CARRIED")?.concat();
    write(today(maps::VIP_DROPS_CARRIED)?.value_mut(NO_ID), &drops);
    Ok(())
}

/// A former data plane that gives no flow to the current owner of a slot in its first phase, but all new ones to the
/// settled owner: what it enters from now on would be missing where its flows were copied to, and its next packet, which
/// finds no entry there, goes to the settled owner. Undone when this is dropped, unless it is kept.
///
/// The journal says meanwhile that an apply is under way: a daemon that finds it so, should this one be killed, computes
/// all slots anew, and gives these to the current owner again.
#[must_use]
pub struct Shut {
    slots: Memory,
    journal: Memory,
    /// What was in the slots.
    before: Vec<(u32, u64)>,
    flags: u64,
}

impl Shut {
    /// `slots` has a [`Slot`] for each.
    pub fn new(slots: Memory, journal: Memory) -> Self {
        let flags = journal.word(Journal::FLAGS);
        journal.store_word(Journal::FLAGS, flags | Journal::APPLYING);
        let mut before = Vec::new();
        for index in 0..slots.entries() {
            let bits = slots.word(index);
            let slot = Slot::from_bits(bits);
            if slot.is_moving() && !slot.is_settling() {
                before.push((index, bits));
                let owner = slot.settled_owner();
                slots.store_word(index, Slot::moving(owner, owner, slot.since()).to_bits());
            }
        }
        Self { slots, journal, before, flags }
    }

    /// It stays so: packets no longer meet it.
    pub fn keep(mut self) {
        self.before.clear();
        self.flags |= Journal::APPLYING;
    }
}

impl Drop for Shut {
    fn drop(&mut self) {
        for (index, bits) in &self.before {
            self.slots.store_word(*index, *bits);
        }
        self.journal.store_word(Journal::FLAGS, self.flags);
    }
}

/// Enters the flows of both hash tables, which are read in this order: so none is overlooked that is promoted meanwhile.
/// May be repeated.
pub fn carry_flows(pins: &Path, today: &FlowTable) -> Result<(), Error> {
    let mut lost = 0;
    for (name, is_embryonic) in [("EMBRYOS", true), (maps::FLOWS, false)] {
        let map = Bytes::of(name, MapData::from_pin(pins.join(name)).map_err(Error::map("open", name))?)?;
        map.each(|key, entry| {
            let (key, entry) = (read::<FlowKey>(key), flow(read(entry), read::<FlowKey>(key).protocol(), is_embryonic));
            lost += usize::from(!today.enter(&key, entry));
            Ok(())
        })?;
    }
    today.tell_of_lost(lost);
    Ok(())
}

/// An entry: 23 bits each of the backend's id and of the position to half a kilobyte, the tick, and the state. It did
/// not say whether a SYN had opened the stream or it was kept from before a change, and need not: one that is kept goes
/// to whichever backend it names, and wherever the stream has come to since it was read here.
fn flow(entry: u64, protocol: u8, is_embryonic: bool) -> FlowEntry {
    let field = |shift: u32| (entry >> shift) as u32 & ((1 << 23) - 1);
    let (kind, progress) = match (protocol, entry >> 62) {
        (TCP, 2) => (FlowKind::Kept, Progress::Fin),
        (TCP, 3) => (FlowKind::Kept, Progress::Rst),
        (TCP, _) if is_embryonic => (FlowKind::Kept, Progress::Once),
        (TCP, _) => (FlowKind::Kept, Progress::Open),
        _ if is_embryonic => (FlowKind::Datagrams, Progress::Once),
        _ => (FlowKind::Datagrams, Progress::Open),
    };
    FlowParts {
        backend: field(0),
        kind,
        progress,
        seen: Tick((entry >> 46) as u16),
        next: Position::of(field(23) << 9),
        level: 0,
        jumped: false,
    }
    .pack()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect()
}

/// Writes as many words as fit.
fn write(bytes: &mut [u8], words: &[u64]) {
    bytes.as_chunks_mut().0.iter_mut().zip(words).for_each(|(bytes, word)| *bytes = word.to_ne_bytes());
}

/// A value from its bytes.
fn read<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>(), "maps are read whose layout is known");
    // SAFETY: as many bytes as it has, and any bytes are a value of a `Pod`.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}
