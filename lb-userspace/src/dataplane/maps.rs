//! Every map, opened from its pin; the one place that writes to them.
//!
//! Arrays that only the daemon writes are memory-mapped and written word by word with atomic stores, so that a table of
//! slots costs no system call per slot and a packet sees a slot, or a next hop, before or after a change and never
//! half of it. This module keeps the order within an entry; the order of entries is the plan's.

use std::{
    collections::HashMap as StdHashMap,
    fs, io,
    marker::PhantomData,
    mem,
    ops::Range,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
    thread,
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use aya_obj::generated::{BPF_ANY, BPF_F_MMAPABLE, BPF_NOEXIST, bpf_map_type};
use lb_common::{
    Backend, Counters, DropReason, Features, FlowOutcome, NO_ID, OwnMac, Slot, Tick, Vip4Key, Vip6Key, VipName,
    VipRecord, VipRoute, maps,
};
use memmap2::{MmapOptions, MmapRaw};

use super::{
    Error,
    flows::FlowTables,
    generation::Globals,
    grace,
    own_macs::{self, LeftOut, OwnMacs},
    sys,
};
use crate::{
    maglev,
    plan::{Capacity, Continuation, FamilyKey, Owner, State, VipKey},
    seed::HashSeed,
};

/// The ring buffer of aya-log.
const LOGS: &str = "AYA_LOGS";
/// The daemon's own notes: see [`Journal`].
const JOURNAL: &str = "JOURNAL";
const JOURNAL_ENTRIES: u32 = 4 + 2 * HashSeed::WORDS as u32;
/// What sweeps have done: see [`Sweeps`]. Like the flow tables it stays when other maps grow.
const SWEEPS: &str = "SWEEPS";
/// Interfaces that packets can be redirected to: a bound that no host comes near, for a map of a few bytes each.
const DEVICES: u32 = 1024;

/// How full a map is and what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUsage {
    /// Name of the map.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries that it has room for.
    pub max_entries: u64,
    /// What the kernel keeps for it, in bytes.
    pub memory_bytes: u64,
}

/// What the daemon notes about a generation, so that another daemon knows what this one was doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// Id of the program that the rest is about.
    pub program: u32,
    /// Features that it was loaded with.
    pub features: Features,
    /// Seed that it was loaded with.
    pub seed: HashSeed,
    /// Hash of the object that it is from.
    pub object: u64,
    /// An apply is under way, or broke off.
    pub applying: bool,
    /// The counts of the generation before this one are not carried over yet.
    pub carrying: bool,
}

/// The maps of one generation.
pub struct Maps {
    vips4: HashMap<MapData, Vip4Key, VipRoute>,
    vips6: HashMap<MapData, Vip6Key, VipRoute>,
    records: Mapped<VipRecord, 15>,
    slots: Arc<Slots>,
    backends: Mapped<Backend, 16>,
    own_macs: Mapped<OwnMac, 1>,
    /// A DEVMAP_HASH: aya's own type wants values with room for a program, and generic mode before 5.15 refuses those.
    devices: HashMap<MapData, u32, u32>,
    /// Handles to set counters by; they are read by those of `readings`.
    vip_counters: PerCpuArray<MapData, Counters>,
    backend_counters: PerCpuArray<MapData, Counters>,
    flows: FlowTables,
    sweeps: Arc<Sweeps>,
    journal: Mapped<u64, 1>,
    /// A write to the key maps has left an element to the next one: see [`Self::put_key`].
    key_left: bool,
    readings: Arc<Readings>,
}

