//! Segments that refuse a connection (RFC 9293 §3.10.7.1).

use super::{IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, TCP, TcpFlags, Transport, ipv4::fold};

/// Length of a TCP header without options, in bytes.
const TCP_LEN: usize = 20;
/// TTL or hop limit, as most hosts begin with.
const LIFETIME: u32 = 64;

/// What words are written to.
pub trait Words {
    /// Writes words at `offset`; whether there was room.
    fn put<const N: usize>(&self, offset: usize, words: [u32; N]) -> bool;
}

/// A family of which a packet can be answered by RST.
pub trait Reset: Copy {
    /// Length of the answer from its IP header on, in bytes.
    const RESET_LEN: usize;

    /// Writes the answer to a packet with this header, at `offset` of a frame that ends with it. `segment`: its TCP header,
    /// without the checksum. Whether the frame had room.
    fn write_reset(&self, frame: &impl Words, offset: usize, segment: [u32; 5]) -> bool;
}

impl Transport {
    /// The TCP header that refuses this segment, of which `acknowledged` is the third word; its checksum is 0. `None` where
    /// nothing is to be said: to RST, and to what is not TCP.
    #[inline(always)]
    pub fn reset(&self, acknowledged: u32) -> Option<[u32; 5]> {
        let flags = self.flags();
        if self.protocol != TCP || flags.contains(TcpFlags::RST) {
            return None;
        }
        let ports = u32::from_be(self.ports).rotate_left(16).to_be();
        let (sequence, acknowledgement, marks) = if flags.contains(TcpFlags::ACK) {
            (acknowledged, 0, TcpFlags::RST.0)
        } else {
            let marks = u32::from(flags.contains(TcpFlags::SYN)) + u32::from(flags.contains(TcpFlags::FIN));
            let next = self.sequence().wrapping_add(self.data_len()).wrapping_add(marks);
            (0, next.to_be(), TcpFlags::RST.0 | TcpFlags::ACK.0)
        };
        let offset_and_flags = (5u32 << 28 | u32::from(marks) << 16).to_be();
        Some([ports, sequence, acknowledgement, offset_and_flags, 0])
    }
}

/// The one's-complement sum of words, by halves; of less than 2^15 words.
#[inline(always)]
pub(super) fn sum<const N: usize>(words: [u32; N]) -> u32 {
    let mut sum = 0;
    for word in words {
        let word = u32::from_be(word);
        sum += (word >> 16) + (word & 0xffff);
    }
    sum
}

/// The segment with its checksum, of which `pseudo` is the sum of the pseudo-header.
#[inline(always)]
fn sealed(segment: [u32; 5], pseudo: u32) -> [u32; 5] {
    let [ports, sequence, acknowledgement, flags, _] = segment;
    let checksum = !fold(sum(segment) + pseudo);
    [ports, sequence, acknowledgement, flags, (u32::from(checksum) << 16).to_be()]
}

/// An IPv4 header back to the source, of a packet of `len` bytes in all. `class`: its DSCP and ECN.
#[inline(always)]
pub(super) fn header4(Ipv4([.., source, destination]): &Ipv4, class: u8, protocol: u32, len: u32) -> [u32; 5] {
    const DONT_FRAGMENT: u32 = 0x4000;
    let first = 0x4500_0000 | u32::from(class) << 16 | len;
    let words = |checksum: u16| {
        let third = LIFETIME << 24 | protocol << 16 | u32::from(checksum);
        [first.to_be(), DONT_FRAGMENT.to_be(), third.to_be(), *destination, *source]
    };
    words(!fold(sum(words(0))))
}

/// An IPv6 header back to the source, with `len` bytes behind it. `class`: its DSCP and ECN.
#[inline(always)]
pub(super) fn header6(Ipv6(words): &Ipv6, class: u8, protocol: u32, len: u32) -> [u32; 10] {
    let first = 0x6000_0000 | u32::from(class) << 20;
    let [_, _, a, b, c, d, e, f, g, h] = *words;
    let second = len << 16 | protocol << 8 | LIFETIME;
    [first.to_be(), second.to_be(), e, f, g, h, a, b, c, d]
}

/// An IPv4 header back to the source, and the segment.
#[inline(always)]
fn v4(header: &Ipv4, segment: [u32; 5]) -> ([u32; 5], [u32; 5]) {
    let header = header4(header, 0, TCP as u32, (IPV4_LEN + TCP_LEN) as u32);
    let [.., source, destination] = header;
    (header, sealed(segment, sum([source, destination]) + TCP as u32 + TCP_LEN as u32))
}

