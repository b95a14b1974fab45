//! The kernel's side of the daemon: programs, links and maps, pinned so that they outlive it.
//!
//! Everything lies under `<bpffs>/v<ABI>/`: `links/<interface>`, and one directory per generation with `maps/<NAME>`
//! and `program`. A daemon that starts adopts what is there. Whatever point a daemon is killed at, what is pinned
//! forwards packets, and the next daemon finishes or repeats what was begun.
//!
//! All calls are synchronous, and belong in the network namespace of the interfaces.

mod btf;
mod error;
#[cfg(test)]
pub(crate) mod fixtures;
mod flows;
mod generation;
mod interface;
mod links;
mod losses;
mod maps;
mod own_macs;
mod place;
mod sys;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::{HashMap, HashSet},
    mem,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use aya_log::EbpfLogger;
use lb_common::{Features, NextHop, NextHopCell, VipFlags};
use log::{Log, debug, info};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

pub(crate) use self::place::{DECAP, remove_tree};
pub use self::{
    error::Error,
    flows::{FlowTable, FlowTables},
    interface::named as interface_named,
    links::{Attachment, Links, Mode, Pinned, ProgramRef, attached, detach_pinned, pinned},
    losses::{Interfaces as LossInterfaces, LossCounts, Losses, LossesError, LostFrames},
    maps::{MapUsage, Slots, Sweeps, Table},
    own_macs::{LeftOut, OwnMacs},
    place::{detach_everything, detach_interface, interface_of, make_directories, mount_if_missing, names, pin_name},
    sys::now,
    view::{Backend, BackendCounts, BackendSlots, Counts, View},
};
use self::{
    generation::{Draft, Generation, Globals},
    maps::Maps,
    place::Place,
    view::SlotCounts,
};
use crate::{
    config::{Config, XdpMode},
    fault,
    plan::{Capacity, Change, Destination, NextHops, Plan, PlanError, State, Step, required_features},
};

/// Stands in for a grace period where the kernel does not offer one: it bounds nothing, but the program takes
/// microseconds, and an interrupted one resumes within a scheduler tick or two.
const GRACE: Duration = Duration::from_millis(20);

/// The data plane, held by this process.
pub struct Dataplane {
    place: Place,
    generation: Generation,
    links: Links,
    /// The maps, mirrored. This and what else is counted by reference is what a [`View`] shares: a change copies it
    /// first if a view has it.
    state: Arc<State>,
    /// The config that they hold, once this daemon has applied one.
    settled: Option<Arc<Config>>,
    /// What [`Self::set_next_hops`] said of destinations that some backend has.
    next_hops: Arc<NextHops>,
    /// Backends whose next hop changed since the last grace period, and the interface that frames left by until then:
    /// a packet on its way may still be reading the one and redirected to the other.
    flips: HashMap<u32, Option<u32>>,
    /// Slots by backend, of the tables that were counted since they were written.
    counted: Arc<SlotCounts>,
    /// What was written since it was last taken.
    writes: Writes,
}

