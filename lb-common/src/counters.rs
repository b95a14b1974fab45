//! What the data plane counts.

use crate::DropReason;

/// Counts of a backend, on one CPU; or of several together.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes of those packets from the IP header on, before any encapsulation.
    pub bytes: u64,
    /// TCP segments that open a connection (SYN without ACK, FIN and RST). UDP has no such mark and adds nothing here.
    pub new_flows: u64,
}

impl Counters {
    /// The sum of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
            new_flows: self.new_flows.wrapping_add(other.new_flows),
        }
    }
}

/// Packets for a VIP that were dropped, by reason, on one CPU; or of several together.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops(pub [u64; DropReason::ROOM]);

impl Drops {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, Self(other): Self) -> Self {
        let Self(mut sum) = self;
        sum.iter_mut().zip(other).for_each(|(sum, other)| *sum = sum.wrapping_add(other));
        Self(sum)
    }

    /// Every reason, and how many there were for it.
    pub fn by_reason(self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.0)
    }
}

super::pod!(Counters, Drops);

const _: () = assert!(size_of::<Drops>() == 128);
