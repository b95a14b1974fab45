//! Builds the headers that a forwarded frame gets in front: Ethernet with at most one tag, and the outer IP header; and
//! what forwarding does to the header that is there.

use lb_common::{Backend, Be32, NextHop, OUTER_FRAGMENT, OUTER_TTL};
use network_types::ip::IpProto;

use crate::{
    flow_hash::FlowHash,
    wire::{ETHERTYPE_VLAN, IPV4_LEN, Ipv4, Ipv6},
};

/// What forwarding needs of the packet's own header, which an outer one makes the inner one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// DSCP and ECN, both copied: uniform model of RFC 2983, normal mode of RFC 6040 §4.1.
    pub traffic_class: u8,
    /// Length of the inner packet in bytes.
    pub total_len: u32,
    /// Protocol number of the inner packet: 4 or 41.
    pub protocol: u8,
    /// The header's word with the TTL or hop limit, as it stands in the packet.
    pub lifetime: u32,
}

const IPV4: u8 = IpProto::Ipv4 as u8;
/// Offsets of [`Inner::lifetime`] in the header.
const IPV4_LIFETIME_AT: usize = 8;
const IPV6_LIFETIME_AT: usize = 4;

impl Inner {
    /// Whether the packet must not be forwarded: its TTL or hop limit would come to 0.
    #[inline(always)]
    pub const fn is_expiring(&self) -> bool {
        let lifetime = u32::from_be(self.lifetime);
        (if self.protocol == IPV4 { lifetime >> 24 } else { lifetime & 0xff }) <= 1
    }

    /// The word with the TTL or hop limit less one, and its offset in the header; only of a packet that is not
    /// [expiring](Self::is_expiring). Forwarding takes one off (RFC 1812 §5.3.1, RFC 8200 §3), and so does
    /// encapsulation on the way (RFC 2003 §3.1, RFC 2473 §3.1). The IPv4 checksum follows (RFC 1624 §3).
    #[inline(always)]
    pub const fn aged(&self) -> (usize, u32) {
        let lifetime = u32::from_be(self.lifetime);
        if self.protocol != IPV4 {
            return (IPV6_LIFETIME_AT, (lifetime - 1).to_be());
        }
        let checksum = (lifetime & 0xffff) + 0x100;
        // A carry goes round, and 0xffff stands for 0, which is what adding up the header gives.
        let checksum = (checksum + (checksum >= 0xffff) as u32) & 0xffff;
        (IPV4_LIFETIME_AT, (((lifetime & 0xffff_0000) - (1 << 24)) | checksum).to_be())
    }
}

impl From<&Ipv4> for Inner {
    #[inline(always)]
    fn from(header: &Ipv4) -> Self {
        let [_, _, lifetime, ..] = header.0;
        Self {
            traffic_class: header.traffic_class(),
            total_len: u32::from(header.total_len()),
            protocol: IPV4,
            lifetime,
        }
    }
}

impl From<&Ipv6> for Inner {
    #[inline(always)]
    fn from(header: &Ipv6) -> Self {
        let [_, lifetime, ..] = header.0;
        Self {
            traffic_class: header.traffic_class(),
            total_len: header.total_len(),
            protocol: IpProto::Ipv6 as u8,
            lifetime,
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
    let variable = u32::from(inner.traffic_class) + total_len + halves(source);
    let checksum = !fold(backend.outer_sum + variable);
    [
        (0x4500_0000 | u32::from(inner.traffic_class) << 16 | total_len & 0xffff).to_be(),
        u32::from(OUTER_FRAGMENT).to_be(),
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
    use crate::wire::frame::{byte_of, half_of};

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
            let inner = Inner { traffic_class: port as u8, total_len: 20 + port * 32, protocol: 4, lifetime: port };
            let header = ipv4(&backend, &inner, hash(port));
            let sum: u32 = header.iter().map(|word| halves(Be32::from_wire(*word))).sum();
            assert_eq!(fold(sum), 0xffff, "{header:x?}");
            assert_eq!(u32::from(half_of(header[0], 1)), inner.total_len + 20);
        }
    }

    /// The header's sum stays right, and the checksum is the one that adding up the header anew gives.
    #[test]
    fn a_lifetime_less_one_keeps_the_checksum_right() {
        for identification in 0..=u16::MAX {
            let ttl = 2 + (identification as u8).min(253);
            let mut words = [0x4500_0054, u32::from(identification) << 16, u32::from(ttl) << 24 | 6 << 16, 0, 0xffff];
            let sum = |words: &[u32]| fold(words.iter().map(|word| (word >> 16) + (word & 0xffff)).sum());
            words[2] |= u32::from(!sum(&words));
            let inner = Inner::from(&Ipv4(words.map(u32::to_be)));
            assert!(!inner.is_expiring());
            let (at, aged) = inner.aged();
            assert_eq!(at, 8);
            words[2] -= 1 << 24;
            words[2] &= 0xffff_0000;
            words[2] |= u32::from(!sum(&words));
            assert_eq!(u32::from_be(aged), words[2], "identification {identification}");
        }
    }

    #[test]
    fn lifetimes_of_one_and_less_end_here() {
        let v4 = |ttl: u32| Inner::from(&Ipv4([0, 0, (ttl << 24 | 0x0006_ffff).to_be(), 0, 0]));
        let v6 = |limit: u32| Inner::from(&Ipv6([0, (0xffff_ff00 | limit).to_be(), 0, 0, 0, 0, 0, 0, 0, 0]));
        for (lifetime, expiring) in [(0, true), (1, true), (2, false), (255, false)] {
            assert_eq!(v4(lifetime).is_expiring(), expiring);
            assert_eq!(v6(lifetime).is_expiring(), expiring);
        }
        assert_eq!(v6(64).aged(), (4, 0xffff_ff3fu32.to_be()));
    }

    #[test]
    fn sources_vary_within_their_prefix_only() {
        let backend = backend("10.0.0.1", "172.16.0.0", 0xffff, 4);
        let inner = Inner { traffic_class: 0, total_len: 40, protocol: 4, lifetime: 0 };
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
        let mut backend = backend("2001:db8::b", "fd6e:e::", 0, 4);
        backend.outer_source_mask = Be32::new(0);
        let inner = Inner { traffic_class: 0xb9, total_len: 1500, protocol: 4, lifetime: 7 };
        let [first, second, s0, .., d3] = ipv6(&backend, &inner, hash(1));
        assert_eq!(u32::from_be(first) >> 20, 0x6b9);
        assert_eq!(u32::from_be(first) & 0xf_ffff, hash(1).entropy() & 0xf_ffff);
        assert_eq!((half_of(second, 0), byte_of(second, 2), byte_of(second, 3)), (1500, 4, 64));
        assert_eq!((u32::from_be(s0), u32::from_be(d3)), (0xfd6e_000e, 0xb));
    }
}