/// What was written to the maps, as far as it concerns who keeps the flow tables and the slots that move in order.
#[derive(Debug, Default)]
pub struct Writes {
    /// First slots of the tables that were written.
    pub tables: HashSet<u32>,
    /// A VIP or a backend was removed.
    pub removed: bool,
    /// Another hash seed has put flows on other slots.
    pub rehashed: bool,
    /// Everything is in the maps of another generation.
    pub generation: bool,
}

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
    /// Takes the data plane pinned under `bpffs`, adopting what runs there; where nothing does, makes one that is large
    /// enough for `config` and empty.
    ///
    /// # Errors
    ///
    /// Another daemon has it ([`Error::Held`]), `bpffs` is not on a bpf file system, or the kernel refuses something.
    pub fn open(bpffs: &Path, config: &Config) -> Result<Self, Error> {
        raise_memory_limit();
        let place = Place::take(bpffs)?;
        let links = Links::open(bpffs, place.links())?;
        let generation = match newest(&place)? {
            Some(generation) => generation,
            None => {
                let capacity = Capacity::with_headroom(Capacity::needed(config)?, &config.node);
                let globals = Globals { features: required_features(config), seed: config.node.hash_seed };
                Draft::new(&place, 1, capacity, globals, None)?.finish(false)?
            }
        };
        let state = generation.maps.read()?;
        let next_hops = state
            .backends
            .values()
            .filter_map(|entry| state.destination(entry).zip(entry.next_hop.current().copied()))
            .collect();
        let mut dataplane = Self {
            place,
            next_hops: Arc::new(next_hops),
            generation,
            links,
            state: Arc::new(state),
            settled: None,
            flips: HashMap::new(),
            counted: Arc::default(),
            writes: Writes::default(),
        };
        dataplane.resume(config)?;
        Ok(dataplane)
    }

    /// The data plane as it is now, for whoever reads while this goes on.
    pub fn view(&self) -> View {
        let maps = &self.generation.maps;
        View {
            generation: self.generation.number(),
            state: Arc::clone(&self.state),
            settled: self.settled.clone(),
            next_hops: Arc::clone(&self.next_hops),
            counted: Arc::clone(&self.counted),
            readings: Arc::clone(maps.readings()),
            slots: Arc::clone(maps.slots()),
            sweeps: Arc::clone(maps.sweeps()),
            flows: maps.flows().clone(),
        }
    }

    /// What [`Self::apply`] would do. Changes nothing.
    ///
    /// # Errors
    ///
    /// The config exceeds its own limits.
    pub fn plan(&self, config: &Config) -> Result<Plan, PlanError> {
        self.view().plan(config)
    }

    /// The backends that run, those included that were removed and have flows.
    pub fn backends(&self) -> Vec<Backend> {
        self.view().backends()
    }

    /// Everything that was counted.
    ///
    /// # Errors
    ///
    /// The kernel does not let a map be read.
    pub fn counters(&self) -> Result<Counts, Error> {
        self.view().counters()
    }

    /// The flow tables, to be read at leisure.
    pub fn flow_tables(&self) -> FlowTables {
        self.generation.maps.flows().clone()
    }

    /// The slots of all tables, as they are when they are read.
    pub fn slots(&self) -> Arc<Slots> {
        Arc::clone(self.generation.maps.slots())
    }

    /// Which generation of the maps is in use.
    pub fn generation(&self) -> u32 {
        self.generation.number()
    }

    /// What was written since the last call.
    pub fn take_writes(&mut self) -> Writes {
        mem::take(&mut self.writes)
    }

    /// What the maps hold.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What the loaded program is able to do.
    pub fn features(&self) -> Features {
        self.state.features
    }

    /// Where the backends are that were removed and have flows.
    pub fn removed_destinations(&self) -> impl Iterator<Item = Destination> {
        self.state.removed_backends().filter_map(|(_, entry)| self.state.destination(entry))
    }

    /// Makes the maps hold `config`.
    ///
    /// # Errors
    ///
    /// The config does not fit, or the kernel refuses a write. After a write that failed half-way the maps hold part of
    /// the change; the next apply, of this or any other config, starts from there in new maps.
    pub fn apply(&mut self, config: &Config) -> Result<Applied, Error> {
        let started = Instant::now();
        self.settle()?;
        self.forget_gone_devices()?;
        let plan = self.plan(config)?;
        self.settled = None;
        let writes = match plan.rebuild() {
            Some(capacity) => self.rebuild(&plan, capacity)?,
            None => self.apply_in_place(&plan)?,
        };
        self.settled = Some(Arc::new(config.clone()));
        self.forget_unused_ways();
        let finished = Instant::now();
        Ok(Applied { changes: plan.into_changes(), writes, elapsed: finished - started, finished })
    }

    /// Says where frames to these destinations go from now on, `None` for nowhere; other destinations stay as they are.
    /// Returns the number of backends that it concerned.
    ///
    /// # Errors
    ///
    /// The kernel refuses an interface as the target of redirects.
    pub fn set_next_hops(
        &mut self,
        next_hops: impl IntoIterator<Item = (Destination, Option<NextHop>)>,
    ) -> Result<usize, Error> {
        let mut known: HashMap<Destination, Option<NextHop>> = next_hops.into_iter().collect();
        for (destination, next_hop) in &mut known {
            if let Some(NextHop { ifindex, .. }) = *next_hop
                && !self.generation.maps.put_device(ifindex)?
            {
                debug!("interface {ifindex} on the way to {} is gone", destination.address);
                *next_hop = None;
            }
            match *next_hop {
                Some(next_hop) if self.next_hops.get(destination) == Some(&next_hop) => {}
                Some(next_hop) => drop(Arc::make_mut(&mut self.next_hops).insert(*destination, next_hop)),
                None if !self.next_hops.contains_key(destination) => {}
                None => drop(Arc::make_mut(&mut self.next_hops).remove(destination)),
            }
        }
        let concerned = |(id, entry): (&u32, &lb_common::Backend)| {
            let next_hop = *known.get(&self.state.destination(entry)?)?;
            (entry.next_hop.current().copied() != next_hop).then_some((*id, next_hop))
        };
        let concerned: Vec<_> = self.state.backends.iter().filter_map(concerned).collect();
        self.flip(&concerned);
        self.keep_used_devices()?;
        Ok(concerned.len())
    }

    /// Says which MAC addresses frames for this host have, by the interface that they come in by, and no others; frames
    /// that come in by an interface without any are all taken. Returns those that there is no room for.
    pub fn set_own_macs(&mut self, macs: &OwnMacs) -> Vec<LeftOut> {
        self.generation.maps.put_own_macs(macs)
    }

    /// Attaches the program to an interface, or keeps what is attached.
    ///
    /// # Errors
    ///
    /// Another program occupies the interface ([`Error::Occupied`]), or it refuses this one.
    pub fn attach(&mut self, name: &str, ifindex: u32, mode: XdpMode) -> Result<Attachment, Error> {
        self.links.attach(name, ifindex, mode, self.generation.program()?)
    }

    /// Detaches the program from an interface; `false` if it was not attached.
    ///
    /// # Errors
    ///
    /// The pin cannot be removed.
    pub fn detach(&mut self, name: &str) -> Result<bool, Error> {
        self.links.detach(name)
    }

    /// The interfaces that the program is attached to, by name. One that is gone stays in the list until it is detached
    /// or attached anew.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.links.attachments().cloned().collect()
    }

    /// Does steps that no config asks for: settles slots, and frees what the config does not have any more. Nobody
    /// follows the ways to what was freed from now on.
    ///
    /// # Errors
    ///
    /// The kernel refuses a write.
    pub fn carry_out(&mut self, steps: &[Step]) -> Result<(), Error> {
        let freed = steps.iter().filter_map(|step| match step {
            Step::FreeBackend { id, .. } => self.state.destination(self.state.backends.get(id)?),
            _ => None,
        });
        let freed = freed.collect();
        execute(&mut self.generation.maps, Arc::make_mut(&mut self.state), steps, None)?;
        self.forget(freed)
    }

    /// What reads the messages of the loaded program, until an apply loads another one.
    ///
    /// # Errors
    ///
    /// The kernel does not give the ring buffer.
    pub fn logger(&self) -> Result<EbpfLogger<&'static dyn Log>, Error> {
        self.generation.logger()
    }

    /// Id of the loaded program. An apply may load another one: compare after each.
    ///
    /// # Errors
    ///
    /// The program is not loaded.
    pub fn program_id(&self) -> Result<u32, Error> {
        Ok(self.generation.program()?.id)
    }

    /// Finishes what another daemon began, and puts the embedded program in place of another version's.
    fn resume(&mut self, config: &Config) -> Result<(), Error> {
        if !self.generation.program_is_current() {
            info!("the pinned program is another version's: it is replaced");
            let features = self.state.features_in_use().with(required_features(config));
            self.replace_program(Globals { features, seed: self.state.seed })?;
        }
        self.settle()
    }

    /// Everything runs this generation and nothing is left of others: what a handover ends with, and what is caught up
    /// on if it did not.
    fn settle(&mut self) -> Result<(), Error> {
        self.links.hand_to(self.generation.program()?)?;
        self.finish_carrying()?;
        remove_all_but(&self.place, self.generation.number())
    }

    /// Takes over the counts of the generation before, if that is still to be done.
    fn finish_carrying(&self) -> Result<(), Error> {
        let journal = self.generation.maps.journal();
        if !journal.carrying {
            return Ok(());
        }
        let older = self.place.generations()?.into_iter().filter(|number| *number < self.generation.number());
        for number in older {
            if let Some(old) = Generation::open(&self.place, number)? {
                // What was on its way when the links changed hands still counts there.
                grace();
                fault::point("carry counts");
                self.generation.maps.carry_from(&old.maps)?;
                fault::point("carry flows once more");
                self.generation.maps.carry_flows_from(&old.maps)?;
                break;
            }
        }
        fault::point("note that all is carried");
        self.generation.maps.note(maps::Journal { carrying: false, ..journal });
        Ok(())
    }

    fn replace_program(&mut self, globals: Globals) -> Result<(), Error> {
        self.generation.replace_program(globals)?;
        let state = Arc::make_mut(&mut self.state);
        state.features = globals.features;
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
            self.replace_program(Globals { features, seed: self.state.seed })?;
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
        if wanted != (Globals { features: self.state.features, seed: self.state.seed }) {
            self.replace_program(wanted)?;
        }
        Ok(writes)
    }

    /// What the program is loaded with once a plan is carried out.
    fn wanted_globals(&self, plan: &Plan) -> Globals {
        let features = plan.features().unwrap_or(self.state.features);
        Globals { features, seed: plan.seed().unwrap_or(self.state.seed) }
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
    fn note_applying(&mut self, applying: bool) {
        fault::point(if applying { "note that an apply begins" } else { "note that an apply has ended" });
        let maps = &self.generation.maps;
        maps.note(maps::Journal { applying, ..maps.journal() });
        Arc::make_mut(&mut self.state).suspect = applying;
    }

    /// Makes the next generation, fills it, and hands the links over. Until then the old one is untouched.
    fn rebuild(&mut self, plan: &Plan, capacity: Capacity) -> Result<usize, Error> {
        let globals = self.wanted_globals(plan);
        let number = self.generation.number() + 1;
        debug!("generation {number} is made for {capacity:?}");
        let filled = self.fill(number, plan, capacity, globals);
        let (generation, state, writes) = match filled {
            Ok(filled) => filled,
            Err(error) => {
                // The error at hand says more than that of cleaning up would.
                let _ = remove_tree(&self.place.generation(number));
                return Err(error);
            }
        };
        self.generation = generation;
        self.state = Arc::new(state);
        self.flips.clear();
        self.counted = Arc::default();
        self.writes.generation = true;
        self.settle().map(|()| writes)
    }

    fn fill(
        &self,
        number: u32,
        plan: &Plan,
        capacity: Capacity,
        globals: Globals,
    ) -> Result<(Generation, State, usize), Error> {
        let before = &self.generation.maps;
        let mut draft = Draft::new(&self.place, number, capacity, globals, Some(before))?;
        let mut state = State::empty(capacity, globals.features);
        state.seed = globals.seed;
        let writes = execute(&mut draft.maps, &mut state, plan.steps(), Some(before))?;
        draft.maps.carry_own_macs_from(before);
        fault::point("carry flows");
        draft.maps.carry_flows_from(before)?;
        Ok((draft.finish(true)?, state, writes))
    }

    /// Puts next hops in use. A half of a cell is overwritten only when no packet can be reading it any more.
    fn flip(&mut self, next_hops: &[(u32, Option<NextHop>)]) {
        if next_hops.iter().any(|(id, _)| self.flips.contains_key(id)) {
            grace();
            self.flips.clear();
        }
        if next_hops.is_empty() {
            return;
        }
        let state = Arc::make_mut(&mut self.state);
        for (id, next_hop) in next_hops {
            let Some(entry) = state.backends.get_mut(id) else { continue };
            self.flips.insert(*id, egress(entry));
            entry.next_hop = turned(entry.next_hop, *next_hop);
            self.generation.maps.put_backend(*id, *entry);
        }
    }

    /// Forgets the way to those of `destinations` where no backend is any more: nobody follows it from now on.
    fn forget(&mut self, mut destinations: HashSet<Destination>) -> Result<(), Error> {
        if destinations.is_empty() {
            return Ok(());
        }
        for destination in self.state.destinations() {
            destinations.remove(&destination);
        }
        let known = self.next_hops.len();
        Arc::make_mut(&mut self.next_hops).retain(|destination, _| !destinations.contains(destination));
        if self.next_hops.len() == known { Ok(()) } else { self.keep_used_devices() }
    }

    /// Forgets the ways to where no backend is any more, because the same ones are reached in another way now.
    fn forget_unused_ways(&mut self) {
        if self.next_hops.len() > self.state.backends.len() {
            let used: HashSet<Destination> = self.state.destinations().collect();
            Arc::make_mut(&mut self.next_hops).retain(|destination, _| used.contains(destination));
        }
    }

    /// Next hops by an interface that is gone are none: what a plan takes from them would lead nowhere.
    fn forget_gone_devices(&mut self) -> Result<(), Error> {
        let used: HashSet<u32> = self.next_hops.values().map(|next_hop| next_hop.ifindex).collect();
        let mut gone = HashSet::new();
        for ifindex in used {
            if !self.generation.maps.put_device(ifindex)? {
                gone.insert(ifindex);
            }
        }
        let lost = self.next_hops.iter().filter(|(_, next_hop)| gone.contains(&next_hop.ifindex));
        let lost: Vec<_> = lost.map(|(destination, _)| (*destination, None)).collect();
        if lost.is_empty() { Ok(()) } else { self.set_next_hops(lost).map(drop) }
    }

    /// Interfaces that no next hop leaves by are no longer redirected to, except by packets that may be on their way:
    /// those interfaces stay until a call after the next grace period.
    fn keep_used_devices(&mut self) -> Result<(), Error> {
        let in_use = self.state.backends.values().filter_map(egress);
        let used: HashSet<u32> = in_use.chain(self.flips.values().flatten().copied()).collect();
        self.generation.maps.keep_devices(|ifindex| used.contains(&ifindex))
    }
}

