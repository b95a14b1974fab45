//! Features of an interface, as `ethtool -k` shows and `ethtool -K` sets them, in the network namespace of the calling
//! thread.

use std::{io, os::fd::AsRawFd as _};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `linux/ethtool.h`: checksums of what is sent.
pub const ETHTOOL_STXCSUM: u32 = 0x17;
/// `linux/ethtool.h`: generic receive offload.
pub const ETHTOOL_SGRO: u32 = 0x2c;
/// `linux/ethtool.h`: the features that have flags.
const ETHTOOL_GFLAGS: u32 = 0x25;
/// `linux/ethtool.h`: VLAN tags of what is received are not in the frame.
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
/// `linux/sockios.h`
const SIOCETHTOOL: u32 = 0x8946;

/// Whether an interface takes VLAN tags out of the frames that it receives, so that they are beside them.
///
/// # Errors
///
/// There is no such interface, or it does not say.
pub fn takes_tags(interface: &str) -> io::Result<bool> {
    Ok(ask(interface, ETHTOOL_GFLAGS, 0)? & ETH_FLAG_RXVLAN != 0)
}

/// Sets a feature of an interface.
///
/// # Errors
///
/// There is no such interface, or it has no such feature.
pub fn set_feature(interface: &str, command: u32, value: u32) -> io::Result<()> {
    ask(interface, command, value).map(drop)
}

/// What stands in the value after a command that takes one.
fn ask(interface: &str, command: u32, data: u32) -> io::Result<u32> {
    /// `struct ethtool_value`
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value { command, data };
    // SAFETY: integers and a pointer, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last place stays zero.
    for (place, byte) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(interface.bytes()) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the request names an interface and points to a value, which both live as long as the call; the kernel reads
    // and writes no more than the value.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL.into(), &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}
