//! First stage: from the bytes of a frame to the addresses and ports that name its VIP and flow.
//!
//! A short function per layer. Each says go on (`Ok(Some)`), not for a load balancer (`Ok(None)`, the frame passes
//! untouched), or malformed (`Err`, which counts as a drop where the destination is a VIP's address and passes
//! untouched otherwise). Nothing here decides what is a VIP.

use lb_common::{Address, Be16, Be32, DropReason};
use network_types::{eth::EtherType, ip::IpProto};

use crate::frame::{Frame, byte_of, half_of};

/// Length of an Ethernet header without tags, in bytes.
pub const ETHERNET_LEN: usize = 14;
/// Length of a VLAN tag, in bytes.
pub const VLAN_LEN: usize = 4;
/// Length of an IPv4 header without options, in bytes.
pub const IPV4_LEN: usize = 20;
/// Length of an IPv6 header without extensions, in bytes.
pub const IPV6_LEN: usize = 40;

/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: Be16 = Be16::from_wire(EtherType::Ipv4 as u16);
/// Ethertype of IPv6.
pub const ETHERTYPE_IPV6: Be16 = Be16::from_wire(EtherType::Ipv6 as u16);
/// Ethertype of a VLAN tag (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: Be16 = Be16::from_wire(EtherType::Ieee8021q as u16);
/// Ethertype of a provider's VLAN tag (IEEE 802.1ad).
pub const ETHERTYPE_QINQ: Be16 = Be16::from_wire(EtherType::Ieee8021ad as u16);

/// Most extension headers that the walk over an IPv6 packet goes over.
pub const MAX_EXTENSIONS: usize = 6;

const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;

/// IP protocol number of TCP.
pub const TCP: u8 = IpProto::Tcp as u8;
/// IP protocol number of UDP.
pub const UDP: u8 = IpProto::Udp as u8;

/// Where the IP packet of a frame begins, and its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Offset of the IP header in bytes: 14 and 4 for each tag.
    pub len: usize,
    /// Ethertype behind all tags.
    pub ethertype: Be16,
}

/// The fixed part of an IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4(pub [u32; 5]);

/// The fixed part of an IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6(pub [u32; 10]);

/// What lies behind the IP header and names the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Source and destination port as they stand in the packet.
    pub ports: u32,
    /// Flags of a TCP segment; none of anything else.
    pub flags: TcpFlags,
    /// Sequence number of a TCP segment in host byte order; 0 of anything else.
    pub sequence: u32,
    /// Bytes behind the transport header.
    pub data_len: u32,
    /// The first fragment of a packet: it has ports, what follows it has not.
    pub first_fragment: bool,
}

/// Flags of a TCP segment (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// The sender will send no more.
    pub const FIN: Self = Self(0x01);
    /// Synchronizes sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Ends the connection at once.
    pub const RST: Self = Self(0x04);
    /// The acknowledgement number is valid.
    pub const ACK: Self = Self(0x10);

    /// Whether every flag of `other` is set.
    #[inline(always)]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl Transport {
    /// Whether this is a TCP segment that opens a connection: SYN, and none of ACK, FIN and RST, with which no receiver
    /// takes it for that (RFC 9293 §3.10.7.2; Linux and others discard SYN with FIN).
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        const MARKS: u8 = TcpFlags::SYN.0 | TcpFlags::ACK.0 | TcpFlags::FIN.0 | TcpFlags::RST.0;
        self.flags.0 & MARKS == TcpFlags::SYN.0
    }

    /// Whether this is a TCP segment that no connection has: SYN with FIN or RST.
    #[inline(always)]
    pub const fn contradicts(&self) -> bool {
        let TcpFlags(flags) = self.flags;
        flags & TcpFlags::SYN.0 != 0 && flags & (TcpFlags::FIN.0 | TcpFlags::RST.0) != 0
    }

    /// Destination port.
    #[inline(always)]
    pub const fn destination(&self) -> Be16 {
        Be16::new(half_of(self.ports, 1))
    }

    /// Source port.
    #[inline(always)]
    pub const fn source(&self) -> Be16 {
        Be16::new(half_of(self.ports, 0))
    }
}

