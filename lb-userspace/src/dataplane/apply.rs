//! A plan, carried out: in the maps that are in use, or in those of a new generation, to which the links are handed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{Slot, VipFlags};
use log::debug;

use super::{
    Dataplane, Error,
    execute::execute,
    generation::{Draft, Generation},
    globals::Globals,
    grace::grace,
    maps::{self, Carrying},
    place::remove_tree,
};
use crate::{
    fault,
    model::Config,
    plan::{Capacity, Change, InForce, Plan, State, Step},
};

/// What an apply did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// In the words of the config.
    pub changes: Vec<Change>,
    /// Map entries written or deleted; a slot counts as one.
    pub writes: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// When the last map was written.
    pub finished: Instant,
}

impl Dataplane {
    /// Makes the maps hold `config`.
    ///
    /// # Errors
    ///
    /// The kernel refuses a write. After a write that failed half-way the maps hold part of
    /// the change; the next apply, of this or any other config, starts from there in new maps.
    pub fn apply(&mut self, config: &Config) -> Result<Applied, Error> {
        let started = Instant::now();
        self.settle()?;
        self.forget_gone_devices()?;
        let mut plan = self.plan(config);
        self.in_force = None;
        let mut writes = match plan.rebuild() {
            Some(capacity) => self.rebuild(&plan, capacity),
            None => self.apply_in_place(&plan),
        };
        if let Err(Error::NoPlace { map }) = writes {
            // In new maps, with more room. Of what the plan says, some is done by now.
            let (capacity, suspect) = (self.state.capacity, self.state.suspect);
            let state = Arc::make_mut(&mut self.state);
            state.suspect = true;
            state.capacity = plan.rebuild().unwrap_or(capacity).with_room_in(map);
            let changes = plan.into_changes();
            plan = self.plan(config).saying(changes);
            let larger = plan.rebuild().expect("what is suspect is made anew");
            writes = self.rebuild(&plan, larger);
            if writes.is_err() && self.state.capacity != larger {
                // The maps in use are those that they were.
                let state = Arc::make_mut(&mut self.state);
                (state.capacity, state.suspect) = (capacity, suspect);
            }
        }
        let writes = writes?;
        self.in_force = Some(Arc::new(InForce::by(&plan, config.clone())));
        self.forget_unused_ways();
        let finished = Instant::now();
        Ok(Applied { changes: plan.into_changes(), writes, elapsed: finished - started, finished })
    }

    /// Does steps that no config asks for: they free what the config does not have any more. Nobody follows the ways to
    /// that from now on.
    ///
    /// # Errors
    ///
    /// The kernel refuses a write.
    pub fn carry_out(&mut self, steps: &[Step]) -> Result<(), Error> {
        // The mirror is copied for whoever has a view of it.
        // What is freed before all counts are here would leave its own behind.
        if steps.is_empty() || self.generation.maps.journal().carrying.is_some() {
            return Ok(());
        }
        let freed = steps.iter().filter_map(|step| match step {
            Step::FreeBackend { id, .. } => self.state.target(self.state.backends().get(id)?),
            _ => None,
        });
        let freed = freed.collect();
        execute(&mut self.generation.maps, Arc::make_mut(&mut self.state), steps, None)?;
        self.forget(freed)
    }

    /// Writes slots as a sweep leaves them: each by its index. Those that there is no room for stay as they are until
    /// the next sweep: they move for longer than they would have to.
    pub fn put_slots(&mut self, slots: &[(u32, Slot)]) {
        let maps = &self.generation.maps;
        let left = slots.iter().filter(|(index, slot)| maps.put_slot(*index, *slot).is_err()).count();
        if left > 0 {
            debug!("{left} slots stay as they are for want of room");
        }
    }

    pub(super) fn replace_program(&mut self, globals: Globals) -> Result<(), Error> {
        self.generation.replace_program(globals)?;
        let state = Arc::make_mut(&mut self.state);
        (state.features, state.icmp_rate) = (globals.features, globals.icmp_rate);
        if state.seed != globals.seed {
            state.seed = globals.seed;
            self.writes.rehashed = true;
        }
        self.links.hand_to(self.generation.program()?).map(drop)
    }

