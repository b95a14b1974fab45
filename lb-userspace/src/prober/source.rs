//! Which address of this host probes of a backend come from: the one that the host itself would use on the way there, so
//! that answers come by an interface that the data plane is on.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use lb_common::Via;
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::{InterfaceFlags, if_nametoindex},
    sys::socket::{AddressFamily, SockType, SockaddrStorage},
};
use rustix::net::connect_unspec;

use crate::{model::Target, network};

/// The address that probes of a backend by `vip` come from, in the network namespace of the calling thread. `target`: what
/// its next hop is looked up by. `egress`: index of the interface that frames to it leave by, asked for where the way there
/// gives no address. No address is one for which `is_vip`. `None` where the host has no address of the VIP's family, which
/// is all that matters of `vip`.
pub fn source_of(
    vip: IpAddr,
    target: &Target,
    egress: impl FnOnce() -> Option<u32>,
    is_vip: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let is_fit = |source: &IpAddr| source.is_ipv4() == vip.is_ipv4() && !is_vip(*source);
    let routed = |destination| towards(destination, &target.via).ok().filter(is_fit);
    routed(target.address)
        .or_else(|| on(egress()?, is_fit))
        // A tunnel of the other family, by an interface without addresses of the VIP's: by which the host sends most.
        .or_else(|| routed(if vip.is_ipv4() { ANYWHERE[0] } else { ANYWHERE[1] }))
}

/// The same where nothing is known of the interface that frames leave by: the one that the host itself would use.
pub fn likely_source_of(vip: IpAddr, target: &Target, is_vip: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let egress = || {
        let own = towards(target.address, &target.via).ok()?;
        if_nametoindex(interfaces_of(&BTreeSet::from([own])).get(&own)?.as_str()).ok()
    };
    source_of(vip, target, egress, is_vip)
}

/// The names of the interfaces that have these addresses of this host.
pub fn interfaces_of(addresses: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, String> {
    let named = |entry: InterfaceAddress| {
        let address = ip(&entry.address?).filter(|address| addresses.contains(address))?;
        // An address may have a label, such as `eth0:1`.
        let name = entry.interface_name.split(':').next()?;
        Some((address, name.to_owned()))
    };
    getifaddrs().into_iter().flatten().filter_map(named).collect()
}

/// Some addresses of others (RFC 5737, RFC 3849).
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

thread_local! {
    /// A socket of each family that asks the host's main routing, again and again: a new one for each probe would be a
    /// twentieth of all that a probe costs.
    static ASKED_BEFORE: [Cell<Option<UdpSocket>>; 2] = const { [Cell::new(None), Cell::new(None)] };
}

/// The address that the host's routing gives to what goes to `destination`. No packet is sent for that.
fn towards(destination: IpAddr, via: &Via) -> io::Result<IpAddr> {
    let family = if destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let new = || network::socket_by(via, family, SockType::Datagram, None).map(UdpSocket::from);
    if *via != Via::default() {
        return ask(&new()?, destination);
    }
    ASKED_BEFORE.with(|sockets| {
        let place = &sockets[usize::from(destination.is_ipv4())];
        // One that cannot be used again goes.
        let used = place.take().filter(|socket| connect_unspec(socket).is_ok());
        let socket = used.map_or_else(new, Ok)?;
        let source = ask(&socket, destination);
        place.set(Some(socket));
        source
    })
}

/// By a socket that is not connected.
fn ask(socket: &UdpSocket, destination: IpAddr) -> io::Result<IpAddr> {
    // Whatever port: it is not connected to.
    socket.connect((destination, 9))?;
    socket.local_addr().map(|address| address.ip())
}

/// The first address of an interface that others can answer to.
fn on(ifindex: u32, is_fit: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let here = getifaddrs().ok()?.filter(|entry| if_nametoindex(entry.interface_name.as_str()) == Ok(ifindex));
    let here = here.filter(|entry| !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK));
    let addresses = here.filter_map(|entry| ip(&entry.address?));
    let is_local = |address: IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    addresses.filter(|address| is_fit(address)).find(|address| !is_local(*address))
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_used_again_gives_what_a_new_one_does() {
        let by_new = |destination| {
            let family = AddressFamily::Inet;
            let socket = network::socket_by(&Via::default(), family, SockType::Datagram, None).unwrap();
            ask(&UdpSocket::from(socket), destination).ok()
        };
        let by_used = |destination| towards(destination, &Via::default()).ok();
        let loopback: IpAddr = [127, 0, 0, 1].into();
        assert_eq!(by_used(loopback), Some(loopback));
        // By another interface, or by none; then what no such socket may be connected to.
        for destination in [ANYWHERE[0], loopback, [255; 4].into(), ANYWHERE[0], loopback] {
            assert_eq!(by_used(destination), by_new(destination), "{destination}");
        }
    }
}
