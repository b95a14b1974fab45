//! The maps of a running data plane, read past the daemon.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use lb_common::{
    Backend, BackendRecord, BucketLine, FlowEntry, FlowGroup, FlowKey, FlowLine, FlowNames, FlowOutcome, Layout,
    Progress, Slot, SlotLine, SlotWord, Vip4Place, Vip6Place, VipHash, VipRecord, VipRoute, maps,
};
use memmap2::MmapOptions;

/// What the maps that follow from the config hold: the name of a map, and its entries as bytes in a settled order.
pub type Dump = BTreeMap<&'static str, Vec<Vec<u8>>>;

/// Reads every map pinned below `bpffs` that follows from the config; the counters are left out.
///
/// # Errors
///
/// When a map is missing, pinned twice, or cannot be read.
pub fn dump(bpffs: &Path) -> anyhow::Result<Dump> {
    Ok(Dump::from([
        (maps::VIPS4, vips(bpffs)?.into_iter().map(|vip| format!("{vip:?}").into_bytes()).collect()),
        (maps::VIP_RECORDS, records(bpffs)?),
        (maps::SLOTS, mapped::<SlotLine>(bpffs, maps::SLOTS)?),
        (maps::MOVES, mapped::<Slot>(bpffs, maps::MOVES)?),
        (maps::BACKENDS, mapped::<Backend>(bpffs, maps::BACKENDS)?),
        (maps::BACKEND_RECORDS, mapped::<BackendRecord>(bpffs, maps::BACKEND_RECORDS)?),
    ]))
}

/// What a generation serves: by service, the address of the backend that each slot of its table gives new flows to.
pub type Served = BTreeMap<String, Vec<[u8; 16]>>;

/// What each whole generation below `bpffs` serves, the oldest first; after a kill there may be two.
///
/// # Errors
///
/// When a map is missing or cannot be read.
pub fn served(bpffs: &Path) -> anyhow::Result<Vec<Served>> {
    let mut generations = find(bpffs, "program")?;
    generations.sort();
    generations.iter().map(|program| served_by(program.parent().context("a pin lies in a directory")?)).collect()
}

fn served_by(generation: &Path) -> anyhow::Result<Served> {
    let slots = slots(generation)?;
    let backends = mapped::<Backend>(generation, maps::BACKENDS)?.concat();
    let address = |slot: &Slot| {
        let id = slot.current() as usize;
        // The address is the first field of an entry.
        let entry = &backends[id * size_of::<Backend>()..];
        *entry.first_chunk::<16>().expect("an entry is longer than an address")
    };
    let table = |route: &VipRoute| {
        let slots = &slots[route.slot_base as usize..][..route.slots as usize];
        slots.iter().map(address).collect()
    };
    let entry = |(address, port, protocol, route): (IpAddr, u16, u8, VipRoute)| {
        (format!("{address:?} {port} {protocol}"), table(&route))
    };
    Ok(vips(generation)?.into_iter().map(entry).collect())
}

/// Slots that move, of all slots below `bpffs`.
///
/// # Errors
///
/// As with [`dump`].
pub fn moving_slots(bpffs: &Path) -> anyhow::Result<usize> {
    Ok(slots(bpffs)?.iter().filter(|slot| slot.is_moving()).count())
}

fn slots(bpffs: &Path) -> anyhow::Result<Vec<Slot>> {
    let (words, moves) =
        (mapped::<SlotLine>(bpffs, maps::SLOTS)?.concat(), mapped::<Slot>(bpffs, maps::MOVES)?.concat());
    let moves: Vec<_> = moves.as_chunks().0.iter().map(|word| Slot::from_bits(u64::from_ne_bytes(*word))).collect();
    let slot = |word: &[u8; 4]| {
        let word = SlotWord::from_bits(u32::from_ne_bytes(*word));
        word.owner().map_or_else(|| moves[word.place() as usize], Slot::settled)
    };
    Ok(words.as_chunks().0.iter().map(slot).collect())
}

/// Established and embryonic entries, counted one by one.
///
/// # Errors
///
/// As with [`dump`].
pub fn flow_entries(bpffs: &Path) -> anyhow::Result<[u64; 2]> {
    let flows = flows(bpffs)?;
    let once = flows.iter().filter(|(_, entry)| entry.progress() == Progress::Once).count();
    Ok([(flows.len() - once) as u64, once as u64])
}

/// The established flows that are remembered.
///
/// # Errors
///
/// As with [`dump`].
pub fn established(bpffs: &Path) -> anyhow::Result<HashSet<FlowKey>> {
    let established = flows(bpffs)?.into_iter().filter(|(_, entry)| entry.progress() != Progress::Once);
    Ok(established.map(|(key, _)| key).collect())
}

