//! ICMP errors about packets that do not fit on their way: fragmentation needed (RFC 1191 §4), packet too big (RFC 4443
//! §3.2).
//!
//! As much is quoted as may be: an error has 576 bytes at most in IPv4 (RFC 1812 §4.3.2.3), and 1,280 in IPv6 (RFC 4443
//! §2.4). What does not fit is as long as that.

use super::{
    Family, ICMP_ERROR_LEN, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, Unreachable,
    frame::half_of,
    reset::{Words, header4, header6, sum},
    unreachable::sealed,
};

/// ICMP: type 3, code 4.
const FRAGMENTATION_NEEDED: u32 = 3 << 24 | 4 << 16;
/// ICMPv6: type 2, code 0.
const PACKET_TOO_BIG: u32 = 2 << 24;

/// The MTU that every IPv6 link has (RFC 8200 §5): no host makes its packets smaller.
const IPV6_MIN_MTU: u32 = 1280;

const DONT_FRAGMENT: u16 = 0x4000;

/// A family of which a packet can be answered so.
pub trait TooBig: Family + Unreachable {
    /// What is quoted, in bytes from the IP header on.
    const QUOTED: usize;

    /// Length of an answer from its IP header on, in bytes.
    const TOO_BIG_LEN: usize = Self::HEADER_LEN + ICMP_ERROR_LEN + Self::QUOTED;

    /// Whether its sender makes others smaller when he is told. An IPv4 packet that may be cut wants routers to do that; an
    /// IPv6 one that is not longer than the smallest MTU, nobody makes smaller.
    fn gets_smaller(&self) -> bool;

    /// Writes the headers of the answer to a packet with this one, at `offset` of a frame. What it quotes lies behind them,
    /// and its halves add up to `quoted`. `mtu`: what fits, in bytes. Whether the frame had room.
    fn write_too_big(&self, frame: &impl Words, offset: usize, mtu: u32, quoted: u32) -> bool;
}

impl TooBig for Ipv4 {
    const QUOTED: usize = 576 - IPV4_LEN - ICMP_ERROR_LEN;

    #[inline(always)]
    fn gets_smaller(&self) -> bool {
        half_of(self.0[1], 1) & DONT_FRAGMENT != 0
    }

    #[inline(always)]
    fn write_too_big(&self, frame: &impl Words, offset: usize, mtu: u32, quoted: u32) -> bool {
        let header = header4(self, 0, u32::from(Self::ICMP), Self::TOO_BIG_LEN as u32);
        // The field has 16 bits, behind 16 that are 0.
        let icmp = sealed([FRAGMENTATION_NEEDED, if mtu > 0xffff { 0xffff } else { mtu }], quoted, 0);
        frame.put(offset, header) && frame.put(offset + IPV4_LEN, icmp)
    }
}

impl TooBig for Ipv6 {
    const QUOTED: usize = IPV6_MIN_MTU as usize - IPV6_LEN - ICMP_ERROR_LEN;

    #[inline(always)]
    fn gets_smaller(&self) -> bool {
        self.total_len() > IPV6_MIN_MTU
    }

    #[inline(always)]
    fn write_too_big(&self, frame: &impl Words, offset: usize, mtu: u32, quoted: u32) -> bool {
        let (protocol, len) = (u32::from(Self::ICMP), (Self::TOO_BIG_LEN - IPV6_LEN) as u32);
        let header = header6(self, 0, protocol, len);
        let [_, _, a, b, c, d, e, f, g, h] = header;
        let pseudo = sum([a, b, c, d, e, f, g, h]) + protocol + len;
        let mtu = if mtu < IPV6_MIN_MTU { IPV6_MIN_MTU } else { mtu };
        let icmp = sealed([PACKET_TOO_BIG, mtu], quoted, pseudo);
        frame.put(offset, header) && frame.put(offset + IPV6_LEN, icmp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{
        fold,
        unreachable::tests::{RIGHT, Written, added},
    };

    fn answer<H: TooBig>(header: H, mtu: u32, quoted: u32) -> [u32; 22] {
        let frame = Written::default();
        assert!(header.write_too_big(&frame, 0, mtu, quoted));
        frame.words()
    }

    #[test]
    fn answers_go_back_tell_the_mtu_and_have_checksums_that_are_right() {
        for quoted in [0, 1, 0xffff, 0x1234, 0xfffe, 0xedcb] {
            let header = Ipv4([0x4500_05dc, 0x4000, 0x4006_0000, 0x0a00_0001, 0xcb00_710a].map(u32::to_be));
            let words = answer(header, 1380, quoted);
            assert_eq!([words[3], words[4]], [header.0[4], header.0[3]]);
            assert_eq!((fold(added(&words[..5])), fold(added(&words[5..7]) + quoted)), (RIGHT, RIGHT), "{quoted:#x}");
            assert_eq!((half_of(words[0], 1), half_of(words[5], 0), u32::from_be(words[6])), (576, 0x0304, 1380));

            let addresses = [0x2001_0db8, 0, 0, 1, 0x2001_0db8, 0x77, 0, 0x10].map(u32::to_be);
            let [a, b, c, d, e, f, g, h] = addresses;
            let header = Ipv6([0x6000_0000u32.to_be(), (1460 << 16 | 0x0640u32).to_be(), a, b, c, d, e, f, g, h]);
            for (mtu, told) in [(1460, 1460), (1000, 1280)] {
                let words = answer(header, mtu, quoted);
                assert_eq!(words[2..10], [e, f, g, h, a, b, c, d]);
                let all = added(&words[10..12]) + quoted + sum(addresses) + 58 + 1240;
                assert_eq!(fold(all), RIGHT, "{quoted:#x}");
                assert_eq!(
                    (half_of(words[1], 0), half_of(words[10], 0), u32::from_be(words[11])),
                    (1240, 0x0200, told)
                );
            }
        }
    }

    #[test]
    fn only_who_makes_packets_smaller_is_told() {
        let v4 = |fragment: u32| Ipv4([0, fragment.to_be(), 0, 0, 0]).gets_smaller();
        assert!(v4(0x4000) && v4(0x1234_4000));
        assert!(!v4(0) && !v4(0x1234_2000) && !v4(0x1234_00b9));
        let v6 = |len: u32| Ipv6([0, (len << 16).to_be(), 0, 0, 0, 0, 0, 0, 0, 0]).gets_smaller();
        assert_eq!([1241, 1240, 1239].map(v6), [true, false, false]);
    }
}
