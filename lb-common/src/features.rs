//! What of the data plane a config uses. The loader writes it into the program's read-only data, and the verifier then
//! removes the branches that can never be taken.

/// A set of features.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u32);

impl Features {
    /// Some VIP listens on any port.
    pub const ANY_PORT: Self = Self(1);
    // The next three bits are of `Forward::feature`.
    /// Some VIP is an IPv4 address.
    pub const VIP4: Self = Self(1 << 4);
    /// Some VIP is an IPv6 address.
    pub const VIP6: Self = Self(1 << 5);
    /// The data plane logs each decision.
    pub const LOG: Self = Self(1 << 6);

    /// The program was loaded for frames of several buffers (`xdp.frags`, kernel 5.18).
    pub const MULTI_BUFFER: Self = Self(1 << 7);
    /// Some VIP tracks flows.
    pub const TRACKING: Self = Self(1 << 8);
    /// Backends are probed over the path of clients.
    pub const PROBES: Self = Self(1 << 9);
    /// Some VIP answers where no backend takes flows.
    pub const REFUSALS: Self = Self(1 << 10);
    /// Echo requests to VIPs are answered, or dropped where the config says so.
    pub const ECHO: Self = Self(1 << 11);

    /// Further ways of forwarding have the bits from here on, by their numbers.
    pub(crate) const BITS_BEFORE_FORWARDS: u32 = 12;

    /// Whether every feature of `other` is in this set.
    #[inline(always)]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The features of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