/// The newest whole generation. Those that were never finished are removed.
fn newest(place: &Place) -> Result<Option<Generation>, Error> {
    for number in place.generations()? {
        match Generation::open(place, number)? {
            Some(generation) => return Ok(Some(generation)),
            None => remove_tree(&place.generation(number))?,
        }
    }
    Ok(None)
}

fn remove_all_but(place: &Place, number: u32) -> Result<(), Error> {
    let mut others = place.generations()?.into_iter().filter(|other| *other != number);
    others.try_for_each(|other| {
        fault::point("remove a generation");
        remove_tree(&place.generation(other))
    })
}

/// Does the steps to the maps and to their mirror; flows that go on are in tables of `before`, or of `maps` themselves.
/// Returns the number of entries written.
fn execute(maps: &mut Maps, state: &mut State, steps: &[Step], before: Option<&Maps>) -> Result<usize, Error> {
    let mut writes = 0;
    let is_table = |step: &Step| matches!(step, Step::PutTable { .. });
    for run in steps.chunk_by(|a, b| is_table(a) && is_table(b)) {
        // What follows from a sweep comes when it comes, and is no step of a change.
        if !matches!(run, [Step::PutSlots { .. } | Step::FreeVip { .. } | Step::FreeBackend { .. }]) {
            fault::point("map write");
        }
        match run {
            [step] => writes += execute_one(maps, step, before)?,
            tables => writes += put_tables(maps, tables, before.unwrap_or(maps)),
        }
        run.iter().for_each(|step| state.record(step));
    }
    Ok(writes)
}

