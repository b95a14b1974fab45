//! ICMP messages: which they are, and what errors quote of the packet that they are about (RFC 792, RFC 4443 §3).

use super::{Family, Frame};

/// Length of the header of an ICMP error, in bytes; the quoted packet follows.
pub const ICMP_ERROR_LEN: usize = 8;

/// The packet that an ICMP error quotes, as far as everyone quotes it: its IP header and eight bytes behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<H> {
    /// The fixed part of its IP header.
    pub header: H,
    /// Number of the protocol behind its IP header: TCP or UDP.
    pub protocol: u8,
    /// The word that has its ports, as it stands in the packet.
    pub ports: u32,
}

/// Type of the ICMP message whose IP header is at `offset`, and the offset of its own header. `None` where there is none, or
/// it is a fragment, has extension headers in front of it, or a length that cannot be.
#[inline(always)]
pub fn icmp<H: Family, F: Frame + ?Sized>(header: &H, frame: &F, offset: usize) -> Option<(u8, usize)> {
    let (protocol, len) = header.next();
    if protocol != H::ICMP || len < H::HEADER_LEN || header.is_fragment() {
        return None;
    }
    Some((frame.byte(offset + len)?, offset + len))
}

impl<H: Family> Quoted<H> {
    /// The packet whose IP header is at `offset`; `None` where it cannot be read, or is neither TCP nor UDP.
    #[inline(always)]
    pub fn at<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Self> {
        let header = H::parse(frame, offset)?;
        let (protocol, transport) = header.transport(frame, offset)?;
        let [ports] = frame.words(transport)?;
        Some(Self { header, protocol, ports })
    }

    /// What the packet with this header at `offset` quotes; `None` where it is no ICMP error either.
    #[inline(always)]
    pub fn of<F: Frame + ?Sized>(header: &H, frame: &F, offset: usize) -> Option<Self> {
        let (kind, error) = icmp(header, frame, offset)?;
        if H::is_icmp_error(kind) { Self::at(frame, error + ICMP_ERROR_LEN) } else { None }
    }

    /// The same of a packet the other way.
    #[must_use]
    #[inline(always)]
    pub fn turned(self) -> Self {
        let Self { header, protocol, ports } = self;
        Self { header: header.turned(), protocol, ports: ports.rotate_left(16) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Ipv4, Ipv6, TCP};

    #[test]
    fn an_error_quotes_the_packet_that_it_is_about() {
        for words in [5, 7] {
            // Two bytes, an IPv4 header, an ICMP header, a header with or without options, and ports.
            let mut frame = [0u8; 2 + 20 + 8 + 28 + 8];
            (frame[2], frame[11], frame[22]) = (0x45, Ipv4::ICMP, 3);
            (frame[30], frame[39]) = (0x40 | words, TCP);
            frame[42..50].copy_from_slice(&[10, 0, 0, 1, 203, 0, 113, 7]);
            frame[30 + 4 * usize::from(words)..][..4].copy_from_slice(&[0xee, 0x48, 0, 80]);
            let of = |frame: &[u8]| Quoted::of(&Ipv4::parse(frame, 2).unwrap(), frame, 2);
            let quoted = of(&frame).unwrap();
            assert_eq!((quoted.protocol, u32::from_be(quoted.ports)), (TCP, 0xee48_0050));
            assert_eq!(quoted.header.source().0[3].host(), 0x0a00_0001);
            assert_eq!(quoted.header.destination().0[3].host(), 0xcb00_7107);
            let turned = quoted.turned();
            assert_eq!((turned.header.source().0[3].host(), u32::from_be(turned.ports)), (0xcb00_7107, 0x0050_ee48));
            frame[22] = 8;
            assert_eq!(of(&frame), None, "an echo request quotes nothing");
            (frame[22], frame[11]) = (3, TCP);
            assert_eq!(of(&frame), None, "a TCP segment quotes nothing");
            (frame[11], frame[8]) = (Ipv4::ICMP, 0x20);
            assert_eq!(of(&frame), None, "a fragment");
            (frame[8], frame[37]) = (0, 1);
            assert_eq!(of(&frame), None, "about a fragment that is not the first");
        }
    }

    #[test]
    fn ipv6_does_so_too_behind_extension_headers_as_well() {
        // Nothing, hop-by-hop options, a first fragment.
        for extension in [None, Some(0), Some(44)] {
            let at = 88 + if extension.is_some() { 8 } else { 0 };
            let mut frame = [0u8; 40 + 8 + 40 + 8 + 8];
            (frame[0], frame[6], frame[40]) = (0x60, Ipv6::ICMP, 2);
            (frame[48], frame[54], frame[71], frame[87]) = (0x60, extension.unwrap_or(TCP), 1, 2);
            if extension.is_some() {
                (frame[88], frame[91]) = (TCP, 1);
            }
            frame[at..at + 4].copy_from_slice(&[0xee, 0x48, 0, 80]);
            let of = |frame: &[u8]| Quoted::of(&Ipv6::parse(frame, 0).unwrap(), frame, 0);
            let quoted = of(&frame).unwrap();
            let [source, destination] = [quoted.header.source(), quoted.header.destination()];
            assert_eq!((source.0[3].host(), destination.0[3].host()), (1, 2));
            assert_eq!((quoted.protocol, u32::from_be(quoted.ports)), (TCP, 0xee48_0050));
            frame[40] = 129;
            assert_eq!(of(&frame), None);
            frame[40] = 2;
            assert_eq!(of(&frame[..at + 3]), None, "cut short");
        }
    }
}
