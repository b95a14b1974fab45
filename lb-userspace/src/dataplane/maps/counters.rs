//! What is counted, and how full the maps are: read by many beside the one that writes.

use std::{
    collections::{HashMap as StdHashMap, HashSet},
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
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
use lb_common::{Counters, Drops, FlowLine, FlowOutcome, Intake, NO_ID, OwnMac, VipHash, VipName, maps};

use super::{
    Maps, Probes, Slots,
    layout::{JOURNAL, LOGS, object_maps, pin_in},
    mmap::Mapped,
};
use crate::{
    dataplane::Error,
    plan::{Capacity, Entry, State},
};

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

/// What is counted and how full the maps are: handles of their own, for any number of readers beside the one that
/// writes.
pub struct Readings {
    pub(super) backend_counters: PerCpuArray<MapData, Counters>,
    vip_drops: PerCpuArray<MapData, Drops>,
    flow_counters: PerCpuArray<MapData, u64>,
    vip_carried: Mapped<Counters, 3>,
    backend_carried: Mapped<Counters, 3>,
    drops_carried: Mapped<Drops, 16>,
    flow_carried: Mapped<u64, 1>,
    pub(super) own_macs: Mapped<OwnMac, 1>,
    pub(super) devices: HashMap<MapData, u32, u32>,
    /// How often counts began or ended to go from a backend to another or to its VIP, or from a VIP to those that are no
    /// more: odd while some do.
    pub(super) moves: AtomicU64,
    /// Descriptors of all maps once more, for their usage.
    pub(super) all: Vec<(&'static str, MapData)>,
}

impl Readings {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let data = |name: &str| MapData::from_pin(pin_in(directory, name)).map_err(Error::map("open", name));
        let names = Capacity::default();
        let carried = [maps::VIP_CARRIED, maps::BACKEND_CARRIED, maps::VIP_DROPS_CARRIED, maps::FLOW_CARRIED];
        let own = carried.into_iter().chain([maps::VIP_RECORDS, maps::BACKEND_RECORDS, maps::SWEEPS, maps::DRAINS]);
        let own = own.chain([maps::FLOW_SECRET, JOURNAL]);
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
            backend_counters: per_cpu(maps::BACKEND_COUNTERS)?.try_into().map_err(layout(maps::BACKEND_COUNTERS))?,
            vip_drops: per_cpu(maps::VIP_DROPS)?.try_into().map_err(layout(maps::VIP_DROPS))?,
            flow_counters: per_cpu(maps::FLOW_COUNTERS)?.try_into().map_err(layout(maps::FLOW_COUNTERS))?,
            vip_carried: Mapped::open(maps::VIP_CARRIED, data(maps::VIP_CARRIED)?)?,
            backend_carried: Mapped::open(maps::BACKEND_CARRIED, data(maps::BACKEND_CARRIED)?)?,
            drops_carried: Mapped::open(maps::VIP_DROPS_CARRIED, data(maps::VIP_DROPS_CARRIED)?)?,
            flow_carried: Mapped::open(maps::FLOW_CARRIED, data(maps::FLOW_CARRIED)?)?,
            own_macs: Mapped::open(maps::OWN_MACS, data(maps::OWN_MACS)?)?,
            devices: data(maps::DEVICES).map(Map::HashMap)?.try_into().map_err(layout(maps::DEVICES))?,
            moves: AtomicU64::new(0),
            all,
        })
    }

    /// What `read` reads of counters while none go from a backend to another or to its VIP: it may be called several
    /// times.
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

    /// What backends counted that a VIP has no more.
    pub fn gone_counters(&self, vip: u32) -> Counters {
        self.vip_carried.load(vip)
    }

    /// What a backend counted.
    pub fn backend_counters(&self, id: u32) -> Result<Counters, Error> {
        let counted = sum(&self.backend_counters, id).map_err(Error::map("read", maps::BACKEND_COUNTERS))?;
        Ok(counted.plus(self.backend_carried.load(id)))
    }

    /// How many packets for a VIP were dropped; for id 0, those of which is not known for which VIP, and those for VIPs
    /// that are no more.
    pub fn drops(&self, vip: u32) -> Result<Drops, Error> {
        let counted = self.vip_drops.get(&vip, 0).map_err(Error::map("read", maps::VIP_DROPS))?;
        Ok(counted.iter().fold(self.drops_carried.load(vip), |sum, drops| sum.plus(*drops)))
    }

    /// How many packets the flow table was asked for, with this outcome.
    pub fn flow_packets(&self, outcome: FlowOutcome) -> Result<u64, Error> {
        let counted = counted(&self.flow_counters, &self.flow_carried, outcome as u32);
        counted.map_err(Error::map("read", maps::FLOW_COUNTERS))
    }

    pub(super) fn max_entries(&self, name: &str) -> Result<u32, Error> {
        let map = self.all.iter().find(|(other, _)| *other == name).map(|(_, map)| map.info());
        map.expect("every map is in the list").map(|info| info.max_entries()).map_err(Error::map("look at", name))
    }

    /// Fill and memory of every map; `state` and `slots` know how full those are that the daemon writes, `flows` the
    /// flow table.
    pub fn usage(
        &self,
        state: &State,
        slots: &Slots,
        probes: &Probes,
        flows: [u64; 2],
    ) -> Result<Vec<MapUsage>, Error> {
        let (vips, backends) = (state.vips().len() as u64, state.backends().len() as u64);
        let keys = |v4: bool| state.keys().keys().filter(|key| key.address.is_ipv4() == v4).count() as u64;
        let taken = state.vips().values().map(|record| u64::from(record.slots)).sum();
        let mut usage = Vec::new();
        for (name, map) in &self.all {
            let max_entries = map.info().map_err(Error::map("look at", name))?.max_entries();
            let entries = match *name {
                maps::VIP_BUCKETS => (keys(true) + keys(false)).min((max_entries * VipHash::A_LINE).into()),
                maps::VIPS4 => keys(true),
                maps::VIPS6 => keys(false),
                maps::SLOTS => taken,
                maps::MOVES => slots.places_in_use(),
                maps::VIP_RECORDS | maps::VIP_DROPS | maps::VIP_CARRIED | maps::VIP_DROPS_CARRIED => vips,
                maps::ALLOWANCES | maps::INTAKES => vips,
                maps::BACKENDS | maps::BACKEND_RECORDS | maps::BACKEND_COUNTERS | maps::BACKEND_CARRIED => backends,
                maps::FLOWS | maps::FLOW_NAMES => flows.iter().sum(),
                maps::OWN_MACS => self.own_macs.iter().filter(|(_, word)| *word != OwnMac::FREE).count() as u64,
                maps::FLOW_COUNTERS | maps::FLOW_CARRIED => FlowOutcome::COUNT as u64,
                maps::NEXT_HOPS => {
                    let ways = state.backends().values().filter_map(|entry| entry.next_hop);
                    ways.collect::<HashSet<_>>().len() as u64
                }
                maps::DRAINS => state.backends().values().filter(|entry| !entry.takes_flows()).count() as u64,
                maps::PROBES => probes.count() as u64,
                maps::DEVICES => self.devices.keys().filter(Result::is_ok).count() as u64,
                LOGS => continue,
                _ => u64::from(max_entries),
            };
            // A line, or a group of places, is one to the kernel.
            let max_entries = match *name {
                maps::SLOTS => slots.entries(),
                maps::VIP_BUCKETS => max_entries * VipHash::A_LINE,
                maps::FLOWS | maps::FLOW_NAMES => max_entries * FlowLine::FLOWS_A_GROUP,
                // As many places again stay free.
                maps::VIPS4 | maps::VIPS6 => max_entries / 2,
                _ => max_entries,
            };
            let memory_bytes = memory(map).map_err(|error| Error::map("look at", name)(MapError::IoError(error)))?;
            usage.push(MapUsage { name: (*name).to_owned(), entries, max_entries: max_entries.into(), memory_bytes });
        }
        Ok(usage)
    }
}

