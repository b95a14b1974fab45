//! What is known of flows and of the slots that move, and what is done about it between two changes.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use lb_common::NO_ID;
use log::info;

use super::{
    Error, GIVEN_UP_AFTER, MovingSlots, Sweep, Swept, View,
    moving::Moving,
    rules::{self, Rules, after_sweep},
    shares,
};
use crate::{
    cpus,
    dataplane::{self, Dataplane, Writes},
    plan::{Entry, State},
};

/// Keeps the flow table and the slots that move in order. What it knows is of one data plane, which it follows: each
/// call is to be given the same.
pub struct Upkeep {
    /// First slot of every table with slots that move.
    moving: Arc<HashMap<u32, Moving>>,
    /// Sweeps that were begun.
    sweeps: u64,
    /// As many as had been begun when a VIP or a backend was last removed.
    removal: u64,
    /// What the last one found.
    swept: Option<Arc<Swept>>,
    /// Backends that are down, and when a sweep first met them so.
    downs: Arc<HashMap<u32, Instant>>,
    /// By VIP id: when a sweep last met flows that had been refused. A daemon that begins takes all refusals for those of
    /// just now.
    refusals: Arc<HashMap<u32, Instant>>,
    /// By backend id: when each that takes no new flows was first met so, in seconds of the monotonic clock.
    drains: Arc<HashMap<u32, u64>>,
    /// By VIP id: its entries, as of the last sweep before the maps became others.
    entries: Vec<u64>,
}

impl Upkeep {
    /// What the maps say of a data plane of which nobody has kept the slots that move in order so far.
    pub fn of(dataplane: &mut Dataplane) -> Self {
        let mut upkeep = Self {
            moving: Arc::default(),
            sweeps: 0,
            removal: 0,
            swept: None,
            downs: Arc::default(),
            refusals: Arc::default(),
            drains: Arc::new(dataplane.drains()),
            entries: Vec::new(),
        };
        upkeep.follow(dataplane);
        upkeep
    }

    /// What is known now, for whoever reads.
    pub fn view(&self) -> View {
        View {
            moving: Arc::clone(&self.moving),
            swept: self.swept.clone(),
            downs: Arc::clone(&self.downs),
            refusals: Arc::clone(&self.refusals),
            drains: Arc::clone(&self.drains),
        }
    }

    /// Takes note of what the data plane has written since the last call. To be called after each change; a sweep that
    /// was begun before says nothing about what was written since.
    pub fn follow(&mut self, dataplane: &mut Dataplane) {
        let Writes { tables, removed, rehashed, generation, refused } = dataplane.take_writes();
        if generation {
            if let Some(swept) = self.swept.take() {
                self.entries.clone_from(&swept.by_vip);
            }
            self.moving = Arc::default();
        }
        if refused {
            let now = Instant::now();
            let vips = dataplane.state().vips().keys();
            Arc::make_mut(&mut self.refusals).extend(vips.map(|vip| (*vip, now)));
        }
        if removed {
            self.removal = self.sweeps;
        }
        if rehashed {
            // A sweep that is under way looks for flows on slots that they are no longer on.
            Arc::make_mut(&mut self.moving).values_mut().for_each(|moving| moving.since = self.sweeps);
        }
        if generation || !tables.is_empty() {
            let is_written = |base| generation || tables.contains(&base);
            self.find_moving(dataplane, is_written);
            self.admit_new(&dataplane.view());
            self.note_drains(dataplane, is_written);
        }
        if (removed || !tables.is_empty()) && !self.moving.is_empty() {
            // Tables that lie elsewhere now, or that no VIP has any more.
            let served: HashSet<u32> = dataplane.state().served_vips().map(|(_, record)| record.slot_base).collect();
            if self.moving.keys().any(|base| !served.contains(base)) {
                Arc::make_mut(&mut self.moving).retain(|base, _| served.contains(base));
            }
        }
    }

