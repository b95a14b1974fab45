//! The sockets of probes: made in one place, by the way that the probe is to go.

use std::{
    io,
    net::{TcpStream as StdStream, UdpSocket as StdDatagrams},
    ops::Deref,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll},
};

use nix::sys::socket::{AddressFamily, SockProtocol, SockType, setsockopt, sockopt};
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

/// A TCP connection to the backend.
pub async fn connect(question: &Question) -> Result<Stream, Failure> {
    let (socket, lease) = open(question, SockType::Stream, None)?;
    let socket = TcpSocket::from_std_stream(StdStream::from(socket));
    let stream = socket.connect(question.to.destination()).await.map_err(|error| Failure::of_socket(&error))?;
    // An end by RST: neither side keeps a connection that is over, of which there would be thousands.
    let _ = setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
    Ok(Leased { socket: stream, _lease: lease })
}

/// A socket whose datagrams go to the backend, and which takes none but its answers; ICMP errors are errors of it.
pub fn datagrams(question: &Question) -> Result<Leased<UdpSocket>, Failure> {
    let (socket, lease) = open(question, SockType::Datagram, None)?;
    let socket = StdDatagrams::from(socket);
    // Nothing is sent yet, and nothing waits.
    socket.connect(question.to.destination()).map_err(|error| Failure::of_socket(&error))?;
    Ok(Leased { socket: UdpSocket::from_std(socket).map_err(unsent)?, _lease: lease })
}

/// Every socket of a probe is made here.
fn open(
    question: &Question,
    kind: SockType,
    protocol: Option<SockProtocol>,
) -> Result<(OwnedFd, Option<Lease>), Failure> {
    match &question.to {
        To::Address(server, via) => {
            let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            Ok((network::socket_by(via, family, kind, protocol).map_err(unsent)?, None))
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

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
