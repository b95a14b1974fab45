//! Which address of this host probes of a backend come from: the one that the host itself would use on the way there, so
//! that answers come by an interface that the data plane is on.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_nametoindex},
};

/// The address that probes of `backend` by `vip` come from, in the network namespace of the calling thread. `egress`:
/// index of the interface that frames to the backend leave by. `None` where the host has no address of the VIP's family
/// there.
pub fn source_of(vip: IpAddr, backend: IpAddr, egress: u32) -> Option<IpAddr> {
    let routed = || towards(backend).ok().filter(|source| source.is_ipv4() == vip.is_ipv4() && *source != vip);
    routed().or_else(|| on(egress, vip))
}

/// The address that the host's routing gives to what goes to `destination`. No packet is sent for that.
fn towards(destination: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // Whatever port: it is not connected to.
    socket.connect((destination, 9))?;
    socket.local_addr().map(|address| address.ip())
}

/// The first address of an interface that others can answer to, of the VIP's family, and not the VIP.
fn on(ifindex: u32, vip: IpAddr) -> Option<IpAddr> {
    let here = getifaddrs().ok()?.filter(|entry| if_nametoindex(entry.interface_name.as_str()) == Ok(ifindex));
    let here = here.filter(|entry| !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK));
    let addresses = here.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    });
    let is_local = |address: IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let mut fitting = addresses.filter(|address| address.is_ipv4() == vip.is_ipv4() && *address != vip);
    fitting.find(|address| !is_local(*address))
}
