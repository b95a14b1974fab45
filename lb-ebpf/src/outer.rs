//! Builds the headers that a forwarded frame gets in front: Ethernet with at most one tag, and the outer IP header.

use lb_common::{Backend, Be32, NextHop, OUTER_TTL};
use network_types::ip::IpProto;

use crate::{
    flow_hash::FlowHash,
    parse::{ETHERTYPE_VLAN, IPV4_LEN, Ipv4, Ipv6},
};

const IPV4_DONT_FRAGMENT: u16 = 0x4000;

/// What the outer header takes over from the inner one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// DSCP and ECN, both copied: uniform model of RFC 2983, normal mode of RFC 6040 §4.1.
    pub traffic_class: u8,
    /// Length of the inner packet in bytes.
    pub total_len: u32,
    /// Protocol number of the inner packet: 4 or 41.
    pub protocol: u8,
    /// Identification and don't-fragment bit of an outer IPv4 header, in host byte order. An outer packet that may be
    /// fragmented needs an identification of its own (RFC 6864 §4.2), and the inner one serves as such.
    pub fragment: [u16; 2],
}

impl From<&Ipv4> for Inner {
    #[inline(always)]
    fn from(header: &Ipv4) -> Self {
        let [_, fragment, ..] = header.0;
        let fragment = u32::from_be(fragment);
        Self {
            traffic_class: header.traffic_class(),
            total_len: u32::from(header.total_len()),
            protocol: IpProto::Ipv4 as u8,
            fragment: [(fragment >> 16) as u16, fragment as u16 & IPV4_DONT_FRAGMENT],
        }
    }
}

impl From<&Ipv6> for Inner {
    #[inline(always)]
    fn from(header: &Ipv6) -> Self {
        Self {
            traffic_class: header.traffic_class(),
            total_len: header.total_len(),
            protocol: IpProto::Ipv6 as u8,
            // Routers do not fragment IPv6 (RFC 8200 §4.5), and neither may those between here and the backend.
            fragment: [0, IPV4_DONT_FRAGMENT],
        }
    }
}

/// The outer IPv4 header (RFC 2003 §3.1, RFC 4213 §3.5).
#[inline(always)]
pub fn ipv4(backend: &Backend, inner: &Inner, hash: FlowHash) -> [u32; 5] {
    let [_, _, _, source] = backend.outer_source.0;
    let [_, _, _, destination] = backend.address.0;
    let source = vary(source, backend.outer_source_mask, hash);
    let total_len = inner.total_len + IPV4_LEN as u32;
    let [identification, dont_fragment] = inner.fragment.map(u32::from);
    let variable = u32::from(inner.traffic_class) + total_len + identification + dont_fragment + halves(source);
    let checksum = !fold(backend.outer_sum + variable);
    [
        (0x4500_0000 | u32::from(inner.traffic_class) << 16 | total_len & 0xffff).to_be(),
        (identification << 16 | dont_fragment).to_be(),
        (u32::from(OUTER_TTL) << 24 | u32::from(inner.protocol) << 16 | u32::from(checksum)).to_be(),
        source.wire(),
        destination.wire(),
    ]
}

/// The outer IPv6 header (RFC 2473 §6), with the flow label that RFC 6438 asks of tunnels.
#[inline(always)]
pub fn ipv6(backend: &Backend, inner: &Inner, hash: FlowHash) -> [u32; 10] {
    let [s0, s1, s2, s3] = backend.outer_source.0.map(Be32::wire);
    let [d0, d1, d2, d3] = backend.address.0.map(Be32::wire);
    let s3 = vary(Be32::from_wire(s3), backend.outer_source_mask, hash).wire();
    let flow_label = hash.entropy() & 0xf_ffff;
    [
        (0x6000_0000 | u32::from(inner.traffic_class) << 20 | flow_label).to_be(),
        (inner.total_len << 16 | u32::from(inner.protocol) << 8 | u32::from(OUTER_TTL)).to_be(),
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ]
}

/// The tag behind the Ethernet addresses, for a next hop on a VLAN.
#[inline(always)]
pub fn vlan_tag(next_hop: &NextHop) -> u32 {
    (u32::from(ETHERTYPE_VLAN.host()) << 16 | next_hop.vlan & 0xfff).to_be()
}

#[inline(always)]
fn vary(source: Be32, mask: Be32, hash: FlowHash) -> Be32 {
    Be32::from_wire(source.wire() | hash.entropy() & mask.wire())
}

#[inline(always)]
const fn halves(word: Be32) -> u32 {
    (word.host() >> 16) + (word.host() & 0xffff)
}

/// Folds the carries of a one's-complement sum (RFC 1071 §2); the sum of an IP header needs two folds.
#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr};

    use lb_common::Address;

    use super::*;
    use crate::frame::{byte_of, half_of};

    fn backend(address: &str, source: &str, mask: u32, inner_protocol: u8) -> Backend {
        let address: Address = address.parse::<IpAddr>().unwrap().into();
        Backend {
            address,
            outer_source: source.parse::<IpAddr>().unwrap().into(),
            outer_source_mask: Be32::new(mask),
            outer_sum: address.v4().map_or(0, |v4| Backend::outer_sum(inner_protocol, v4)),
            ..Backend::default()
        }
    }

    fn hash(port: u32) -> FlowHash {
        FlowHash::v4(&lb_common::HashKey::PUBLIC, Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into(), port, 6)
    }

    #[test]
    fn checksums_hold_for_every_flow_and_length() {
        let backend = backend("10.0.255.255", "172.16.0.0", 0xffff, 4);
        for port in 0..2_000 {
            let inner = Inner {
                traffic_class: port as u8,
                total_len: 20 + port * 32,
                protocol: 4,
                fragment: [port as u16 ^ 0xfff0, IPV4_DONT_FRAGMENT],
            };
            let header = ipv4(&backend, &inner, hash(port));
            let sum: u32 = header.iter().map(|word| halves(Be32::from_wire(*word))).sum();
            assert_eq!(fold(sum), 0xffff, "{header:x?}");
            assert_eq!(u32::from(half_of(header[0], 1)), inner.total_len + 20);
        }
    }

    #[test]
    fn sources_vary_within_their_prefix_only() {
        let backend = backend("10.0.0.1", "172.16.0.0", 0xffff, 4);
        let inner = Inner { traffic_class: 0, total_len: 40, protocol: 4, fragment: [0, 0] };
        let mut seen = [false; 256];
        for port in 0..4_000 {
            let [.., source, destination] = ipv4(&backend, &inner, hash(port));
            assert_eq!(half_of(source, 0), 0xac10);
            assert_eq!(destination, backend.address.0[3].wire());
            seen[usize::from(byte_of(source, 3))] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
    }

    #[test]
    fn an_outer_ipv6_header_to_the_byte() {
        let mut backend = backend("2001:db8::b", "100::", 0, 4);
        backend.outer_source_mask = Be32::new(0);
        let inner = Inner { traffic_class: 0xb9, total_len: 1500, protocol: 4, fragment: [7, 0] };
        let [first, second, s0, .., d3] = ipv6(&backend, &inner, hash(1));
        assert_eq!(u32::from_be(first) >> 20, 0x6b9);
        assert_eq!(u32::from_be(first) & 0xf_ffff, hash(1).entropy() & 0xf_ffff);
        assert_eq!((half_of(second, 0), byte_of(second, 2), byte_of(second, 3)), (1500, 4, 64));
        assert_eq!((u32::from_be(s0), u32::from_be(d3)), (0x0100_0000, 0xb));
    }
}
