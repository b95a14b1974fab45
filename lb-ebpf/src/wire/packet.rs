//! A packet for a load balancer.

use super::Transport;

/// A TCP or UDP packet, and where in its frame its headers are: what a stage wants to read or write of them, it finds
/// without parsing again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<H> {
    /// The fixed part of the IP header.
    pub header: H,
    /// Offset of the IP header in bytes.
    pub offset: usize,
    /// Offset of the transport header in bytes.
    pub transport_offset: usize,
    /// What the transport header says.
    pub transport: Transport,
}
