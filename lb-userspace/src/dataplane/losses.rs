//! What is lost behind the data plane: loads the programs that count it, keeps them while the daemon is away, and reads
//! the counts.
//!
//! Everything lies under `<bpffs>/v<ABI>/losses/`: the maps, and a directory with the links, named by the object that
//! they are from. Attached to nothing that forwards: without them everything works, and losses go uncounted.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuHashMap, PerCpuValues},
    programs::{RawTracePoint, links::FdLink},
    util::nr_cpus,
};
use lb_common::{DeviceLayout, LossCause};

use super::{
    Error,
    btf::Btf,
    place::{make_directories, names, remove, remove_tree, root},
};
use crate::{memory, objects};

/// Tracepoints, each with the programs for it, by what kernels have them: the first that a kernel takes is attached.
const TRACEPOINTS: [(&str, &[&str]); 4] = [
    ("xdp_exception", &["xdp_exception"]),
    ("xdp_bulk_tx", &["xdp_bulk_tx"]),
    ("xdp_devmap_xmit", &["xdp_devmap_xmit"]),
    ("xdp_redirect_err", &["xdp_redirect_err", "xdp_redirect_err_of_six"]),
];
const LOSSES: &str = "LOSSES";
const INGRESS: &str = "INGRESS";
const LAYOUT: &str = "LAYOUT";
const MAPS: [&str; 3] = [LOSSES, INGRESS, LAYOUT];

type Counts = PerCpuHashMap<MapData, u32, lb_common::Losses>;

/// At which interfaces is counted.
pub struct Losses {
    interfaces: Counts,
    ingress: HashMap<MapData, u32, u32>,
    counts: LossCounts,
    missing: Option<LossesError>,
}

/// The interfaces of the data plane, by index.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    /// That frames come in by.
    pub ingress: BTreeSet<u32>,
    /// That frames leave by.
    pub egress: BTreeSet<u32>,
}

/// The counts, for any number of readers.
#[derive(Clone)]
pub struct LossCounts(Arc<Counts>);

/// Why losses are not counted, or not all of them.
#[derive(Debug, thiserror::Error)]
#[error("frames that are lost behind naru are not counted, or not all of them: {0:#}")]
pub struct LossesError(#[from] anyhow::Error);

/// Frames lost at an interface, by cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostFrames {
    /// Index of the interface.
    pub ifindex: u32,
    /// In the order of [`LossCause::ALL`].
    pub frames: [u64; LossCause::ALL.len()],
}

/// Where losses are counted, in a directory of pins. Another layout of these maps gets another name.
pub(super) fn losses_in(root: &Path) -> PathBuf {
    root.join("losses")
}

impl Losses {
    /// Counts in the network namespace of the calling thread from now on, if that is not done already. The data plane
    /// of `bpffs` must be this process's.
    ///
    /// # Errors
    ///
    /// The kernel does not have or allow what this needs.
    pub fn open(bpffs: &Path) -> Result<Self, LossesError> {
        Ok(Self::take(&losses_in(&root(bpffs)))?)
    }

    /// Counts at these interfaces too; forgets those that do not exist any more.
    ///
    /// # Errors
    ///
    /// The kernel refuses a write, for instance because there are too many.
    pub fn follow(&mut self, interfaces: &Interfaces, exists: impl Fn(u32) -> bool) -> Result<(), LossesError> {
        Ok(self.try_follow(interfaces, exists)?)
    }

    /// Which losses this kernel does not tell of, and why.
    pub fn missing(&self) -> Option<&LossesError> {
        self.missing.as_ref()
    }

    /// What was lost.
    pub fn counts(&self) -> &LossCounts {
        &self.counts
    }

    fn take(directory: &Path) -> anyhow::Result<Self> {
        let links = directory.join(format!("{:016x}", objects::fingerprint(objects::LOSSES)));
        let namespace = namespace()?;
        let missing = if is_in_place(directory, &links, namespace) {
            None
        } else {
            put_in_place(directory, &links, namespace)?.map(LossesError)
        };
        // Whoever was killed between the two left both, and each loss counts twice until one has gone.
        remove_others(directory, &links)?;
        let pinned = |name| MapData::from_pin(directory.join(name));
        let counts = || -> anyhow::Result<Counts> { Ok(Map::PerCpuHashMap(pinned(LOSSES)?).try_into()?) };
        let ingress = Map::HashMap(pinned(INGRESS)?).try_into()?;
        Ok(Self { interfaces: counts()?, ingress, counts: LossCounts(Arc::new(counts()?)), missing })
    }

    fn try_follow(&mut self, interfaces: &Interfaces, exists: impl Fn(u32) -> bool) -> anyhow::Result<()> {
        let Interfaces { ingress, egress } = interfaces;
        let known: BTreeSet<u32> = self.interfaces.keys().collect::<Result<_, _>>()?;
        let all: BTreeSet<u32> = ingress.union(egress).copied().collect();
        for ifindex in known.difference(&all).filter(|ifindex| !exists(**ifindex)) {
            self.interfaces.remove(ifindex)?;
        }
        for ifindex in all.difference(&known) {
            let cpus = nr_cpus().map_err(|(_, error)| error)?;
            self.interfaces.insert(ifindex, PerCpuValues::try_from(vec![lb_common::Losses::default(); cpus])?, 0)?;
        }
        let known: BTreeSet<u32> = self.ingress.keys().collect::<Result<_, _>>()?;
        for ifindex in known.difference(ingress) {
            self.ingress.remove(ifindex)?;
        }
        for ifindex in ingress.difference(&known) {
            self.ingress.insert(ifindex, 0, 0)?;
        }
        Ok(())
    }
}

