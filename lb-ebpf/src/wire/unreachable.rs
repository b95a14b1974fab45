//! ICMP errors that refuse a datagram: port unreachable (RFC 792, RFC 4443 §3.1), as by a host that nobody listens at.
//!
//! Quoted are the IP header and the eight bytes behind it, by which every host finds whom it concerns (RFC 792). More would have
//! to be added up byte by byte, though ICMPv6 wants as much as the smallest MTU allows (RFC 4443 §2.4).

use super::{
    Family, ICMP_ERROR_LEN, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6,
    ipv4::fold,
    reset::{Words, header4, header6, sum},
};

/// What is quoted behind the IP header, in bytes: the UDP header.
const QUOTED: usize = 8;

/// ICMP: type 3, code 3.
const UNREACHABLE4: u32 = 3 << 24 | 3 << 16;
/// ICMPv6: type 1, code 4.
const UNREACHABLE6: u32 = 1 << 24 | 4 << 16;

/// A family of which a datagram can be answered by an ICMP error.
pub trait Unreachable: Family {
    /// Length of the answer from its IP header on, in bytes.
    const UNREACHABLE_LEN: usize;

    /// Whether the source is one host: no error is sent to anything else (RFC 1122 §3.2.2, RFC 4443 §2.4).
    fn is_from_a_host(&self) -> bool;

    /// Writes the answer to a datagram with this IP and UDP header, at `offset` of a frame that ends with it. Whether the
    /// frame had room.
    fn write_unreachable(&self, frame: &impl Words, offset: usize, udp: [u32; 2]) -> bool;
}

/// The ICMP header of an error that quotes words which add up to `quoted`, with its checksum, of which it has none yet and
/// is in host byte order; `pseudo` is the sum of the pseudo-header, which only IPv6 has.
#[inline(always)]
pub(super) fn sealed(header: [u32; 2], quoted: u32, pseudo: u32) -> [u32; 2] {
    let [first, second] = header;
    let checksum = !fold(sum(header.map(u32::to_be)) + quoted + pseudo);
    [(first | u32::from(checksum)).to_be(), second.to_be()]
}

impl Unreachable for Ipv4 {
    const UNREACHABLE_LEN: usize = IPV4_LEN + ICMP_ERROR_LEN + Self::HEADER_LEN + QUOTED;

    /// Not of this network (0/8), looped back (127/8), multicast (224/4) or reserved (240/4).
    #[inline(always)]
    fn is_from_a_host(&self) -> bool {
        let Self([.., source, _]) = self;
        let first = u32::from_be(*source) >> 24;
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn write_unreachable(&self, frame: &impl Words, offset: usize, udp: [u32; 2]) -> bool {
        let Self(quoted) = *self;
        let header = header4(self, 0, u32::from(Self::ICMP), Self::UNREACHABLE_LEN as u32);
        let icmp = sealed([UNREACHABLE4, 0], sum(quoted) + sum(udp), 0);
        let behind = offset + IPV4_LEN + ICMP_ERROR_LEN;
        frame.put(offset, header)
            && frame.put(offset + IPV4_LEN, icmp)
            && frame.put(behind, quoted)
            && frame.put(behind + IPV4_LEN, udp)
    }
}

impl Unreachable for Ipv6 {
    const UNREACHABLE_LEN: usize = IPV6_LEN + ICMP_ERROR_LEN + Self::HEADER_LEN + QUOTED;

    /// Neither unspecified, which no router lets pass but a neighbour may send, nor multicast.
    #[inline(always)]
    fn is_from_a_host(&self) -> bool {
        let Self([_, _, a, b, c, d, ..]) = self;
        u32::from_be(*a) >> 24 != 0xff && *a | *b | *c | *d != 0
    }

