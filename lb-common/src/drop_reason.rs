//! Why the data plane drops a packet. Every drop has a reason, every reason has a counter.

/// Why a packet for a VIP was dropped; also the index of its counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The frame ends before the headers that it announces do.
    Truncated = 0,
    /// A length field contradicts the frame or the header: IHL below 5, total length beyond the frame, …
    BadLength = 1,
    /// A fragment: its flow cannot be told from its own bytes.
    Fragment = 2,
    /// More IPv6 extension headers than the walk goes over.
    TooManyExtensions = 3,
    /// The VIP has no backend that takes traffic.
    NoBackend = 4,
    /// The way to the backend is not known: no route, a neighbour that does not answer, an interface that has vanished.
    NoNextHop = 5,
    /// The packet with its encapsulation is larger than the next hop's MTU.
    TooBig = 6,
    /// The driver left no room in front of the frame for the encapsulation.
    NoHeadroom = 7,
    /// The packet came with a TTL or hop limit of 1 or less, so that it must not be forwarded (RFC 791, RFC 8200 §3).
    TtlExceeded = 8,
    /// The backend that the packet belongs to, by `l2`, is who sent it here: they are load balancers for each other.
    Loop = 9,
    /// A probe of this load balancer's own that came back from the network: the backend that it was for forwards packets
    /// for the VIP instead of taking them. Sent on, it might reach a backend that answers for the one that does not.
    ProbeLoop = 10,
    /// naru would have answered it, and has answered as many in this second as it may (`icmp_rate`).
    RateLimited = 11,
    /// An echo request to a VIP that is not to be answered now (`echo`).
    NoEcho = 12,
}

impl DropReason {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 13] = [
        Self::Truncated,
        Self::BadLength,
        Self::Fragment,
        Self::TooManyExtensions,
        Self::NoBackend,
        Self::NoNextHop,
        Self::TooBig,
        Self::NoHeadroom,
        Self::TtlExceeded,
        Self::Loop,
        Self::ProbeLoop,
        Self::RateLimited,
        Self::NoEcho,
    ];

    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();
    /// Counters that each VIP has: more than there are reasons, so that one more fits into a map that is pinned.
    pub const ROOM: usize = 16;

    /// As metrics and messages name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::BadLength => "bad_length",
            Self::Fragment => "fragment",
            Self::TooManyExtensions => "too_many_extensions",
            Self::NoBackend => "no_backend",
            Self::NoNextHop => "no_next_hop",
            Self::TooBig => "too_big",
            Self::NoHeadroom => "no_headroom",
            Self::TtlExceeded => "ttl_exceeded",
            Self::Loop => "loop",
            Self::ProbeLoop => "probe_loop",
            Self::RateLimited => "rate_limited",
            Self::NoEcho => "no_echo",
        }
    }
}

const _: () = assert!(DropReason::COUNT <= DropReason::ROOM);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_own_counter() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
