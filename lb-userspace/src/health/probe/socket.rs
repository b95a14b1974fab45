//! The sockets of probes: made in one place, by the way that the probe is to go.

use std::{
    io,
    net::{TcpStream as StdStream, UdpSocket as StdDatagrams},
    ops::Deref,
    os::{fd::OwnedFd, linux::net::TcpStreamExt as _},
    pin::Pin,
    task::{Context, Poll},
};

use nix::{
    errno::Errno,
    setsockopt_impl, sockopt_impl,
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, sockopt},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream, UdpSocket},
};

use super::question::{Failure, Question, To};
use crate::{
    health::paths::PathError,
    network,
    prober::{Lease, Probe},
};

/// A socket, with the port that is its own as long as it is there.
pub struct Leased<T> {
    socket: T,
    /// Goes behind the socket.
    _lease: Option<Lease>,
}

/// A TCP connection.
pub type Stream = Leased<TcpStream>;

/// Why there is no socket for echo requests, and what to do.
pub const PING_GROUPS: &str = "the kernel lets the daemon's groups send no echo requests: allow group 0 to by `sysctl -w \
                               net.ipv4.ping_group_range=\"0 0\"`, and in /etc/sysctl.d for the next boot; it is for \
                               IPv6 as well";

/// A TCP connection to the backend.
pub async fn connect(question: &Question) -> Result<Stream, Failure> {
    let (socket, lease) = open(question, SockType::Stream)?;
    let socket = StdStream::from(socket);
    // What is asked acknowledges the other side's SYN too, and so does an end by RST: a packet less.
    let _ = socket.set_quickack(false);
    let socket = TcpSocket::from_std_stream(socket);
    let stream = socket.connect(question.to.destination()).await.map_err(|error| Failure::of_socket(&error))?;
    Ok(Leased { socket: stream, _lease: lease })
}

/// A socket whose datagrams go to the backend, and which takes none but its answers; ICMP errors are errors of it.
pub fn datagrams(question: &Question) -> Result<Leased<UdpSocket>, Failure> {
    let (socket, lease) = open(question, SockType::Datagram)?;
    let socket = StdDatagrams::from(socket);
    // Nothing is sent yet, and nothing waits.
    socket.connect(question.to.destination()).map_err(|error| Failure::of_socket(&error))?;
    Ok(Leased { socket: UdpSocket::from_std(socket).map_err(unsent)?, _lease: lease })
}

/// A socket for echo requests to the backend, which takes none but replies to its own. No privilege is needed for it, but
/// a group of this process must be in a range that each network namespace has.
pub fn echoes(question: &Question) -> Result<UdpSocket, Failure> {
    let To::Address(server, via) = &question.to else {
        return Err(Failure::Unsent("the data plane forwards no echo requests".to_owned()));
    };
    let is_ipv4 = server.is_ipv4();
    let (family, protocol) = match is_ipv4 {
        true => (AddressFamily::Inet, SockProtocol::Icmp),
        false => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let socket = network::socket_by(via, family, SockType::Datagram, Some(protocol));
    let socket = socket.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::Unsent(PING_GROUPS.to_owned()),
        _ => unsent(error),
    })?;
    set_up_echoes(&socket, is_ipv4).map_err(|errno| unsent(errno.into()))?;
    let socket = StdDatagrams::from(socket);
    socket.connect(*server).map_err(|error| Failure::of_socket(&error))?;
    UdpSocket::from_std(socket).map_err(unsent)
}

/// Requests may be as long as the interface takes, whatever is known of the path, and nobody cuts them on it. All ICMP
/// errors are told.
fn set_up_echoes(socket: &OwnedFd, is_ipv4: bool) -> nix::Result<()> {
    if is_ipv4 {
        setsockopt(socket, MtuDiscovery, &libc::IP_PMTUDISC_PROBE)?;
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)
    } else {
        setsockopt(socket, MtuDiscovery6, &libc::IPV6_PMTUDISC_PROBE)?;
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)
    }
}

/// Whether this process may make sockets for echo requests.
pub fn may_echo() -> bool {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = nix::sys::socket::socket(AddressFamily::Inet, SockType::Datagram, flags, SockProtocol::Icmp);
    socket.err() != Some(Errno::EACCES)
}

sockopt_impl!(
    /// Who cuts packets that are too long.
    MtuDiscovery, SetOnly, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::c_int
);
sockopt_impl!(
    /// The same for IPv6.
    MtuDiscovery6, SetOnly, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::c_int
);

/// Every socket of a probe is made here, but those for echo requests. A connection of it ends by RST: neither side keeps
/// one that is over, of which there would be thousands.
fn open(question: &Question, kind: SockType) -> Result<(OwnedFd, Option<Lease>), Failure> {
    match &question.to {
        To::Address(server, via) => {
            let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let socket = network::socket_by(via, family, kind, None).map_err(unsent)?;
            if kind == SockType::Stream {
                let _ = setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
            }
            Ok((socket, None))
        }
        To::Path(path) => {
            let Probe { socket, lease } = path.open(kind).map_err(|error| match error {
                PathError::NoWay => Failure::Connection(error.to_string()),
                PathError::Unready(_) | PathError::Prober(_) => Failure::Unsent(error.to_string()),
            })?;
            Ok((socket, Some(lease)))
        }
    }
}

fn unsent(error: io::Error) -> Failure {
    Failure::Unsent(error.to_string())
}

impl<T> Deref for Leased<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.socket
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Leased<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Leased<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    /// Says nothing to the other side: the connection is about to end by RST, and a FIN before it would be two packets.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