fn execute_one(maps: &mut Maps, step: &Step, before: Option<&Maps>) -> Result<usize, Error> {
    match step {
        Step::PutBackend { id, entry, fresh } => {
            if *fresh {
                maps.reset_backend_counters(*id)?;
            }
            if let Some(ifindex) = egress(entry) {
                // If it went this moment, packets are dropped and counted until netlink tells of it.
                maps.put_device(ifindex)?;
            }
            maps.put_backend(*id, *entry);
        }
        Step::PutTable { base, slots, owners, flows } => {
            return Ok(maps.put_table(*base, *slots, owners, flows.as_ref(), before.unwrap_or(maps)));
        }
        Step::PutSlots { slots } => {
            return Ok(slots.iter().filter(|(index, slot)| maps.put_slot(*index, *slot)).count());
        }
        Step::PutVip { id, record, fresh } => {
            if *fresh {
                maps.reset_vip_counters(*id)?;
            }
            maps.put_record(*id, *record);
        }
        Step::PutKey { key, route } => maps.put_key(*key, *route)?,
        Step::RemoveKey { key } => maps.remove_key(*key)?,
        Step::Grace => {
            grace();
            return Ok(0);
        }
        Step::FreeVip { id } => maps.put_record(*id, Default::default()),
        Step::FreeBackend { id, heir } => {
            if let Some(heir) = heir {
                maps.move_backend_counters(*id, *heir)?;
            }
            maps.put_backend(*id, Default::default());
        }
    }
    Ok(1)
}

