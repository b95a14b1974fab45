//! Where probes of backends come from: sockets in a network namespace of the daemon's own, whose packets the data plane
//! sends to one backend each, by the VIP's forward mode, as it sends clients' packets.
//!
//! ```text
//!   namespace of probes │ this host
//!   socket ─ probe ═════╪═ naru-probe ─ naru_probe ──► next hop of the one backend
//!      ▲                │
//!      └────────────────╪──────── answer ◄── naru ◄── interface
//! ```
//!
//! A probe is a packet to the VIP, from an address of this host, and its answer comes to this host as any client's comes
//! to the client: what would fail a client fails the probe. The host's own stack meets neither, so that it makes no
//! difference whether the VIP is an address of this host too, what it filters, and how it routes.

mod error;
mod namespace;
mod netlink;
mod pair;
mod ports;
mod sockets;
mod source;
mod sources;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use lb_common::ProbePath;
use nix::sys::socket::{SockType, SockaddrStorage, bind, setsockopt, sockopt::TcpMaxSeg};

pub use self::{
    error::Error,
    namespace::Namespace,
    pair::NAME,
    ports::Lease,
    source::{interfaces_of, likely_source_of, source_of},
};
use self::{
    pair::Pair,
    ports::{Ports, Range},
    sockets::Sockets,
    sources::Sources,
};
use crate::dataplane::{Dataplane, ProbeLink, Probes};

/// What a probe is of, and how it gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Address of the VIP.
    pub vip: IpAddr,
    /// Id of the backend.
    pub backend: u32,
    /// The address of this host that the probe comes from, no VIP. [`source_of`] tells it.
    pub source: IpAddr,
    /// Largest IP packet that reaches the backend, in bytes: the next hop's MTU, less what the forward mode puts in front.
    pub mtu: u32,
}

/// A socket in the namespace of probes, not connected yet and not blocking, whose packets to the VIP go to the one
/// backend. Other packets of it go nowhere.
pub struct Probe {
    /// The socket. A TCP connection ends by RST when it is closed: nothing is left of it on either side.
    pub socket: OwnedFd,
    /// Must outlive the socket.
    pub lease: Lease,
}

/// Where probes come from.
pub struct Prober {
    namespace: Arc<Namespace>,
    pair: Mutex<(Pair, Sources)>,
    link: ProbeLink,
    probes: Arc<Probes>,
    ports: Arc<Ports>,
    sockets: Sockets,
    /// The maps that the program on the link sends by.
    generation: Mutex<u32>,
}

impl Prober {
    /// Largest IP packet of a probe, before a tunnel adds to it, and of an answer, in bytes: what clients on the Internet
    /// send and take.
    pub const MTU: u32 = 1500;

    /// Connects `namespace` with the network namespace of the calling thread, which is that of the data plane. What
    /// another daemon was probing is forgotten.
    ///
    /// # Errors
    ///
    /// The kernel refuses something.
    pub fn start(namespace: Arc<Namespace>, dataplane: &Dataplane) -> Result<Self, Error> {
        let probes = dataplane.probes();
        probes.reset()?;
        let pair = Pair::make(&namespace, Self::MTU)?;
        let link = dataplane.attach_probe(NAME, pair.ifindex)?;
        let Range { ports, is_shared } = Range::of_host();
        if is_shared {
            log::warn!(
                "probes come from ports that this host gives to connections of its own too (ip_local_port_range): one \
                 to a VIP may fail while a probe of the VIP has its port"
            );
        }
        let ports = Arc::new(Ports::new(Arc::clone(&probes), ports));
        let tidied = Arc::downgrade(&ports);
        namespace.every_tick(move || tidied.upgrade().map(|ports| ports.tidy()).is_some());
        let pair = Mutex::new((pair, Sources::default()));
        let sockets = Sockets::new(Arc::clone(&namespace));
        Ok(Self { namespace, pair, link, probes, ports, sockets, generation: Mutex::new(dataplane.generation()) })
    }

    /// Has probes sent by the maps that are in use now: call it after whatever may have made new ones.
    ///
    /// # Errors
    ///
    /// The kernel does not take the program.
    pub fn follow(&self, dataplane: &Dataplane) -> Result<(), Error> {
        let mut generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        if dataplane.generation() != *generation {
            dataplane.renew_probe(&self.link)?;
            *generation = dataplane.generation();
        }
        Ok(())
    }

    /// Whether its pair is as it was made. Where it is not, no probe arrives anywhere.
    pub fn is_whole(&self) -> bool {
        self.pair.lock().unwrap_or_else(PoisonError::into_inner).0.is_whole()
    }

    /// Leaves nothing that packets would be compared with: call it before another may have the data plane. Nobody may come
    /// after this one.
    pub fn end(&self) {
        if let Err(error) = self.probes.reset() {
            log::debug!("{error}");
        }
    }

    /// The addresses of this host that probes have come from since then.
    pub fn sources(&self, since: Instant) -> BTreeSet<IpAddr> {
        self.pair.lock().unwrap_or_else(PoisonError::into_inner).1.used_since(since)
    }

    /// Sees to it that probes can come from an address of this host, and answers to it find them.
    fn admit(&self, source: IpAddr) -> Result<(), Error> {
        let mut guard = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        let (pair, sources) = &mut *guard;
        if sources.admit(source, Instant::now()).ok_or(Error::TooManySources)? {
            return Ok(());
        }
        let addresses = sources.addresses();
        if let Err(error) = pair.set_addresses(&self.namespace, &addresses) {
            sources.remove(source);
            return Err(error);
        }
        let Pair { ifindex, mac, far_mac, .. } = *pair;
        self.probes.set_path(ProbePath::new(ifindex, far_mac, mac, addresses.into_iter().map(Into::into)));
        Ok(())
    }

    /// A socket for a probe by TCP.
    ///
    /// # Errors
    ///
    /// No port is free, the kernel gives no socket, or probes come from too many addresses.
    pub fn tcp(&self, way: Way) -> Result<Probe, Error> {
        let probe = self.probe(way, SockType::Stream, libc::IPPROTO_TCP)?;
        let Way { source, mtu, .. } = way;
        // Else it follows from the pair's.
        if mtu < Self::MTU {
            let headers = if source.is_ipv4() { 40 } else { 60 };
            // The kernel takes no less.
            let segment = mtu.saturating_sub(headers).max(88);
            let set = setsockopt(&probe.socket, TcpMaxSeg, &segment);
            set.map_err(|errno| Error::Socket { from: source, source: errno.into() })?;
        }
        Ok(probe)
    }

    /// A socket for a probe by UDP.
    ///
    /// # Errors
    ///
    /// As [`Self::tcp`].
    pub fn udp(&self, way: Way) -> Result<Probe, Error> {
        self.probe(way, SockType::Datagram, libc::IPPROTO_UDP)
    }

    /// Of this protocol.
    fn probe(&self, way: Way, kind: SockType, protocol: libc::c_int) -> Result<Probe, Error> {
        let Way { vip, backend, source, .. } = way;
        self.admit(source)?;
        let failed = |error| Error::Socket { from: source, source: error };
        // Before the port, which is kept for a while where there is no socket for it.
        let socket = self.sockets.take(kind, source.is_ipv4()).map_err(failed)?;
        let taken = self.ports.take(vip, protocol as u8, backend)?;
        let lease = taken.ok_or_else(|| Error::NoPort { count: self.probes.count() })?;
        let from = SockaddrStorage::from(SocketAddr::new(source, lease.port()));
        bind(socket.as_raw_fd(), &from).map_err(|errno| failed(errno.into()))?;
        Ok(Probe { socket, lease })
    }
}