    /// A sweep to be run on whichever thread, and then to be applied.
    pub fn sweep(&mut self, dataplane: &mut Dataplane) -> Sweep {
        self.follow(dataplane);
        self.note_downs(dataplane.state());
        self.note_drains(dataplane, |_| true);
        self.end_drains(dataplane);
        self.sweeps += 1;
        let wait = dataplane.begin_wait();
        let state = dataplane.state();
        let entries: u64 = self.swept.as_ref().map_or(0, |swept| swept.entries.iter().sum());
        let is_crowded = entries > u64::from(state.capacity.flows) / 2;
        let is_given_up = |id| self.is_given_up(state, id);
        let moves = |base| self.moving.contains_key(&base);
        let is_cut = |id| self.is_cut(state, id);
        let rules = Rules::new(state, is_given_up, is_cut, moves, is_crowded, dataplane::now());
        Sweep::new(self.sweeps, &dataplane.view(), wait, rules, self.swept.clone())
    }

    /// Acts on what a sweep found: settles slots on which no flow is that could break, and frees removed VIPs and
    /// backends that have no flow any more.
    ///
    /// # Errors
    ///
    /// The kernel refuses a write.
    pub fn apply_sweep(&mut self, dataplane: &mut Dataplane, swept: Swept) -> Result<(), Error> {
        self.follow(dataplane);
        // Other tables than those that were swept.
        if swept.generation != dataplane.generation() {
            return Ok(());
        }
        dataplane.end_wait(swept.wait);
        self.note_refusals(&swept);
        for (id, cut) in &swept.cut {
            if let Some(entry) = dataplane.state().backends().get(id) {
                let vip = dataplane.state().vips().get(&entry.vip).map(|record| record.name.as_str().to_owned());
                let (vip, address) = (vip.unwrap_or_default(), IpAddr::from(entry.address));
                info!("vip {vip}: backend {address}: the deadline of its drain has passed: {cut} flows are cut");
            }
        }
        self.free(dataplane, &swept)?;
        self.settle_slots(dataplane, &swept);
        self.swept = Some(Arc::new(swept));
        Ok(())
    }

    /// Takes note of the slots that move of the tables in use that begin at a slot that is `wanted`.
    fn find_moving(&mut self, dataplane: &Dataplane, wanted: impl Fn(u32) -> bool) {
        let (slots, now) = (dataplane.slots(), dataplane::now());
        let tables = dataplane.state().served_vips().map(|(_, record)| (record.slot_base, record.slots));
        let tables: Vec<_> = tables.filter(|(base, _)| wanted(*base)).collect();
        // After a change of all of them these are hundreds of megabytes for thousands of VIPs.
        let found = cpus::map(&tables, 100, |(base, count)| MovingSlots::of(&slots, *base, *count, now));
        for ((base, _), moving) in tables.into_iter().zip(found) {
            if moving != MovingSlots::default() {
                let moving = Moving { since: self.sweeps, slots: moving };
                Arc::make_mut(&mut self.moving).insert(base, moving);
            } else if self.moving.contains_key(&base) {
                Arc::make_mut(&mut self.moving).remove(&base);
            }
        }
    }

    /// Frees what was removed before a sweep that found no flow of it, and what no slot holds for flows without an
    /// entry.
    fn free(&mut self, dataplane: &mut Dataplane, swept: &Swept) -> Result<(), Error> {
        let state = dataplane.state();
        // What was served or in use again meanwhile may have flows that the sweep could not find.
        if self.removal >= swept.number || !state.has_removed() {
            return Ok(());
        }
        let holds = |slot_base, id| {
            let holds = |moving: &Moving| moving.since >= swept.number || moving.slots.held.contains_key(&id);
            self.moving.get(&slot_base).is_some_and(holds)
        };
        let (vips, backends) = rules::freeable(state, swept, holds);
        let steps = state.frees(&vips, &backends);
        Ok(dataplane.carry_out(&steps)?)
    }

