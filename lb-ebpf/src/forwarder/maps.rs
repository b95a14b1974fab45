//! The forwarder's maps and load-time globals: all of them, and nothing else. Their names are those of
//! `lb_common::maps`. Sizes of one are placeholders: the loader sets them.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, DevMapHash, HashMap, PerCpuArray},
};
use lb_common::{
    Allowance, Answer, Backend, BucketLine, Counters, Drops, Features, FlowGroup, FlowNames, FlowOutcome, HashKey,
    Intake, NextHopCell, OwnMac, Pace, ProbeKey, ProbePath, Slot, SlotLine, Vip4Place, Vip6Place,
};
use lb_ebpf::hash::Key;

use crate::stage::aside::Aside;

#[map]
pub static VIP_BUCKETS: Array<BucketLine> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static VIPS4: Array<Vip4Place> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static VIPS6: Array<Vip6Place> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static SLOTS: Array<SlotLine> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static MOVES: Array<Slot> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static BACKENDS: Array<Backend> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static NEXT_HOPS: Array<NextHopCell> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static FLOWS: Array<FlowGroup> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static FLOW_NAMES: Array<FlowNames> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static ALLOWANCES: Array<Allowance> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static INTAKES: PerCpuArray<Intake> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static OWN_MACS: Array<OwnMac> = Array::with_max_entries(OwnMac::PLACES, BPF_F_MMAPABLE);
#[map]
pub static PROBES: HashMap<ProbeKey, u32> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
pub static PROBE_PATH: Array<ProbePath> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static PACES: PerCpuArray<Pace> = PerCpuArray::with_max_entries(1, 0);
/// Every generation has one of its own.
#[map]
pub static ASIDE: PerCpuArray<Aside> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static DEVICES: DevMapHash = DevMapHash::with_max_entries(1, 0);
#[map]
pub static BACKEND_COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static VIP_DROPS: PerCpuArray<Drops> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static FLOW_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(FlowOutcome::ROOM as u32, 0);

/// What of this program the config uses.
#[unsafe(no_mangle)]
static FEATURES: Global<u32> = Global::new(0);

/// Numbers of VIP buckets, of places of IPv4 VIPs and of those of IPv6 VIPs, each less one.
#[unsafe(no_mangle)]
static VIP_MASKS: [Global<u32>; 3] = [const { Global::new(0) }; 3];

/// The words of the flow hash's key, which the loader always sets: one global each, so that a packet loads those alone
/// that its family needs.
#[unsafe(no_mangle)]
static HASH_KEY: [Global<u64>; HashKey::WORDS] = [const { Global::new(0) }; HashKey::WORDS];

/// Number of groups of the flow table.
#[unsafe(no_mangle)]
static FLOW_GROUPS: Global<u32> = Global::new(1);

/// The words of the key that flows find their lines and tags by, which the loader always sets.
#[unsafe(no_mangle)]
static FLOW_SECRET: [Global<u64>; HashKey::WORDS] = [const { Global::new(0) }; HashKey::WORDS];

/// Nanoseconds in a jiffy; 0 where jiffies do not tell the time.
#[unsafe(no_mangle)]
static JIFFY: Global<u64> = Global::new(0);

/// The time of the monotonic clock in nanoseconds, modulo 2^64, at which jiffies would have been none.
#[unsafe(no_mangle)]
static NO_JIFFIES: Global<u64> = Global::new(0);

/// Not 0 where other CPUs see stores in the order in which one makes them.
#[unsafe(no_mangle)]
static ORDERED_STORES: Global<u32> = Global::new(0);

/// How many packets of its own a CPU sends in a tick at most, of each [`Answer`].
#[unsafe(no_mangle)]
static ICMP_RATE: Global<u32> = Global::new(Answer::RATE);

/// The key of the flow hash that this program was loaded with.
pub struct LoadedKey;

/// The key of the flow table.
pub struct FlowSecret;

impl Key for FlowSecret {
    #[inline(always)]
    fn word(&self, position: usize) -> u64 {
        FLOW_SECRET.get(position).map_or(0, Global::load)
    }
}

/// Number of groups of the flow table.
#[inline(always)]
pub fn flow_groups() -> u32 {
    FLOW_GROUPS.load()
}

impl Key for LoadedKey {
    #[inline(always)]
    fn word(&self, position: usize) -> u64 {
        HASH_KEY.get(position).map_or(0, Global::load)
    }
}

/// Nanoseconds in a jiffy, and the time of the monotonic clock, modulo 2^64, at which there would have been none; `None`
/// where jiffies do not tell the time.
#[inline(always)]
pub fn jiffies() -> Option<(u64, u64)> {
    let jiffy = JIFFY.load();
    if jiffy == 0 { None } else { Some((jiffy, NO_JIFFIES.load())) }
}

/// Whether other CPUs see stores in the order in which one makes them.
#[inline(always)]
pub fn stores_are_ordered() -> bool {
    ORDERED_STORES.load() != 0
}

/// How many packets of its own a CPU sends in a tick at most, of each [`Answer`]; 0: none.
#[inline(always)]
pub fn icmp_rate() -> u32 {
    ICMP_RATE.load()
}

/// Number of VIP buckets less one.
#[inline(always)]
pub fn bucket_mask() -> u32 {
    VIP_MASKS[0].load()
}

/// Number of places of IPv4 VIPs less one.
#[inline(always)]
pub fn vip4_mask() -> u32 {
    VIP_MASKS[1].load()
}

/// Number of places of IPv6 VIPs less one.
#[inline(always)]
pub fn vip6_mask() -> u32 {
    VIP_MASKS[2].load()
}

/// Whether the config uses `feature`. A constant to the verifier, which removes the branches that are never taken.
#[inline(always)]
pub fn uses(feature: Features) -> bool {
    Features(FEATURES.load()).contains(feature)
}
