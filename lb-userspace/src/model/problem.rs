//! Sorts of problems.

use serde::{Deserialize, Serialize};

/// What sort of thing a problem concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// An interface that the data plane is not attached to although the config names it.
    Interface,
    /// `/metrics` is not served.
    Metrics,
    /// The data plane's messages are not read although `log_packets` is on.
    PacketLog,
    /// A start that did not begin from the config file although there is one.
    Config,
    /// The state directory, so that the next start may not know what was applied last, or what operators have done.
    State,
    /// Not everybody can use the socket who should.
    Socket,
    /// Next hops and interfaces are not followed.
    Netlink,
    /// The hash seed that the config names cannot be had; the one before is in force.
    HashSeed,
    /// What probes say of backends is not in force.
    Health,
}

impl ProblemKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Interface,
        Self::Metrics,
        Self::PacketLog,
        Self::Config,
        Self::State,
        Self::Socket,
        Self::Netlink,
        Self::HashSeed,
        Self::Health,
    ];

    /// As the API and the metrics spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Metrics => "metrics",
            Self::PacketLog => "packet-log",
            Self::Config => "config",
            Self::State => "state",
            Self::Socket => "socket",
            Self::Netlink => "netlink",
            Self::HashSeed => "hash-seed",
            Self::Health => "health",
        }
    }
}
