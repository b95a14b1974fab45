//! IPv4.

use lb_common::{Address, Be16, Be32, DropReason};
use network_types::ip::IpProto;

use super::{
    ETHERTYPE_IPV4, Family, Frame, Packet, TCP, Transport, UDP,
    frame::{byte_of, half_of},
    transport::check_length,
};
use crate::{
    cold::cold,
    hash::{FlowHash, Key},
};

/// Length of an IPv4 header without options, in bytes.
pub const IPV4_LEN: usize = 20;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fixed part of an IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4(pub [u32; 5]);

impl Ipv4 {
    /// Number of the protocol behind the header.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        byte_of(self.0[2], 1)
    }

    /// Length of the header with options, in bytes; below 20 in a malformed one.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        (byte_of(self.0[0], 0) & 0xf) as usize * 4
    }

    /// Source and destination address.
    #[inline(always)]
    const fn addresses(&self) -> [Be32; 2] {
        let [_, _, _, source, destination] = self.0;
        [Be32::from_wire(source), Be32::from_wire(destination)]
    }
}

impl Family for Ipv4 {
    const ETHERTYPE: Be16 = ETHERTYPE_IPV4;
    const PROTOCOL: u8 = IpProto::Ipv4 as u8;
    const HEADER_LEN: usize = IPV4_LEN;
    const ICMP: u8 = IpProto::Icmp as u8;

    /// Destination unreachable, time exceeded, parameter problem. Source quench (RFC 6633) and redirects are not heeded.
    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn is_fragment(&self) -> bool {
        half_of(self.0[1], 1) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    #[inline(always)]
    fn turned(self) -> Self {
        let Self([first, second, third, source, destination]) = self;
        Self([first, second, third, destination, source])
    }

    #[inline(always)]
    fn transport<F: Frame + ?Sized>(&self, _: &F, offset: usize) -> Option<(u8, usize)> {
        let (protocol, len) = self.next();
        let is_first = half_of(self.0[1], 1) & FRAGMENT_OFFSET == 0 && len >= IPV4_LEN;
        (is_first && (protocol == TCP || protocol == UDP)).then_some((protocol, offset + len))
    }

    #[inline(always)]
    fn parse<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Self> {
        let header = Self(frame.words(offset)?);
        (byte_of(header.0[0], 0) >> 4 == 4).then_some(header)
    }

    #[inline(always)]
    fn packet<F: Frame + ?Sized>(self, frame: &F, offset: usize) -> Result<Option<Packet<Self>>, DropReason> {
        let protocol = self.protocol();
        if protocol != TCP && protocol != UDP {
            return Ok(None);
        }
        let header_len = self.header_len();
        let total_len = self.total_len() as usize;
        if header_len < IPV4_LEN || total_len < header_len {
            return Err(cold(DropReason::BadLength));
        }
        check_length(frame, offset, total_len)?;
        let fragment = half_of(self.0[1], 1);
        if fragment & FRAGMENT_OFFSET != 0 {
            return Err(cold(DropReason::Fragment));
        }
        let first_fragment = fragment & MORE_FRAGMENTS != 0;
        let transport_offset = offset + header_len;
        let transport = Transport::parse(frame, protocol, transport_offset, total_len - header_len, first_fragment)?;
        Ok(Some(Packet { header: self, offset, transport_offset, transport }))
    }

    #[inline(always)]
    fn announced_protocol<F: Frame + ?Sized>(&self, _: &F, _: usize) -> u8 {
        self.protocol()
    }

    #[inline(always)]
    fn next(&self) -> (u8, usize) {
        (self.protocol(), self.header_len())
    }

    #[inline(always)]
    fn total_len(&self) -> u32 {
        half_of(self.0[0], 1).into()
    }

    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        byte_of(self.0[0], 1)
    }

    #[inline(always)]
    fn source(&self) -> Address {
        let [source, _] = self.addresses();
        Address::from_v4(source)
    }

    #[inline(always)]
    fn destination(&self) -> Address {
        let [_, destination] = self.addresses();
        Address::from_v4(destination)
    }

    #[inline(always)]
    fn is_expiring(&self) -> bool {
        byte_of(self.0[2], 0) <= 1
    }

    /// The checksum follows (RFC 1624 §3).
    #[inline(always)]
    fn aged(&self) -> (usize, u32) {
        let lifetime = u32::from_be(self.0[2]);
        let checksum = (lifetime & 0xffff) + 0x100;
        // A carry goes round, and 0xffff stands for 0, which is what adding up the header gives.
        let checksum = (checksum + u32::from(checksum >= 0xffff)) & 0xffff;
        (8, (((lifetime & 0xffff_0000) - (1 << 24)) | checksum).to_be())
    }

    #[inline(always)]
    fn hash(&self, key: &impl Key, ports: u32, protocol: u8) -> FlowHash {
        let [source, destination] = self.addresses();
        FlowHash::v4(key, source, destination, ports, protocol)
    }
}

/// Folds the carries of a one's-complement sum (RFC 1071 §2); the sum of an IP header needs two folds.
#[inline(always)]
pub(crate) const fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header's sum stays right, and the checksum is the one that adding up the header anew gives.
    #[test]
    fn a_ttl_less_one_keeps_the_checksum_right() {
        for identification in 0..=u16::MAX {
            let ttl = 2 + (identification as u8).min(253);
            let mut words = [0x4500_0054, u32::from(identification) << 16, u32::from(ttl) << 24 | 6 << 16, 0, 0xffff];
            let sum = |words: &[u32]| fold(words.iter().map(|word| (word >> 16) + (word & 0xffff)).sum());
            words[2] |= u32::from(!sum(&words));
            let header = Ipv4(words.map(u32::to_be));
            assert!(!header.is_expiring());
            let (at, aged) = header.aged();
            assert_eq!(at, 8);
            words[2] -= 1 << 24;
            words[2] &= 0xffff_0000;
            words[2] |= u32::from(!sum(&words));
            assert_eq!(u32::from_be(aged), words[2], "identification {identification}");
        }
    }

    #[test]
    fn ttls_of_one_and_less_end_here() {
        for (ttl, expiring) in [(0, true), (1, true), (2, false), (255, false)] {
            assert_eq!(Ipv4([0, 0, (ttl << 24 | 0x0006_ffffu32).to_be(), 0, 0]).is_expiring(), expiring);
        }
    }

    #[test]
    fn a_packet_says_where_its_headers_are() {
        // Two bytes, a header with four bytes of options, and a UDP header.
        let mut frame = [0u8; 2 + 24 + 8];
        frame[2..6].copy_from_slice(&[0x46, 0, 0, 32]);
        frame[11] = UDP;
        frame[26..30].copy_from_slice(&[0, 1, 0, 2]);
        let packet = Ipv4::parse(&frame[..], 2).unwrap().packet(&frame[..], 2).unwrap().unwrap();
        assert_eq!((packet.offset, packet.transport_offset), (2, 26));
        assert_eq!((packet.transport.source().host(), packet.transport.destination().host()), (1, 2));
    }
}
