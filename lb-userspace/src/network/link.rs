//! One interface, asked for once and waited for, in the network namespace of the calling thread.

use std::io;

use netlink_packet_core::{DefaultNla, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};

use super::exchange::exchange;

/// Index and name of the interface that has this name, be it one of its other names (`altname`).
///
/// # Errors
///
/// `ENODEV` where there is none.
pub fn interface_named(name: &str) -> io::Result<(u32, String)> {
    let mut link = LinkMessage::default();
    // The kernel looks among all names by either attribute; only this one may be longer than 15 bytes (kernel 5.5).
    let attribute = if name.len() < libc::IFNAMSIZ {
        LinkAttribute::IfName(name.to_owned())
    } else {
        LinkAttribute::Other(DefaultNla::new(IFLA_ALT_IFNAME, [name.as_bytes(), &[0]].concat()))
    };
    link.attributes.push(attribute);
    identity(link_like(link)?)
}

/// The name of the interface with this index.
///
/// # Errors
///
/// `ENODEV` where there is none.
pub fn interface_name(ifindex: u32) -> io::Result<String> {
    identity(link_of(ifindex)?).map(|(_, name)| name)
}

/// `linux/if_link.h`
const IFLA_ALT_IFNAME: u16 = 53;

fn identity(link: LinkMessage) -> io::Result<(u32, String)> {
    let name = link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    });
    let name = name.ok_or_else(|| io::Error::other("the kernel does not say the name of the interface"))?;
    Ok((link.header.index, name))
}

/// What the kernel says of the interface with this index.
///
/// # Errors
///
/// `ENODEV` where there is none.
pub fn link_of(ifindex: u32) -> io::Result<LinkMessage> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    link_like(link)
}

/// RTM_GETLINK for one interface.
fn link_like(link: LinkMessage) -> io::Result<LinkMessage> {
    match exchange(RouteNetlinkMessage::GetLink(link), 0)? {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("unexpected answer to RTM_GETLINK: {other:?}"))),
    }
}
