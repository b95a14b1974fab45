//! The data plane as it is at a moment, for whoever reads while its owner goes on: names, ids, ways and the handles of
//! what the kernel counts.
//!
//! A view costs a few reference counts. What its owner changes next is copied first, once, so that a view stays what it
//! was; counters and slots are read from the maps when they are asked for. Nothing of it writes but the handles that
//! sweeps need: those of the flow table and of what sweeps count.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use lb_common::{BackendState, Counters, Drops, FlowOutcome, Forward, NO_ID, NextHop};

use super::{
    Error,
    maps::{FlowTable, Intakes, MapUsage, Probes, Readings, Slots, Sweeps},
};
use crate::{
    model::{Config, Target},
    plan::{Entry, InForce, NextHops, Plan, State},
};

/// The data plane as it is at a moment.
#[derive(Clone)]
pub struct View {
    pub(super) generation: u32,
    /// The maps, mirrored.
    pub(super) state: Arc<State>,
    /// The config that they hold, once this daemon has applied one.
    pub(super) in_force: Option<Arc<InForce>>,
    /// What was said of targets that some backend has.
    pub(super) next_hops: Arc<NextHops>,
    pub(super) counted: Arc<SlotCounts>,
    pub(super) readings: Arc<Readings>,
    pub(super) slots: Arc<Slots>,
    pub(super) sweeps: Arc<Sweeps>,
    pub(super) flows: FlowTable,
    pub(super) intakes: Arc<Intakes>,
    pub(super) probes: Arc<Probes>,
}

/// A backend as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its id.
    pub id: u32,
    /// Name of its VIP.
    pub vip: String,
    /// What its next hop is looked up by.
    pub target: Target,
    /// How packets reach it.
    pub forward: Forward,
    /// Its weight.
    pub weight: u32,
    /// What the operator wants of it.
    pub state: BackendState,
    /// The config does not have it any more; its flows may go on.
    pub removed: bool,
    /// Where frames to it go; `None` while that is not known.
    pub next_hop: Option<NextHop>,
}

/// Everything that was counted since the data plane was first loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Per VIP.
    pub vips: Vec<VipCounts>,
    /// Per backend.
    pub backends: Vec<BackendCounts>,
    /// Dropped packets, of all VIPs.
    pub drops: Drops,
    /// Packets that the flow table was asked for, by outcome, in the order of [`FlowOutcome::ALL`].
    pub flow_packets: Vec<(FlowOutcome, u64)>,
}

/// What was counted for a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipCounts {
    /// Its name.
    pub vip: String,
    /// What was sent to its backends, those included that it has no more.
    pub counters: Counters,
    /// Packets for it that were dropped.
    pub drops: Drops,
}

/// What was counted for a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendCounts {
    /// Name of its VIP.
    pub vip: String,
    /// Its address.
    pub address: IpAddr,
    /// Its counters.
    pub counters: Counters,
}

/// How many slots of its VIP's table give new flows to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSlots {
    /// Name of the VIP.
    pub vip: String,
    /// Address of the backend.
    pub address: IpAddr,
    /// Number of slots.
    pub slots: u32,
}

/// Slots by backend, of every table that was counted since it was written: to count the tables of thousands of VIPs is
/// to read hundreds
/// of megabytes.
#[derive(Debug, Default)]
pub struct SlotCounts(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// How often tables were written: what was counted meanwhile may be of before or of after.
    writes: u64,
    /// First slot of a table → backend ids and their slots.
    tables: HashMap<u32, Arc<[(u32, u32)]>>,
}

impl SlotCounts {
    /// Forgets the count of a table that was written.
    pub(super) fn forget(&self, base: u32) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.writes += 1;
        counted.tables.remove(&base);
    }

    /// The count of the table that begins at `base`, made by `count` where there is none.
    fn of(&self, base: u32, count: impl FnOnce() -> Arc<[(u32, u32)]>) -> Arc<[(u32, u32)]> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = lock();
        if let Some(known) = counted.tables.get(&base) {
            return Arc::clone(known);
        }
        let writes = counted.writes;
        // Nobody waits for the counting.
        drop(counted);
        let new = count();
        let mut counted = lock();
        if counted.writes == writes {
            counted.tables.insert(base, Arc::clone(&new));
        }
        new
    }
}

impl View {
    /// What [`super::Dataplane::apply`] would do. Changes nothing.
    pub fn plan(&self, config: &Config) -> Plan {
        Plan::new(&self.state, config, &self.next_hops, self.in_force.as_deref())
    }

    /// The backends that run, those included that were removed and have flows.
    pub fn backends(&self) -> Vec<Backend> {
        let backend = |(id, entry): (&u32, &Entry)| {
            Some(Backend {
                id: *id,
                vip: self.vip_name(entry.vip),
                target: self.state.target(entry)?,
                forward: Forward::from_u32(entry.forward)?,
                weight: entry.weight,
                state: entry.backend_state(),
                removed: entry.is_removed(),
                next_hop: entry.next_hop,
            })
        };
        self.state.backends().iter().filter_map(backend).collect()
    }

