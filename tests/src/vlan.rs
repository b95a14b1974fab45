//! A port of the lab's switch on which frames have VLAN tags, as on a trunk: what comes in with the tag goes on to the
//! bridge without it, and what the bridge sends there gets it. (802.1Q is not in every kernel.)

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
};

use anyhow::{Context as _, ensure};

use crate::{
    delay::tun,
    lab::{Host, MTU},
};

/// The bridge's port in its place.
const ACCESS: &str = "access";
/// Longest frame.
const LONGEST: usize = 65_536;
/// Of the addresses of a frame, in front of the tag.
const ADDRESSES: usize = 12;

/// Takes a port of the router off its bridge, and passes frames of the VLAN `id` on between them, until the lab goes. Other
/// frames go nowhere.
///
/// # Errors
///
/// The kernel has no TAP interfaces, or refuses something.
pub fn tag(router: &Host, port: &str, id: u16) -> anyhow::Result<()> {
    let open = || anyhow::Ok((tun(ACCESS, libc::IFF_TAP)?, tagged(port, id)?));
    let (mut access, mut trunk) = router.run(open)?;
    let (mut to_access, mut to_trunk) = (access.try_clone()?, trunk.try_clone()?);
    router.ip(&format!("link set {port} nomaster\nlink set {ACCESS} mtu {MTU} master br0\nlink set {ACCESS} up\n"))?;
    // Both end with their interface, which goes with the router's namespace. What cannot be sent is lost.
    thread::spawn(move || {
        let mut frame = vec![0; LONGEST];
        while let Ok(len) = trunk.read(&mut frame) {
            let _ = to_access.write(&frame[..len]);
        }
    });
    thread::spawn(move || {
        let mut frame = vec![0; LONGEST];
        let [high, low] = id.to_be_bytes();
        while let Ok(len) = access.read(&mut frame) {
            let (addresses, rest) = frame[..len].split_at(ADDRESSES);
            let _ = to_trunk.write(&[addresses, &[0x81, 0x00, high, low], rest].concat());
        }
    });
    Ok(())
}

/// A socket for whole frames of an interface of this thread's namespace (packet(7)). It takes those that come in with the
/// tag, which the kernel has taken out by then, and no others.
fn tagged(interface: &str, id: u16) -> anyhow::Result<File> {
    let checked = |result: libc::c_int, what: &str| {
        ensure!(result >= 0, "{what}: {}", io::Error::last_os_error());
        Ok(result)
    };
    // SAFETY: integers; the descriptor is checked before it is owned. Without a protocol it takes nothing yet.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    checked(fd, "no packet socket")?;
    // SAFETY: just opened, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1)?;
    // linux/filter.h: the tag that stood in the frame.
    const TAG: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG).cast_unsigned();
    let step = |code, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, TAG),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0xfff),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, id.into()),
        step(libc::BPF_RET | libc::BPF_K, 0, LONGEST as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
    let name = CString::new(interface)?;
    // SAFETY: a string that lives as long as the call.
    let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: integers and bytes, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = i32::try_from(ifindex).context("an index of an interface")?;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is of the length that is said.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    checked(result, "cannot be bound")?;
    Ok(socket.into())
}

/// Sets an option of a socket.
fn set<T>(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> anyhow::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is of the length that is said, and what it points to lives as long as the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const *value).cast(), len) };
    ensure!(result == 0, "option {option}: {}", io::Error::last_os_error());
    Ok(())
}
