//! What is the same of TCP and UDP.

use lb_common::{Be16, DropReason};

use super::{
    Frame, TCP, TcpFlags, UDP,
    frame::{byte_of, half_of},
    tcp, udp,
};
use crate::cold::cold;

/// What lies behind the IP header and names the flow. Words are kept as they stand in the packet: most packets need no
/// more of them than the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// [`TCP`] or [`UDP`](super::UDP).
    pub protocol: u8,
    /// Source and destination port.
    pub ports: u32,
    /// Sequence number of a TCP segment; 0 of anything else.
    pub(super) sequence: u32,
    /// Data offset, flags and window of a TCP segment; 0 of anything else.
    pub(super) fourth: u32,
    /// Bytes of the packet from the transport header on.
    pub(super) len: u32,
    /// The first fragment of a packet: it has ports, what follows it has not.
    pub first_fragment: bool,
}

impl Transport {
    /// A TCP segment without options, with `data_len` bytes behind the header. `ports` as they stand in the packet.
    pub const fn segment(ports: u32, TcpFlags(flags): TcpFlags, sequence: u32, data_len: u32) -> Self {
        let fourth = (5 << 28 | (flags as u32) << 16).to_be();
        Self { protocol: TCP, ports, sequence: sequence.to_be(), fourth, len: 20 + data_len, first_fragment: false }
    }

    /// A UDP datagram with `data_len` bytes behind the header.
    pub const fn datagram(ports: u32, data_len: u32) -> Self {
        Self { protocol: UDP, ports, sequence: 0, fourth: 0, len: 8 + data_len, first_fragment: false }
    }

    /// Flags of a TCP segment; none of anything else.
    #[inline(always)]
    pub const fn flags(&self) -> TcpFlags {
        TcpFlags(byte_of(self.fourth, 1))
    }

    /// Sequence number of a TCP segment in host byte order; 0 of anything else.
    #[inline(always)]
    pub const fn sequence(&self) -> u32 {
        u32::from_be(self.sequence)
    }

    /// Bytes behind the transport header.
    #[inline(always)]
    pub const fn data_len(&self) -> u32 {
        let header_len = if self.protocol == TCP { (byte_of(self.fourth, 0) >> 4) as u32 * 4 } else { 8 };
        self.len.saturating_sub(header_len)
    }

    /// Whether this is a TCP segment that opens a connection: SYN, and none of ACK, FIN and RST, with which no receiver
    /// takes it for that (RFC 9293 §3.10.7.2; Linux and others discard SYN with FIN).
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        const MARKS: u8 = TcpFlags::SYN.0 | TcpFlags::ACK.0 | TcpFlags::FIN.0 | TcpFlags::RST.0;
        self.flags().0 & MARKS == TcpFlags::SYN.0
    }

    /// Whether this is a TCP segment that no connection has: SYN with FIN or RST.
    #[inline(always)]
    pub const fn contradicts(&self) -> bool {
        let TcpFlags(flags) = self.flags();
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

    /// The header of this protocol at `offset`, with `len` bytes of the IP packet from there on.
    #[inline(always)]
    pub(super) fn parse<F: Frame + ?Sized>(
        frame: &F,
        protocol: u8,
        offset: usize,
        len: usize,
        first_fragment: bool,
    ) -> Result<Self, DropReason> {
        if protocol == TCP {
            tcp::parse(frame, offset, len, first_fragment)
        } else {
            udp::parse(frame, offset, len, first_fragment)
        }
    }
}

/// The IP packet at `offset` must end within the frame. (It may end before: short frames are padded.)
#[inline(always)]
pub(super) fn check_length<F: Frame + ?Sized>(frame: &F, offset: usize, total_len: usize) -> Result<(), DropReason> {
    // The second question costs a call in the kernel, and only frames of several buffers need it.
    if offset + total_len > frame.len() && offset + total_len > frame.total_len() {
        return Err(cold(DropReason::BadLength));
    }
    Ok(())
}
