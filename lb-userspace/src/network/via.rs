//! Sockets that use the routing tables of a VIP.

use std::{ffi::OsString, io, os::fd::OwnedFd};

use lb_common::Via;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};

/// A socket that does not block, and whose packets go by these routing tables.
pub fn socket_by(
    via: &Via,
    family: AddressFamily,
    kind: SockType,
    protocol: Option<SockProtocol>,
) -> io::Result<OwnedFd> {
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?;
    if !via.vrf.is_none() {
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(via.vrf.as_str()))?;
    }
    if via.mark != 0 {
        setsockopt(&socket, sockopt::Mark, &via.mark)?;
    }
    Ok(socket)
}
