//! Headers, one a file: from the bytes of a frame to the addresses and ports that name its VIP and flow.
//!
//! Each layer says go on (`Ok(Some)`), not for a load balancer (`Ok(None)`, the frame passes untouched), or malformed
//! (`Err`, which counts as a drop where the destination is a VIP's address and passes untouched otherwise). Nothing
//! here decides what is a VIP.

mod echo;
mod ethernet;
mod family;
pub mod frame;
mod icmp;
mod ipv4;
mod ipv6;
mod packet;
mod reset;
mod tcp;
mod too_big;
mod transport;
mod udp;
mod unreachable;

pub(crate) use self::ipv4::fold;
pub use self::{
    echo::Echo,
    ethernet::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, Ethernet, VLAN_LEN},
    family::Family,
    frame::Frame,
    icmp::{ICMP_ERROR_LEN, Quoted, icmp},
    ipv4::{IPV4_LEN, Ipv4},
    ipv6::{IPV6_LEN, Ipv6, MAX_EXTENSIONS},
    packet::Packet,
    reset::{Reset, Words},
    tcp::{TCP, TcpFlags},
    too_big::TooBig,
    transport::Transport,
    udp::UDP,
    unreachable::Unreachable,
};