/// What is counted and how full the maps are: handles of their own, for any number of readers beside the one that
/// writes.
pub struct Readings {
    vip_counters: PerCpuArray<MapData, Counters>,
    backend_counters: PerCpuArray<MapData, Counters>,
    drop_counters: PerCpuArray<MapData, u64>,
    flow_counters: PerCpuArray<MapData, u64>,
    vip_carried: Mapped<Counters, 3>,
    backend_carried: Mapped<Counters, 3>,
    drop_carried: Mapped<u64, 1>,
    flow_carried: Mapped<u64, 1>,
    own_macs: Mapped<OwnMac, 1>,
    devices: HashMap<MapData, u32, u32>,
    /// How often counts began or ended to go from one backend to another: odd while some do.
    moves: AtomicU64,
    /// Descriptors of all maps once more, for their usage.
    all: Vec<(&'static str, MapData)>,
}

/// The slots of all tables, which sweeps read while the data plane's owner writes.
pub struct Slots(Mapped<Slot, 1>);

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
pub struct Sweeps(Mapped<u64, 1>);

/// One of the flow tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Flows of which two packets were seen.
    Established = 0,
    /// Flows of which one packet was seen.
    Embryonic = 1,
}

impl Sweeps {
    const ENTRIES: u32 = 4;

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

/// The maps that the object declares, with the entries that they get; `None` for as many as the object says.
pub fn object_maps(capacity: Capacity) -> [(&'static str, Option<u32>); 13] {
    [
        (maps::VIPS4, Some(capacity.keys4)),
        (maps::VIPS6, Some(capacity.keys6)),
        (maps::SLOTS, Some(capacity.slots)),
        (maps::BACKENDS, Some(capacity.backends)),
        (maps::FLOWS, Some(capacity.flows)),
        (maps::EMBRYOS, Some(capacity.embryos())),
        (maps::OWN_MACS, Some(OwnMac::PLACES)),
        (maps::DEVICES, Some(DEVICES)),
        (maps::VIP_COUNTERS, Some(capacity.vips)),
        (maps::BACKEND_COUNTERS, Some(capacity.backends)),
        (maps::DROP_COUNTERS, Some(DropReason::COUNT as u32)),
        (maps::FLOW_COUNTERS, Some(FlowOutcome::COUNT as u32)),
        (LOGS, None),
    ]
}

/// Makes and pins the maps that the object does not declare; takes over from `before`, which has flow tables of the
/// same size or other ones, what stays.
pub fn create_own(directory: &Path, capacity: Capacity, before: Option<&Maps>) -> Result<(), Error> {
    let own = [
        (maps::VIP_RECORDS, size_of::<VipRecord>(), capacity.vips),
        (maps::VIP_CARRIED, size_of::<Counters>(), capacity.vips),
        (maps::BACKEND_CARRIED, size_of::<Counters>(), capacity.backends),
        (maps::DROP_CARRIED, size_of::<u64>(), DropReason::COUNT as u32),
        (maps::FLOW_CARRIED, size_of::<u64>(), FlowOutcome::COUNT as u32),
        (JOURNAL, size_of::<u64>(), JOURNAL_ENTRIES),
    ];
    let array = (bpf_map_type::BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE);
    let sweeps = before.is_none().then_some((SWEEPS, size_of::<u64>(), Sweeps::ENTRIES));
    let own = own.into_iter().chain(sweeps).map(|(name, value_size, entries)| (name, array, value_size, entries));
    // In the object as well, but with values of eight bytes, which generic mode refuses before 5.15.
    let devices = (maps::DEVICES, (bpf_map_type::BPF_MAP_TYPE_DEVMAP_HASH, 0), size_of::<u32>(), DEVICES);
    for (name, (kind, flags), value_size, entries) in own.chain([devices]) {
        let map =
            aya_obj::Map::new_from_params(kind as u32, size_of::<u32>() as u32, value_size as u32, entries, flags);
        let map = MapData::create(map, name, None).map_err(Error::map("make", name))?;
        map.pin(directory.join(name)).map_err(Error::pin(name))?;
    }
    let Some(before) = before else { return Ok(()) };
    let (name, sweeps) =
        before.readings.all.iter().find(|(name, _)| *name == SWEEPS).expect("every map is in the list");
    sweeps.pin(directory.join(name)).map_err(Error::pin(name))?;
    if before.readings.max_entries(maps::FLOWS)? == capacity.flows { before.flows.pin(directory) } else { Ok(()) }
}

impl Maps {
    /// Opens the maps pinned in `directory`.
    ///
    /// # Errors
    ///
    /// One is missing or has values of another size.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let data = |name: &str| MapData::from_pin(directory.join(name)).map_err(Error::map("open", name));
        let hash = |name| data(name).map(Map::HashMap);
        let per_cpu = |name| data(name).map(Map::PerCpuArray);
        let layout = |name| Error::map("use", name);
        Ok(Self {
            vips4: hash(maps::VIPS4)?.try_into().map_err(layout(maps::VIPS4))?,
            vips6: hash(maps::VIPS6)?.try_into().map_err(layout(maps::VIPS6))?,
            records: Mapped::open(maps::VIP_RECORDS, data(maps::VIP_RECORDS)?)?,
            slots: Arc::new(Slots(Mapped::open(maps::SLOTS, data(maps::SLOTS)?)?)),
            backends: Mapped::open(maps::BACKENDS, data(maps::BACKENDS)?)?,
            own_macs: Mapped::open(maps::OWN_MACS, data(maps::OWN_MACS)?)?,
            devices: hash(maps::DEVICES)?.try_into().map_err(layout(maps::DEVICES))?,
            vip_counters: per_cpu(maps::VIP_COUNTERS)?.try_into().map_err(layout(maps::VIP_COUNTERS))?,
            backend_counters: per_cpu(maps::BACKEND_COUNTERS)?.try_into().map_err(layout(maps::BACKEND_COUNTERS))?,
            flows: FlowTables::open(directory)?,
            sweeps: Arc::new(Sweeps(Mapped::open(SWEEPS, data(SWEEPS)?)?)),
            journal: Mapped::open(JOURNAL, data(JOURNAL)?)?,
            // Whoever wrote last may have done so a moment ago.
            key_left: true,
            readings: Arc::new(Readings::open(directory)?),
        })
    }

    /// Takes the maps for new ones, which no packet reads.
    pub fn unread(self) -> Self {
        Self { key_left: false, ..self }
    }

    /// Everything that the maps hold.
    pub fn read(&self) -> Result<State, Error> {
        let capacity = Capacity {
            vips: self.records.entries,
            keys4: self.readings.max_entries(maps::VIPS4)?,
            keys6: self.readings.max_entries(maps::VIPS6)?,
            backends: self.backends.entries,
            slots: self.slots.entries(),
            flows: self.readings.max_entries(maps::FLOWS)?,
        };
        let journal = self.journal();
        let mut state = State::empty(capacity, journal.features);
        state.seed = journal.seed;
        state.suspect = journal.applying;
        let records = self.records.iter().filter(|(_, record)| record.name != VipName::default());
        state.vips = records.collect();
        state.backends = self.backends.iter().filter(|(_, entry)| entry.vip != NO_ID).collect();
        for entry in self.vips4.iter() {
            let (key, route) = entry.map_err(Error::map("read", maps::VIPS4))?;
            state.keys.insert(key.into(), route);
        }
        for entry in self.vips6.iter() {
            let (key, route) = entry.map_err(Error::map("read", maps::VIPS6))?;
            state.keys.insert(key.into(), route);
        }
        Ok(state)
    }

    /// The daemon's notes.
    pub fn journal(&self) -> Journal {
        let [program, features, object, flags] = [0, 1, 2, 3].map(|index| self.journal.load(index));
        Journal {
            program: program as u32,
            features: Features(features as u32),
            seed: self.seed_in(half(program)),
            object,
            applying: flags & 1 != 0,
            carrying: flags & 2 != 0,
        }
    }

    /// Writes the daemon's notes. What they are about is written before they say so, and flags are raised first.
    pub fn note(&self, journal: Journal) {
        let Journal { program, features, seed, object, applying, carrying } = journal;
        let mut in_use = half(self.journal.load(0));
        if self.seed_in(in_use) != seed {
            // The other half, which the word of the program puts in use together with the program.
            in_use = 1 - in_use;
            for (index, word) in (seed_words(in_use)).zip(seed.to_words()) {
                self.journal.store(index, word);
            }
        }
        let flags = u64::from(applying) | u64::from(carrying) << 1;
        self.journal.store(3, flags | self.journal.load(3));
        self.journal.store(1, u64::from(features.0));
        self.journal.store(2, object);
        self.journal.store(0, u64::from(program) | u64::from(in_use) << 32);
        self.journal.store(3, flags);
    }

    fn seed_in(&self, half: u32) -> HashSeed {
        let first = seed_words(half).start;
        HashSeed::from_words(std::array::from_fn(|position| self.journal.load(first + position as u32)))
    }

    /// Writes a backend's entry; only words that differ.
    pub fn put_backend(&self, id: u32, entry: Backend) {
        // Words of `Backend`: 5 is vip and forward, which make the entry valid; 7 says which next hop is in use.
        self.backends.store_in_order(id, entry, [7, 5]);
    }

    /// Writes a VIP's record.
    pub fn put_record(&self, id: u32, record: VipRecord) {
        // The name makes the record valid.
        self.records.store_in_order(id, record, [1, 0]);
    }

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

    /// The slots, for who reads them at leisure.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// The flow tables.
    pub fn flows(&self) -> &FlowTables {
        &self.flows
    }

    /// The counts that sweeps keep.
    pub fn sweeps(&self) -> &Arc<Sweeps> {
        &self.sweeps
    }

    /// What is counted, for others to read.
    pub fn readings(&self) -> &Arc<Readings> {
        &self.readings
    }

    /// Inserts a VIP key or replaces its route: packets find the one or the other, and never another VIP's.
    ///
    /// The kernel does not change an element in place, but it hands the element of a key that was replaced or deleted to
    /// the next write at once (`htab_map_update_elem`, kernel/bpf/hashtab.c; without preallocation as well, since 6.1), while
    /// a packet that found the element before may be reading it. So a write that was left such an element first waits until
    /// no packet is on its way that may have found it: about 10 ms after each replacement, nothing where keys are only inserted
    /// or only removed.
    pub fn put_key(&mut self, key: VipKey, route: VipRoute) -> Result<(), Error> {
        if mem::take(&mut self.key_left) {
            grace();
        }
        match self.write_key(key, route, BPF_NOEXIST) {
            Err((_, error)) if errno(&error) == Some(libc::EEXIST) => {
                self.key_left = true;
                self.write_key(key, route, BPF_ANY)
            }
            result => result,
        }
        .map_err(|(name, error)| Error::map("write to", name)(error))
    }

    fn write_key(&mut self, key: VipKey, route: VipRoute, flags: u32) -> Result<(), (&'static str, MapError)> {
        match key.in_map() {
            FamilyKey::V4(key) => self.vips4.insert(key, route, flags.into()).map_err(|error| (maps::VIPS4, error)),
            FamilyKey::V6(key) => self.vips6.insert(key, route, flags.into()).map_err(|error| (maps::VIPS6, error)),
        }
    }

    /// Deletes a VIP key, and leaves its element to the next [`Self::put_key`].
    pub fn remove_key(&mut self, key: VipKey) -> Result<(), Error> {
        self.key_left = true;
        match key.in_map() {
            FamilyKey::V4(key) => self.vips4.remove(&key).map_err(Error::map("delete from", maps::VIPS4)),
            FamilyKey::V6(key) => self.vips6.remove(&key).map_err(Error::map("delete from", maps::VIPS6)),
        }
    }

    /// Says which addresses frames for this host have, by the interface that they come in by. Returns those that there
    /// is no room for.
    pub fn put_own_macs(&self, wanted: &OwnMacs) -> Vec<LeftOut> {
        let now: Vec<_> = self.own_macs.iter().map(|(_, word)| word).collect();
        let (changes, left_out) = own_macs::changes(&now, wanted);
        changes.into_iter().for_each(|(place, word)| self.own_macs.store(place, word));
        left_out
    }

    /// Takes over from `old` which addresses frames for this host have.
    pub fn carry_own_macs_from(&self, old: &Self) {
        old.own_macs.iter().for_each(|(place, word)| self.own_macs.store(place, word));
    }

    /// Lets packets be redirected to an interface. `false` where there is no such interface any more.
    pub fn put_device(&mut self, ifindex: u32) -> Result<bool, Error> {
        if self.devices.get(&ifindex, 0).is_ok() {
            return Ok(true);
        }
        match self.devices.insert(ifindex, ifindex, 0) {
            Ok(()) => Ok(true),
            Err(error) if matches!(errno(&error), Some(libc::EINVAL | libc::ENODEV)) => Ok(false),
            Err(error) => Err(Error::map("write to", maps::DEVICES)(error)),
        }
    }

    /// Takes back what [`Self::put_device`] did for all interfaces but `used`.
    pub fn keep_devices(&mut self, used: impl Fn(u32) -> bool) -> Result<(), Error> {
        let unused: Vec<u32> = self.devices.keys().filter_map(Result::ok).filter(|ifindex| !used(*ifindex)).collect();
        for ifindex in unused {
            match self.devices.remove(&ifindex) {
                // The kernel removes interfaces that go.
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) if errno(&error) == Some(libc::ENOENT) => {}
                Err(error) => return Err(Error::map("delete from", maps::DEVICES)(error)),
            }
        }
        Ok(())
    }

