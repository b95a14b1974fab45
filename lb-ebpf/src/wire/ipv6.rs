//! IPv6 and its extension headers.

use lb_common::{Address, Be16, Be32, DropReason};
use network_types::ip::IpProto;

use super::{
    ETHERTYPE_IPV6, Family, Frame, Packet, TCP, Transport, UDP,
    frame::{byte_of, half_of},
    transport::check_length,
};
use crate::{
    cold::cold,
    hash::{FlowHash, Key},
};

/// Length of an IPv6 header without extensions, in bytes.
pub const IPV6_LEN: usize = 40;

/// Most extension headers that the walk over an IPv6 packet goes over.
pub const MAX_EXTENSIONS: usize = 6;

/// The fixed part of an IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6(pub [u32; 10]);

impl Ipv6 {
    /// Length of everything behind the fixed header in bytes, as the header says it.
    #[inline(always)]
    pub const fn payload_len(&self) -> u16 {
        half_of(self.0[1], 0)
    }

    /// Number of the protocol or extension behind the fixed header.
    #[inline(always)]
    pub const fn next_header(&self) -> u8 {
        byte_of(self.0[1], 2)
    }
}

impl Family for Ipv6 {
    const ETHERTYPE: Be16 = ETHERTYPE_IPV6;
    const PROTOCOL: u8 = IpProto::Ipv6 as u8;
    const HEADER_LEN: usize = IPV6_LEN;
    const ICMP: u8 = IpProto::Ipv6Icmp as u8;

    /// Destination unreachable, packet too big, time exceeded, parameter problem.
    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn is_fragment(&self) -> bool {
        false
    }

    #[inline(always)]
    fn turned(self) -> Self {
        let Self([first, second, a, b, c, d, e, f, g, h]) = self;
        Self([first, second, e, f, g, h, a, b, c, d])
    }

    #[inline(always)]
    fn transport<F: Frame + ?Sized>(&self, frame: &F, offset: usize) -> Option<(u8, usize)> {
        let Extensions { protocol, len, .. } = walk(frame, self.next_header(), offset + IPV6_LEN).ok()??;
        Some((protocol, offset + IPV6_LEN + len))
    }

    #[inline(always)]
    fn parse<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Self> {
        let header = Self(frame.words(offset)?);
        (byte_of(header.0[0], 0) >> 4 == 6).then_some(header)
    }

    #[inline(always)]
    fn packet<F: Frame + ?Sized>(self, frame: &F, offset: usize) -> Result<Option<Packet<Self>>, DropReason> {
        let packet = |transport_offset, transport| Some(Packet { header: self, offset, transport_offset, transport });
        let payload_len = self.payload_len() as usize;
        let protocol = self.next_header();
        let payload_offset = offset + IPV6_LEN;
        if protocol == TCP || protocol == UDP {
            check_length(frame, offset, IPV6_LEN + payload_len)?;
            let transport = Transport::parse(frame, protocol, payload_offset, payload_len, false)?;
            return Ok(packet(payload_offset, transport));
        }
        let Some(Extensions { protocol, len, first_fragment }) = walk(frame, protocol, payload_offset)? else {
            return Ok(None);
        };
        check_length(frame, offset, IPV6_LEN + payload_len)?;
        if payload_len < len {
            return Err(cold(DropReason::BadLength));
        }
        let offset = payload_offset + len;
        let transport = Transport::parse(frame, protocol, offset, payload_len - len, first_fragment)?;
        Ok(packet(offset, transport))
    }

    /// That behind the fixed header, or behind a fragment header that follows it at once, as senders put it.
    #[inline(always)]
    fn announced_protocol<F: Frame + ?Sized>(&self, frame: &F, offset: usize) -> u8 {
        let next = match self.next_header() {
            FRAGMENT => frame.byte(offset + IPV6_LEN).unwrap_or(0),
            next => next,
        };
        if next == TCP || next == UDP { next } else { 0 }
    }

    #[inline(always)]
    fn next(&self) -> (u8, usize) {
        (self.next_header(), IPV6_LEN)
    }

