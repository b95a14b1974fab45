use std::net::IpAddr;

use lb_common::Via;

use super::{Backend, Node, Vip};

/// An address that frames are to be sent to: what a next hop is looked up by, in the kernel and in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The address.
    pub address: IpAddr,
    /// Whether it must be on a link of this host, so that a frame can be addressed to it directly: a route by a gateway
    /// is an error then.
    pub on_link: bool,
    /// By which routing tables. One address may be reached in several ways, each a target of its own.
    pub via: Via,
    /// Its MAC address, where that is not to be asked of the network. The route says by which interface.
    pub mac: Option<[u8; 6]>,
}

impl Target {
    /// By the main routing, with the MAC address that the network says.
    pub fn new(address: IpAddr, on_link: bool) -> Self {
        Self { address, on_link, via: Via::default(), mac: None }
    }

    /// Of a backend of `vip`. With `l2` the backend itself must be on the link.
    pub fn of(node: &Node, vip: &Vip, backend: &Backend) -> Self {
        Self {
            address: backend.address,
            on_link: vip.forward.is_on_link(),
            via: vip.via(node),
            mac: backend.mac.map(Into::into),
        }
    }
}
