//! What runs on an interface.

use std::io;

use aya::programs::loaded_programs;
use netlink_packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};

use super::Mode;
use crate::network::link_of;

/// The XDP program of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub program: u32,
    /// How it is attached.
    pub mode: Mode,
}

/// The program that runs on the interface, if one does. Of several (native and generic at once cannot be, offloaded and
/// another can) the first.
pub fn running(ifindex: u32) -> io::Result<Option<Running>> {
    let link = link_of(ifindex)?;
    let xdp = link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    });
    let xdp = xdp.unwrap_or_default();
    let mode = xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(Mode::Generic),
        LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Hardware | XdpAttached::Multiple) => Some(Mode::Native),
        _ => None,
    });
    let program = xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => Some(*id),
        _ => None,
    });
    Ok(mode.zip(program).map(|(mode, program)| Running { program, mode }))
}

/// A program's name and id, for messages. The daemon, which is not CAP_SYS_ADMIN, gets to know the id only.
pub fn program_name(id: u32) -> String {
    let info = loaded_programs().filter_map(Result::ok).find(|info| info.id() == id);
    match info.as_ref().and_then(|info| info.name_as_str()) {
        Some(name) if !name.is_empty() => format!("`{name}` (id {id})"),
        _ => format!("with id {id} (`bpftool prog show id {id}` names it)"),
    }
}