fn flows(bpffs: &Path) -> anyhow::Result<Vec<(FlowKey, FlowEntry)>> {
    let lines: Vec<FlowLine> = values(mapped::<FlowGroup>(bpffs, maps::FLOWS)?);
    let keys: Vec<FlowKey> = values(mapped::<FlowNames>(bpffs, maps::FLOW_NAMES)?);
    let places = lines.iter().flat_map(|line| line.tags.iter().zip(&line.entries));
    let flows = places.zip(keys).filter(|((tag, entry), _)| **tag != 0 && entry.is_some());
    Ok(flows.map(|((_, entry), key)| (key, *entry)).collect())
}

/// Packets that the flow table was asked for, in the order of [`FlowOutcome::ALL`].
///
/// # Errors
///
/// As with [`dump`].
pub fn flow_packets(bpffs: &Path) -> anyhow::Result<[u64; FlowOutcome::COUNT]> {
    let counters: PerCpuArray<_, u64> = Map::PerCpuArray(open(bpffs, maps::FLOW_COUNTERS)?).try_into()?;
    let mut packets = [0; FlowOutcome::COUNT];
    for (outcome, packets) in FlowOutcome::ALL.into_iter().zip(&mut packets) {
        *packets = counters.get(&(outcome as u32), 0)?.iter().sum();
    }
    Ok(packets)
}

/// Address, port, protocol and route of every VIP key, in a settled order.
fn vips(bpffs: &Path) -> anyhow::Result<Vec<(IpAddr, u16, u8, VipRoute)>> {
    let buckets = values::<u32>(mapped::<BucketLine>(bpffs, maps::VIP_BUCKETS)?);
    let (v4, v6) = (
        values::<Vip4Place>(mapped::<Vip4Place>(bpffs, maps::VIPS4)?),
        values::<Vip6Place>(mapped::<Vip6Place>(bpffs, maps::VIPS6)?),
    );
    // What is elsewhere than where packets look was left there.
    let is_at = |hash: VipHash, index: usize, places: usize| {
        let multiplier = buckets[hash.bucket(buckets.len() as u32 - 1) as usize];
        hash.place(multiplier, places as u32 - 1) == index as u32
    };
    let v4 = v4.iter().enumerate().filter(|(index, at)| is_at(at.key.hash(), *index, v4.len())).map(|(_, at)| {
        let address = Ipv4Addr::from_bits(at.key.address().host()).into();
        (address, at.key.port().host(), at.key.protocol(), at.route)
    });
    let v6 = v6.iter().enumerate().filter(|(index, at)| is_at(at.key.hash(), *index, v6.len()));
    let v6 = v6.map(|(_, at)| (at.key.address().into(), at.key.port().host(), at.key.protocol(), at.route));
    let mut vips: Vec<_> = v4.chain(v6).filter(|(_, _, protocol, _)| *protocol != 0).collect();
    vips.sort_by_key(|(address, port, protocol, _)| (*address, *port, *protocol));
    Ok(vips)
}

/// The values of an array, from its bytes.
fn values<T: aya::Pod>(bytes: Vec<Vec<u8>>) -> Vec<T> {
    // SAFETY: each chunk has as many bytes as the type, and any bytes are a value of a `Pod`.
    bytes
        .concat()
        .chunks_exact(size_of::<T>())
        .map(|chunk| unsafe { chunk.as_ptr().cast::<T>().read_unaligned() })
        .collect()
}

fn records(bpffs: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let map: Array<_, VipRecord> = Map::Array(open(bpffs, maps::VIP_RECORDS)?).try_into()?;
    map.iter().map(|record| Ok(format!("{:?}", record?).into_bytes())).collect()
}

/// All entries, as one, of an array that can be mapped into memory.
fn mapped<T>(bpffs: &Path, name: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let map = open(bpffs, name)?;
    let entries = map.info()?.max_entries() as usize;
    let fd = map.fd().as_fd().as_raw_fd();
    // SAFETY: the mapping is read-only and of the array's own size; whoever writes to it meanwhile changes bytes only.
    let memory = unsafe { MmapOptions::new().len(entries * size_of::<T>()).map(fd) };
    let memory = memory.with_context(|| format!("cannot map {name} into memory"))?;
    Ok(vec![memory.to_vec()])
}

fn open(bpffs: &Path, name: &str) -> anyhow::Result<MapData> {
    // The version of a layout is part of the pin's name, but for the first.
    let pin = match Layout::of(name).map_or(1, |layout| layout.version) {
        1 => name.to_owned(),
        version => format!("{name}_v{version}"),
    };
    let pins = find(bpffs, &pin)?;
    ensure!(pins.len() == 1, "{name} is pinned {} times below {}", pins.len(), bpffs.display());
    MapData::from_pin(&pins[0]).with_context(|| format!("cannot open {}", pins[0].display()))
}

/// Pins called `name` below `dir`.
fn find(dir: &Path, name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(find(&entry.path(), name)?);
        } else if entry.file_name() == name {
            found.push(entry.path());
        }
    }
    Ok(found)
}
