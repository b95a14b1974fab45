//! One request to the kernel and its answer, waited for: for what is asked now and then, beside the task that follows all.

use std::{io, os::fd::AsRawFd as _};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Sends a request, with `flags` besides, in the network namespace that this thread is in, and gives the kernel's answer.
///
/// # Errors
///
/// The kernel gives no socket, or something else than an answer.
pub fn exchange(request: RouteNetlinkMessage, flags: u16) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut request = NetlinkMessage::new(header, request.into());
    request.finalize();
    let mut buffer = vec![0; request.buffer_len()];
    request.serialize(&mut buffer);
    send(socket.as_raw_fd(), &buffer, MsgFlags::empty())?;

    let mut buffer = vec![0; 1 << 16];
    let received = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer[..received]).map_err(io::Error::other)?;
    Ok(answer.payload)
}
