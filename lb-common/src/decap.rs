//! What the backend-side decapsulation knows and counts.

use crate::{Address, Be32};

/// A range of outer source addresses that the decapsulation accepts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecapSource {
    /// The network, an IPv4 network as [`Address::from_v4`].
    pub network: Address,
    /// Its mask. In an unused entry network and mask are zero; the loader refuses a range that takes every address in.
    pub mask: Address,
}

impl DecapSource {
    /// Most ranges that one decapsulation accepts.
    pub const MAX: u32 = 8;

    /// Whether `address` lies in this range.
    #[inline(always)]
    pub fn contains(&self, address: Address) -> bool {
        let Address([n0, n1, n2, n3]) = self.network;
        let Address([m0, m1, m2, m3]) = self.mask;
        let Address([a0, a1, a2, a3]) = address;
        let differs = |network: Be32, mask: Be32, part: Be32| (part.wire() & mask.wire()) ^ network.wire();
        let used = m0.wire() | m1.wire() | m2.wire() | m3.wire() != 0;
        used && differs(n0, m0, a0) | differs(n1, m1, a1) | differs(n2, m2, a2) | differs(n3, m3, a3) == 0
    }
}

/// The version of the layout of the decapsulation's maps: part of the path that they are pinned under.
pub const DECAP_ABI: u32 = 4;
/// Bits of an [`Address`] as the key of a longest-prefix match; an IPv4 prefix is 96 longer than it is written.
pub const DECAP_VIP_BITS: u32 = 128;
/// Most prefixes of inner destinations that one decapsulation delivers.
pub const DECAP_VIPS: u32 = 4096;

/// What became of a packet that looked encapsulated; also the index of its counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecapOutcome {
    /// Decapsulated and passed to the stack.
    Decapsulated = 0,
    /// Its outer addresses are not among the accepted ones: passed to the stack as it came.
    Refused = 1,
    /// A fragment of an encapsulated packet: passed to the stack as it came.
    Fragment = 2,
    /// The inner packet is cut short or not the IP version that the outer header announces: dropped.
    Malformed = 3,
    /// The outer header says congestion was experienced, the inner one says its transport knows no ECN: dropped
    /// (RFC 6040 §4.2).
    EcnDropped = 4,
    /// Its inner destination is none that may be delivered: dropped, so that no tunnel interface of the host delivers
    /// it after all.
    InnerRefused = 5,
}

impl DecapOutcome {
    /// Every outcome, in the order of their counters.
    pub const ALL: [Self; 6] =
        [Self::Decapsulated, Self::Refused, Self::Fragment, Self::Malformed, Self::EcnDropped, Self::InnerRefused];

    /// Number of outcomes.
    pub const COUNT: usize = Self::ALL.len();

    /// As messages name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decapsulated => "decapsulated",
            Self::Refused => "refused",
            Self::Fragment => "fragment",
            Self::Malformed => "malformed",
            Self::EcnDropped => "ecn_dropped",
            Self::InnerRefused => "inner_refused",
        }
    }
}

/// Counts of one outcome, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecapCounters {
    /// Packets.
    pub packets: u64,
    /// Bytes of those packets from the outer IP header on.
    pub bytes: u64,
}

super::pod!(DecapSource, DecapCounters);
