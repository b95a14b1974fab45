//! What is lost behind the data plane: loads the programs that count it, keeps them while the daemon is away, and reads
//! the counts.
//!
//! Everything lies under `<bpffs>/v<ABI>/losses/`: the maps, and a directory with the links, named by the object that
//! they are from. Attached to nothing that forwards: without them everything works, and losses go uncounted.

use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    EbpfLoader,
    maps::{Array, Map, MapData, MapError, PerCpuHashMap, PerCpuValues},
    programs::{RawTracePoint, links::FdLink},
    util::nr_cpus,
};
use lb_common::{ABI, DeviceLayout, LossCause};

use super::{
    Error,
    btf::Btf,
    place::{make_directories, names, remove_tree},
};
use crate::{memory, objects};

const TRACEPOINTS: [&str; 4] = ["xdp_exception", "xdp_bulk_tx", "xdp_devmap_xmit", "xdp_redirect_err"];
const LOSSES: &str = "LOSSES";
const LAYOUT: &str = "LAYOUT";

type Counts = PerCpuHashMap<MapData, u32, lb_common::Losses>;

/// At which interfaces is counted.
pub struct Losses {
    interfaces: Counts,
    counts: LossCounts,
}

/// The counts, for any number of readers.
#[derive(Clone)]
pub struct LossCounts(Arc<Counts>);

/// Why losses are not counted.
#[derive(Debug, thiserror::Error)]
#[error("frames that are lost behind naru are not counted: {0:#}")]
pub struct LossesError(#[from] anyhow::Error);

/// Frames lost at an interface, by cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostFrames {
    /// Index of the interface.
    pub ifindex: u32,
    /// In the order of [`LossCause::ALL`].
    pub frames: [u64; LossCause::ALL.len()],
}

impl Losses {
    /// Counts in the network namespace of the calling thread from now on, if that is not done already. The data plane of
    /// `bpffs` must be this process's.
    ///
    /// # Errors
    ///
    /// The kernel does not have or allow what this needs.
    pub fn open(bpffs: &Path) -> Result<Self, LossesError> {
        Ok(Self::take(&bpffs.join(format!("v{ABI}")).join("losses"))?)
    }

    /// Counts at these interfaces too; forgets those that do not exist any more.
    ///
    /// # Errors
    ///
    /// The kernel refuses a write, for instance because there are too many.
    pub fn follow(&mut self, interfaces: &BTreeSet<u32>, exists: impl Fn(u32) -> bool) -> Result<(), LossesError> {
        Ok(self.try_follow(interfaces, exists)?)
    }

    /// What was lost.
    pub fn counts(&self) -> &LossCounts {
        &self.counts
    }

    fn take(directory: &Path) -> anyhow::Result<Self> {
        let links = directory.join(format!("{:016x}", object()));
        let namespace = namespace()?;
        if !is_in_place(directory, &links, namespace) {
            put_in_place(directory, &links, namespace)?;
        }
        let counts = || -> anyhow::Result<Counts> {
            Ok(Map::PerCpuHashMap(MapData::from_pin(directory.join(LOSSES))?).try_into()?)
        };
        Ok(Self { interfaces: counts()?, counts: LossCounts(Arc::new(counts()?)) })
    }

    fn try_follow(&mut self, interfaces: &BTreeSet<u32>, exists: impl Fn(u32) -> bool) -> anyhow::Result<()> {
        let known: BTreeSet<u32> = self.interfaces.keys().collect::<Result<_, _>>()?;
        for ifindex in known.iter().filter(|ifindex| !interfaces.contains(ifindex) && !exists(**ifindex)) {
            self.interfaces.remove(ifindex)?;
        }
        for ifindex in interfaces.difference(&known) {
            let cpus = nr_cpus().map_err(|(_, error)| error)?;
            self.interfaces.insert(ifindex, PerCpuValues::try_from(vec![lb_common::Losses::default(); cpus])?, 0)?;
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
        Ok(all)
    }
}

/// Whether the programs of this build run, for this namespace.
fn is_in_place(directory: &Path, links: &Path, namespace: u32) -> bool {
    let layout = || -> anyhow::Result<DeviceLayout> {
        let map = Map::Array(MapData::from_pin(directory.join(LAYOUT))?);
        Ok(Array::<_, DeviceLayout>::try_from(map)?.get(&0, 0)?)
    };
    TRACEPOINTS.iter().all(|name| links.join(name).exists())
        && directory.join(LOSSES).exists()
        && layout().is_ok_and(|layout| layout.namespace == namespace)
}

/// Loads and attaches the programs over the maps that there are, and takes those away that were attached before: for a
/// moment both count.
fn put_in_place(directory: &Path, links: &Path, namespace: u32) -> anyhow::Result<()> {
    remove_tree(links)?;
    make_directories(links)?;
    let mut loader = EbpfLoader::new();
    for name in [LOSSES, LAYOUT] {
        loader.map_pin_path(name, directory.join(name));
    }
    let mut ebpf = loader.load(objects::LOSSES)?;
    let missing = |name| anyhow::anyhow!("the object has no {name}");
    let mut layout: Array<_, DeviceLayout> = ebpf.map_mut(LAYOUT).ok_or_else(|| missing(LAYOUT))?.try_into()?;
    layout.set(0, device_layout(namespace)?, 0)?;
    for name in TRACEPOINTS {
        let program: &mut RawTracePoint = ebpf.program_mut(name).ok_or_else(|| missing(name))?.try_into()?;
        program.load().map_err(|error| Error::load(&error))?;
        let id = program.attach(name)?;
        FdLink::from(program.take_link(id)?).pin(links.join(name))?;
    }
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

/// Tells the embedded object from that of another version.
fn object() -> u64 {
    let mut hasher = DefaultHasher::new();
    objects::LOSSES.hash(&mut hasher);
    hasher.finish()
}
