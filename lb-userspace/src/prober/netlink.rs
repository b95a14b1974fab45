//! Changes to interfaces, addresses and routes, each asked for once and waited for, in the network namespace of the
//! calling thread.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
        LinkMessage,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
    },
};

use crate::network::exchange;

/// Makes a veth pair: `name` here, and `far` in the network namespace `there`. Each end has an MTU.
pub fn add_pair(name: &str, mtu: u32, far: &str, far_mtu: u32, there: BorrowedFd<'_>) -> io::Result<()> {
    let end = |name: &str, mtu| vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu)];
    let mut peer = LinkMessage::default();
    peer.attributes = end(far, far_mtu);
    peer.attributes.push(LinkAttribute::NetNsFd(there.as_raw_fd()));
    let mut link = LinkMessage::default();
    link.attributes = end(name, mtu);
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
    link.attributes.push(LinkAttribute::LinkInfo(info));
    change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
}

/// Sets an interface up, with `flags` besides, and has it make no IPv6 address of its own.
pub fn set_up(ifindex: u32, flags: LinkFlags) -> io::Result<()> {
    // Before it is up: the kernel makes the address as it comes up. A host without IPv6 knows no such mode.
    let mut silent = LinkMessage::default();
    silent.header.index = ifindex;
    let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    silent.attributes.push(LinkAttribute::AfSpecUnspec(vec![mode]));
    match change(RouteNetlinkMessage::SetLink(silent), 0) {
        Err(error) if error.raw_os_error() != Some(libc::EAFNOSUPPORT) => return Err(error),
        _ => {}
    }
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    link.header.flags = LinkFlags::Up | flags;
    link.header.change_mask = link.header.flags;
    change(RouteNetlinkMessage::SetLink(link), 0)
}

/// Removes an interface, and of a pair the other end with it.
pub fn remove(ifindex: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    change(RouteNetlinkMessage::DelLink(link), 0)
}

/// Gives an interface an address, alone in its prefix and without a search for others that have it; it may have it
/// already.
pub fn add_address(ifindex: u32, address: IpAddr) -> io::Result<()> {
    change(RouteNetlinkMessage::NewAddress(host_address(ifindex, address)), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Takes an address from an interface, where it has it.
pub fn remove_address(ifindex: u32, address: IpAddr) -> io::Result<()> {
    match change(RouteNetlinkMessage::DelAddress(host_address(ifindex, address)), 0) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        removed => removed,
    }
}

/// Sends all packets of a family by an interface, to a gateway that need not be there.
pub fn add_default_route(ifindex: u32, gateway: IpAddr) -> io::Result<()> {
    let mut route = RouteMessage::default();
    route.header.address_family = family(gateway);
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.header.flags = RouteFlags::Onlink;
    let gateway = match gateway {
        IpAddr::V4(gateway) => RouteAddress::Inet(gateway),
        IpAddr::V6(gateway) => RouteAddress::Inet6(gateway),
    };
    route.attributes = vec![RouteAttribute::Gateway(gateway), RouteAttribute::Oif(ifindex)];
    change(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE)
}

fn host_address(ifindex: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = if address.is_ipv4() { Ipv4Addr::BITS as u8 } else { Ipv6Addr::BITS as u8 };
    message.header.index = ifindex;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Has the kernel do something, and waits until it says that it has.
fn change(request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    match exchange(request, NLM_F_ACK | flags)? {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("unexpected answer of the kernel: {other:?}"))),
    }
}
