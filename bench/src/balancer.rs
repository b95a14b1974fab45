//! The real forwarder as benchmarks need it: one VIP of one forward mode, or many, with their slots in one state.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, ensure};
use lb_common::{FlowOutcome, NextHop, ProbePath, Progress};
use naru_tests::{
    forwarder::{Forwarder, SOURCE6},
    vip_text::VipText,
};
use serde::Serialize;

use crate::traffic::{Kind, Traffic, VIPS, vip};

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
    /// Where there are [`VIPS`] VIPs of it, with ten backends each, and others of every forward mode and family: the slots
    /// of each.
    pub many: Option<u32>,
    /// Whether packets are for another address than the VIP's, and pass.
    pub passes: bool,
    /// Whether its backends are probed.
    pub probes: bool,
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
    /// Moving slots look at the flow table.
    Adaptive,
    /// Every packet does.
    Always,
    /// None does.
    Never,
}

/// The load balancer under test. It has two halves of backends. All slots belong to the first, and where they are
/// moving, they are on their way from the first to the second.
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
enum Half {
    /// Where all slots began.
    First,
    /// Where moving slots go.
    Second,
    /// By flow, one or the other.
    Either,
}

/// IPv4 in IPv4.
pub const IPIP_4IN4: Mode = Mode {
    name: "ipip 4in4",
    forward: "ipip",
    ipv6_vip: false,
    ipv6_backend: false,
    many: None,
    passes: false,
    probes: false,
};

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
/// Of each VIP, where there are many.
const BACKENDS_OF_MANY: u32 = 10;
/// Room for a million TCP flows and those of the others; a million new ones find places beside them.
pub const MAX_FLOWS: u32 = 3 << 19;
/// Of so many packets no more than one may be of a flow that finds no room.
const REFUSED: u64 = 200;
/// Where none is tracked.
const FEW_FLOWS: u32 = 1 << 12;

