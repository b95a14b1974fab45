//! A virtual address, what is served on it, and by whom.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use lb_common::Via;

use super::{
    Backend, Node, Port, UnknownValue, Vrf, Word,
    word::{text_serde, words},
};

/// A virtual address, what is served on it, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    /// What operators, metrics and the API call it; unique in a config.
    pub name: String,
    /// The address that clients dial.
    pub address: IpAddr,
    /// What is served on it; at least one, all different.
    pub ports: Vec<Port>,
    /// How packets reach the backends.
    pub forward: ForwardMode,
    /// What of a packet makes its flow.
    pub hash: FlowHash,
    /// Size of the Maglev table: a prime.
    pub slots: u32,
    /// Which of its flows the data plane remembers.
    pub tracking: Tracking,
    /// How long a TCP flow may be silent before it counts as ended, in whole seconds.
    pub tcp_idle: Duration,
    /// How long a UDP flow may be silent before it counts as ended, in whole seconds.
    pub udp_idle: Duration,
    /// Whether `/metrics` has series of each of its backends; absent for what `[node]` says.
    pub metrics_backends: Option<bool>,
    /// The VRF by which its backends are reached; absent for that of the node.
    pub vrf: Option<Vrf>,
    /// The mark that policy rules are asked with for the way to its backends; absent for that of the node.
    pub mark: Option<u32>,
    /// The real servers, each address once.
    pub backends: Vec<Backend>,
}

impl Vip {
    /// By which routing tables its backends are reached, on this node.
    pub fn via(&self, node: &Node) -> Via {
        let vrf = self.vrf.or(node.vrf).map(Into::into).unwrap_or_default();
        Via { vrf, mark: self.mark.or(node.mark).unwrap_or(0) }
    }

    /// Slots of a VIP that does not say.
    pub const DEFAULT_SLOTS: u32 = 16_381;
    /// TCP idle time of a VIP that does not say: that of established connections in IPVS (`tcp_timeouts`).
    pub const DEFAULT_TCP_IDLE: Duration = Duration::from_secs(900);
    /// UDP idle time of a VIP that does not say: that of Envoy (`idle_timeout` of its UDP proxy) and of Cilium
    /// (`bpf-ct-timeout-service-any`).
    pub const DEFAULT_UDP_IDLE: Duration = Duration::from_secs(60);
}

words! {
    /// How a packet reaches its backend.
    ForwardMode: "forward mode" {
        /// Rewrite the destination MAC address, leave the packet as it is.
        L2 = "l2",
        /// Encapsulate in IPv4 or IPv6, whichever the backend's address is.
        Ipip = "ipip",
    }
}

words! {
    /// What of a packet makes its flow.
    FlowHash: "hash" {
        /// Both addresses, both ports and the protocol.
        FiveTuple = "5-tuple",
        /// The source address alone, so that a client keeps its backend.
        SourceIp = "source-ip",
    }
}

words! {
    /// Which flows of a VIP the data plane remembers.
    Tracking: "tracking" {
        /// Those on the slots that a change gives to another backend, so that it breaks none of them.
        Adaptive = "adaptive",
        /// Every flow, as Katran and IPVS do.
        Always = "always",
        /// None: a change of the backends breaks the flows on the slots that it moves.
        Never = "never",
    }
}