/// The Ethernet header with up to two VLAN tags; `None` where the frame is too short to have one.
#[inline(always)]
pub fn ethernet<F: Frame + ?Sized>(frame: &F) -> Option<Ethernet> {
    let mut len = ETHERNET_LEN;
    let mut ethertype = Be16::from_wire(frame.half(len - 2)?);
    for _ in 0..2 {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        len += VLAN_LEN;
        ethertype = Be16::from_wire(frame.half(len - 2)?);
    }
    Some(Ethernet { len, ethertype })
}

impl Ipv4 {
    /// The header at `offset`; `None` where the frame is too short or it is not IPv4.
    #[inline(always)]
    pub fn parse<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Self> {
        let header = Self(frame.words(offset)?);
        (byte_of(header.0[0], 0) >> 4 == 4).then_some(header)
    }

    /// What lies behind the header at `offset`.
    #[inline(always)]
    pub fn transport<F: Frame + ?Sized>(&self, frame: &F, offset: usize) -> Result<Option<Transport>, DropReason> {
        let protocol = self.protocol();
        if protocol != TCP && protocol != UDP {
            return Ok(None);
        }
        let header_len = self.header_len();
        let total_len = self.total_len() as usize;
        if header_len < IPV4_LEN || total_len < header_len {
            return Err(DropReason::BadLength);
        }
        check_length(frame, offset, total_len)?;
        let fragment = half_of(self.0[1], 1);
        if fragment & IPV4_FRAGMENT_OFFSET != 0 {
            return Err(DropReason::Fragment);
        }
        let first_fragment = fragment & IPV4_MORE_FRAGMENTS != 0;
        transport(frame, protocol, offset + header_len, total_len - header_len, first_fragment).map(Some)
    }

    /// Number of the protocol behind the header.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        byte_of(self.0[2], 1)
    }

    /// Length of the packet in bytes as the header says it.
    #[inline(always)]
    pub const fn total_len(&self) -> u16 {
        half_of(self.0[0], 1)
    }

    /// Length of the header with options, in bytes; below 20 in a malformed one.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        (byte_of(self.0[0], 0) & 0xf) as usize * 4
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        byte_of(self.0[0], 1)
    }

    /// Source address.
    #[inline(always)]
    pub const fn source(&self) -> Be32 {
        Be32::from_wire(self.0[3])
    }

    /// Destination address.
    #[inline(always)]
    pub const fn destination(&self) -> Be32 {
        Be32::from_wire(self.0[4])
    }
}

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
            return transport(frame, protocol, offset + IPV6_LEN, payload_len, false).map(Some);
        }
        match walk(frame, protocol, offset + IPV6_LEN)? {
            None => Ok(None),
            Some(Extensions { protocol, len, first_fragment }) => {
                check_length(frame, offset, IPV6_LEN + payload_len)?;
                if payload_len < len {
                    return Err(DropReason::BadLength);
                }
                transport(frame, protocol, offset + IPV6_LEN + len, payload_len - len, first_fragment).map(Some)
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

/// The IP packet at `offset` must end within the frame. (It may end before: short frames are padded.)
#[inline(always)]
fn check_length<F: Frame + ?Sized>(frame: &F, offset: usize, total_len: usize) -> Result<(), DropReason> {
    // The second question costs a call in the kernel, and only frames of several buffers need it.
    if offset + total_len > frame.len() && offset + total_len > frame.total_len() {
        return Err(DropReason::BadLength);
    }
    Ok(())
}

/// The transport header at `offset`, with `len` bytes of the IP packet from there on.
#[inline(always)]
fn transport<F: Frame + ?Sized>(
    frame: &F,
    protocol: u8,
    offset: usize,
    len: usize,
    first_fragment: bool,
) -> Result<Transport, DropReason> {
    if protocol == TCP {
        if len < TCP_LEN {
            return Err(DropReason::Truncated);
        }
        let [ports, sequence, _, rest] = frame.words(offset).ok_or(DropReason::Truncated)?;
        let header_len = (byte_of(rest, 0) >> 4) as u32 * 4;
        return Ok(Transport {
            protocol,
            ports,
            flags: TcpFlags(byte_of(rest, 1)),
            sequence: u32::from_be(sequence),
            data_len: (len as u32).saturating_sub(header_len),
            first_fragment,
        });
    }
    if len < UDP_LEN {
        return Err(DropReason::Truncated);
    }
    let [ports] = frame.words(offset).ok_or(DropReason::Truncated)?;
    let data_len = (len - UDP_LEN) as u32;
    Ok(Transport { protocol, ports, flags: TcpFlags::default(), sequence: 0, data_len, first_fragment })
}