    /// Sets what a VIP counted, where no packet counts on it.
    pub fn reset_vip_counters(&mut self, id: u32) -> Result<(), Error> {
        self.readings.vip_carried.store(id, Counters::default());
        zero(&mut self.vip_counters, id).map_err(Error::map("write to", maps::VIP_COUNTERS))
    }

    /// Sets what a backend counted, where no packet counts on it.
    pub fn reset_backend_counters(&mut self, id: u32) -> Result<(), Error> {
        self.readings.backend_carried.store(id, Counters::default());
        zero(&mut self.backend_counters, id).map_err(Error::map("write to", maps::BACKEND_COUNTERS))
    }

    /// Adds what a backend counted, on which no packet counts any more, to what another one did. Whoever reads meanwhile
    /// finds it at one of them, also if he does not know yet that the first is gone.
    pub fn move_backend_counters(&mut self, from: u32, to: u32) -> Result<(), Error> {
        let readings = Arc::clone(&self.readings);
        let counted = readings.backend_counters(from)?;
        readings.moves.fetch_add(1, Ordering::AcqRel);
        let emptied = self.reset_backend_counters(from);
        if emptied.is_ok() {
            self.add_backend_counters(to, counted);
        }
        readings.moves.fetch_add(1, Ordering::AcqRel);
        emptied
    }

