//! The sockets of probes: made in one place, by the routing tables of the VIP.

use std::{
    ffi::OsString,
    io,
    net::{TcpStream as Stream, UdpSocket as Datagrams},
    os::fd::OwnedFd,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::question::{Failure, Question};

/// A TCP connection to the backend.
pub async fn connect(question: &Question) -> Result<TcpStream, Failure> {
    let socket = open(question, SockType::Stream, None).map_err(unsent)?;
    let socket = TcpSocket::from_std_stream(Stream::from(socket));
    let stream = socket.connect(question.server).await.map_err(|error| Failure::of_socket(&error))?;
    // An end by RST: neither side keeps a connection that is over, of which there would be thousands.
    let _ = setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
    Ok(stream)
}

/// A socket whose datagrams go to the backend, and which takes none but its answers; ICMP errors are errors of it.
pub fn datagrams(question: &Question) -> Result<UdpSocket, Failure> {
    let socket = Datagrams::from(open(question, SockType::Datagram, None).map_err(unsent)?);
    // Nothing is sent yet, and nothing waits.
    socket.connect(question.server).map_err(|error| Failure::of_socket(&error))?;
    UdpSocket::from_std(socket).map_err(unsent)
}

/// Every socket of a probe is made here.
fn open(question: &Question, kind: SockType, protocol: Option<SockProtocol>) -> io::Result<OwnedFd> {
    let family = if question.server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::socket(family, kind, flags, protocol)?;
    let via = &question.via;
    if !via.vrf.is_none() {
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(via.vrf.as_str()))?;
    }
    if via.mark != 0 {
        setsockopt(&socket, sockopt::Mark, &via.mark)?;
    }
    Ok(socket)
}

fn unsent(error: io::Error) -> Failure {
    Failure::Unsent(error.to_string())
}
