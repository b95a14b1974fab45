//! What carries a frame to its backend: Ethernet with at most one tag, an outer header where the mode has one (a file
//! each), and what forwarding does to the header that is there.

pub mod ipip;

use lb_common::{Be32, NextHop};
use network_types::ip::IpProto;

use crate::{
    hash::FlowHash,
    wire::{ETHERTYPE_VLAN, Ipv4, Ipv6},
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

/// The tag behind the Ethernet addresses, for a next hop on a VLAN.
#[inline(always)]
pub fn vlan_tag(next_hop: &NextHop) -> u32 {
    (u32::from(ETHERTYPE_VLAN.host()) << 16 | next_hop.vlan & 0xfff).to_be()
}

#[inline(always)]
pub(super) fn vary(source: Be32, mask: Be32, hash: FlowHash) -> Be32 {
    Be32::from_wire(source.wire() | hash.entropy() & mask.wire())
}

#[inline(always)]
pub(super) const fn halves(word: Be32) -> u32 {
    (word.host() >> 16) + (word.host() & 0xffff)
}

/// Folds the carries of a one's-complement sum (RFC 1071 §2); the sum of an IP header needs two folds.
#[inline(always)]
pub(super) const fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