    #[inline(always)]
    fn write_unreachable(&self, frame: &impl Words, offset: usize, udp: [u32; 2]) -> bool {
        let protocol = u32::from(Self::ICMP);
        let Self(quoted) = *self;
        let len = (Self::UNREACHABLE_LEN - IPV6_LEN) as u32;
        let header = header6(self, 0, protocol, len);
        let [_, _, a, b, c, d, e, f, g, h] = header;
        let icmp = sealed([UNREACHABLE6, 0], sum(quoted) + sum(udp), sum([a, b, c, d, e, f, g, h]) + protocol + len);
        let behind = offset + IPV6_LEN + ICMP_ERROR_LEN;
        frame.put(offset, header)
            && frame.put(offset + IPV6_LEN, icmp)
            && frame.put(behind, quoted)
            && frame.put(behind + IPV6_LEN, udp)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use core::cell::Cell;

    use super::*;

    /// What adding up a header, or a message with its pseudo-header, gives where the checksum is right.
    pub const RIGHT: u16 = 0xffff;

    /// Room for the longest answer.
    const ROOM: usize = Ipv6::UNREACHABLE_LEN / 4;

    /// A frame that is written to.
    pub struct Written(Cell<[u32; ROOM]>);

    impl Default for Written {
        fn default() -> Self {
            Self(Cell::new([u32::MAX; ROOM]))
        }
    }

    impl Written {
        /// The first words.
        pub fn words<const N: usize>(&self) -> [u32; N] {
            *self.0.get().first_chunk().unwrap()
        }
    }

    impl Words for Written {
        fn put<const N: usize>(&self, offset: usize, words: [u32; N]) -> bool {
            let mut all = self.0.get();
            let Some(place) = all.get_mut(offset / 4..offset / 4 + N) else { return false };
            place.copy_from_slice(&words);
            self.0.set(all);
            true
        }
    }

    fn answer<H: Unreachable>(header: H, udp: [u32; 2]) -> [u32; ROOM] {
        let frame = Written::default();
        assert!(header.write_unreachable(&frame, 0, udp));
        frame.words()
    }

    pub fn added(words: &[u32]) -> u32 {
        words.iter().map(|word| sum([*word])).sum()
    }

    #[test]
    fn an_answer_goes_back_quotes_what_it_answers_and_has_checksums_that_are_right() {
        for id in [0, 0xffff, 0x1234, 0xfffe] {
            let udp = [1234 << 16 | 53, 8 << 16 | id].map(u32::to_be);
            let quoted = [0x4500_0000 | 28, id << 16, 64 << 24 | 17 << 16, 0x0a00_0001, 0xcb00_710a].map(u32::to_be);
            let answer4 = answer(Ipv4(quoted), udp);
            let answer4 = &answer4[..Ipv4::UNREACHABLE_LEN / 4];
            let [first, _, third, source, destination] = *answer4.first_chunk().unwrap();
            assert_eq!((u32::from_be(first), u32::from_be(third) >> 16), (0x4500_0000 | 56, 64 << 8 | 1));
            assert_eq!([source, destination], [quoted[4], quoted[3]]);
            assert_eq!((fold(added(&answer4[..5])), fold(added(&answer4[5..]))), (RIGHT, RIGHT), "{id:#x}");
            assert_eq!(u32::from_be(answer4[5]) >> 16, 0x0303);
            assert_eq!((&answer4[7..12], &answer4[12..]), (&quoted[..], &udp[..]));

            let addresses = [0x2001_0db8, id, 0, 1, 0x2001_0db8, 0x77, 0, 0x10].map(u32::to_be);
            let [a, b, c, d, e, f, g, h] = addresses;
            let quoted = [0x6000_0000u32.to_be(), (8 << 16 | 17 << 8 | 64u32).to_be(), a, b, c, d, e, f, g, h];
            let answer6 = answer(Ipv6(quoted), udp);
            assert_eq!(u32::from_be(answer6[1]), 56 << 16 | 58 << 8 | 64);
            assert_eq!(answer6[2..10], [e, f, g, h, a, b, c, d]);
            assert_eq!(fold(added(&answer6[10..]) + sum(addresses) + 58 + 56), RIGHT, "{id:#x}");
            assert_eq!(u32::from_be(answer6[10]) >> 16, 0x0104);
            assert_eq!((&answer6[12..22], &answer6[22..]), (&quoted[..], &udp[..]));
        }
    }

    #[test]
    fn only_a_host_is_answered() {
        let from4 = |source: u32| Ipv4([0, 0, 0, source.to_be(), 0]).is_from_a_host();
        assert!(from4(0x0a00_0001) && from4(0xdfff_ffff));
        assert_eq!([0, 0x0000_0001, 0x7f00_0001, 0xe000_0001, 0xffff_ffff].map(from4), [false; 5]);
        let from6 = |words: [u32; 4]| {
            let [a, b, c, d] = words.map(u32::to_be);
            Ipv6([0, 0, a, b, c, d, 0, 0, 0, 0]).is_from_a_host()
        };
        assert!(from6([0x2001_0db8, 0, 0, 1]) && from6([0xfe80_0000, 0, 0, 1]));
        assert_eq!([[0; 4], [0xff02_0000, 0, 0, 1]].map(from6), [false; 2]);
    }
}