/// Does what takes more privileges than the data plane does later ([`crate::privileges`]): mounts `/sys/fs/bpf` where
/// nobody has, and lifts the limit of locked memory. What fails here is told, if it matters, by [`Dataplane::open`].
pub fn prepare_host() {
    raise_memory_limit();
    if let Err(error) = mount_if_missing(Path::new(place::BPFFS)) {
        debug!("{error}");
    }
}

/// Kernels before 5.11 account maps to this limit; later ones ignore it, and so does a failure here.
fn raise_memory_limit() {
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

/// Returns when no packet is on its way through the program any more that may have read something from before the call.
pub(crate) fn grace() {
    if let Err(error) = sys::wait_for_readers() {
        debug!("the kernel offers no grace period ({error}): waiting {GRACE:?} instead");
        thread::sleep(GRACE);
    }
}

/// Tables are independent of each other and most of the work of a first load: every CPU takes a share.
fn put_tables(maps: &Maps, tables: &[Step], before: &Maps) -> usize {
    let put = |step: &Step| match step {
        Step::PutTable { base, slots, owners, flows } => maps.put_table(*base, *slots, owners, flows.as_ref(), before),
        _ => 0,
    };
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let shares = tables.chunks(tables.len().div_ceil(cpus));
        let workers: Vec<_> = shares.map(|share| scope.spawn(move || share.iter().map(put).sum::<usize>())).collect();
        workers.into_iter().map(|worker| worker.join().expect("writing tables does not panic")).sum()
    })
}

/// The interface that frames to a backend leave by.
fn egress(entry: &lb_common::Backend) -> Option<u32> {
    entry.next_hop.current().map(|next_hop| next_hop.ifindex)
}

/// The cell with `next_hop` in its other half and in use.
fn turned(cell: NextHopCell, next_hop: Option<NextHop>) -> NextHopCell {
    let mut turned = cell;
    match next_hop {
        Some(next_hop) => {
            let idle = usize::from(cell.in_use == 0);
            turned.halves[idle] = next_hop;
            turned.in_use = idle as u32;
        }
        None => turned.in_use = NextHopCell::NONE,
    }
    turned
}
