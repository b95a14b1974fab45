//! Every map, opened from its pin, and what is written to those that programs run on. (What another version pinned is
//! converted by `former`, into maps that no program runs on yet.)
//!
//! Arrays that only the daemon writes are memory-mapped and written with atomic stores of 32 or 64 bits, so that a table
//! of slots costs no system call per slot and a packet sees a slot, a key or a next hop before or after a change and
//! never half of it. This module keeps the order within an entry and of what it points to; the order of steps is the
//! plan's.

mod backends;
mod counters;
mod flows;
mod intakes;
mod interfaces;
mod journal;
mod keys;
mod layout;
mod mmap;
mod probes;
mod slots;
mod sweeps;

use std::{
    collections::{HashMap, HashSet},
    mem::offset_of,
    path::Path,
    sync::Arc,
    thread,
};

use aya::maps::{HashMap as KernelHashMap, Map, MapData, MapError, PerCpuArray};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type};
use lb_common::{BackendRecord, Counters, Drops, FlowOutcome, Intake, Layout, OwnMac, Slot, VipName, VipRecord, maps};

use self::{backends::Backends, keys::Keys, layout::DEVICES, mmap::Mapped, slots::Places};
pub use self::{
    counters::{MapUsage, Readings},
    flows::{FlowTable, Spot, flow_secret},
    intakes::Intakes,
    journal::{Carrying, Journal},
    layout::{JOURNAL, Sizes, entries_needed, object_maps, pin_in, pin_of, sizes},
    mmap::memory,
    probes::Probes,
    slots::{Slots, Wait},
    sweeps::{Sweeps, Table},
};
use super::Error;
use crate::plan::{Capacity, State};

/// The maps of one generation.
pub struct Maps {
    keys: Keys,
    records: Mapped<VipRecord, 15>,
    slots: Arc<Slots>,
    places: Places,
    backends: Backends,
    own_macs: Mapped<OwnMac, 1>,
    /// A DEVMAP_HASH: aya's own type wants values with room for a program, and generic mode before 5.15 refuses those.
    devices: KernelHashMap<MapData, u32, u32>,
    /// Handles to set counters by; they are read by those of `readings`.
    vip_drops: PerCpuArray<MapData, Drops>,
    taken: PerCpuArray<MapData, Intake>,
    backend_counters: PerCpuArray<MapData, Counters>,
    /// From this id on nothing was counted for a backend since the maps were made.
    uncounted_from: u32,
    flows: FlowTable,
    intakes: Arc<Intakes>,
    sweeps: Arc<Sweeps>,
    drains: Mapped<u64, 1>,
    probes: Arc<Probes>,
    journal: Mapped<u64, 1>,
    readings: Arc<Readings>,
}

/// Makes and pins the maps that the object does not declare, but for those that are pinned already.
pub fn create_own(directory: &Path, capacity: Capacity) -> Result<(), Error> {
    let own = [
        (maps::SWEEPS, size_of::<u64>(), Sweeps::ENTRIES),
        (maps::VIP_RECORDS, size_of::<VipRecord>(), capacity.vips),
        (maps::BACKEND_RECORDS, size_of::<BackendRecord>(), capacity.backends),
        (maps::DRAINS, size_of::<u64>(), capacity.backends),
        (maps::VIP_CARRIED, size_of::<Counters>(), capacity.vips),
        (maps::BACKEND_CARRIED, size_of::<Counters>(), capacity.backends),
        (maps::VIP_DROPS_CARRIED, size_of::<Drops>(), capacity.vips),
        (maps::FLOW_CARRIED, size_of::<u64>(), FlowOutcome::ROOM as u32),
        (JOURNAL, size_of::<u64>(), journal::ENTRIES),
    ];
    let array = (bpf_map_type::BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE);
    let own = own.map(|(name, value_size, entries)| (name, array, value_size, entries));
    // In the object as well, but with values of eight bytes, which generic mode refuses before 5.15.
    let devices = (maps::DEVICES, (bpf_map_type::BPF_MAP_TYPE_DEVMAP_HASH, 0), size_of::<u32>(), DEVICES);
    for (name, (kind, flags), value_size, entries) in own.into_iter().chain([devices]) {
        let pin = pin_in(directory, name);
        if pin.exists() {
            continue;
        }
        let map =
            aya_obj::Map::new_from_params(kind as u32, size_of::<u32>() as u32, value_size as u32, entries, flags);
        let map = MapData::create(map, name, None).map_err(Error::map("make", name))?;
        map.pin(pin).map_err(Error::pin(name))?;
    }
    flows::create_secret(directory)
}

