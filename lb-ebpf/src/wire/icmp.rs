//! ICMP errors, and what they quote of the packet that they are about (RFC 792, RFC 4443 §3).

use lb_common::{Address, Be16};

use super::{Family, Frame};

/// Length of the header of an ICMP error, in bytes; the quoted packet follows.
const LEN: usize = 8;

/// The packet that an ICMP error quotes, as far as everyone quotes it: its IP header and eight bytes behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Its source address.
    pub source: Address,
    /// Its destination address.
    pub destination: Address,
    /// Number of the protocol behind its IP header.
    pub protocol: u8,
    /// Its source port, where the protocol has ports.
    pub source_port: Be16,
}

impl Quoted {
    /// What the packet with this header at `offset` quotes; `None` where it is no ICMP error, or has extension headers in
    /// front of one.
    #[inline(always)]
    pub fn of<H: Family, F: Frame + ?Sized>(header: &H, frame: &F, offset: usize) -> Option<Self> {
        let (protocol, len) = header.next();
        let error = offset + len;
        if protocol != H::ICMP || !H::is_icmp_error(frame.byte(error)?) {
            return None;
        }
        let quoted = H::parse(frame, error + LEN)?;
        let (protocol, len) = quoted.next();
        let source_port = Be16::from_wire(frame.half(error + LEN + len)?);
        Some(Self { source: quoted.source(), destination: quoted.destination(), protocol, source_port })
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
            frame[30 + 4 * usize::from(words)..][..2].copy_from_slice(&[0xee, 0x48]);
            let of = |frame: &[u8]| Quoted::of(&Ipv4::parse(frame, 2).unwrap(), frame, 2);
            let quoted = of(&frame).unwrap();
            assert_eq!((quoted.protocol, quoted.source_port.host()), (TCP, 0xee48));
            assert_eq!(quoted.source.0[3].host(), 0x0a00_0001);
            assert_eq!(quoted.destination.0[3].host(), 0xcb00_7107);
            frame[22] = 8;
            assert_eq!(of(&frame), None, "an echo request quotes nothing");
            (frame[22], frame[11]) = (3, TCP);
            assert_eq!(of(&frame), None, "a TCP segment quotes nothing");
        }
    }

    #[test]
    fn ipv6_does_so_too() {
        let mut frame = [0u8; 40 + 8 + 40 + 8];
        (frame[0], frame[6], frame[40]) = (0x60, Ipv6::ICMP, 2);
        (frame[48], frame[54], frame[71], frame[87]) = (0x60, TCP, 1, 2);
        frame[88..90].copy_from_slice(&[0xee, 0x48]);
        let of = |frame: &[u8]| Quoted::of(&Ipv6::parse(frame, 0).unwrap(), frame, 0);
        let quoted = of(&frame).unwrap();
        assert_eq!((quoted.source.0[3].host(), quoted.destination.0[3].host()), (1, 2));
        assert_eq!((quoted.protocol, quoted.source_port.host()), (TCP, 0xee48));
        frame[40] = 129;
        assert_eq!(of(&frame), None);
        frame[40] = 2;
        assert_eq!(of(&frame[..89]), None, "cut short");
    }
}
