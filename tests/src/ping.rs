//! Echo requests of a host's own kernel, which takes replies with right checksums only.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    time::Duration,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::lab::Host;

/// Sends one with so many bytes of payload; whether the same bytes came back within `limit`.
///
/// # Errors
///
/// The kernel has no socket for it, or nobody to send it to.
pub fn ping(host: &Host, to: IpAddr, len: usize, limit: Duration) -> anyhow::Result<bool> {
    // Whoever is in group 0 may.
    host.sysctl("net/ipv4/ping_group_range", "0 0")?;
    host.run(|| {
        let (family, protocol, request) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128),
        };
        let socket: OwnedFd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(limit))?;
        socket.connect(SocketAddr::new(to, 0))?;
        let payload: Vec<_> = (0..len).map(|byte| byte as u8).collect();
        socket.send(&[&[request, 0, 0, 0, 0, 0, 0, 1][..], &payload].concat())?;
        let mut reply = vec![0; len + 64];
        Ok(match socket.recv(&mut reply) {
            Ok(received) => reply[8..received] == payload,
            Err(_) => false,
        })
    })
}