impl LossCounts {
    /// What was lost, by interface.
    ///
    /// # Errors
    ///
    /// The kernel does not let the counts be read.
    pub fn frames(&self) -> Result<Vec<LostFrames>, LossesError> {
        let entry = |entry: Result<(u32, PerCpuValues<lb_common::Losses>), MapError>| {
            let (ifindex, cpus) = entry.map_err(anyhow::Error::from)?;
            let mut frames = [0; LossCause::ALL.len()];
            for lb_common::Losses(counts) in cpus.iter() {
                for (sum, count) in frames.iter_mut().zip(counts) {
                    *sum += count;
                }
            }
            Ok(LostFrames { ifindex, frames })
        };
        let mut all: Vec<_> = self.0.iter().map(entry).collect::<Result<_, LossesError>>()?;
        all.sort_by_key(|lost| lost.ifindex);
        // A walk begins anew where the entry that it stands on goes.
        all.dedup_by_key(|lost| lost.ifindex);
        Ok(all)
    }
}

/// Whether the programs of this build run, for this namespace.
fn is_in_place(directory: &Path, links: &Path, namespace: u32) -> bool {
    TRACEPOINTS.iter().all(|(tracepoint, _)| links.join(tracepoint).exists())
        && MAPS.iter().all(|name| directory.join(name).exists())
        && namespace_of(directory).is_ok_and(|counted| counted == namespace)
}

/// The namespace that is counted in.
fn namespace_of(directory: &Path) -> anyhow::Result<u32> {
    let map = Map::Array(MapData::from_pin(directory.join(LAYOUT))?);
    Ok(Array::<_, DeviceLayout>::try_from(map)?.get(&0, 0)?.namespace)
}

/// Loads and attaches the programs over the maps that there are; beside those that were attached before, for a moment
/// both count. Returns why a tracepoint has none, where the others have.
fn put_in_place(directory: &Path, links: &Path, namespace: u32) -> anyhow::Result<Option<anyhow::Error>> {
    let layout = device_layout(namespace)?;
    remove_tree(links)?;
    make_directories(links)?;
    // Another namespace's interfaces have other indices: what was counted is of none of these.
    if namespace_of(directory).is_ok_and(|counted| counted != namespace) {
        for name in MAPS {
            remove(&directory.join(name))?;
        }
    }
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, directory.join(name));
    }
    let mut ebpf = loader.load(objects::LOSSES)?;
    let map = ebpf.map_mut(LAYOUT).ok_or_else(|| no_such(LAYOUT))?;
    Array::<_, DeviceLayout>::try_from(map)?.set(0, layout, 0)?;
    let attached = TRACEPOINTS.map(|(tracepoint, programs)| {
        let mut attempts = programs.iter().map(|name| attach(&mut ebpf, name, tracepoint, links));
        let first = attempts.next()?.err()?;
        attempts.all(|attempt| attempt.is_err()).then(|| first.context(tracepoint))
    });
    let mut failures = attached.into_iter().flatten().collect::<Vec<_>>();
    match failures.len() {
        0 => Ok(None),
        few if few < TRACEPOINTS.len() => Ok(failures.pop()),
        _ => Err(failures.remove(0)),
    }
}

fn attach(ebpf: &mut Ebpf, name: &'static str, tracepoint: &str, links: &Path) -> anyhow::Result<()> {
    let program: &mut RawTracePoint = ebpf.program_mut(name).ok_or_else(|| no_such(name))?.try_into()?;
    program.load().map_err(|error| Error::load(&error))?;
    let id = program.attach(tracepoint)?;
    FdLink::from(program.take_link(id)?).pin(links.join(tracepoint))?;
    Ok(())
}

fn no_such(name: &'static str) -> anyhow::Error {
    anyhow::anyhow!("the object has no {name}")
}

/// Takes the programs of other versions away.
fn remove_others(directory: &Path, links: &Path) -> anyhow::Result<()> {
    for other in names(directory)? {
        let other: PathBuf = directory.join(other);
        if other != links && other.is_dir() {
            remove_tree(&other)?;
        }
    }
    Ok(())
}

fn device_layout(namespace: u32) -> anyhow::Result<DeviceLayout> {
    let btf = Btf::of_kernel()?;
    let layout = DeviceLayout {
        ifindex_at: btf.offset("net_device", "ifindex")?,
        namespace_at: btf.offset("net_device", "nd_net")?,
        inode_at: btf.offset("net", "ns.inum")?,
        namespace,
    };
    drop(btf);
    memory::give_back();
    Ok(layout)
}

/// Inode number of the network namespace of this thread.
fn namespace() -> io::Result<u32> {
    let inode = fs::metadata("/proc/thread-self/ns/net")?.ino();
    u32::try_from(inode).map_err(io::Error::other)
}
