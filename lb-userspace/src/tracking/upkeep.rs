//! What is known of flows and of the slots that move, and what is done about it between two changes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use lb_common::FlowOutcome;

use super::{
    Error, GIVEN_UP_AFTER, MovingSlots, Sweep, Swept, View,
    moving::Moving,
    rules::{self, after_sweep},
};
use crate::{
    cpus,
    dataplane::{self, Dataplane, Table, Writes},
    plan::{Entry, State},
};

/// Keeps the flow tables and the slots that move in order. What it knows is of one data plane, which it follows: each
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
}

impl Upkeep {
    /// What the maps say of a data plane of which nobody has kept the slots that move in order so far.
    pub fn of(dataplane: &mut Dataplane) -> Self {
        let mut upkeep = Self { moving: Arc::default(), sweeps: 0, removal: 0, swept: None, downs: Arc::default() };
        upkeep.follow(dataplane);
        upkeep
    }

    /// What is known now, for whoever reads.
    pub fn view(&self) -> View {
        View { moving: Arc::clone(&self.moving), swept: self.swept.clone(), downs: Arc::clone(&self.downs) }
    }

    /// Takes note of what the data plane has written since the last call. To be called after each change; a sweep that
    /// was begun before says nothing about what was written since.
    pub fn follow(&mut self, dataplane: &mut Dataplane) {
        let Writes { tables, removed, rehashed, generation } = dataplane.take_writes();
        if generation {
            self.swept = None;
            self.moving = Arc::default();
        }
        if removed {
            self.removal = self.sweeps;
        }
        if rehashed {
            // A sweep that is under way looks for flows on slots that they are no longer on.
            Arc::make_mut(&mut self.moving).values_mut().for_each(|moving| moving.since = self.sweeps);
        }
        if generation || !tables.is_empty() {
            self.find_moving(dataplane, |base| generation || tables.contains(&base));
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
    ///
    /// # Errors
    ///
    /// The kernel does not let counters be read.
    pub fn sweep(&mut self, dataplane: &mut Dataplane) -> Result<Sweep, Error> {
        self.follow(dataplane);
        self.sweeps += 1;
        self.note_downs(dataplane.state());
        let is_given_up = |id| self.is_given_up(dataplane.state(), id);
        Sweep::new(self.sweeps, &dataplane.view(), is_given_up)
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
        self.free(dataplane, &swept)?;
        self.settle_slots(dataplane, &swept);
        note_evictions(&dataplane.view(), &swept)?;
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
            if moving.since >= swept.number || !rules::is_due(&moving.slots, now, idle, is_given_up) {
                continue;
            }
            let after = |index: u32| {
                let slot = slots.at(index).filter(|slot| slot.is_moving())?;
                let given_up = !slot.is_settling() && is_given_up(slot.settled_owner());
                let after = after_sweep(slot, swept.is_pinned(index), now, idle, given_up);
                (after != slot).then_some((index, after))
            };
            let changed: Vec<_> = (base..base + count).filter_map(after).collect();
            if changed.is_empty() {
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

/// Entries that were made, are not there and were not taken out have given way to others.
fn note_evictions(dataplane: &dataplane::View, swept: &Swept) -> Result<(), Error> {
    let sweeps = dataplane.sweeps();
    let promoted = dataplane.flow_packets(FlowOutcome::Promoted)?;
    for (table, moved_on) in [(Table::Established, 0), (Table::Embryonic, promoted)] {
        let accounted = sweeps.deleted(table) + swept.entries[table as usize] + moved_on;
        sweeps.note_evicted(table, swept.inserted[table as usize].saturating_sub(accounted));
    }
    Ok(())
}
