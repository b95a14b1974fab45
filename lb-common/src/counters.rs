//! What the data plane counts.

/// Counts of a VIP or of a backend, on one CPU.
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

super::pod!(Counters);