impl Maps {
    /// Sets to nothing what was counted for a VIP, where no packet counts on it.
    pub fn reset_vip_counters(&mut self, id: u32) -> Result<(), Error> {
        zero(&mut self.vip_drops, id).map_err(Error::map("write to", maps::VIP_DROPS))?;
        self.intakes.forget(id);
        zero(&mut self.taken, id).map_err(Error::map("write to", maps::INTAKES))?;
        self.readings.drops_carried.store(id, Drops::default());
        self.readings.vip_carried.store(id, Counters::default());
        Ok(())
    }

    /// Adds the drops of a VIP, on which no packet counts any more, to those of VIPs that are no more.
    pub fn retire_drops(&mut self, vip: u32) -> Result<(), Error> {
        let drops = self.readings.drops(vip)?;
        self.move_counts(|maps| {
            maps.reset_vip_counters(vip)?;
            let carried = &maps.readings.drops_carried;
            carried.store(NO_ID, carried.load(NO_ID).plus(drops));
            Ok(())
        })
    }

    /// Sets to nothing what a backend counted, where no packet counts on it: of an id that was nobody's since the maps
    /// were made that is so, and costs no system call.
    pub fn reset_backend_counters(&mut self, id: u32) -> Result<(), Error> {
        if id >= self.uncounted_from {
            return Ok(());
        }
        zero(&mut self.backend_counters, id).map_err(Error::map("write to", maps::BACKEND_COUNTERS))?;
        self.readings.backend_carried.store(id, Counters::default());
        Ok(())
    }

