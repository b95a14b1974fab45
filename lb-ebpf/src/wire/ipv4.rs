//! IPv4.

use lb_common::{Be32, DropReason};

use super::{
    Frame, TCP, Transport, UDP,
    frame::{byte_of, half_of},
    transport::check_length,
};

/// Length of an IPv4 header without options, in bytes.
pub const IPV4_LEN: usize = 20;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fixed part of an IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4(pub [u32; 5]);

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
        if fragment & FRAGMENT_OFFSET != 0 {
            return Err(DropReason::Fragment);
        }
        let first_fragment = fragment & MORE_FRAGMENTS != 0;
        Transport::parse(frame, protocol, offset + header_len, total_len - header_len, first_fragment).map(Some)
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
