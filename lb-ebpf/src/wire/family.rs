//! What IPv4 and IPv6 have in common: the way of a packet is written once, for either header.

use lb_common::{Address, Be16, DropReason};

use super::{Frame, Packet};
use crate::hash::{FlowHash, Key};

/// An IP family, by the fixed part of its header.
pub trait Family: Copy {
    /// Ethertype of its packets.
    const ETHERTYPE: Be16;
    /// Protocol number of its packets inside another IP packet.
    const PROTOCOL: u8;
    /// Length of a header that has nothing behind its fixed part, in bytes.
    const HEADER_LEN: usize;
    /// Protocol number of its ICMP.
    const ICMP: u8;

    /// Whether an ICMP message of this type is an error, which quotes a packet.
    fn is_icmp_error(kind: u8) -> bool;

    /// Whether this is a fragment by its fixed part: IPv6 tells behind it.
    fn is_fragment(&self) -> bool;

    /// The header of a packet the other way.
    #[must_use]
    fn turned(self) -> Self;

    /// Number of the protocol of a packet at `offset` that has this header, and the offset of that protocol's header; `None`
    /// where that is not TCP or UDP, or lies in another fragment.
    fn transport<F: Frame + ?Sized>(&self, frame: &F, offset: usize) -> Option<(u8, usize)>;

    /// The header at `offset`; `None` where the frame is too short or it is of another family.
    fn parse<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<Self>;

    /// The packet that begins with this header at `offset`; `None` where it is neither TCP nor UDP.
    fn packet<F: Frame + ?Sized>(self, frame: &F, offset: usize) -> Result<Option<Packet<Self>>, DropReason>;

    /// Number of the transport protocol of a packet at `offset` whose transport header cannot be read; 0 where the
    /// packet does not tell.
    fn announced_protocol<F: Frame + ?Sized>(&self, frame: &F, offset: usize) -> u8;

    /// Number of the protocol or extension header that follows the header, and after how many bytes.
    fn next(&self) -> (u8, usize);

    /// Length of the packet in bytes as the header says it.
    fn total_len(&self) -> u32;

    /// DSCP and ECN.
    fn traffic_class(&self) -> u8;

    /// Source address.
    fn source(&self) -> Address;

    /// Destination address.
    fn destination(&self) -> Address;

    /// Whether the packet must not be forwarded: its TTL or hop limit would come to 0.
    fn is_expiring(&self) -> bool;

    /// The header's word with the TTL or hop limit less one, and its offset in the header; only of a packet that is not
    /// [expiring](Self::is_expiring). Forwarding takes one off (RFC 1812 §5.3.1, RFC 8200 §3), and so does
    /// encapsulation on the way (RFC 2003 §3.1, RFC 2473 §3.1).
    fn aged(&self) -> (usize, u32);

    /// The hash of the flow between its addresses. `ports` is the word that holds both ports, or 0; `protocol` the
    /// protocol number, or 0.
    fn hash(&self, key: &impl Key, ports: u32, protocol: u8) -> FlowHash;
}
