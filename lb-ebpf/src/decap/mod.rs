//! Backend side: recognises an encapsulated packet and says what is to be done with its headers.

use lb_common::{Address, Be16, DecapOutcome};
use network_types::ip::IpProto;

use crate::{
    ecn,
    wire::{
        ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Family as _, Frame, IPV6_LEN, Ipv4, Ipv6,
        frame::{byte_of, half_of},
    },
};

/// An IP packet in an IP packet (RFC 2003, 2473, 4213).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Length of the Ethernet header with its tags, in bytes.
    pub ethernet_len: usize,
    /// Length of the outer header, in bytes.
    pub outer_len: usize,
    /// Length of the packet from the outer header on, in bytes.
    pub total_len: u32,
    /// Outer source address.
    pub source: Address,
    /// Outer destination address.
    pub destination: Address,
    /// Outer DSCP and ECN.
    pub traffic_class: u8,
    /// Ethertype of the inner packet.
    pub inner: Be16,
    /// Whether this is a fragment of the outer packet.
    pub fragment: bool,
}

/// What is to be done to the inner header when the outer one is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Nothing.
    None,
    /// This is its first word now.
    Ipv6(u32),
    /// This is its first word now, and this its word of TTL, protocol and checksum.
    Ipv4([u32; 2]),
}

/// The tunnel packet in this frame; `None` for anything else, an outer IPv6 header with extensions included.
#[inline(always)]
pub fn tunnel<F: Frame + ?Sized>(frame: &F) -> Option<Tunnel> {
    let ethernet = Ethernet::parse(frame)?;
    let ethernet_len = ethernet.len;
    if ethernet.ethertype == ETHERTYPE_IPV4 {
        let outer = Ipv4::parse(frame, ethernet_len)?;
        Some(Tunnel {
            ethernet_len,
            outer_len: outer.header_len(),
            total_len: outer.total_len(),
            source: outer.source(),
            destination: outer.destination(),
            traffic_class: outer.traffic_class(),
            inner: inner_ethertype(byte_of(outer.0[2], 1))?,
            fragment: half_of(outer.0[1], 1) & 0x3fff != 0,
        })
    } else if ethernet.ethertype == ETHERTYPE_IPV6 {
        let outer = Ipv6::parse(frame, ethernet_len)?;
        Some(Tunnel {
            ethernet_len,
            outer_len: IPV6_LEN,
            total_len: outer.total_len(),
            source: outer.source(),
            destination: outer.destination(),
            traffic_class: outer.traffic_class(),
            inner: inner_ethertype(outer.next_header())?,
            fragment: false,
        })
    } else {
        None
    }
}

/// The packet in a tunnel packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Its source address.
    pub source: Address,
    /// Its destination address.
    pub destination: Address,
    /// What ECN asks of its header.
    pub rewrite: Rewrite,
}

impl Inner {
    /// Whether it is for several hosts: no VIP is.
    #[inline(always)]
    pub fn is_for_group(&self) -> bool {
        match self.destination.v4() {
            // Multicast, reserved, and the limited broadcast.
            Some(v4) => v4.host() >> 29 == 0b111,
            None => self.destination.0[0].host() >> 24 == 0xff,
        }
    }
}

impl Tunnel {
    /// Checks the inner header and says what ECN asks of it; an error is what the packet is counted as instead.
    #[inline(always)]
    pub fn inner<F: Frame + ?Sized>(&self, frame: &F) -> Result<Inner, DecapOutcome> {
        let offset = self.ethernet_len + self.outer_len;
        let room = self.total_len.checked_sub(self.outer_len as u32).ok_or(DecapOutcome::Malformed)?;
        if self.outer_len < 20 || self.ethernet_len + self.total_len as usize > frame.total_len() {
            return Err(DecapOutcome::Malformed);
        }
        if self.inner == ETHERTYPE_IPV4 {
            let inner = Ipv4::parse(frame, offset).ok_or(DecapOutcome::Malformed)?;
            if inner.total_len() > room || inner.header_len() < 20 {
                return Err(DecapOutcome::Malformed);
            }
            let rewrite = match ecn::egress(inner.traffic_class(), self.traffic_class) {
                ecn::Egress::Keep => Rewrite::None,
                ecn::Egress::Set(ecn) => ipv4_with_ecn(&inner, ecn),
                ecn::Egress::Drop => return Err(DecapOutcome::EcnDropped),
            };
            Ok(Inner { source: inner.source(), destination: inner.destination(), rewrite })
        } else {
            let inner = Ipv6::parse(frame, offset).ok_or(DecapOutcome::Malformed)?;
            if inner.total_len() > room {
                return Err(DecapOutcome::Malformed);
            }
            let rewrite = match ecn::egress(inner.traffic_class(), self.traffic_class) {
                ecn::Egress::Keep => Rewrite::None,
                ecn::Egress::Set(ecn) => {
                    let first = u32::from_be(inner.0[0]) & !(0b11 << 20) | u32::from(ecn) << 20;
                    Rewrite::Ipv6(first.to_be())
                }
                ecn::Egress::Drop => return Err(DecapOutcome::EcnDropped),
            };
            Ok(Inner { source: inner.source(), destination: inner.destination(), rewrite })
        }
    }
}

#[inline(always)]
fn inner_ethertype(protocol: u8) -> Option<Be16> {
    const IPV4: u8 = IpProto::Ipv4 as u8;
    const IPV6: u8 = IpProto::Ipv6 as u8;
    match protocol {
        IPV4 => Some(ETHERTYPE_IPV4),
        IPV6 => Some(ETHERTYPE_IPV6),
        _ => None,
    }
}

/// Sets the ECN field and mends the checksum (RFC 1624 §3, equation 3).
#[inline(always)]
fn ipv4_with_ecn(header: &Ipv4, ecn: u8) -> Rewrite {
    let first = u32::from_be(header.0[0]);
    let third = u32::from_be(header.0[2]);
    let changed = first & !(0b11 << 16) | u32::from(ecn) << 16;
    let sum = (!third & 0xffff) + (!(first >> 16) & 0xffff) + (changed >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) & 0xffff;
    Rewrite::Ipv4([changed.to_be(), (third & 0xffff_0000 | checksum).to_be()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_ecn_field_keeps_the_checksum_right() {
        for identification in 0..=u16::MAX {
            let mut words =
                [0x4502_0054, u32::from(identification) << 16 | 0x4000, 0x3f06_0000, 0x0a00_0001, 0xcb00_710a];
            let sum = |words: &[u32]| {
                let sum: u32 = words.iter().map(|word| (word >> 16) + (word & 0xffff)).sum();
                let sum = (sum >> 16) + (sum & 0xffff);
                (sum >> 16) + (sum & 0xffff)
            };
            words[2] |= !sum(&words) & 0xffff;
            let Rewrite::Ipv4([first, third]) = ipv4_with_ecn(&Ipv4(words.map(u32::to_be)), 3) else {
                panic!("not a rewrite of IPv4");
            };
            let mended = [u32::from_be(first), words[1], u32::from_be(third), words[3], words[4]];
            assert_eq!(mended[0], 0x4503_0054);
            assert_eq!(sum(&mended), 0xffff, "{mended:x?}");
        }
    }
}