    /// Adds to what a backend counted.
    pub fn add_backend_counters(&self, id: u32, counters: Counters) {
        let carried = &self.readings.backend_carried;
        carried.store(id, carried.load(id).plus(counters));
    }

    /// Takes over flows that are in the tables of `old` alone, where those are others. May be repeated.
    pub fn carry_flows_from(&self, old: &Self) -> Result<(), Error> {
        if self.readings.max_entries(maps::FLOWS)? == old.readings.max_entries(maps::FLOWS)? {
            return Ok(());
        }
        old.flows.copy_to(&self.flows)
    }

    /// Takes over what `old` counted for the VIPs and backends that are here too. May be repeated: it sets, not adds.
    pub fn carry_from(&self, old: &Self) -> Result<(), Error> {
        let old_vips: StdHashMap<_, _> =
            old.records.iter().map(|(id, record)| (record.name.as_str().to_owned(), id)).collect();
        let old_backends: StdHashMap<u32, Backend> =
            old.backends.iter().filter(|(_, entry)| entry.vip != NO_ID).collect();
        for (id, record) in self.records.iter().filter(|(_, record)| record.name != VipName::default()) {
            if let Some(old_id) = old_vips.get(record.name.as_str()) {
                self.readings.vip_carried.store(id, old.readings.vip_counters(*old_id)?);
            }
        }
        for (id, entry) in self.backends.iter().filter(|(_, entry)| entry.vip != NO_ID) {
            // Ids are the same in both.
            if old_backends.get(&id).is_some_and(|old| (old.vip, old.address) == (entry.vip, entry.address)) {
                self.readings.backend_carried.store(id, old.readings.backend_counters(id)?);
            }
        }
        for reason in DropReason::ALL {
            self.readings.drop_carried.store(reason as u32, old.readings.drops(reason)?);
        }
        for outcome in FlowOutcome::ALL {
            self.readings.flow_carried.store(outcome as u32, old.readings.flow_packets(outcome)?);
        }
        Ok(())
    }
}