    /// Everything that was counted.
    ///
    /// # Errors
    ///
    /// The kernel does not let a map be read.
    pub fn counters(&self) -> Result<Counts, Error> {
        self.counters_of(&|_| true)
    }

    /// The same, with what backends counted only for some VIPs, by name.
    ///
    /// # Errors
    ///
    /// The kernel does not let a map be read.
    pub fn counters_of(&self, with_backends: &impl Fn(&str) -> bool) -> Result<Counts, Error> {
        let maps = &self.readings;
        let counted = || -> Result<_, Error> { Ok((self.counted(with_backends)?, maps.drops(NO_ID)?)) };
        let ((vips, backends), others) = maps.while_none_moves(counted)?;
        let drops = vips.iter().map(|vip| vip.drops).fold(others, Drops::plus);
        let flow_packets = FlowOutcome::ALL.into_iter().map(|outcome| Ok((outcome, maps.flow_packets(outcome)?)));
        Ok(Counts { vips, backends, drops, flow_packets: flow_packets.collect::<Result<_, Error>>()? })
    }

    /// Counts of VIPs, and of the backends of some of them.
    fn counted(&self, with_backends: &impl Fn(&str) -> bool) -> Result<(Vec<VipCounts>, Vec<BackendCounts>), Error> {
        let maps = &self.readings;
        let mut vips = BTreeMap::new();
        for (id, record) in self.state.vips() {
            let vip = record.name.as_str().to_owned();
            let counts = VipCounts { vip, counters: maps.gone_counters(*id), drops: maps.drops(*id)? };
            vips.insert(*id, (with_backends(&counts.vip), counts));
        }
        let mut backends = Vec::new();
        for (id, entry) in self.state.backends() {
            let Some((is_shown, vip)) = vips.get_mut(&entry.vip) else { continue };
            let counters = maps.backend_counters(*id)?;
            vip.counters = vip.counters.plus(counters);
            if *is_shown {
                backends.push(BackendCounts { vip: vip.vip.clone(), address: entry.address.into(), counters });
            }
        }
        Ok((vips.into_values().map(|(_, vip)| vip).collect(), backends))
    }

    /// The flow table, to be read at leisure.
    pub fn flow_table(&self) -> FlowTable {
        self.flows.clone()
    }

    /// The slots of all tables, as they are when they are read.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// What VIPs may enter into it, and what they were refused.
    pub fn intakes(&self) -> &Arc<Intakes> {
        &self.intakes
    }

    /// The counts that sweeps keep.
    pub fn sweeps(&self) -> &Arc<Sweeps> {
        &self.sweeps
    }

    /// How many packets the flow table was asked for, with this outcome.
    ///
    /// # Errors
    ///
    /// The kernel does not let the counters be read.
    pub fn flow_packets(&self, outcome: FlowOutcome) -> Result<u64, Error> {
        self.readings.flow_packets(outcome)
    }

    /// Which generation of the maps this is of.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// How many slots each backend has.
    pub fn slots_per_backend(&self) -> Vec<BackendSlots> {
        let mut of_vips: HashMap<u32, Vec<u32>> = HashMap::new();
        for (id, entry) in self.state.backends() {
            of_vips.entry(entry.vip).or_default().push(*id);
        }
        let mut slots = vec![0; self.state.capacity.backends as usize];
        for (id, record) in self.state.vips() {
            let ids = of_vips.remove(id).unwrap_or_default();
            let counted = self.counted.of(record.slot_base, || {
                ids.iter().for_each(|id| slots[*id as usize] = 0);
                self.slots.count(record.slot_base, record.slots, &mut slots);
                ids.iter().map(|id| (*id, slots[*id as usize])).collect()
            });
            ids.iter().for_each(|id| slots[*id as usize] = 0);
            counted.iter().for_each(|(id, count)| slots[*id as usize] = *count);
        }
        let slots = |(id, entry): (&u32, &Entry)| BackendSlots {
            vip: self.vip_name(entry.vip),
            address: entry.address.into(),
            slots: slots[*id as usize],
        };
        self.state.backends().iter().map(slots).collect()
    }

    /// Fill and memory of every map; `flows` are the established and the embryonic entries.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn map_usage(&self, flows: [u64; 2]) -> Result<Vec<MapUsage>, Error> {
        self.readings.usage(&self.state, &self.slots, &self.probes, flows)
    }

    /// What the maps hold.
    pub fn state(&self) -> &State {
        &self.state
    }

    fn vip_name(&self, id: u32) -> String {
        self.state.vips().get(&id).map(|record| record.name.as_str().to_owned()).unwrap_or_default()
    }
}
