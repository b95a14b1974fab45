//! Second stage: which VIP a packet is for.

use lb_common::{Be16, ECHO, Features, MARKER, Vip4Key, Vip6Key, VipHash, VipRoute};
use lb_ebpf::wire::{Family, Ipv4, Ipv6, TCP, Transport, UDP};

use crate::maps::{self, VIP_BUCKETS, VIPS4, VIPS6};

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

/// Whether the packet's address answers echo requests.
#[inline(always)]
pub fn answers_echo(header: &impl Vips) -> bool {
    header.route(ANY_PORT, ECHO).is_some()
}

impl Vips for Ipv4 {
    #[inline(always)]
    fn route(&self, port: Be16, protocol: u8) -> Option<VipRoute> {
        let [_, _, _, address] = self.destination().0;
        let key = Vip4Key::new(address, port, protocol);
        let hash = key.hash();
        let place = VIPS4.get(hash.place(multiplier(hash)?, maps::vip4_mask()))?;
        (place.key == key).then_some(place.route)
    }
}

impl Vips for Ipv6 {
    #[inline(always)]
    fn route(&self, port: Be16, protocol: u8) -> Option<VipRoute> {
        let key = Vip6Key::new(self.destination(), port, protocol);
        let hash = key.hash();
        let place = VIPS6.get(hash.place(multiplier(hash)?, maps::vip6_mask()))?;
        (place.key == key).then_some(place.route)
    }
}

/// The multiplier of the bucket of a key. The address of the key's place is computed from it, so that nothing there is
/// read that is older than it (see [`lb_common::NextHopCell::current`]); the route at the place stays there until no
/// packet is on its way that read the multiplier.
#[inline(always)]
fn multiplier(hash: VipHash) -> Option<u32> {
    let bucket = hash.bucket(maps::bucket_mask());
    let line = VIP_BUCKETS.get(bucket / VipHash::A_LINE)?;
    let multiplier = line.get((bucket % VipHash::A_LINE) as usize)?;
    // SAFETY: a reference. Volatile, so that it is read once: the daemon may store another.
    Some(unsafe { core::ptr::from_ref(multiplier).read_volatile() })
}
