//! The kernel's side of the daemon: programs, links and maps, pinned so that they outlive it.
//!
//! Everything lies under `<bpffs>/v<ABI>/`: `links/<interface>`, and one directory per generation with `maps/<NAME>`
//! and `program`. A daemon that starts adopts what is there. Whatever point a daemon is killed at, what is pinned
//! forwards packets, and the next daemon finishes or repeats what was begun.
//!
//! All calls are synchronous, and belong in the network namespace of the interfaces.

mod adopt;
mod apply;
mod btf;
mod detach;
mod egress;
mod error;
mod execute;
#[cfg(test)]
pub(crate) mod fixtures;
mod former;
mod generation;
mod globals;
mod grace;
mod interface;
mod jiffies;
pub mod kernel;
mod links;
mod losses;
mod maps;
mod mode;
mod own_macs;
mod place;
mod probe;
mod sys;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::{HashMap, HashSet},
    mem,
    path::Path,
    sync::Arc,
};

use aya_log::EbpfLogger;
use lb_common::{Features, NextHop};
use log::{Log, debug};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

pub use self::{
    apply::Applied,
    detach::{detach_everything, detach_interface},
    error::Error,
    links::{Attachment, Links, Pinned, ProgramRef, attached, detach_pinned, pinned},
    losses::{Interfaces as LossInterfaces, LossCounts, Losses, LossesError, LostFrames},
    maps::{FlowTable, Intakes, MapUsage, Probes, Slots, Spot, Sweeps, Table, Wait},
    mode::Mode,
    own_macs::{LeftOut, OwnMacs},
    place::{interface_of, make_directories, mount_if_missing, names, pin_name},
    probe::{ProbeLink, ProbeProgram},
    sys::{now, online_cpus, seconds},
    view::{Backend, BackendCounts, BackendSlots, Counts, View, VipCounts},
};
use self::{former::Former, generation::Generation, place::Place, view::SlotCounts};
pub(crate) use self::{
    grace::grace,
    place::{DECAP, remove_tree},
};
use crate::{
    model::{Config, Target, XdpMode},
    plan::{InForce, NextHops, Plan, State},
};

/// The data plane, held by this process.
pub struct Dataplane {
    place: Place,
    generation: Generation,
    /// What the generation takes over from, as long as that is not done.
    former: Option<Former>,
    links: Links,
    /// The maps, mirrored. This and what else is counted by reference is what a [`View`] shares: a change copies it
    /// first if a view has it.
    state: Arc<State>,
    /// The config that they hold, once this daemon has applied one.
    in_force: Option<Arc<InForce>>,
    /// What [`Self::set_next_hops`] said of targets that some backend has.
    next_hops: Arc<NextHops>,
    /// Slots by backend, of the tables that were counted since they were written.
    counted: Arc<SlotCounts>,
    /// Another generation than this one may be pinned.
    may_have_others: bool,
    /// What was written since it was last taken.
    writes: Writes,
}

/// What was written to the maps, as far as it concerns who keeps the flow table and the slots that move in order.
#[derive(Debug, Default)]
pub struct Writes {
    /// First slots of the tables that were written; of a data plane that was just opened, of those with slots that move.
    pub tables: HashSet<u32>,
    /// A VIP or a backend was removed.
    pub removed: bool,
    /// Another hash seed has put flows on other slots.
    pub rehashed: bool,
    /// Everything is in the maps of another generation.
    pub generation: bool,
    /// Flows of any VIP may have been refused that nobody has counted: the flow table is another one.
    pub refused: bool,
}

impl Dataplane {
    /// Takes the data plane as [`Self::begin`] does, and goes on with it as [`Self::resume`] does.
    ///
    /// # Errors
    ///
    /// Those of both.
    pub fn open(bpffs: &Path, config: &Config) -> Result<Self, Error> {
        let mut dataplane = Self::begin(bpffs, config)?;
        dataplane.resume(config)?;
        Ok(dataplane)
    }

    /// Takes the data plane pinned under `bpffs` and reads what runs there, which goes on as it is; where nothing does,
    /// makes one that is large enough for `config` and empty.
    ///
    /// # Errors
    ///
    /// Another daemon has it ([`Error::Held`]), `bpffs` is not on a bpf file system, or the kernel refuses something.
    pub fn begin(bpffs: &Path, config: &Config) -> Result<Self, Error> {
        raise_memory_limit();
        let place = Place::take(bpffs)?;
        let links = Links::open(bpffs, place.links())?;
        let has_links = links.attachments().next().is_some();
        let (mut generation, former) = adopt::adopt(&place, has_links, config)?;
        let state = generation.maps.read()?;
        // Whoever keeps slots that move in order finds them there.
        let writes = Writes { tables: generation.maps.take_account(&state).into_iter().collect(), ..Writes::default() };
        let next_hops =
            state.backends_with_targets().filter_map(|(_, entry, target)| Some((target, entry.next_hop?))).collect();
        Ok(Self {
            place,
            next_hops: Arc::new(next_hops),
            generation,
            former,
            links,
            state: Arc::new(state),
            in_force: None,
            counted: Arc::default(),
            may_have_others: true,
            writes,
        })
    }

    /// The data plane as it is now, for whoever reads while this goes on.
    pub fn view(&self) -> View {
        let maps = &self.generation.maps;
        View {
            generation: self.generation.number(),
            state: Arc::clone(&self.state),
            in_force: self.in_force.clone(),
            next_hops: Arc::clone(&self.next_hops),
            counted: Arc::clone(&self.counted),
            readings: Arc::clone(maps.readings()),
            slots: Arc::clone(maps.slots()),
            sweeps: Arc::clone(maps.sweeps()),
            flows: maps.flows().clone(),
            intakes: Arc::clone(maps.intakes()),
            probes: Arc::clone(maps.probes()),
        }
    }

    /// What [`Self::apply`] would do. Changes nothing.
    pub fn plan(&self, config: &Config) -> Plan {
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

    /// The flow table, to be read at leisure.
    pub fn flow_table(&self) -> FlowTable {
        self.generation.maps.flows().clone()
    }

    /// The slots of all tables, as they are when they are read.
    pub fn slots(&self) -> Arc<Slots> {
        Arc::clone(self.generation.maps.slots())
    }

    /// By backend id: when each that takes no new flows was first met so, in seconds of the monotonic clock.
    pub fn drains(&self) -> HashMap<u32, u64> {
        self.generation.maps.drains()
    }

    /// Notes since when a backend takes no new flows; 0 if it takes some.
    pub fn note_drain(&self, id: u32, since: u64) {
        self.generation.maps.note_drain(id, since);
    }

    /// Where frames to the targets of its backends go, as far as that is known.
    pub fn next_hops(&self) -> impl Iterator<Item = (Target, NextHop)> {
        self.next_hops.iter().map(|(target, next_hop)| (*target, *next_hop))
    }

    /// A sweep begins, which waits for all packets that are on their way.
    pub fn begin_wait(&self) -> Wait {
        self.generation.maps.begin_wait()
    }

    /// The sweep has waited that began with this, of the same generation: what no packet can be on its way to any more is
    /// free.
    pub fn end_wait(&self, wait: Wait) {
        self.generation.maps.end_wait(wait);
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
    pub fn removed_targets(&self) -> impl Iterator<Item = Target> {
        self.state.removed_backends().filter_map(|(_, entry)| self.state.target(entry))
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
