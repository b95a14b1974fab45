//! What is tracked at a moment, beside the [data plane](dataplane::View) of that moment.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use lb_common::Tick;

use super::{
    GIVEN_UP_AFTER, Swept,
    moving::{Held, Moving},
    rules,
};
use crate::dataplane::{self, Table};

/// What is tracked at a moment.
#[derive(Clone)]
pub struct View {
    /// First slot of every table with slots that move.
    pub(super) moving: Arc<HashMap<u32, Moving>>,
    /// What the last sweep found.
    pub(super) swept: Option<Arc<Swept>>,
    /// Backends that are down, and when a sweep first met them so.
    pub(super) downs: Arc<HashMap<u32, Instant>>,
    /// By VIP id: when a sweep last met flows that had been refused.
    pub(super) refusals: Arc<HashMap<u32, Instant>>,
    /// By backend id: when each that takes no new flows was first met so, in seconds of the monotonic clock.
    pub(super) drains: Arc<HashMap<u32, u64>>,
}

/// Prefixes of clients that are named for a backend that takes no new flows.
const CLIENTS: usize = 3;

/// A backend as it runs, with its flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// As the maps have it.
    pub entry: dataplane::Backend,
    /// Entries of its flows in the flow table, as of the last sweep.
    pub flows: u64,
    /// Slots on which flows without an entry still belong to it although it is not their current owner.
    pub held_slots: u32,
    /// How much longer they are held at most, unless more flows of the VIP are refused.
    pub held_for: Duration,
    /// They are held for longer than otherwise, because flows of the VIP were refused: each that is holds them anew.
    pub held_by_refusals: bool,
    /// No packet has gone to it since a sweep that found nothing of it: it takes no new flows, and the last one has
    /// ended.
    pub drained: bool,
    /// How much longer flows are left to it that it has, where that is limited.
    pub cut_in: Option<Duration>,
    /// The prefixes that most of its flows are of, with how many, if it takes no new ones.
    pub clients: Vec<(IpNet, u64)>,
}

/// How the flow table and the slots are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Flows that the table has room for.
    pub max_flows: u64,
    /// Entries of flows of which more than one packet was seen, as of the last sweep.
    pub established: u64,
    /// Entries of flows of which one packet was seen, as of the last sweep.
    pub embryonic: u64,
    /// Entries of either that sweeps have taken out, because their flows had ended.
    pub expired: [u64; 2],
    /// Flows that were refused, by VIP id: there was no room for them, or none for more of their VIP. As of the last
    /// sweep; without those that there were none of.
    pub refused: BTreeMap<u32, u64>,
    /// Flows that were left of drains whose deadline has passed, and that were cut.
    pub cut: u64,
    /// Slots of VIPs that are served, on which every flow belongs to one backend.
    pub settled_slots: u64,
    /// Slots on which flows of several backends may be.
    pub moving_slots: u64,
    /// How long the last sweep took; `None` before the first.
    pub sweep: Option<Duration>,
}

impl View {
    /// The backends of `dataplane`, those included that were removed and have flows.
    pub fn backends(&self, dataplane: &dataplane::View) -> Vec<Backend> {
        let state = dataplane.state();
        let idle = rules::idle_times(state);
        let now = dataplane::now();
        let backend = |entry: dataplane::Backend| {
            let id = entry.id;
            let in_maps = &state.backends()[&id];
            let flows = self.swept.as_ref().and_then(|swept| swept.by_backend.get(id as usize)).copied();
            let moving = state.vips().get(&in_maps.vip).and_then(|record| self.moving.get(&record.slot_base));
            let held = moving.and_then(|moving| moving.slots.held.get(&id));
            let held_slots = held.map_or(0, |held| held.slots);
            let (tcp_idle, udp_idle) = idle.get(&in_maps.vip).copied().unwrap_or_default();
            let quiet = self.refusals.get(&in_maps.vip).map_or(u16::MAX, |at| rules::ticks_since(*at));
            let age = |held: &Held| now.since(held.since).min(quiet);
            let ticks = held.map_or(0, |held| tcp_idle.max(udp_idle).saturating_sub(age(held)));
            let held_for = Duration::from_nanos(u64::from(ticks) * Tick::NANOSECONDS);
            let held_by_refusals = held.is_some_and(|held| quiet < now.since(held.since)) && held_for > Duration::ZERO;
            let given_up_in = match self.downs.get(&id) {
                Some(since) => GIVEN_UP_AFTER.saturating_sub(since.elapsed()),
                None if in_maps.is_down() => GIVEN_UP_AFTER,
                None => Duration::MAX,
            };
            let swept_since = moving.is_none_or(|moving| self.has_swept_since(moving.since));
            let takes_none = !in_maps.takes_flows();
            let cut_in = (rules::is_draining(in_maps) && in_maps.drain_deadline > 0).then(|| {
                let age = self.drains.get(&id).map_or(0, |since| dataplane::seconds().saturating_sub(*since));
                Duration::from_secs(u64::from(in_maps.drain_deadline).saturating_sub(age))
            });
            Backend {
                flows: flows.unwrap_or(0),
                held_slots,
                held_by_refusals,
                held_for: held_for.min(given_up_in).min(cut_in.unwrap_or(Duration::MAX)),
                drained: takes_none && (held_slots == 0 || in_maps.is_down()) && flows == Some(0) && swept_since,
                cut_in,
                clients: self
                    .swept
                    .as_ref()
                    .and_then(|swept| swept.clients.get(&id))
                    .map_or(Vec::new(), |clients| clients.most(CLIENTS)),
                entry,
            }
        };
        dataplane.backends().into_iter().map(backend).collect()
    }

    /// How the flow table and the slots of `dataplane` are used.
    pub fn usage(&self, dataplane: &dataplane::View) -> Usage {
        let (state, sweeps) = (dataplane.state(), dataplane.sweeps());
        let [established, embryonic] = self.entries();
        let refused = self.swept.iter().flat_map(|swept| &swept.refused);
        let refused = refused.filter(|(_, count)| **count > 0).map(|(vip, count)| (*vip, *count)).collect();
        let slots: u64 = state.served_vips().map(|(_, record)| u64::from(record.slots)).sum();
        let moving_slots = self.moving.values().map(|moving| u64::from(moving.slots.count)).sum();
        Usage {
            max_flows: state.capacity.flows.into(),
            established,
            embryonic,
            expired: [Table::Established, Table::Embryonic].map(|table| sweeps.deleted(table)),
            refused,
            cut: sweeps.cut(),
            settled_slots: slots.saturating_sub(moving_slots),
            moving_slots,
            sweep: self.swept.as_ref().map(|swept| swept.elapsed),
        }
    }

    /// Established and embryonic entries, as of the last sweep.
    pub fn entries(&self) -> [u64; 2] {
        self.swept.as_ref().map_or([0; 2], |swept| swept.entries)
    }

    /// Whether a sweep has been applied that began after as many.
    fn has_swept_since(&self, sweeps: u64) -> bool {
        self.swept.as_ref().is_some_and(|swept| swept.number > sweeps)
    }
}