impl Maps {
    /// Opens the maps pinned in `directory`.
    ///
    /// # Errors
    ///
    /// One is missing or has values of another size.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let data = |name: &str| MapData::from_pin(pin_in(directory, name)).map_err(Error::map("open", name));
        let per_cpu = |name| data(name).map(Map::PerCpuArray);
        let layout = |name| Error::map("use", name);
        Ok(Self {
            keys: Keys::open(data(maps::VIP_BUCKETS)?, data(maps::VIPS4)?, data(maps::VIPS6)?)?,
            records: Mapped::open(maps::VIP_RECORDS, data(maps::VIP_RECORDS)?)?,
            slots: Arc::new(Slots::open(data(maps::SLOTS)?, data(maps::MOVES)?)?),
            places: Places::default(),
            backends: Backends::open(data(maps::BACKENDS)?, data(maps::BACKEND_RECORDS)?, data(maps::NEXT_HOPS)?)?,
            own_macs: Mapped::open(maps::OWN_MACS, data(maps::OWN_MACS)?)?,
            devices: data(maps::DEVICES).map(Map::HashMap)?.try_into().map_err(layout(maps::DEVICES))?,
            taken: per_cpu(maps::INTAKES)?.try_into().map_err(layout(maps::INTAKES))?,
            vip_drops: per_cpu(maps::VIP_DROPS)?.try_into().map_err(layout(maps::VIP_DROPS))?,
            backend_counters: per_cpu(maps::BACKEND_COUNTERS)?.try_into().map_err(layout(maps::BACKEND_COUNTERS))?,
            uncounted_from: u32::MAX,
            flows: FlowTable::open(directory)?,
            intakes: Arc::new(Intakes::open(directory)?),
            sweeps: Arc::new(Sweeps(Mapped::open(maps::SWEEPS, data(maps::SWEEPS)?)?)),
            drains: Mapped::open(maps::DRAINS, data(maps::DRAINS)?)?,
            probes: Arc::new(Probes::open(data(maps::PROBES)?, data(maps::PROBE_PATH)?)?),
            journal: Mapped::open(JOURNAL, data(JOURNAL)?)?,
            readings: Arc::new(Readings::open(directory)?),
        })
    }

    /// Pins in another directory what stays when maps grow to `capacity`: what sweeps counted, probes that are under way,
    /// and the flow table unless it is to have another size.
    pub fn keep_in(&self, directory: &Path, capacity: Capacity) -> Result<(), Error> {
        let flows = if self.flows.room() == capacity.flows { &flows::OF_TABLE[..] } else { &[] };
        [maps::SWEEPS, maps::PROBES, maps::PROBE_PATH].iter().chain(flows).try_for_each(|name| {
            let (_, map) = self.readings.all.iter().find(|(other, _)| other == name).expect("every map is in the list");
            map.pin(pin_in(directory, name)).map_err(Error::pin(name))
        })
    }

    /// Whether no map of a fixed size has fewer entries than this version needs.
    pub fn have_room(&self) -> Result<bool, Error> {
        Layout::ALL
            .iter()
            .try_fold(true, |all, Layout { map, .. }| Ok(all && self.readings.max_entries(map)? >= entries_needed(map)))
    }

    /// Takes the maps for new ones, which no packet reads; `uncounted` where the counters of backends are new as well.
    pub fn unread(self, uncounted: bool) -> Self {
        let uncounted_from = if uncounted { 0 } else { u32::MAX };
        Self { backends: self.backends.unread(), uncounted_from, ..self }
    }

    /// Everything that the maps hold.
    pub fn read(&self) -> Result<State, Error> {
        let [keys4, keys6] = self.keys.room();
        let capacity = Capacity {
            vips: self.records.entries,
            keys4,
            keys6,
            backends: self.backends.room(),
            slots: self.slots.entries(),
            moves: self.slots.places(),
            flows: self.flows.room(),
        };
        let journal = self.journal();
        let mut state = State::empty(capacity, journal.features);
        (state.seed, state.icmp_rate) = (journal.seed, journal.icmp_rate);
        state.suspect = journal.applying;
        let records = self.records.iter().filter(|(_, record)| record.name != VipName::default());
        state.read(records, self.keys.iter(), self.backends.iter());
        Ok(state)
    }

    /// Takes account of what is in use of the maps that hold `state`, so that something else can be written to them.
    /// Returns the first slots of the tables that may have slots which move.
    pub fn take_account(&mut self, state: &State) -> Vec<u32> {
        // Large configs have millions of places, which take as long as everything else.
        let said = thread::scope(|scope| {
            let said = scope.spawn(|| self.slots.said());
            self.keys.take_account();
            self.backends.take_account();
            said.join().expect("reading memory does not panic")
        });
        let beyond = state.backends().get_max().map_or(0, |(id, _)| id + 1);
        self.uncounted_from = self.uncounted_from.max(beyond);
        let vips = vips_with(&said, state);
        let ranges = if said.is_empty() { Vec::new() } else { ranges_with(&vips, state, self.slots.entries()) };
        self.places.take_account(&self.slots, &said, &ranges);
        vips.into_iter().map(|(_, record)| record.slot_base).collect()
    }

    /// Writes a VIP's record.
    pub fn put_record(&self, id: u32, record: VipRecord) {
        // The name makes the record valid.
        const NAME: usize = offset_of!(VipRecord, name) / size_of::<u64>();
        self.records.store_in_order(id, record, [NAME + 1, NAME]);
    }

    /// The slots, for who reads them at leisure.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// The flow table.
    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    /// What VIPs may enter, and what they were refused.
    pub fn intakes(&self) -> &Arc<Intakes> {
        &self.intakes
    }

    /// The counts that sweeps keep.
    pub fn sweeps(&self) -> &Arc<Sweeps> {
        &self.sweeps
    }

    /// Which probes are under way, and how their answers come back.
    pub fn probes(&self) -> &Arc<Probes> {
        &self.probes
    }

    /// When each backend that takes no new flows was first met so, in seconds of the monotonic clock.
    pub fn drains(&self) -> HashMap<u32, u64> {
        self.drains.iter().filter(|(_, since)| *since != 0).collect()
    }

    /// Notes since when a backend takes no new flows; 0 if it takes some.
    pub fn note_drain(&self, id: u32, since: u64) {
        self.drains.store(id, since);
    }

    /// What is counted, for others to read.
    pub fn readings(&self) -> &Arc<Readings> {
        &self.readings
    }

    /// Takes over flows that are in the table of `old` alone, where that is another one. May be repeated.
    ///
    /// From before the first time until packets come here, `old` is to enter no more ([`Intakes::shut`]): a flow that it
    /// entered meanwhile would be missing here when its next packet comes.
    pub fn carry_flows_from(&self, old: &Self) {
        if !self.shares_flows_with(old) {
            self.flows.tell_of_lost(old.flows.copy_to(&self.flows));
        }
    }

    /// Whether the flow table of `other` is this one: so it is unless it was to have room for other numbers of flows.
    pub fn shares_flows_with(&self, other: &Self) -> bool {
        self.flows.room() == other.flows.room()
    }
}