    /// Lets slots age, and settles those that only flows in the tables kept from it, of which there are none.
    fn settle_slots(&mut self, dataplane: &mut Dataplane, swept: &Swept) {
        if self.moving.is_empty() {
            return;
        }
        let (slots, now) = (dataplane.slots(), dataplane::now());
        let idle = rules::idle_times(dataplane.state());
        let down = self.downs.keys().copied().filter(|id| self.is_given_up(dataplane.state(), *id));
        let given_up: HashSet<u32> = down.collect();
        let is_given_up = |id: u32| given_up.contains(&id);
        let all_moving = Arc::make_mut(&mut self.moving);
        let tables = dataplane.state().served_vips().map(|(id, record)| (id, record.slot_base, record.slots));
        let tables: Vec<_> = tables.filter(|(_, base, _)| all_moving.contains_key(base)).collect();
        for (id, base, count) in tables {
            let Some(moving) = all_moving.get_mut(&base) else { continue };
            let idle = idle.get(&id).copied().unwrap_or_default();
            // What was found is not about the table as it is now; or there is nothing to do yet, and most of the time
            // there is not.
            let quiet = self.refusals.get(&id).map_or(u16::MAX, |at| rules::ticks_since(*at));
            if moving.since >= swept.number || !rules::is_due(&moving.slots, now, idle, quiet, is_given_up) {
                continue;
            }
            let after = |index: u32| {
                let slot = slots.at(index).filter(|slot| slot.is_moving())?;
                let given_up = !slot.is_settling() && is_given_up(slot.settled_owner());
                let after = after_sweep(slot, swept.is_pinned(index), now, idle, quiet, given_up);
                (after != slot).then_some((index, after))
            };
            let changed: Vec<_> = (base..base + count).filter_map(after).collect();
            // A flow that was refused since the sweep counted is none that has an entry, and none from before the change.
            let is_refused =
                |counted: &u64| dataplane.view().intakes().refused(id).is_ok_and(|refused| refused != *counted);
            if changed.is_empty() || swept.refused.get(&id).is_some_and(is_refused) {
                continue;
            }
            dataplane.put_slots(&changed);
            let holders = moving.slots.held.len();
            moving.slots = MovingSlots::of(&slots, base, count, now);
            if moving.slots.held.len() < holders {
                // Until this moment flows could be entered for whoever held slots: the sweep may have missed them.
                moving.since = swept.number;
            }
        }
        all_moving.retain(|_, moving| moving.slots.count > 0);
    }

    /// Lets VIPs that no sweep has met in these maps enter what they are guaranteed, less what they had.
    fn admit_new(&self, dataplane: &dataplane::View) {
        let state = dataplane.state();
        let tracked = state.vips().iter().filter_map(|(id, record)| rules::is_tracked(record).then_some(*id));
        let vips: Vec<_> = tracked.collect();
        let guaranteed = shares::guaranteed(state.capacity.flows.into(), vips.len() as u64);
        let cpus = dataplane::online_cpus();
        for vip in vips.into_iter().filter(|vip| !dataplane.intakes().is_met(*vip)) {
            let entries = self.entries.get(vip as usize).copied().unwrap_or(0);
            dataplane.intakes().allow(vip, shares::of_each_cpu(guaranteed.saturating_sub(entries), cpus));
        }
    }

    /// Takes note of the VIPs that flows were refused of since the sweep before.
    fn note_refusals(&mut self, swept: &Swept) {
        let before = self.swept.as_ref().map(|swept| &swept.refused);
        for (vip, refused) in &swept.refused {
            let known = before.and_then(|before| before.get(vip)).copied().unwrap_or(0);
            // Fewer than before are those of another VIP, which has the id of one that is gone.
            if *refused > known {
                Arc::make_mut(&mut self.refusals).insert(*vip, Instant::now());
            }
        }
    }