impl Balancer {
    /// Loads it. Every backend has this next hop.
    ///
    /// # Errors
    ///
    /// The kernel refuses the program or a change.
    pub fn new(mode: Mode, state: State, next_hop: NextHop) -> anyhow::Result<Self> {
        let load = || {
            let text = config(mode, state, Half::First);
            let mut forwarder = match mode.probes {
                true => Forwarder::with_probes(&text, next_hop)?,
                false => Forwarder::with_next_hop(&text, Some(next_hop))?,
            };
            if mode.probes {
                let nodes =
                    ["10.0.1.2", "10.0.2.2", "2001:db8:1::2"].map(|node| node.parse::<IpAddr>().map(Into::into));
                let path = ProbePath::new(1, [2; 6], [2; 6], nodes.into_iter().flatten());
                forwarder.dataplane().probes().set_path(path);
            }
            if state.moving {
                forwarder.apply(&config(mode, state, Half::Second))?;
            }
            let tracked = forwarder.usage();
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
    /// A map cannot be read.
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

    /// Packets whose flow was to be entered and found no room.
    fn refused(&self) -> anyhow::Result<u64> {
        let view = self.forwarder.dataplane().view();
        let counts = [FlowOutcome::TableFull, FlowOutcome::OverShare].map(|outcome| view.flow_packets(outcome));
        Ok(counts.into_iter().sum::<Result<u64, _>>()?)
    }

    /// Makes sure that what was measured is what it is called: that all packets were sent, and where they belong; that
    /// flows which came again and again are established; that no flow is in a table where none is to be tracked.
    /// `seen`: the packets that it was given.
    ///
    /// # Errors
    ///
    /// It is not, or a map cannot be read.
    pub fn check(&self, seen: impl IntoIterator<Item = (Traffic, u64)>) -> anyhow::Result<()> {
        let Self { mode, state, .. } = self;
        let (mut halves, mut either, mut again) = ([0; 2], 0, HashMap::new());
        for (traffic, packets) in seen.into_iter().filter(|_| !mode.passes) {
            match state.owner(traffic) {
                Half::First => halves[0] += packets,
                Half::Second => halves[1] += packets,
                Half::Either => either += packets,
            }
            if traffic.kind != Kind::Syn {
                // Flows of one kind are among those of the same kind where they are more.
                let most = again.entry(traffic.kind).or_insert(0);
                *most = (*most).max(traffic.flows.number().map_or(0, u64::from));
            }
        }
        let (sent, refused) = (self.packets()?, self.refused()?);
        let seen = halves.iter().sum::<u64>() + either;
        ensure!(
            refused <= seen / REFUSED,
            "{} {state}: of {seen} packets {refused} found no room for their flow: something else was measured",
            mode.name
        );
        // What finds no room goes where the slots began.
        ensure!(
            sent.iter().sum::<u64>() == seen && sent[0] >= halves[0] && sent[1] + refused >= halves[1],
            "{} {state}: {sent:?} packets went to the two halves of the backends, where {halves:?} were to, and \
             {either} to either",
            mode.name
        );
        let [established, embryonic] = self.flows();
        let expected = if state.tracks() { again.values().sum() } else { 0 };
        ensure!(
            established == expected && (state.tracks() || embryonic == 0),
            "{} {state}: {established} flows are established and {embryonic} embryonic, where {expected} were to be \
             established",
            mode.name
        );
        Ok(())
    }

    /// Takes out flows of this traffic of which one packet was seen, and what they have marked, as sweeps do in time: the
    /// next ones are to find as much room, and the others their way as short.
    pub fn forget_embryos(&self, traffic: Traffic) {
        let table = self.forwarder.dataplane().flow_table();
        let embryos = table
            .entries()
            .filter(|(spot, entry)| entry.progress() == Progress::Once && traffic.kind.is_of(table.name(*spot).source));
        for (spot, entry) in embryos {
            // No packet is on its way.
            if table.remove(spot, entry) {
                table.free(spot);
            }
        }
        for group in 0..table.groups() {
            for (line, count) in (0..).zip(table.unpassed(group)).filter(|(_, count)| *count > 0) {
                table.clear_spilled(group, line, count);
            }
        }
    }

    /// Established and embryonic flows. One that has two entries, of two streams, is as far as the one that is further; one
    /// whose connections begin anew, at each SYN, counts as established.
    fn flows(&self) -> [u64; 2] {
        let mut established = HashMap::new();
        for (key, entry) in self.forwarder.dataplane().flow_table().named() {
            let is_established = entry.progress() != Progress::Once || Kind::Short.is_of(key.source);
            *established.entry(key).or_insert(false) |= is_established;
        }
        let count = established.values().filter(|is_established| **is_established).count();
        [count as u64, (established.len() - count) as u64]
    }
}

impl State {
    /// What the slots are.
    pub fn slots(self) -> &'static str {
        if self.moving { "moving" } else { "settled" }
    }

    /// Whether packets look at the flow table.
    fn tracks(self) -> bool {
        match self.tracking {
            Tracking::Adaptive => self.moving,
            Tracking::Always => true,
            Tracking::Never => false,
        }
    }

    /// Where the packets of `traffic` belong.
    fn owner(self, traffic: Traffic) -> Half {
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

/// A config in which one half of the backends takes new flows and the other is drained.
fn config(mode: Mode, state: State, active: Half) -> String {
    let max_flows = if state.tracks() { MAX_FLOWS } else { FEW_FLOWS };
    let node = format!("[node]\ninterfaces = []\nencap_source6 = \"{SOURCE6}\"\nmax_flows = {max_flows}\n");
    let vip = |name: &str, address: IpAddr, mode: Mode| {
        let vip = VipText::new(name, address, ["tcp/80", "udp/80"], mode.forward).text("tracking", state.tracking);
        vip.text("tcp_idle", "12h").text("udp_idle", "12h")
    };
    let backend = |host: u32, Mode { ipv6_backend, .. }: Mode| {
        if ipv6_backend { format!("2001:db8:b::{host:x}") } else { format!("10.0.1.{host}") }
    };
    if let Some(slots) = mode.many {
        let of_mode = |name: String, address: IpAddr, mode: Mode| {
            let vip = vip(&name, address, mode).value("slots", slots);
            vip.backends((1..=BACKENDS_OF_MANY).map(|host| backend(host, mode))).to_string()
        };
        let many = (0..VIPS).map(|number| of_mode(format!("bench-{number}"), nth_vip(mode.ipv6_vip, number), mode));
        // Behind them.
        let others = (VIPS..).zip([false, true].into_iter().flat_map(|ipv6_vip| {
            let ipip = [false, true].map(|ipv6_backend| Mode { forward: "ipip", ipv6_vip, ipv6_backend, ..mode });
            [ipip[0], ipip[1], Mode { forward: "l2", ipv6_vip, ipv6_backend: ipv6_vip, ..mode }]
        }));
        let others =
            others.map(|(number, other)| of_mode(format!("other-{number}"), nth_vip(other.ipv6_vip, number), other));
        let node = format!("{node}max_slots = {}\n\n", (VIPS + 6) * slots);
        return many.chain(others).fold(node, |text, vip| text + &vip);
    }
    let vip = (1..=2 * BACKENDS).fold(vip("bench", nth_vip(mode.ipv6_vip, mode.passes.into()), mode), |vip, host| {
        let state = if (host > BACKENDS) == (active == Half::Second) { "active" } else { "drain" };
        vip.backend_with(backend(host, mode), &format!("state = \"{state}\""))
    });
    format!("{node}\n{vip}")
}

/// Address of the VIP with that number.
fn nth_vip(ipv6: bool, number: u32) -> IpAddr {
    match vip(ipv6).ip() {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + number).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + u128::from(number)).into(),
    }
}