impl Readings {
    fn open(directory: &Path) -> Result<Self, Error> {
        let data = |name: &str| MapData::from_pin(directory.join(name)).map_err(Error::map("open", name));
        let names = Capacity::default();
        let carried = [maps::VIP_CARRIED, maps::BACKEND_CARRIED, maps::DROP_CARRIED, maps::FLOW_CARRIED];
        let own = carried.into_iter().chain([maps::VIP_RECORDS, SWEEPS, JOURNAL]);
        let mut all = Vec::new();
        for name in object_maps(names).map(|(name, _)| name).into_iter().chain(own) {
            // An object without log statements has no map for them.
            if name != LOGS || directory.join(name).exists() {
                all.push((name, data(name)?));
            }
        }
        let per_cpu = |name| data(name).map(Map::PerCpuArray);
        let layout = |name| Error::map("use", name);
        Ok(Self {
            vip_counters: per_cpu(maps::VIP_COUNTERS)?.try_into().map_err(layout(maps::VIP_COUNTERS))?,
            backend_counters: per_cpu(maps::BACKEND_COUNTERS)?.try_into().map_err(layout(maps::BACKEND_COUNTERS))?,
            drop_counters: per_cpu(maps::DROP_COUNTERS)?.try_into().map_err(layout(maps::DROP_COUNTERS))?,
            flow_counters: per_cpu(maps::FLOW_COUNTERS)?.try_into().map_err(layout(maps::FLOW_COUNTERS))?,
            vip_carried: Mapped::open(maps::VIP_CARRIED, data(maps::VIP_CARRIED)?)?,
            backend_carried: Mapped::open(maps::BACKEND_CARRIED, data(maps::BACKEND_CARRIED)?)?,
            drop_carried: Mapped::open(maps::DROP_CARRIED, data(maps::DROP_CARRIED)?)?,
            flow_carried: Mapped::open(maps::FLOW_CARRIED, data(maps::FLOW_CARRIED)?)?,
            own_macs: Mapped::open(maps::OWN_MACS, data(maps::OWN_MACS)?)?,
            devices: data(maps::DEVICES).map(Map::HashMap)?.try_into().map_err(layout(maps::DEVICES))?,
            moves: AtomicU64::new(0),
            all,
        })
    }

