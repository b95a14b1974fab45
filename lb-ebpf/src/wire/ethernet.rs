//! Ethernet, and VLAN tags.

use lb_common::Be16;
use network_types::eth::EtherType;

use super::Frame;

/// Length of an Ethernet header without tags, in bytes.
pub const ETHERNET_LEN: usize = 14;
/// Length of a VLAN tag, in bytes.
pub const VLAN_LEN: usize = 4;

/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: Be16 = Be16::from_wire(EtherType::Ipv4 as u16);
/// Ethertype of IPv6.
pub const ETHERTYPE_IPV6: Be16 = Be16::from_wire(EtherType::Ipv6 as u16);
/// Ethertype of a VLAN tag (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: Be16 = Be16::from_wire(EtherType::Ieee8021q as u16);
/// Ethertype of a provider's VLAN tag (IEEE 802.1ad).
pub const ETHERTYPE_QINQ: Be16 = Be16::from_wire(EtherType::Ieee8021ad as u16);

/// Where the IP packet of a frame begins, and its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Offset of the IP header in bytes: 14 and 4 for each tag.
    pub len: usize,
    /// Ethertype behind all tags.
    pub ethertype: Be16,
}

impl Ethernet {
    /// The Ethernet header with up to two VLAN tags; `None` where the frame is too short to have one.
    #[inline(always)]
    pub fn parse<F: Frame + ?Sized>(frame: &F) -> Option<Self> {
        let mut len = ETHERNET_LEN;
        let mut ethertype = Be16::from_wire(frame.half(len - 2)?);
        for _ in 0..2 {
            if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
                break;
            }
            len += VLAN_LEN;
            ethertype = Be16::from_wire(frame.half(len - 2)?);
        }
        Some(Self { len, ethertype })
    }
}
