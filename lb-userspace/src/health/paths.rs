//! The ways of probes that go as clients' packets do: looked up as each probe begins, in what the data plane holds then.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use lb_common::{Address, Forward};
use nix::sys::socket::SockType;

use crate::{
    plan::{Entry, State},
    prober::{self, Prober, Way, source_of},
};

/// What the data plane holds, and what sends probes by it.
#[derive(Default)]
pub struct Paths(RwLock<Known>);

struct Known {
    /// What sends probes, or why there is none.
    prober: Result<Arc<Prober>, String>,
    state: State,
    /// VIP id and address of a backend → its id.
    ids: HashMap<(u32, Address), u32>,
}

impl Default for Known {
    fn default() -> Self {
        let (state, ids) = Default::default();
        Self { prober: Err("it is being prepared".to_owned()), state, ids }
    }
}

/// The way to one backend of a VIP.
#[derive(Clone)]
pub struct Path {
    paths: Arc<Paths>,
    /// Name of the VIP.
    vip: String,
    /// Where the VIP is asked.
    service: SocketAddr,
    backend: IpAddr,
}

/// Why no probe is sent.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// Clients' packets cannot be sent to the backend either.
    #[error("no packet can be sent to it: `naru status` says why")]
    NoWay,
    /// It is this host that cannot probe.
    #[error("{0}")]
    Unready(String),
    /// No socket.
    #[error(transparent)]
    Prober(#[from] prober::Error),
}

impl Paths {
    /// Probes go by this prober from now on; or there is none, for this reason.
    pub fn set_prober(&self, prober: Result<Arc<Prober>, String>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).prober = prober;
    }

    /// Takes note of what the data plane holds. It takes as long as much has changed.
    pub fn follow(&self, state: &State) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Known { state: old, ids, .. } = &mut *known;
        let key = |entry: &Entry| (entry.vip, entry.address);
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for change in old.backends().diff(state.backends()) {
            let (before, after) = match change {
                imbl::ordmap::DiffItem::Add(id, entry) => (None, Some((id, entry))),
                imbl::ordmap::DiffItem::Remove(id, entry) => (Some((id, entry)), None),
                imbl::ordmap::DiffItem::Update { old, new } => (Some(old), Some(new)),
            };
            gone.extend(before.map(|(id, entry)| (key(entry), *id)));
            come.extend(after.filter(|(_, entry)| !entry.is_removed()).map(|(id, entry)| (key(entry), *id)));
        }
        // One that was removed may have come back with another id.
        for (key, id) in gone {
            if ids.get(&key) == Some(&id) {
                ids.remove(&key);
            }
        }
        ids.extend(come);
        *old = state.clone();
    }
}

impl Path {
    /// To a backend of the VIP of this name, which is asked at `service`.
    pub fn new(paths: Arc<Paths>, vip: &str, service: SocketAddr, backend: IpAddr) -> Self {
        Self { paths, vip: vip.to_owned(), service, backend }
    }

    /// Where the VIP is asked.
    pub fn service(&self) -> SocketAddr {
        self.service
    }

    /// A socket from which packets to [`Self::service`] go to the backend.
    pub fn open(&self, kind: SockType) -> Result<prober::Probe, PathError> {
        let known = self.paths.0.read().unwrap_or_else(PoisonError::into_inner);
        let prober = known.prober.clone().map_err(PathError::Unready)?;
        let way = self.way(&known);
        // Nobody waits for a socket who only takes note of a change.
        drop(known);
        let way = way?;
        let made = if kind == SockType::Stream { prober.tcp(way) } else { prober.udp(way) };
        Ok(made?)
    }

    fn way(&self, Known { state, ids, .. }: &Known) -> Result<Way, PathError> {
        // The config is a moment ahead of the maps.
        let absent = || PathError::Unready("the data plane does not have it yet".to_owned());
        let vip = state.vip_id(&self.vip).ok_or_else(absent)?;
        let id = *ids.get(&(vip, self.backend.into())).ok_or_else(absent)?;
        let entry = state.backends().get(&id).ok_or_else(absent)?;
        let (target, forward) = state.target(entry).zip(Forward::from_u32(entry.forward)).ok_or_else(absent)?;
        let next_hop = entry.next_hop.ok_or(PathError::NoWay)?;
        let vip = self.service.ip();
        let is_vip = |address: IpAddr| state.has_vip_at(address);
        let source = source_of(vip, &target, || Some(next_hop.ifindex), is_vip);
        let source = source.ok_or_else(|| {
            let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
            PathError::Unready(format!(
                "this host has no {family} address to probe from, on the way to {}",
                self.backend
            ))
        })?;
        Ok(Way { vip, backend: id, source, mtu: next_hop.mtu.saturating_sub(forward.overhead()) })
    }
}

/// Whether they lead to the same.
impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        (&self.vip, self.service, self.backend) == (&other.vip, other.service, other.backend)
    }
}

impl Eq for Path {}

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { vip, service, backend, paths: _ } = self;
        write!(f, "{vip} at {service} by {backend}")
    }
}

impl std::fmt::Debug for Paths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paths").finish_non_exhaustive()
    }
}