    /// What `read` reads of backends' counters while none go from one to another: it may be called several times.
    pub fn while_none_moves<T>(&self, read: impl Fn() -> T) -> T {
        loop {
            let before = self.moves.load(Ordering::Acquire);
            let read = read();
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.moves.load(Ordering::Relaxed) == before {
                return read;
            }
            thread::yield_now();
        }
    }

    /// What a VIP counted.
    pub fn vip_counters(&self, id: u32) -> Result<Counters, Error> {
        let counted = sum(&self.vip_counters, id).map_err(Error::map("read", maps::VIP_COUNTERS))?;
        Ok(counted.plus(self.vip_carried.load(id)))
    }

    /// What a backend counted.
    pub fn backend_counters(&self, id: u32) -> Result<Counters, Error> {
        let counted = sum(&self.backend_counters, id).map_err(Error::map("read", maps::BACKEND_COUNTERS))?;
        Ok(counted.plus(self.backend_carried.load(id)))
    }

    /// How many packets were dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> Result<u64, Error> {
        let counted = total(&self.drop_counters, reason as u32).map_err(Error::map("read", maps::DROP_COUNTERS))?;
        Ok(counted.wrapping_add(self.drop_carried.load(reason as u32)))
    }

    /// How many packets the flow tables were asked for, with this outcome.
    pub fn flow_packets(&self, outcome: FlowOutcome) -> Result<u64, Error> {
        let counted = total(&self.flow_counters, outcome as u32).map_err(Error::map("read", maps::FLOW_COUNTERS))?;
        Ok(counted.wrapping_add(self.flow_carried.load(outcome as u32)))
    }

    fn max_entries(&self, name: &str) -> Result<u32, Error> {
        let map = self.all.iter().find(|(other, _)| *other == name).map(|(_, map)| map.info());
        map.expect("every map is in the list").map(|info| info.max_entries()).map_err(Error::map("look at", name))
    }

    /// Fill and memory of every map; `state` knows how full those are that the daemon writes, `flows` the flow tables.
    pub fn usage(&self, state: &State, flows: [u64; 2]) -> Result<Vec<MapUsage>, Error> {
        let (vips, backends) = (state.vips.len() as u64, state.backends.len() as u64);
        let keys = |v4: bool| state.keys.keys().filter(|key| key.address.is_ipv4() == v4).count() as u64;
        let slots = state.vips.values().map(|record| u64::from(record.slots)).sum();
        let mut usage = Vec::new();
        for (name, map) in &self.all {
            let max_entries = map.info().map_err(Error::map("look at", name))?.max_entries();
            let entries = match *name {
                maps::VIPS4 => keys(true),
                maps::VIPS6 => keys(false),
                maps::SLOTS => slots,
                maps::VIP_RECORDS | maps::VIP_COUNTERS | maps::VIP_CARRIED => vips,
                maps::BACKENDS | maps::BACKEND_COUNTERS | maps::BACKEND_CARRIED => backends,
                maps::FLOWS => flows[Table::Established as usize],
                maps::EMBRYOS => flows[Table::Embryonic as usize],
                maps::OWN_MACS => self.own_macs.iter().filter(|(_, word)| *word != OwnMac::FREE).count() as u64,
                maps::DEVICES => self.devices.keys().filter(Result::is_ok).count() as u64,
                LOGS => continue,
                _ => u64::from(max_entries),
            };
            let memory_bytes = memory(map).map_err(|error| Error::map("look at", name)(MapError::IoError(error)))?;
            usage.push(MapUsage { name: (*name).to_owned(), entries, max_entries: max_entries.into(), memory_bytes });
        }
        Ok(usage)
    }
}

