//! Sockets of the namespace of probes that are made before they are wanted, many at a time: a probe that had to wait for
//! the thread there would cost two changes of threads.

use std::{
    io, mem,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, setsockopt, socket,
    sockopt::{Linger, ReuseAddr},
};

use super::namespace::Namespace;

/// So many of a kind there are at most.
const MANY: usize = 64;
/// When there are fewer, more are made.
const FEW: usize = 16;

/// Sockets that are made before they are wanted.
pub struct Sockets {
    namespace: Arc<Namespace>,
    shelves: [Arc<Mutex<Shelf>>; 4],
}

/// Those of one kind.
#[derive(Default)]
struct Shelf {
    sockets: Vec<OwnedFd>,
    /// More are being made.
    is_ordered: bool,
}

impl Sockets {
    /// None yet: the first one of a kind that is wanted has more made.
    pub fn new(namespace: Arc<Namespace>) -> Self {
        Self { namespace, shelves: Default::default() }
    }

    /// One that is nobody's yet: not bound, and not blocking. A TCP connection of it ends by RST.
    ///
    /// # Errors
    ///
    /// The kernel gives none.
    pub fn take(&self, kind: SockType, is_ipv4: bool) -> io::Result<OwnedFd> {
        let shelf = &self.shelves[usize::from(is_ipv4) + 2 * usize::from(kind == SockType::Stream)];
        let (ready, is_low) = {
            let mut shelf = lock(shelf);
            let ready = shelf.sockets.pop();
            let is_low = shelf.sockets.len() < FEW && !mem::replace(&mut shelf.is_ordered, true);
            (ready, is_low)
        };
        if is_low {
            let shelf = Arc::clone(shelf);
            self.namespace.order(move || fill(&shelf, kind, is_ipv4));
        }
        ready.map_or_else(|| self.namespace.run(move || make(kind, is_ipv4)), Ok)
    }
}

/// Makes as many as there is room for, in the namespace.
fn fill(shelf: &Mutex<Shelf>, kind: SockType, is_ipv4: bool) {
    let missing = MANY.saturating_sub(lock(shelf).sockets.len());
    // Where the kernel gives none, whoever wants one is told why.
    let made: Vec<_> = (0..missing).map_while(|_| make(kind, is_ipv4).ok()).collect();
    let mut shelf = lock(shelf);
    shelf.sockets.extend(made);
    shelf.is_ordered = false;
}

/// Makes one, in the namespace of the calling thread.
fn make(kind: SockType, is_ipv4: bool) -> io::Result<OwnedFd> {
    let family = if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    // What is left of a connection from its port is in nobody's way.
    setsockopt(&socket, ReuseAddr, &true)?;
    if kind == SockType::Stream {
        setsockopt(&socket, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    }
    Ok(socket)
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}
