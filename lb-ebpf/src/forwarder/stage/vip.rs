//! Second stage: which VIP a packet is for.

use lb_common::{Be16, Features, MARKER, Vip4Key, Vip6Key, VipRoute};
use lb_ebpf::wire::{Family, Ipv4, Ipv6, TCP, Transport, UDP};

use crate::maps::{self, VIPS4, VIPS6};

/// The port in keys of VIPs that serve any, and in markers.
const ANY_PORT: Be16 = Be16::new(0);

/// A family that has a map of VIPs.
pub trait Vips: Family {
    /// What the key of the packet's destination with this port and protocol leads to.
    fn route(&self, port: Be16, protocol: u8) -> Option<VipRoute>;
}

/// The VIP that the packet is for: at its address, port and protocol, else the one on any port.
#[inline(always)]
pub fn lookup(header: &impl Vips, transport: &Transport) -> Option<VipRoute> {
    let route = |port| header.route(port, transport.protocol);
    route(transport.destination()).or_else(|| if maps::uses(Features::ANY_PORT) { route(ANY_PORT) } else { None })
}

/// Whether some VIP serves this protocol on the packet's address; protocol 0 stands for either.
#[inline(always)]
pub fn serves(header: &impl Vips, protocol: u8) -> bool {
    let marked = |protocol| header.route(ANY_PORT, protocol | MARKER).is_some();
    if protocol == 0 { marked(TCP) || marked(UDP) } else { marked(protocol) }
}

impl Vips for Ipv4 {
    #[inline(always)]
    fn route(&self, port: Be16, protocol: u8) -> Option<VipRoute> {
        let [_, _, _, address] = self.destination().0;
        // SAFETY: the daemon replaces routes whole; the copy is taken before the RCU read section of this run ends.
        unsafe { VIPS4.get(Vip4Key::new(address, port, protocol)) }.copied()
    }
}

impl Vips for Ipv6 {
    #[inline(always)]
    fn route(&self, port: Be16, protocol: u8) -> Option<VipRoute> {
        // SAFETY: as above.
        unsafe { VIPS6.get(Vip6Key::new(self.destination(), port, protocol)) }.copied()
    }
}