    /// Takes note of who takes no new flows, and since when, of the VIPs whose tables begin where `wanted` says; also where
    /// another daemon will find it. Who is down has no flows that could be left to him.
    fn note_drains(&mut self, dataplane: &Dataplane, wanted: impl Fn(u32) -> bool) {
        // Rounded up: none is cut before its time.
        let (state, now) = (dataplane.state(), dataplane::seconds() + 1);
        let is_over = |id: &u32| !state.backends().get(id).is_some_and(rules::is_draining);
        let over: Vec<u32> = self.drains.keys().copied().filter(is_over).collect();
        let vips = state.vips().iter().filter(|(_, record)| wanted(record.slot_base));
        let backends = vips.flat_map(|(vip, _)| state.backends_of(*vip));
        let new = backends.filter(|(id, entry)| rules::is_draining(entry) && !self.drains.contains_key(id));
        let new: Vec<u32> = new.map(|(id, _)| id).collect();
        if over.is_empty() && new.is_empty() {
            return;
        }
        // Where the same server is reached in another way from now on, it drains as long as it did.
        let earlier: HashMap<u32, u64> = self
            .drains
            .iter()
            .filter_map(|(id, since)| Some((state.backends().get(id)?.successor, *since)))
            .filter(|(successor, _)| *successor != NO_ID)
            .collect();
        let known = Arc::make_mut(&mut self.drains);
        for id in over {
            known.remove(&id);
            if id < state.capacity.backends {
                dataplane.note_drain(id, 0);
            }
        }
        for id in new {
            let since = earlier.get(&id).copied().unwrap_or(now);
            known.insert(id, since);
            dataplane.note_drain(id, since);
        }
    }

    /// What flows have no entry are no longer those of drains whose deadline has passed: so the sweep that comes takes
    /// out all that there are.
    fn end_drains(&mut self, dataplane: &mut Dataplane) {
        let (slots, now) = (dataplane.slots(), dataplane::now());
        let tables: Vec<_> =
            dataplane.state().served_vips().map(|(_, record)| (record.slot_base, record.slots)).collect();
        for (base, count) in tables {
            let Some(moving) = self.moving.get(&base) else { continue };
            let cut: HashSet<u32> =
                moving.slots.held.keys().copied().filter(|id| self.is_cut(dataplane.state(), *id)).collect();
            if cut.is_empty() {
                continue;
            }
            let after = |index: u32| {
                let slot = slots.at(index)?;
                let is_held = slot.is_moving() && !slot.is_settling() && cut.contains(&slot.settled_owner());
                is_held.then(|| (index, slot.aged(now, 0, 0)))
            };
            let changed: Vec<_> = (base..base + count).filter_map(after).collect();
            dataplane.put_slots(&changed);
            let moving = Moving { since: self.sweeps, slots: MovingSlots::of(&slots, base, count, now) };
            Arc::make_mut(&mut self.moving).insert(base, moving);
        }
    }

    /// Whether the deadline of a backend's drain has passed.
    fn is_cut(&self, state: &State, id: u32) -> bool {
        let Some(entry) = state.backends().get(&id).filter(|entry| entry.drain_deadline > 0) else { return false };
        let since = self.drains.get(&id).filter(|_| rules::is_draining(entry));
        since.is_some_and(|since| dataplane::seconds().saturating_sub(*since) >= entry.drain_deadline.into())
    }

    /// Takes note of who is down, and since when.
    fn note_downs(&mut self, state: &State) {
        let now = Instant::now();
        let is_down = |id: &u32| state.backends().get(id).is_some_and(Entry::is_down);
        let downs = Arc::make_mut(&mut self.downs);
        downs.retain(|id, _| is_down(id));
        for (id, _) in state.backends().iter().filter(|(_, entry)| entry.is_down()) {
            downs.entry(*id).or_insert(now);
        }
    }

    /// Whether a backend's flows are over for good: it has been down for long, or was removed while it was.
    fn is_given_up(&self, state: &State, id: u32) -> bool {
        let Some(entry) = state.backends().get(&id).filter(|entry| entry.is_down()) else { return false };
        entry.is_removed() || self.downs.get(&id).is_some_and(|since| since.elapsed() >= GIVEN_UP_AFTER)
    }
}
