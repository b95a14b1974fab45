//! Connections whose place in the stream a test must know, or which must end without a word: `TCP_REPAIR`
//! (`tcp(7)`, Linux 3.5), which takes CAP_NET_ADMIN.

use std::{io, net::TcpStream, os::fd::AsRawFd as _};

// As in linux/tcp.h.
const TCP_REPAIR: libc::c_int = 19;
const TCP_REPAIR_QUEUE: libc::c_int = 20;
const TCP_QUEUE_SEQ: libc::c_int = 21;
const ON: libc::c_int = 1;
/// Off, without a window probe.
const OFF_SILENTLY: libc::c_int = -1;
const SEND_QUEUE: libc::c_int = 2;

/// The sequence number of the next byte that the connection will send.
///
/// # Errors
///
/// The kernel refuses it.
pub fn next_sequence(stream: &TcpStream) -> io::Result<u32> {
    set(stream, TCP_REPAIR, ON)?;
    set(stream, TCP_REPAIR_QUEUE, SEND_QUEUE)?;
    let mut sequence = 0u32;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which are those of `sequence`.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, TCP_QUEUE_SEQ, (&raw mut sequence).cast(), &raw mut len)
    };
    let read = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(sequence) };
    set(stream, TCP_REPAIR, OFF_SILENTLY)?;
    read
}

/// Ends the connection here without a FIN or a RST, as a power failure would: nobody else learns of it.
///
/// # Errors
///
/// The kernel refuses it.
pub fn vanish(stream: TcpStream) -> io::Result<()> {
    // Closed while it is in repair, it says nothing.
    set(&stream, TCP_REPAIR, ON)
}

fn set(stream: &TcpStream, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes, which are those of `value`.
    let result =
        unsafe { libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
