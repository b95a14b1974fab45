//! How the forwarder's maps are laid out: each has a version of its own, and all of them together the [`ABI`].

use crate::{
    Allowance, Backend, BackendRecord, BucketLine, Counters, Drops, FlowGroup, FlowNames, HashKey, Intake, NextHopCell,
    OwnMac, Pace, ProbeKey, ProbePath, Slot, SlotLine, Vip4Place, Vip6Place, VipRecord, maps,
};

/// How a map is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Name of the map.
    pub map: &'static str,
    /// Goes up by one with every change of its keys or values, or of what they mean. How the version before is read is
    /// said in `dataplane::former`. More entries are no change.
    pub version: u32,
    /// Size of a key in bytes.
    pub key: usize,
    /// Size of a value in bytes.
    pub value: usize,
    /// Former data planes need not have it: what it holds follows from their other maps then, or it begins empty.
    pub came_later: bool,
}

/// The number of all layouts together. It is part of the path that maps are pinned under, so that a daemon that is
/// older than a layout never adopts maps that it would misread.
pub const ABI: u32 = {
    let (mut abi, mut index) = (Layout::COUNTED_FROM, 0);
    while index < Layout::ALL.len() {
        abi += Layout::ALL[index].version - 1;
        index += 1;
    }
    abi
};

impl Layout {
    /// The oldest [`ABI`] whose maps can be read: all layouts have version 1 there.
    pub const OLDEST_ABI: u32 = 4;

    /// From what the [`ABI`] is counted. A map that comes adds one to it, and one that goes its version.
    const COUNTED_FROM: u32 = Self::OLDEST_ABI + 18;

    /// All that a daemon takes over from the one before.
    pub const ALL: [Self; 27] = [
        Self::new::<u32, BucketLine>(maps::VIP_BUCKETS, 1).later(),
        Self::new::<u32, Vip4Place>(maps::VIPS4, 2),
        Self::new::<u32, Vip6Place>(maps::VIPS6, 2),
        Self::new::<u32, VipRecord>(maps::VIP_RECORDS, 2),
        Self::new::<u32, SlotLine>(maps::SLOTS, 2),
        Self::new::<u32, Slot>(maps::MOVES, 1).later(),
        Self::new::<u32, Backend>(maps::BACKENDS, 2),
        Self::new::<u32, BackendRecord>(maps::BACKEND_RECORDS, 2).later(),
        Self::new::<u32, NextHopCell>(maps::NEXT_HOPS, 1).later(),
        Self::new::<u32, FlowGroup>(maps::FLOWS, 2),
        Self::new::<u32, FlowNames>(maps::FLOW_NAMES, 1).later(),
        Self::new::<u32, HashKey>(maps::FLOW_SECRET, 1).later(),
        Self::new::<u32, Allowance>(maps::ALLOWANCES, 1).later(),
        Self::new::<u32, Intake>(maps::INTAKES, 1).later(),
        Self::new::<u32, OwnMac>(maps::OWN_MACS, 2),
        Self::new::<ProbeKey, u32>(maps::PROBES, 1).later(),
        Self::new::<u32, ProbePath>(maps::PROBE_PATH, 1).later(),
        Self::new::<u32, Pace>(maps::PACES, 1).later(),
        Self::new::<u32, Counters>(maps::BACKEND_COUNTERS, 1),
        Self::new::<u32, Drops>(maps::VIP_DROPS, 1).later(),
        Self::new::<u32, u64>(maps::FLOW_COUNTERS, 1),
        Self::new::<u32, Counters>(maps::VIP_CARRIED, 2),
        Self::new::<u32, Drops>(maps::VIP_DROPS_CARRIED, 1).later(),
        Self::new::<u32, Counters>(maps::BACKEND_CARRIED, 1),
        Self::new::<u32, u64>(maps::FLOW_CARRIED, 1),
        Self::new::<u32, u64>(maps::DRAINS, 1).later(),
        Self::new::<u32, u64>(maps::SWEEPS, 1),
    ];

    const fn new<Key, Value>(map: &'static str, version: u32) -> Self {
        Self { map, version, key: size_of::<Key>(), value: size_of::<Value>(), came_later: false }
    }

    const fn later(self) -> Self {
        Self { came_later: true, ..self }
    }

    /// The layout of that map; `None` for one that every generation has of its own.
    pub fn of(map: &str) -> Option<&'static Self> {
        const { &Self::ALL }.iter().find(|layout| layout.map == map)
    }
}