/// A memory-mapped array of values of `WORDS` 64-bit words.
struct Mapped<V, const WORDS: usize> {
    memory: MmapRaw,
    entries: u32,
    _values: PhantomData<V>,
}

impl<V: Pod, const WORDS: usize> Mapped<V, WORDS> {
    const FITS: () = assert!(size_of::<V>() == WORDS * size_of::<u64>() && align_of::<V>() <= align_of::<u64>());

    fn open(name: &str, map: MapData) -> Result<Self, Error> {
        let () = Self::FITS;
        let info = map.info().map_err(Error::map("look at", name))?;
        let expected = size_of::<V>() as u32;
        if info.value_size() != expected {
            return Err(Error::Layout { name: name.to_owned(), found: info.value_size(), expected });
        }
        let length = info.max_entries() as usize * size_of::<V>();
        let memory = MmapOptions::new()
            .len(length)
            .map_raw(map.fd().as_fd().as_raw_fd())
            .map_err(|error| Error::map("map into memory", name)(MapError::IoError(error)))?;
        Ok(Self { memory, entries: info.max_entries(), _values: PhantomData })
    }

    /// The words of an entry, which the data plane may be reading.
    fn cell(&self, index: u32) -> &[AtomicU64; WORDS] {
        assert!(index < self.entries, "entry {index} of a map of {}", self.entries);
        let words = self.memory.as_mut_ptr().cast::<[AtomicU64; WORDS]>();
        // SAFETY: the mapping has `entries` entries of this size, starts at a page, stays as long as `self`, and is
        // accessed by atomic operations only.
        unsafe { &*words.add(index as usize) }
    }

