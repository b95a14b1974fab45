//! The map keys and values that both sides of the kernel boundary share, and nothing else.
//!
//! Every type here is `repr(C)` without padding, because both sides read it as bytes. A change to any of them, or to
//! the meaning of a field, is another version of its map's [`Layout`].

#![no_std]

mod address;
mod backend;
mod counters;
mod decap;
mod drop_reason;
mod features;
mod flow;
mod flow_table;
mod forward;
mod hash_key;
mod layout;
mod losses;
mod own_mac;
mod pace;
mod probe;
mod slot;
mod slow_start;
mod via;
mod vip;

pub use address::{Address, Be16, Be32};
pub use backend::{Backend, BackendRecord, BackendState, MacPin, NextHop, NextHopCell, OUTER_FRAGMENT, OUTER_TTL};
pub use counters::{Counters, Drops};
pub use decap::{DECAP_ABI, DECAP_VIP_BITS, DECAP_VIPS, DecapCounters, DecapOutcome, DecapSource};
pub use drop_reason::DropReason;
pub use features::Features;
pub use flow::{FlowEntry, FlowKey, FlowKind, FlowOutcome, FlowParts, FlowState, Position, Progress, Tick};
pub use flow_table::{Allowance, FlowGroup, FlowLine, FlowNames, FlowPlace, Intake};
pub use forward::Forward;
pub use hash_key::HashKey;
pub use layout::{ABI, Layout};
pub use losses::{DeviceLayout, LossCause, Losses};
pub use own_mac::OwnMac;
pub use pace::{Answer, Pace};
pub use probe::{ProbeKey, ProbePath};
pub use slot::{Slot, SlotLine, SlotWord};
pub use slow_start::SlowStart;
pub use via::{Via, VrfName};
pub use vip::{
    BucketLine, ECHO, MARKER, Vip4Key, Vip4Place, Vip6Key, Vip6Place, VipFlags, VipHash, VipName, VipRecord, VipRoute,
};

/// Id 0 of a VIP or backend means "none"; entry 0 of the arrays that they index stays unused, but for
/// drops: those of VIPs that are not known or are no more.
pub const NO_ID: u32 = 0;

/// Names of the maps in the forwarder's object, and of their pins.
pub mod maps {
    /// Bucket divided by [`crate::VipHash::A_LINE`] → [`crate::BucketLine`], of both families; memory-mapped.
    pub const VIP_BUCKETS: &str = "VIP_BUCKETS";
    /// Place → [`crate::Vip4Place`]; memory-mapped.
    pub const VIPS4: &str = "VIPS4";
    /// Place → [`crate::Vip6Place`]; memory-mapped.
    pub const VIPS6: &str = "VIPS6";
    /// VIP id → [`crate::VipRecord`]; written and read by the daemon only.
    pub const VIP_RECORDS: &str = "VIP_RECORDS";
    /// Slot index divided by [`crate::SlotWord::A_LINE`] → [`crate::SlotLine`]; memory-mapped.
    pub const SLOTS: &str = "SLOTS";
    /// Place → [`crate::Slot`], of slots that move; memory-mapped.
    pub const MOVES: &str = "MOVES";
    /// Backend id → [`crate::Backend`]; memory-mapped.
    pub const BACKENDS: &str = "BACKENDS";
    /// Backend id → [`crate::BackendRecord`]; written and read by the daemon only.
    pub const BACKEND_RECORDS: &str = "BACKEND_RECORDS";
    /// Place → [`crate::NextHopCell`]; memory-mapped. That at place 0 is none.
    pub const NEXT_HOPS: &str = "NEXT_HOPS";
    /// Group of lines → [`crate::FlowGroup`]; memory-mapped.
    pub const FLOWS: &str = "FLOWS";
    /// The same → [`crate::FlowNames`]; memory-mapped.
    pub const FLOW_NAMES: &str = "FLOW_NAMES";
    /// 0 → the [`crate::HashKey`] by which flows find their lines and tags; written and read by the daemon only.
    pub const FLOW_SECRET: &str = "FLOW_SECRET";
    /// VIP id → [`crate::Allowance`]; memory-mapped.
    pub const ALLOWANCES: &str = "ALLOWANCES";
    /// VIP id → per-CPU [`crate::Intake`].
    pub const INTAKES: &str = "INTAKES";
    /// Places of windows by interface → [`crate::OwnMac`]; memory-mapped.
    pub const OWN_MACS: &str = "OWN_MACS";
    /// [`crate::ProbeKey`] of a probe that is under way → id of the backend that it is for.
    pub const PROBES: &str = "PROBES";
    /// 0 → [`crate::ProbePath`]; memory-mapped.
    pub const PROBE_PATH: &str = "PROBE_PATH";
    /// [`crate::Answer`] as a number → per-CPU [`crate::Pace`].
    pub const PACES: &str = "PACES";
    /// Interface index → itself, for redirects.
    pub const DEVICES: &str = "DEVICES";
    /// Backend id → per-CPU [`crate::Counters`].
    pub const BACKEND_COUNTERS: &str = "BACKEND_COUNTERS";
    /// VIP id, 0 where it is not known → per-CPU [`crate::Drops`].
    pub const VIP_DROPS: &str = "VIP_DROPS";
    /// [`crate::FlowOutcome`] → per-CPU `u64`.
    pub const FLOW_COUNTERS: &str = "FLOW_COUNTERS";
    /// VIP id → [`crate::Counters`] of backends that it has no more; the daemon's only.
    pub const VIP_CARRIED: &str = "VIP_CARRIED";
    /// VIP id → [`crate::Drops`] brought over from smaller maps, at 0 those of VIPs that are no more; the daemon's only.
    pub const VIP_DROPS_CARRIED: &str = "VIP_DROPS_CARRIED";
    /// Backend id → [`crate::Counters`] brought over from smaller maps; the daemon's only.
    pub const BACKEND_CARRIED: &str = "BACKEND_CARRIED";
    /// [`crate::FlowOutcome`] → `u64` brought over from smaller maps; the daemon's only.
    pub const FLOW_CARRIED: &str = "FLOW_CARRIED";
    /// Backend id → when it was first met as taking no new flows, in seconds of the monotonic clock; 0 where it takes
    /// some. The daemon's only.
    pub const DRAINS: &str = "DRAINS";
    /// What sweeps over the flow table have counted; the daemon's only.
    pub const SWEEPS: &str = "SWEEPS";
}

/// Implements aya's `Pod` for types that are `repr(C)`, `Copy`, free of padding and valid for any bytes.
macro_rules! pod {
    ($($ty:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)`, `Copy`, made of integers without padding (see the size assertions), any bytes valid.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $ty {}
        )+
    };
}
pub(crate) use pod;
