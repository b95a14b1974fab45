//! Answers to echo requests (RFC 792, RFC 4443 §4.2).

use super::{
    IPV4_LEN, IPV6_LEN, Ipv4, Ipv6,
    ipv4::fold,
    reset::{Words, header4, header6},
};
use crate::wire::Family;

/// DSCP, without ECN: that is of a packet's own way.
const DSCP: u8 = 0xfc;

/// A family whose echo requests can be answered.
pub trait Echo: Family {
    /// Type of a request.
    const REQUEST: u8;
    /// Type of a reply.
    const REPLY: u8;

    /// Makes the request with this header, at `offset` of a frame, its reply. `first`: the first word behind the header.
    /// Nothing else of it changes. Whether the frame had it.
    fn write_reply(&self, frame: &impl Words, offset: usize, first: u32) -> bool;
}

/// The first word of the reply to a message with this one: type, code, and the checksum with what has changed (RFC 1624
/// §3). A checksum that was wrong stays so.
#[inline(always)]
pub fn replied(first: u32, reply: u8) -> u32 {
    let first = u32::from_be(first);
    let before = first >> 16;
    let after = u32::from(reply) << 8 | before & 0xff;
    let checksum = !fold((!first & 0xffff) + (!before & 0xffff) + after);
    // Of a message of zeros it must be 0xffff; of all others that says the same as 0.
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    (after << 16 | u32::from(checksum)).to_be()
}

impl Echo for Ipv4 {
    const REQUEST: u8 = 8;
    const REPLY: u8 = 0;

    #[inline(always)]
    fn write_reply(&self, frame: &impl Words, offset: usize, first: u32) -> bool {
        let header = header4(self, self.traffic_class() & DSCP, u32::from(Self::ICMP), self.total_len());
        frame.put(offset, header) && frame.put(offset + IPV4_LEN, [replied(first, Self::REPLY)])
    }
}

impl Echo for Ipv6 {
    const REQUEST: u8 = 128;
    const REPLY: u8 = 129;

    #[inline(always)]
    fn write_reply(&self, frame: &impl Words, offset: usize, first: u32) -> bool {
        let len = u32::from(self.payload_len());
        let header = header6(self, self.traffic_class() & DSCP, u32::from(Self::ICMP), len);
        frame.put(offset, header) && frame.put(offset + IPV6_LEN, [replied(first, Self::REPLY)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checksum of a message whose other halves add up to `sum`.
    fn sealed(kind: u8, sum: u32) -> u32 {
        let first = u32::from(kind) << 8;
        first << 16 | u32::from(!fold(first + sum))
    }

    /// Of every sum of what lies behind, and of what a pseudo-header adds: each carry, 0 and 0xffff.
    #[test]
    fn a_reply_has_the_checksum_that_adding_it_up_gives() {
        for sum in 0..=0xffff {
            let reply = u32::from_be(replied(sealed(Ipv4::REQUEST, sum).to_be(), Ipv4::REPLY));
            // What a receiver adds up: nothing but that is right.
            assert_eq!(fold((reply >> 16) + (reply & 0xffff) + sum), 0xffff, "{sum:#x}");
            assert_eq!(reply >> 16, 0);
            if sum != 0 {
                let reply = u32::from_be(replied(sealed(Ipv6::REQUEST, sum).to_be(), Ipv6::REPLY));
                assert_eq!(fold((reply >> 16) + (reply & 0xffff) + sum), 0xffff, "{sum:#x}");
                assert_eq!(reply >> 16, 0x8100);
            }
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        for wrong in [1, 2, 0x8000] {
            let reply = u32::from_be(replied((sealed(8, 0x1234) ^ wrong).to_be(), 0));
            assert_ne!(fold((reply >> 16) + (reply & 0xffff) + 0x1234), 0xffff, "{wrong:#x}");
        }
    }
}