    /// Adds what a backend counted, on which no packet counts any more, to what another one did, or to what its VIP
    /// keeps of backends that it has no more. Whoever reads meanwhile finds it in one place, also if he does not know
    /// yet that the first is gone.
    pub fn move_backend_counters(&mut self, from: u32, to: Option<u32>) -> Result<(), Error> {
        let vip = self.backends.vip(from);
        let counted = self.readings.backend_counters(from)?;
        self.move_counts(|maps| {
            // In this order a daemon that is killed here, within a microsecond, has lost these counts; in the other one
            // they would be there twice for good.
            maps.reset_backend_counters(from)?;
            let gone = &maps.readings.vip_carried;
            match to {
                Some(to) => maps.add_backend_counters(to, counted),
                None => gone.store(vip, gone.load(vip).plus(counted)),
            }
            Ok(())
        })
    }

    /// Counts go from one place to another: whoever reads meanwhile reads again.
    fn move_counts(&mut self, go: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        let readings = Arc::clone(&self.readings);
        readings.moves.fetch_add(1, Ordering::AcqRel);
        // The kernel's own stores to what is emptied are not to be seen before that.
        fence(Ordering::Release);
        let gone = go(self);
        readings.moves.fetch_add(1, Ordering::AcqRel);
        gone
    }

    /// Adds to what a backend counted.
    pub fn add_backend_counters(&self, id: u32, counters: Counters) {
        let carried = &self.readings.backend_carried;
        carried.store(id, carried.load(id).plus(counters));
    }

    /// Takes over what `old` refused, where no packet counts yet: for as long as that is not too old, slots are to wait.
    pub fn carry_refusals_from(&mut self, old: &Self) -> Result<(), Error> {
        for id in 0..self.records.entries.min(old.records.entries) {
            let refused = old.intakes.refused(id)?;
            if refused > 0 {
                let cpus =
                    nr_cpus().map_err(|(_, error)| Error::map("write to", maps::INTAKES)(MapError::IoError(error)))?;
                let mut values = vec![Intake::default(); cpus];
                values[0].refused = refused;
                let values = PerCpuValues::try_from(values)
                    .map_err(|error| Error::map("write to", maps::INTAKES)(MapError::IoError(error)))?;
                self.taken.set(id, values, 0).map_err(Error::map("write to", maps::INTAKES))?;
            }
        }
        Ok(())
    }

    /// Takes over what `old` counted for the VIPs and backends that are here too. May be repeated: it sets, not adds.
    pub fn carry_from(&self, old: &Self) -> Result<(), Error> {
        let old_vips: StdHashMap<_, _> =
            old.records.iter().map(|(id, record)| (record.name.as_str().to_owned(), id)).collect();
        let old_backends: StdHashMap<u32, Entry> = old.backends.iter().collect();
        for (id, record) in self.records.iter().filter(|(_, record)| record.name != VipName::default()) {
            if let Some(old_id) = old_vips.get(record.name.as_str()) {
                self.readings.vip_carried.store(id, old.readings.gone_counters(*old_id));
                self.readings.drops_carried.store(id, old.readings.drops(*old_id)?);
            }
        }
        let here = |id: &u32| self.records.load(*id).name != VipName::default();
        let gone = old_vips.values().filter(|id| **id >= self.records.entries || !here(id));
        let gone = gone.map(|id| old.readings.drops(*id)).collect::<Result<Vec<_>, _>>()?;
        let drops = gone.into_iter().fold(old.readings.drops(NO_ID)?, Drops::plus);
        self.readings.drops_carried.store(NO_ID, drops);
        for (id, entry) in self.backends.iter() {
            // Ids are the same in both.
            if old_backends.get(&id).is_some_and(|old| (old.vip, old.address) == (entry.vip, entry.address)) {
                self.readings.backend_carried.store(id, old.readings.backend_counters(id)?);
            }
        }
        for outcome in FlowOutcome::ALL {
            self.readings.flow_carried.store(outcome as u32, old.readings.flow_packets(outcome)?);
        }
        Ok(())
    }
}

/// What was counted at `index`, now and before; 0 where an earlier version made the maps without it.
fn counted(map: &PerCpuArray<MapData, u64>, carried: &Mapped<u64, 1>, index: u32) -> Result<u64, MapError> {
    if index >= carried.entries {
        return Ok(0);
    }
    Ok(map.get(&index, 0)?.iter().fold(carried.load(index), |sum: u64, value| sum.wrapping_add(*value)))
}

fn sum(map: &PerCpuArray<MapData, Counters>, index: u32) -> Result<Counters, MapError> {
    Ok(map.get(&index, 0)?.iter().fold(Counters::default(), |sum, counters| sum.plus(*counters)))
}

fn zero<V: Pod + Default>(map: &mut PerCpuArray<MapData, V>, index: u32) -> Result<(), MapError> {
    let cpus = nr_cpus().map_err(|(_, error)| MapError::IoError(error))?;
    map.set(index, PerCpuValues::try_from(vec![V::default(); cpus])?, 0)
}

/// `memlock` in the descriptor's fdinfo: what the kernel keeps for the map, in bytes.
fn memory(map: &MapData) -> io::Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    bytes.ok_or_else(|| io::Error::other("fdinfo has no memlock"))
}
