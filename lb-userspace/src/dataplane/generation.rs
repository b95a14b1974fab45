//! A generation: one set of maps and the program that reads them, pinned together.
//!
//! Its program is pinned last, so that a generation with a program is whole. Growing makes the next generation, fills
//! it, and hands the links over; the program within a generation is replaced when the features or the embedded object
//! change.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::SystemTime,
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, Xdp},
};
use aya_log::EbpfLogger;
use aya_obj::programs::XdpAttachType;
use lb_common::{Features, Forward};
use log::{Log, debug};

use super::{
    Error,
    globals::Globals,
    jiffies::Jiffies,
    links::ProgramRef,
    maps::{self, Carrying, Journal, Maps, Sizes},
    place::{Place, make_directories, remove, remove_tree},
};
use crate::{fault, objects, plan::Capacity, seed::HashSeed};

/// Not 0 where other CPUs see stores in the order in which one makes them: on x86, by its own rules.
const ORDERED_STORES: u32 = cfg!(any(target_arch = "x86_64", target_arch = "x86")) as u32;

/// Name of the program in the object.
const MULTI_BUFFER: &str = "naru";
/// The same for kernels that know no frames of several buffers.
pub(super) const LINEAR: &str = "naru_linear";
/// What sends the prober's packets on.
pub(super) const PROBE: &str = "naru_probe";

/// A whole generation.
pub struct Generation {
    number: u32,
    directory: PathBuf,
    pub(super) maps: Maps,
    program: Program,
}

/// A generation in the making: loaded, but nothing runs it and no other daemon would adopt it.
pub struct Draft {
    number: u32,
    directory: PathBuf,
    pub(super) maps: Maps,
    loaded: Loaded,
    globals: Globals,
}

/// The object, and which of its programs is or will be in the kernel.
pub(super) struct Loaded {
    ebpf: Ebpf,
    program: &'static str,
}

struct Program {
    xdp: Xdp,
    id: u32,
}

impl Draft {
    /// Makes the maps and loads the program. `keep` pins in the directory that it is given maps that are there already.
    pub fn new(
        place: &Place,
        number: u32,
        capacity: Capacity,
        globals: Globals,
        keep: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let directory = place.generation(number);
        fault::point("make maps");
        remove_tree(&directory)?;
        let pins = maps_in(&directory);
        make_directories(&pins)?;
        keep(&pins)?;
        let uncounted = maps::are_uncounted(&pins);
        maps::create_own(&pins, capacity)?;
        fault::point("load the program");
        let loaded = load(&pins, capacity, globals)?;
        let maps = Maps::open(&pins)?.unread(uncounted);
        Ok(Self { number, directory, maps, loaded, globals })
    }

    /// Where its maps are pinned.
    pub fn maps_directory(&self) -> PathBuf {
        maps_in(&self.directory)
    }

    /// Pins the program: from now on this is the generation that a daemon adopts.
    pub fn finish(mut self, carrying: Option<Carrying>, applying: bool) -> Result<Generation, Error> {
        let xdp = self.loaded.xdp()?;
        let id = xdp.info().map_err(|error| Error::load(&error))?.id();
        let Globals { features, seed, icmp_rate } = self.globals;
        let journal = Journal { program: id, features, seed, icmp_rate, object: object(), applying, carrying };
        fault::point("note the new generation");
        self.maps.note(journal);
        fault::point("pin the program");
        pin(xdp, &program_in(&self.directory))?;
        let Self { number, directory, maps, .. } = self;
        let program = Program::open(&directory)?;
        Ok(Generation { number, directory, maps, program })
    }
}

impl Generation {
    /// Opens a generation; `None` if it is not whole.
    pub fn open(place: &Place, number: u32) -> Result<Option<Self>, Error> {
        let directory = place.generation(number);
        if !program_in(&directory).exists() {
            return Ok(None);
        }
        let maps = Maps::open(&maps_in(&directory))?;
        let program = Program::open(&directory)?;
        Ok(Some(Self { number, directory, maps, program }))
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Where its maps are pinned.
    pub fn maps_directory(&self) -> PathBuf {
        maps_in(&self.directory)
    }

    /// When its program was loaded; `None` where the kernel does not say.
    pub fn loaded_at(&self) -> Result<Option<SystemTime>, Error> {
        loaded_at(&self.directory)
    }

    /// The program to attach.
    pub fn program(&self) -> Result<ProgramRef<'_>, Error> {
        let fd = self.program.xdp.fd().map_err(|error| Error::load(&error))?;
        Ok(ProgramRef { fd: fd.as_fd(), id: self.program.id })
    }

    /// Whether the pinned program is the one embedded here, loaded with what the journal says.
    pub fn program_is_current(&self) -> bool {
        let journal = self.maps.journal();
        journal.program == self.program.id && journal.object == object()
    }

    /// Loads the embedded program with `globals` over the same maps and pins it in place of the one that is pinned.
    /// The links are the caller's to hand over.
    pub fn replace_program(&mut self, globals: Globals) -> Result<(), Error> {
        let mut loaded = load(&maps_in(&self.directory), Capacity::default(), globals)?;
        let xdp = loaded.xdp()?;
        let (new, pinned) = (self.directory.join("program_new"), program_in(&self.directory));
        fault::point("pin the next program");
        remove(&new)?;
        pin(xdp, &new)?;
        fault::point("rename the next program");
        fs::rename(&new, &pinned).map_err(Error::file("rename the program", &new))?;
        self.program = Program::open(&self.directory)?;
        let program = self.program.id;
        fault::point("note the next program");
        let Globals { features, seed, icmp_rate } = globals;
        self.maps.note(Journal { program, features, seed, icmp_rate, object: object(), ..self.maps.journal() });
        debug!("program {program} with features {:#x} and hash seed {seed} is in place", features.0);
        Ok(())
    }

