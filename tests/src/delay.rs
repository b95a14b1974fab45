//! A longer way from a client to the VIPs: what it sends there goes through a TUN interface, whose other end is here, and
//! on by the client's own interface after a while. (`netem` is not in every kernel.)

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nix::sys::socket::{MsgFlags, SockaddrIn, sendto, setsockopt, sockopt::BindToDevice};

use crate::lab::{Host, VIPS4};

/// Name of the interface.
const NAME: &str = "far";
/// The interface that the client has without this.
const NEAR: &str = "eth0";
/// Longest packet.
const LONGEST: usize = 65_536;

/// Makes the way of a client's IPv4 packets to the VIPs longer by `delay`, until the lab goes.
///
/// # Errors
///
/// The kernel has no TUN interfaces, or refuses something.
pub fn lengthen(client: &Host, delay: Duration) -> anyhow::Result<()> {
    let (mut far, near) = client.run(|| -> anyhow::Result<_> { Ok((tun(NAME, libc::IFF_TUN)?, raw_socket()?)) })?;
    setsockopt(&near, BindToDevice, &OsString::from(NEAR))?;
    client.ip(&format!("link set {NAME} up mtu 1500\nroute replace {VIPS4} dev {NAME} src {}\n", client.ipv4()))?;
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    // Both end with the interface, which goes with the client's namespace.
    thread::spawn(move || {
        let mut packet = vec![0; LONGEST];
        while let Ok(len) = far.read(&mut packet) {
            if sender.send((Instant::now() + delay, packet[..len].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, packet) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // IPv6 of the interface itself, such as router solicitations, goes nowhere.
            if let Some(to) = packet.get(16..20).filter(|_| packet[0] >> 4 == 4) {
                let to = SockaddrIn::new(to[0], to[1], to[2], to[3], 0);
                // What cannot be sent is lost, as on any long way.
                let _ = sendto(near.as_raw_fd(), &packet, &to, MsgFlags::empty());
            }
        }
    });
    Ok(())
}

/// A TUN interface of this thread's namespace, or a TAP interface by `IFF_TAP`.
///
/// # Errors
///
/// The kernel has none.
pub fn tun(name: &str, kind: libc::c_int) -> anyhow::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun").context("cannot open /dev/net/tun")?;
    // SAFETY: integers and bytes, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is one of those that this call reads.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
    ensure!(result == 0, "no TUN interface: {}", io::Error::last_os_error());
    Ok(file)
}

/// A socket in this thread's namespace that sends whole IPv4 packets, whoever they are from.
///
/// # Errors
///
/// The kernel refuses it.
pub fn raw_socket() -> anyhow::Result<OwnedFd> {
    // SAFETY: integers; the descriptor is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    ensure!(fd >= 0, "no raw socket: {}", io::Error::last_os_error());
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How long it takes a client to connect: a round trip, and what it takes more.
///
/// # Errors
///
/// No connection comes about.
pub fn time_to_connect(client: &Host, vip: Ipv4Addr, port: u16) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    client.run(|| std::net::TcpStream::connect((vip, port)))?;
    Ok(begun.elapsed())
}