/// An IPv6 header back to the source, and the segment.
#[inline(always)]
fn v6(header: &Ipv6, segment: [u32; 5]) -> ([u32; 10], [u32; 5]) {
    let header = header6(header, 0, TCP as u32, TCP_LEN as u32);
    let [_, _, a, b, c, d, e, f, g, h] = header;
    (header, sealed(segment, sum([a, b, c, d, e, f, g, h]) + TCP as u32 + TCP_LEN as u32))
}

impl Reset for Ipv4 {
    const RESET_LEN: usize = IPV4_LEN + TCP_LEN;

    #[inline(always)]
    fn write_reset(&self, frame: &impl Words, offset: usize, segment: [u32; 5]) -> bool {
        let (header, segment) = v4(self, segment);
        frame.put(offset, header) && frame.put(offset + IPV4_LEN, segment)
    }
}

impl Reset for Ipv6 {
    const RESET_LEN: usize = IPV6_LEN + TCP_LEN;

    #[inline(always)]
    fn write_reset(&self, frame: &impl Words, offset: usize, segment: [u32; 5]) -> bool {
        let (header, segment) = v6(self, segment);
        frame.put(offset, header) && frame.put(offset + IPV6_LEN, segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ports 1234 → 80, as a segment has them.
    const PORTS: u32 = (1234u32 << 16 | 80).to_be();

    /// What adding up a header or a segment with its pseudo-header gives where the checksum is right.
    const RIGHT: u16 = 0xffff;

    fn reset(flags: u8, sequence: u32, data_len: u32, acknowledged: u32) -> Option<[u32; 5]> {
        Transport::segment(PORTS, TcpFlags(flags), sequence, data_len).reset(acknowledged.to_be())
    }

    #[test]
    fn who_acknowledges_is_answered_with_that_number_and_others_are_acknowledged() {
        let (syn, ack, fin, rst) = (TcpFlags::SYN.0, TcpFlags::ACK.0, TcpFlags::FIN.0, TcpFlags::RST.0);
        let answer = |flags, sequence, data_len, acknowledged| {
            reset(flags, sequence, data_len, acknowledged).map(|words| words.map(u32::from_be))
        };
        let ports = 80 << 16 | 1234;
        let marks = |flags: u8| 5 << 28 | u32::from(flags) << 16;
        assert_eq!(answer(syn, 7, 0, 0), Some([ports, 0, 8, marks(rst | ack), 0]));
        // Data in a SYN (RFC 7413), and around the end of the numbers.
        assert_eq!(answer(syn, u32::MAX, 10, 0), Some([ports, 0, 10, marks(rst | ack), 0]));
        assert_eq!(answer(fin, 7, 3, 0), Some([ports, 0, 11, marks(rst | ack), 0]));
        assert_eq!(answer(ack, 7, 3, 99), Some([ports, 99, 0, marks(rst), 0]));
        assert_eq!(answer(syn | ack, 7, 0, 99), Some([ports, 99, 0, marks(rst), 0]));
        assert_eq!((answer(rst, 7, 0, 0), answer(rst | ack, 7, 0, 9)), (None, None));
        assert_eq!(Transport::datagram(PORTS, 8).reset(0), None);
    }

    #[test]
    fn answers_go_back_with_checksums_that_are_right() {
        for sequence in [0, 1, 0xffff_ffff, 0x1234_5678] {
            let segment = reset(TcpFlags::ACK.0, 1, 0, sequence).unwrap();
            let (header, sent) = v4(&Ipv4([0, 0, 0, 0x0a00_0001u32.to_be(), 0xcb00_710au32.to_be()]), segment);
            assert_eq!(fold(sum(header)), RIGHT);
            assert_eq!([header[3], header[4]].map(u32::from_be), [0xcb00_710a, 0x0a00_0001]);
            assert_eq!(fold(sum(sent) + sum([header[3], header[4]]) + 6 + 20), RIGHT);
            let addresses = [0x2001_0db8, 0, 0, 1, 0x2001_0db8, 0x77, 0, 0x10].map(u32::to_be);
            let [a, b, c, d, e, f, g, h] = addresses;
            let (header, sent) = v6(&Ipv6([0, 0, a, b, c, d, e, f, g, h]), segment);
            assert_eq!(header[2..], [e, f, g, h, a, b, c, d]);
            assert_eq!(u32::from_be(header[1]), 20 << 16 | 6 << 8 | 64);
            assert_eq!(fold(sum(sent) + sum(addresses) + 6 + 20), RIGHT);
        }
    }
}