    fn apply_in_place(&mut self, plan: &Plan) -> Result<usize, Error> {
        // A feature that is needed comes before what needs it, one that is not goes after what needed it.
        if let Some(features) = plan.features().filter(|features| !self.state.features.contains(*features)) {
            let features = self.state.features.with(features);
            self.replace_program(Globals { features, ..Globals::of(&self.state) })?;
        }
        let mut writes = 0;
        if !plan.steps().is_empty() {
            self.note_applying(true);
            let executed = execute(&mut self.generation.maps, Arc::make_mut(&mut self.state), plan.steps(), None);
            // Even if it broke off: what a sweep found is not about tables that were written since.
            self.note_steps(plan.steps());
            writes = executed?;
            self.note_applying(false);
        }
        let wanted = self.wanted_globals(plan);
        if wanted != Globals::of(&self.state) {
            self.replace_program(wanted)?;
        }
        Ok(writes)
    }

    /// What the program is loaded with once a plan is carried out.
    pub(super) fn wanted_globals(&self, plan: &Plan) -> Globals {
        let Globals { features, seed, icmp_rate } = Globals::of(&self.state);
        Globals {
            features: plan.features().unwrap_or(features),
            seed: plan.seed().unwrap_or(seed),
            icmp_rate: plan.icmp_rate().unwrap_or(icmp_rate),
        }
    }

    /// Takes note of what the steps did to tables, and of what they removed.
    fn note_steps(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::PutTable { base, .. } => {
                    self.counted.forget(*base);
                    self.writes.tables.insert(*base);
                }
                Step::PutVip { record, .. } => self.writes.removed |= record.flags.contains(VipFlags::REMOVED),
                Step::PutBackend { entry, .. } => self.writes.removed |= entry.is_removed(),
                _ => {}
            }
        }
    }

    /// In the journal and in the mirror: a state in between is not to be built on.
    pub(super) fn note_applying(&mut self, applying: bool) {
        fault::point(if applying { "note that an apply begins" } else { "note that an apply has ended" });
        let maps = &self.generation.maps;
        maps.note(maps::Journal { applying, ..maps.journal() });
        Arc::make_mut(&mut self.state).suspect = applying;
    }

    /// Makes the next generation, fills it, and hands the links over. Until then the old one is untouched.
    pub(super) fn rebuild(&mut self, plan: &Plan, capacity: Capacity) -> Result<usize, Error> {
        let globals = self.wanted_globals(plan);
        let number = self.generation.number() + 1;
        debug!("generation {number} is made for {capacity:?}");
        self.may_have_others = true;
        let filled = self.fill(number, plan, capacity, globals);
        let (generation, state, writes) = match filled {
            Ok(filled) => filled,
            Err(error) => {
                self.generation.maps.intakes().reopen();
                // The error at hand says more than that of cleaning up would.
                let _ = remove_tree(&self.place.generation(number));
                return Err(error);
            }
        };
        self.writes.refused |= !generation.maps.shares_flows_with(&self.generation.maps);
        self.generation = generation;
        self.state = Arc::new(state);
        self.counted = Arc::default();
        self.writes.generation = true;
        self.settle().map(|()| writes)
    }

    pub(super) fn fill(
        &self,
        number: u32,
        plan: &Plan,
        capacity: Capacity,
        globals: Globals,
    ) -> Result<(Generation, State, usize), Error> {
        let before = &self.generation.maps;
        let mut draft = Draft::new(&self.place, number, capacity, globals, |pins| before.keep_in(pins, capacity))?;
        let mut state = State::empty(capacity, globals.features);
        (state.seed, state.icmp_rate) = (globals.seed, globals.icmp_rate);
        let writes = execute(&mut draft.maps, &mut state, plan.steps(), Some(before))?;
        draft.maps.carry_own_macs_from(before);
        before.drains().into_iter().filter(|(id, _)| *id < capacity.backends).for_each(|(id, since)| {
            draft.maps.note_drain(id, since);
        });
        fault::point("carry flows");
        if !draft.maps.shares_flows_with(before) {
            before.intakes().shut();
            grace();
            draft.maps.carry_flows_from(before);
        }
        draft.maps.carry_refusals_from(before)?;
        Ok((draft.finish(Some(Carrying::Generation), false)?, state, writes))
    }
}
