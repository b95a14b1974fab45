//! TCP.

use lb_common::DropReason;
use network_types::ip::IpProto;

use super::{Frame, Transport};
use crate::cold::cold;

/// IP protocol number of TCP.
pub const TCP: u8 = IpProto::Tcp as u8;

/// Length of a header without options, in bytes.
const LEN: usize = 20;

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

/// The header at `offset`, with `len` bytes of the IP packet from there on.
#[inline(always)]
pub(super) fn parse<F: Frame + ?Sized>(
    frame: &F,
    offset: usize,
    len: usize,
    first_fragment: bool,
) -> Result<Transport, DropReason> {
    if len < LEN {
        return Err(cold(DropReason::Truncated));
    }
    let [ports, sequence, _, fourth] = frame.words(offset).ok_or_else(|| cold(DropReason::Truncated))?;
    Ok(Transport { protocol: TCP, ports, sequence, fourth, len: len as u32, first_fragment })
}
