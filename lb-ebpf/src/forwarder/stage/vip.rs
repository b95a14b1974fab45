//! Second stage: which VIP a packet is for.

use lb_common::{Address, Be16, Be32, Features, MARKER, Vip4Key, Vip6Key, VipRoute};
use lb_ebpf::wire::{TCP, Transport, UDP};

use crate::maps::{self, VIPS4, VIPS6};

/// The port in keys of VIPs that serve any, and in markers.
const ANY_PORT: Be16 = Be16::new(0);

/// The VIP at this address, port and protocol, else the one on any port.
#[inline(always)]
pub fn lookup4(address: Be32, transport: &Transport) -> Option<VipRoute> {
    let key = |port| Vip4Key::new(address, port, transport.protocol);
    route4(&key(transport.destination())).or_else(|| any_port(|| route4(&key(ANY_PORT))))
}

/// As [`lookup4`], for IPv6.
#[inline(always)]
pub fn lookup6(address: Address, transport: &Transport) -> Option<VipRoute> {
    let key = |port| Vip6Key::new(address, port, transport.protocol);
    route6(&key(transport.destination())).or_else(|| any_port(|| route6(&key(ANY_PORT))))
}

/// Whether some VIP serves this protocol on this address; protocol 0 stands for either.
#[inline(always)]
pub fn serves4(address: Be32, protocol: u8) -> bool {
    let marked = |protocol| route4(&Vip4Key::new(address, ANY_PORT, protocol | MARKER)).is_some();
    if protocol == 0 { marked(TCP) || marked(UDP) } else { marked(protocol) }
}

/// As [`serves4`], for IPv6.
#[inline(always)]
pub fn serves6(address: Address, protocol: u8) -> bool {
    let marked = |protocol| route6(&Vip6Key::new(address, ANY_PORT, protocol | MARKER)).is_some();
    if protocol == 0 { marked(TCP) || marked(UDP) } else { marked(protocol) }
}

#[inline(always)]
fn any_port(lookup: impl FnOnce() -> Option<VipRoute>) -> Option<VipRoute> {
    if maps::uses(Features::ANY_PORT) { lookup() } else { None }
}

#[inline(always)]
fn route4(key: &Vip4Key) -> Option<VipRoute> {
    // SAFETY: the daemon replaces routes whole; the copy is taken before the RCU read section of this run ends.
    unsafe { VIPS4.get(key) }.copied()
}

#[inline(always)]
fn route6(key: &Vip6Key) -> Option<VipRoute> {
    // SAFETY: as above.
    unsafe { VIPS6.get(key) }.copied()
}
