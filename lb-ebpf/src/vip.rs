//! Second stage: which VIP a packet is for.

use lb_common::{Address, Be16, Be32, Features, Vip4Key, Vip6Key, VipRoute};
use lb_ebpf::parse::Transport;

use crate::maps::{self, VIPS4, VIPS6};

/// The VIP at this address, port and protocol, else the one on any port.
#[inline(always)]
pub fn lookup4(address: Be32, transport: &Transport) -> Option<VipRoute> {
    let key = Vip4Key { address, port: transport.destination(), protocol: transport.protocol, reserved: 0 };
    route4(&key).or_else(|| any_port(|| route4(&Vip4Key { port: Be16::new(0), ..key })))
}

/// As [`lookup4`], for IPv6.
#[inline(always)]
pub fn lookup6(address: Address, transport: &Transport) -> Option<VipRoute> {
    let key = Vip6Key { address, port: transport.destination(), protocol: transport.protocol, reserved: 0 };
    route6(&key).or_else(|| any_port(|| route6(&Vip6Key { port: Be16::new(0), ..key })))
}

/// Whether some VIP has this address.
#[inline(always)]
pub fn is_address4(address: Be32) -> bool {
    route4(&Vip4Key { address, ..Vip4Key::default() }).is_some()
}

/// Whether some VIP has this address.
#[inline(always)]
pub fn is_address6(address: Address) -> bool {
    route6(&Vip6Key { address, ..Vip6Key::default() }).is_some()
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
