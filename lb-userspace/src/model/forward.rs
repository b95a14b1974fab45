//! The forward modes: what the control plane must know of each. How a packet is forwarded is the data plane's
//! (`lb-ebpf/src/forwarder/forward/`).

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use lb_common::{Backend, Forward};

use super::{
    Node, UnknownValue, Word,
    word::{text_serde, words},
};

words! {
    /// How a packet reaches its backend.
    ForwardMode: "forward mode" {
        /// Rewrite the destination MAC address, leave the packet as it is.
        L2 = "l2",
        /// Encapsulate in IPv4 or IPv6, whichever the backend's address is.
        Ipip = "ipip",
    }
}

/// What tells a forward mode from the others.
trait Mode {
    /// The data plane's ways to forward so.
    fn ways(&self) -> &'static [Forward];

    /// That to a backend of this address.
    fn way(&self, backend: IpAddr) -> Forward;

    /// Whether frames go to the backend's own MAC address, so that it must be a neighbour.
    fn is_on_link(&self) -> bool {
        false
    }

    /// Whether a packet gets an outer header of the backend's family, with a source address of the node's prefix.
    fn has_outer(&self) -> bool {
        false
    }

    /// [`Backend::outer_sum`] for a backend of a VIP, where the outer header is IPv4.
    fn outer_sum(&self, _vip: IpAddr, _backend: IpAddr) -> u32 {
        0
    }

    /// Why no backend of this address can serve a VIP of that one, and what to do; `more` are more such backends.
    fn obstacle(&self, _vip: IpAddr, _backend: IpAddr, _more: usize) -> Option<String> {
        None
    }
}

struct L2;

impl Mode for L2 {
    fn ways(&self) -> &'static [Forward] {
        &[Forward::L2]
    }

    fn way(&self, _: IpAddr) -> Forward {
        Forward::L2
    }

    fn is_on_link(&self) -> bool {
        true
    }

    /// The IP header stays as it is, so only a backend of the VIP's family can be the next hop.
    fn obstacle(&self, vip: IpAddr, backend: IpAddr, more: usize) -> Option<String> {
        if vip.is_ipv4() == backend.is_ipv4() {
            return None;
        }
        let more = if more == 0 { String::new() } else { format!(" (nor {more} more)") };
        let [own, other] = [vip, backend].map(family);
        Some(format!(
            "`l2` forwards {own} packets unchanged, so it cannot reach the {other} backend `{backend}`{more}; write \
             `forward = \"ipip\"`, or give the backend's {own} address"
        ))
    }
}

struct Ipip;

impl Mode for Ipip {
    fn ways(&self) -> &'static [Forward] {
        &[Forward::Ipip4, Forward::Ipip6]
    }

    fn way(&self, backend: IpAddr) -> Forward {
        if backend.is_ipv4() { Forward::Ipip4 } else { Forward::Ipip6 }
    }

    fn has_outer(&self) -> bool {
        true
    }

    fn outer_sum(&self, vip: IpAddr, backend: IpAddr) -> u32 {
        let inner = if vip.is_ipv4() { libc::IPPROTO_IPIP } else { libc::IPPROTO_IPV6 };
        match backend {
            IpAddr::V4(outer) => Backend::outer_sum(inner as u8, outer.into()),
            IpAddr::V6(_) => 0,
        }
    }
}

impl ForwardMode {
    fn mode(self) -> &'static dyn Mode {
        match self {
            Self::L2 => &L2,
            Self::Ipip => &Ipip,
        }
    }

    /// The mode that has this way of the data plane.
    pub fn of(way: Forward) -> Self {
        let has_it = |(_, mode): &&(&str, Self)| mode.mode().ways().contains(&way);
        // Every way is of some mode; the tests walk over all of them.
        Self::WORDS.iter().find(has_it).map_or(Self::L2, |(_, mode)| *mode)
    }

    /// How the data plane forwards to a backend of this address.
    pub fn way(self, backend: IpAddr) -> Forward {
        self.mode().way(backend)
    }

    /// Whether frames go to the backend's own MAC address, so that it must be a neighbour.
    pub fn is_on_link(self) -> bool {
        self.mode().is_on_link()
    }

    /// The outer source addresses of packets to a backend, and the key of `[node]` that has them; `None` where packets
    /// get no outer header. `Some(Err(key))` where the node has none.
    pub fn outer_source(self, backend: IpAddr, node: &Node) -> Option<Result<(&'static str, IpNet), &'static str>> {
        let of_node = || match backend {
            IpAddr::V4(_) => Ok(("encap_source4", IpNet::V4(node.encap_source4))),
            IpAddr::V6(_) => {
                let key = "encap_source6";
                node.encap_source6.map(|prefix| (key, IpNet::V6(prefix))).ok_or(key)
            }
        };
        self.mode().has_outer().then(of_node)
    }

    /// [`Backend::outer_sum`] for a backend of a VIP; 0 where that is not needed.
    pub fn outer_sum(self, vip: IpAddr, backend: IpAddr) -> u32 {
        self.mode().outer_sum(vip, backend)
    }

    /// Why no backend of this address can serve a VIP of that one, and what to do; `more` are more such backends.
    pub fn obstacle(self, vip: IpAddr, backend: IpAddr, more: usize) -> Option<String> {
        self.mode().obstacle(vip, backend, more)
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_is_of_one_mode() {
        for way in Forward::ALL {
            let modes = ForwardMode::WORDS.iter().filter(|(_, mode)| mode.mode().ways().contains(way));
            assert_eq!(modes.count(), 1, "{way:?}");
            assert!(ForwardMode::of(*way).mode().ways().contains(way));
        }
        for (_, mode) in ForwardMode::WORDS {
            for backend in ["10.0.0.1", "2001:db8::1"].map(|text| text.parse().unwrap()) {
                assert!(mode.mode().ways().contains(&mode.way(backend)));
            }
        }
    }

    /// The header of RFC 2003 with length and source zero, summed by hand.
    #[test]
    fn the_outer_sum_covers_what_is_constant() {
        let [vip, backend] = ["192.0.2.1", "10.0.1.12"].map(|text| text.parse().unwrap());
        assert_eq!(ForwardMode::Ipip.outer_sum(vip, backend), 0x4500 + 0x4000 + 0x4004 + 0x0a00 + 0x010c);
        assert_eq!(ForwardMode::L2.outer_sum(vip, backend), 0);
    }
}