    fn load(&self, index: u32) -> V {
        let words = self.cell(index).each_ref().map(|word| word.load(Ordering::Acquire));
        // SAFETY: of the same size (`FITS`), and any bytes are a value of a `Pod`.
        unsafe { mem::transmute_copy(&words) }
    }

    fn store(&self, index: u32, value: V) {
        self.store_in_order(index, value, []);
    }

    /// Stores the words that differ: those at the positions `last` after all others, in their order.
    fn store_in_order<const N: usize>(&self, index: u32, value: V, last: [usize; N]) {
        // SAFETY: of the same size (`FITS`), and a `Pod` has no padding.
        let words: [u64; WORDS] = unsafe { mem::transmute_copy(&value) };
        let cell = self.cell(index);
        let first = (0..WORDS).filter(|position| !last.contains(position));
        for position in first.chain(last) {
            if cell[position].load(Ordering::Relaxed) != words[position] {
                cell[position].store(words[position], Ordering::Release);
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = (u32, V)> {
        (0..self.entries).map(|index| (index, self.load(index)))
    }
}

impl Journal {
    /// What the program was loaded with.
    pub fn globals(self) -> Globals {
        Globals { features: self.features, seed: self.seed }
    }
}

/// Which half of the journal's seeds is in use, by its first word.
fn half(program: u64) -> u32 {
    (program >> 32) as u32 & 1
}

/// Indexes of a half of the journal's seeds.
fn seed_words(half: u32) -> Range<u32> {
    let words = HashSeed::WORDS as u32;
    let first = 4 + half * words;
    first..first + words
}

/// A slot after a change that gives it to `owner`.
fn given_to(before: Slot, owner: u32, now: Tick, flows: &Continuation) -> Slot {
    let before =
        if flows.heirs.is_empty() { before } else { before.renamed(|id| flows.heirs.get(&id).copied().unwrap_or(id)) };
    before.given_to(owner, now)
}

fn total(map: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64, MapError> {
    Ok(map.get(&index, 0)?.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value)))
}

fn sum(map: &PerCpuArray<MapData, Counters>, index: u32) -> Result<Counters, MapError> {
    Ok(map.get(&index, 0)?.iter().fold(Counters::default(), |sum, counters| sum.plus(*counters)))
}

fn zero(map: &mut PerCpuArray<MapData, Counters>, index: u32) -> Result<(), MapError> {
    let cpus = nr_cpus().map_err(|(_, error)| MapError::IoError(error))?;
    map.set(index, PerCpuValues::try_from(vec![Counters::default(); cpus])?, 0)
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// `memlock` in the descriptor's fdinfo: what the kernel keeps for the map, in bytes.
fn memory(map: &MapData) -> io::Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    bytes.ok_or_else(|| io::Error::other("fdinfo has no memlock"))
}