    /// Loads what sends the prober's packets on, over the same maps. Of whatever way of forwarding: it need not be loaded
    /// anew where one more is used.
    pub fn load_probe(&self, seed: HashSeed) -> Result<Loaded, Error> {
        let features = Forward::ALL.iter().map(|way| way.feature()).fold(Features::default(), Features::with);
        let globals = Globals { features, seed, ..Globals::default() };
        let mut loaded = parse(PROBE, &self.maps_directory(), Capacity::default(), globals, Jiffies::UNKNOWN)?;
        loaded.xdp()?.load().map_err(|error| Error::load(&error))?;
        Ok(loaded)
    }

    /// Reads what its programs log, from the pinned ring buffer: to find that by the program's id takes CAP_SYS_ADMIN.
    pub fn logger(&self) -> Result<EbpfLogger<&'static dyn Log>, Error> {
        let globals = self.maps.journal().globals();
        // No program of it is loaded.
        let jiffies = Jiffies::UNKNOWN;
        let mut loaded = parse(MULTI_BUFFER, &maps_in(&self.directory), Capacity::default(), globals, jiffies)?;
        EbpfLogger::init(&mut loaded.ebpf).map_err(|error| Error::load(&error))
    }
}

impl Program {
    fn open(directory: &Path) -> Result<Self, Error> {
        let xdp =
            Xdp::from_pin(program_in(directory), XdpAttachType::Interface).map_err(|error| Error::load(&error))?;
        let id = xdp.info().map_err(|error| Error::load(&error))?.id();
        Ok(Self { xdp, id })
    }
}

pub(super) fn maps_in(directory: &Path) -> PathBuf {
    directory.join("maps")
}

pub(super) fn program_in(directory: &Path) -> PathBuf {
    directory.join("program")
}

/// When the program of a whole generation was loaded; `None` where the kernel does not say.
pub(super) fn loaded_at(directory: &Path) -> Result<Option<SystemTime>, Error> {
    let program = Xdp::from_pin(program_in(directory), XdpAttachType::Interface);
    Ok(program.and_then(|program| program.info()).map_err(|error| Error::load(&error))?.loaded_at())
}

impl Loaded {
    pub(super) fn as_xdp(&self) -> Result<&Xdp, Error> {
        let missing = || Error::Load { reason: format!("its object has no program named {}", self.program) };
        let program = self.ebpf.program(self.program).ok_or_else(missing)?;
        program.try_into().map_err(|error: ProgramError| Error::load(&error))
    }

    pub(super) fn xdp(&mut self) -> Result<&mut Xdp, Error> {
        let Self { ebpf, program } = self;
        let missing = || Error::Load { reason: format!("its object has no program named {program}") };
        ebpf.program_mut(program).ok_or_else(missing)?.try_into().map_err(|error: ProgramError| Error::load(&error))
    }
}

fn pin(xdp: &mut Xdp, path: &Path) -> Result<(), Error> {
    xdp.pin(path)
        .map_err(|error| Error::Load { reason: format!("{}: {}", path.display(), super::error::chain(&error)) })
}

/// Loads the embedded object over the maps pinned in `pins`, making those that are missing. Kernels before 5.18 know no
/// multi-buffer XDP and say EINVAL: they get the program without, at the price of a smaller MTU.
fn load(pins: &Path, capacity: Capacity, globals: Globals) -> Result<Loaded, Error> {
    let features = globals.features.with(Features::MULTI_BUFFER);
    let jiffies = Jiffies::now();
    let mut loaded = parse(MULTI_BUFFER, pins, capacity, Globals { features, ..globals }, jiffies)?;
    match loaded.xdp()?.load() {
        Ok(()) => Ok(loaded),
        Err(ProgramError::LoadError { io_error, .. }) if io_error.raw_os_error() == Some(libc::EINVAL) => {
            let mut loaded = parse(LINEAR, pins, capacity, globals, jiffies)?;
            loaded.xdp()?.load().map_err(|error| Error::load(&error))?;
            Ok(loaded)
        }
        Err(error) => Err(Error::load(&error)),
    }
}

/// The object over the maps, with all but the program in the kernel.
pub(super) fn parse(
    program: &'static str,
    pins: &Path,
    capacity: Capacity,
    Globals { features, seed, icmp_rate }: Globals,
    jiffies: Jiffies,
) -> Result<Loaded, Error> {
    let Sizes { vip_masks, flow_groups } = maps::sizes(pins, capacity)?;
    let secret = maps::flow_secret(pins)?;
    let icmp_rate = &icmp_rate.get();
    let mut loader = EbpfLoader::new();
    loader.override_global("FEATURES", &features.0, true);
    loader.override_global("HASH_KEY", seed.key(), true);
    loader.override_global("VIP_MASKS", &vip_masks, true);
    loader.override_global("FLOW_GROUPS", &flow_groups, true);
    loader.override_global("FLOW_SECRET", &secret, true);
    loader.override_global("ICMP_RATE", icmp_rate, true);
    loader.override_global("JIFFY", &jiffies.nanoseconds, true);
    loader.override_global("NO_JIFFIES", &jiffies.none, true);
    loader.override_global("ORDERED_STORES", &ORDERED_STORES, true);
    for (name, entries) in maps::object_maps(capacity) {
        loader.map_pin_path(name, maps::pin_in(pins, name));
        if let Some(entries) = entries {
            loader.map_max_entries(name, entries);
        }
    }
    let ebpf = loader.load(objects::FORWARDER).map_err(|error| Error::load(&error))?;
    Ok(Loaded { ebpf, program })
}

/// Which object is embedded.
fn object() -> u64 {
    objects::fingerprint(objects::FORWARDER)
}
