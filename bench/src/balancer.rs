//! The real forwarder as benchmarks need it: one VIP of one forward mode, with its slots in one state.

use std::{fmt, net::IpAddr};

use anyhow::{Context as _, ensure};
use lb_common::NextHop;
use naru_tests::forwarder::Forwarder;
use serde::Serialize;

use crate::traffic::{Kind, Traffic, vip};

/// A forward mode, and the families of VIP and backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// What it is called here.
    pub name: &'static str,
    /// What the config calls it.
    pub forward: &'static str,
    /// Whether the VIP, and so the packets, are IPv6.
    pub ipv6_vip: bool,
    /// Whether the backends are.
    pub ipv6_backend: bool,
}

/// How a VIP remembers its flows, and whether it has cause to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// The VIP's `tracking`.
    pub tracking: Tracking,
    /// Whether all slots are moving; otherwise all are settled.
    pub moving: bool,
}

/// `tracking` of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tracking {
    /// Moving slots look at flow tables.
    Adaptive,
    /// Every packet does.
    Always,
    /// None does.
    Never,
}

/// The load balancer under test. It has two halves of backends. All slots belong to the first, and where they are moving,
/// they are on their way from the first to the second.
pub struct Balancer {
    /// How it forwards.
    pub mode: Mode,
    /// What its slots are.
    pub state: State,
    /// The program and its maps.
    pub forwarder: Forwarder,
}

/// Which half of the backends packets go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Where all slots began.
    First,
    /// Where moving slots go.
    Second,
    /// By flow, one or the other.
    Either,
}

/// IPv4 in IPv4.
pub const IPIP_4IN4: Mode = Mode { name: "ipip 4in4", forward: "ipip", ipv6_vip: false, ipv6_backend: false };

/// What is compared; the others with the first.
pub const STATES: [State; 5] = [
    State { tracking: Tracking::Adaptive, moving: false },
    State { tracking: Tracking::Adaptive, moving: true },
    State { tracking: Tracking::Always, moving: false },
    State { tracking: Tracking::Always, moving: true },
    State { tracking: Tracking::Never, moving: false },
];

/// Backends in each half.
const BACKENDS: u32 = 16;
/// Room for a million TCP flows, a million UDP flows and those of the short connections, so that none gives way to another.
const MAX_FLOWS: u32 = 9 << 18;

impl Balancer {
    /// Loads it. Every backend has this next hop.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the program or a change.
    pub fn new(mode: Mode, state: State, next_hop: NextHop) -> anyhow::Result<Self> {
        let load = || {
            let mut forwarder = Forwarder::with_next_hop(&config(mode, state.tracking, Half::First), Some(next_hop))?;
            if state.moving {
                forwarder.apply(&config(mode, state.tracking, Half::Second))?;
            }
            let tracked = forwarder.dataplane().tracking()?;
            let (some, none) = match state.moving {
                true => (tracked.moving_slots, tracked.settled_slots),
                false => (tracked.settled_slots, tracked.moving_slots),
            };
            ensure!(some > 0 && none == 0, "its slots are not all {}", state.slots());
            Ok(Self { mode, state, forwarder })
        };
        load().with_context(|| format!("{} {state}: the forwarder does not load", mode.name))
    }

    /// Whether it forwards and remembers in this way.
    pub fn is(&self, mode: Mode, state: State) -> bool {
        (self.mode, self.state) == (mode, state)
    }

    /// Packets sent so far to the first and to the second half of the backends.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn packets(&self) -> anyhow::Result<[u64; 2]> {
        let mut packets = [0; 2];
        for backend in self.forwarder.dataplane().counters()?.backends {
            let host = match backend.address {
                IpAddr::V4(address) => u32::from(address) & 0xff,
                IpAddr::V6(address) => u32::from(address.segments()[7]),
            };
            packets[usize::from(host > BACKENDS)] += backend.counters.packets;
        }
        Ok(packets)
    }

    /// Flows in the established and in the embryonic table.
    ///
    /// # Errors
    ///
    /// When a table cannot be read.
    pub fn flows(&self) -> anyhow::Result<[u64; 2]> {
        let tables = self.forwarder.dataplane().flow_tables();
        let [established, embryonic] = [&tables.established, &tables.embryonic]
            .map(|table| table.batches().map(|batch| Ok(batch?.len() as u64)).sum::<anyhow::Result<u64>>());
        Ok([established?, embryonic?])
    }
}

impl State {
    /// What the slots are.
    pub fn slots(self) -> &'static str {
        if self.moving { "moving" } else { "settled" }
    }

    /// Whether packets look at the flow tables.
    pub fn tracks(self) -> bool {
        match self.tracking {
            Tracking::Adaptive => self.moving,
            Tracking::Always => true,
            Tracking::Never => false,
        }
    }

    /// Where the packets of `traffic` belong.
    pub fn owner(self, traffic: Traffic) -> Half {
        match traffic.kind {
            Kind::Short if self.moving => Half::Either,
            Kind::Syn if self.moving => Half::Second,
            _ => Half::First,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.tracking, self.slots())
    }
}

impl fmt::Display for Tracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Adaptive => "adaptive",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

/// A config of one VIP in which one half of the backends takes new flows and the other is drained.
fn config(mode: Mode, tracking: Tracking, active: Half) -> String {
    let backends: Vec<String> = (1..=2 * BACKENDS)
        .map(|host| {
            let address = if mode.ipv6_backend { format!("2001:db8:b::{host:x}") } else { format!("10.0.1.{host}") };
            let state = if (host > BACKENDS) == (active == Half::Second) { "active" } else { "drain" };
            format!("  {{ address = \"{address}\", state = \"{state}\" }},\n")
        })
        .collect();
    format!(
        "[node]\ninterfaces = []\nmax_flows = {MAX_FLOWS}\n\n[[vip]]\nname = \"bench\"\naddress = \"{}\"\nports = [\"tcp/80\", \"udp/80\"]\n\
         forward = \"{}\"\ntracking = \"{tracking}\"\ntcp_idle = \"12h\"\nudp_idle = \"12h\"\nbackends = [\n{}]\n",
        vip(mode.ipv6_vip).ip(),
        mode.forward,
        backends.concat()
    )
}