    #[inline(always)]
    fn total_len(&self) -> u32 {
        IPV6_LEN as u32 + u32::from(self.payload_len())
    }

    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        (u32::from_be(self.0[0]) >> 20) as u8
    }

    #[inline(always)]
    fn source(&self) -> Address {
        let [_, _, a, b, c, d, ..] = self.0;
        Address([a, b, c, d].map(Be32::from_wire))
    }

    #[inline(always)]
    fn destination(&self) -> Address {
        let [_, _, _, _, _, _, a, b, c, d] = self.0;
        Address([a, b, c, d].map(Be32::from_wire))
    }

    #[inline(always)]
    fn is_expiring(&self) -> bool {
        byte_of(self.0[1], 3) <= 1
    }

    #[inline(always)]
    fn aged(&self) -> (usize, u32) {
        (4, (u32::from_be(self.0[1]) - 1).to_be())
    }

    #[inline(always)]
    fn hash(&self, key: &impl Key, ports: u32, protocol: u8) -> FlowHash {
        FlowHash::v6(key, self.source(), self.destination(), ports, protocol)
    }
}

/// What a walk over extension headers found.
struct Extensions {
    protocol: u8,
    /// Length of all of them in bytes.
    len: usize,
    first_fragment: bool,
}

/// Goes over the extension headers at `offset` (RFC 8200 §4) as far as TCP or UDP.
#[inline(always)]
fn walk<F: Frame + ?Sized>(frame: &F, first: u8, offset: usize) -> Result<Option<Extensions>, DropReason> {
    let mut found = Extensions { protocol: first, len: 0, first_fragment: false };
    for _ in 0..MAX_EXTENSIONS {
        let extension = found.protocol;
        if !is_extension(extension) {
            break;
        }
        let header = frame.half(offset + found.len).ok_or_else(|| cold(DropReason::Truncated))?;
        let [next, len] = header.to_ne_bytes();
        found.protocol = next;
        found.len += match extension {
            FRAGMENT => {
                let fragment =
                    frame.half(offset + found.len + 2).map(u16::from_be).ok_or_else(|| cold(DropReason::Truncated))?;
                if fragment & !0b111 != 0 {
                    // Only TCP and UDP are for a VIP; the rest of another packet passes.
                    return if next == TCP || next == UDP { Err(cold(DropReason::Fragment)) } else { Ok(None) };
                }
                found.first_fragment |= fragment & 1 != 0;
                8
            }
            AUTHENTICATION => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
    }
    match found.protocol {
        TCP | UDP => Ok(Some(found)),
        other if is_extension(other) => Err(cold(DropReason::TooManyExtensions)),
        _ => Ok(None),
    }
}

const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
const AUTHENTICATION: u8 = IpProto::Ah as u8;
const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
const ROUTING: u8 = IpProto::Ipv6Route as u8;
const DESTINATION: u8 = IpProto::Ipv6Opts as u8;
const MOBILITY: u8 = IpProto::MobilityHeader as u8;

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hop_limits_of_one_and_less_end_here() {
        let header = |limit: u32| Ipv6([0, (0xffff_ff00 | limit).to_be(), 0, 0, 0, 0, 0, 0, 0, 0]);
        for (limit, expiring) in [(0, true), (1, true), (2, false), (255, false)] {
            assert_eq!(header(limit).is_expiring(), expiring);
        }
        assert_eq!(header(64).aged(), (4, 0xffff_ff3fu32.to_be()));
    }

    #[test]
    fn a_packet_says_where_its_headers_are() {
        // Two bytes, a header, a hop-by-hop header where there is one, and a UDP header.
        for (first, transport_offset) in [(UDP, 42), (HOP_BY_HOP, 50)] {
            let mut frame = [0u8; 2 + 40 + 8 + 8];
            frame[2] = 0x60;
            frame[7] = 16;
            frame[8] = first;
            frame[42] = UDP;
            frame[transport_offset..][..4].copy_from_slice(&[0, 1, 0, 2]);
            let packet = Ipv6::parse(&frame[..], 2).unwrap().packet(&frame[..], 2).unwrap().unwrap();
            assert_eq!((packet.offset, packet.transport_offset), (2, transport_offset));
            assert_eq!((packet.transport.source().host(), packet.transport.destination().host()), (1, 2));
        }
    }
}
