//! IPv6 and its extension headers.

use lb_common::{Address, Be32, DropReason};
use network_types::ip::IpProto;

use super::{
    Frame, TCP, Transport, UDP,
    frame::{byte_of, half_of},
    transport::check_length,
};

/// Length of an IPv6 header without extensions, in bytes.
pub const IPV6_LEN: usize = 40;

/// Most extension headers that the walk over an IPv6 packet goes over.
pub const MAX_EXTENSIONS: usize = 6;

/// The fixed part of an IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6(pub [u32; 10]);

impl Ipv6 {
    /// The header at `offset`; `None` where the frame is too short or it is not IPv6.
    #[inline(always)]
    pub fn parse<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Self> {
        let header = Self(frame.words(offset)?);
        (byte_of(header.0[0], 0) >> 4 == 6).then_some(header)
    }

    /// What lies behind the header at `offset` and its extensions.
    #[inline(always)]
    pub fn transport<F: Frame + ?Sized>(&self, frame: &F, offset: usize) -> Result<Option<Transport>, DropReason> {
        let payload_len = self.payload_len() as usize;
        let protocol = self.next_header();
        if protocol == TCP || protocol == UDP {
            check_length(frame, offset, IPV6_LEN + payload_len)?;
            return Transport::parse(frame, protocol, offset + IPV6_LEN, payload_len, false).map(Some);
        }
        match walk(frame, protocol, offset + IPV6_LEN)? {
            None => Ok(None),
            Some(Extensions { protocol, len, first_fragment }) => {
                check_length(frame, offset, IPV6_LEN + payload_len)?;
                if payload_len < len {
                    return Err(DropReason::BadLength);
                }
                Transport::parse(frame, protocol, offset + IPV6_LEN + len, payload_len - len, first_fragment).map(Some)
            }
        }
    }

    /// Number of the transport protocol of a packet at `offset` whose transport header cannot be read: that behind the
    /// fixed header or behind a fragment header that follows it at once, as senders put it; 0 where that does not tell.
    #[inline(always)]
    pub fn announced_protocol<F: Frame + ?Sized>(&self, frame: &F, offset: usize) -> u8 {
        let next = match self.next_header() {
            FRAGMENT => frame.byte(offset + IPV6_LEN).unwrap_or(0),
            next => next,
        };
        if next == TCP || next == UDP { next } else { 0 }
    }

    /// Length of everything behind the fixed header in bytes, as the header says it.
    #[inline(always)]
    pub const fn payload_len(&self) -> u16 {
        half_of(self.0[1], 0)
    }

    /// Length of the packet in bytes as the header says it.
    #[inline(always)]
    pub const fn total_len(&self) -> u32 {
        IPV6_LEN as u32 + self.payload_len() as u32
    }

    /// Number of the protocol or extension behind the fixed header.
    #[inline(always)]
    pub const fn next_header(&self) -> u8 {
        byte_of(self.0[1], 2)
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        (u32::from_be(self.0[0]) >> 20) as u8
    }

    /// Source address.
    #[inline(always)]
    pub const fn source(&self) -> Address {
        let [_, _, a, b, c, d, ..] = self.0;
        Address([Be32::from_wire(a), Be32::from_wire(b), Be32::from_wire(c), Be32::from_wire(d)])
    }

    /// Destination address.
    #[inline(always)]
    pub const fn destination(&self) -> Address {
        let [_, _, _, _, _, _, a, b, c, d] = self.0;
        Address([Be32::from_wire(a), Be32::from_wire(b), Be32::from_wire(c), Be32::from_wire(d)])
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
        let header = frame.half(offset + found.len).ok_or(DropReason::Truncated)?;
        let [next, len] = header.to_ne_bytes();
        found.protocol = next;
        found.len += match extension {
            FRAGMENT => {
                let fragment = frame.half(offset + found.len + 2).map(u16::from_be).ok_or(DropReason::Truncated)?;
                if fragment & !0b111 != 0 {
                    // Only TCP and UDP are for a VIP; the rest of another packet passes.
                    return if next == TCP || next == UDP { Err(DropReason::Fragment) } else { Ok(None) };
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
        other if is_extension(other) => Err(DropReason::TooManyExtensions),
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