/// Whether the counters of backends are still to be made in a directory of pins.
pub fn are_uncounted(directory: &Path) -> bool {
    [maps::BACKEND_COUNTERS, maps::BACKEND_CARRIED].into_iter().all(|name| !pin_in(directory, name).exists())
}

/// The VIPs in whose tables some slot may name a place at which something is `said`: what is said is of backends of
/// theirs.
fn vips_with<'s>(said: &[(u32, Slot)], state: &'s State) -> Vec<(u32, &'s VipRecord)> {
    if said.is_empty() {
        return Vec::new();
    }
    let vip = |id: u32| state.backends().get(&id).map(|entry| entry.vip);
    let vips: Option<HashSet<u32>> =
        said.iter().map(|(_, slot)| vip(slot.current()).or_else(|| vip(slot.settled_owner()))).collect();
    // Some say of nobody who is known.
    let is_wanted = |id: &u32| vips.as_ref().is_none_or(|vips| vips.contains(id));
    state.vips().iter().map(|(id, record)| (*id, record)).filter(|(id, _)| is_wanted(id)).collect()
}

/// The ranges of slots in which some may name a place, first slot and number: the tables of these VIPs, and what no table
/// has any more, which the next one that has it writes over.
fn ranges_with(vips: &[(u32, &VipRecord)], state: &State, slots: u32) -> Vec<(u32, u32)> {
    let ids: HashSet<u32> = vips.iter().map(|(id, _)| *id).collect();
    let others = state.vips().iter().filter(|(id, _)| !ids.contains(id));
    let mut others: Vec<_> = others.map(|(_, record)| (record.slot_base, record.slots)).collect();
    others.sort_unstable();
    let mut ranges = Vec::new();
    let mut from = 0;
    for (base, count) in others.into_iter().chain([(slots, 0)]) {
        if base > from {
            ranges.push((from, base - from));
        }
        from = from.max(base.saturating_add(count));
    }
    ranges
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}
