//! Next hops and interfaces, as the kernel's routing tables have them and as they change.
//!
//! [`NextHops`] has the addresses that naru forwards to, and the ways there; one task asks the kernel how it would
//! route to each and which MAC address that leads to, follows the changes of routes, neighbours and interfaces, and
//! keeps the neighbour entries in use from growing stale, which nobody else does for packets that never pass through
//! the kernel's stack. What it finds comes as [`Event`]s. It changes nothing in the kernel but what resolving a
//! neighbour changes.
//!
//! Whom it believes: the kernel alone; what other processes send to its sockets is not looked at. Nobody off the path
//! moves a next hop, since the routing tables are asked and not what ICMP has made of them. Whoever is on a backend's
//! segment may: by answering ARP or neighbour discovery for it, unless its MAC address is pinned, and by router
//! advertisements, where the kernel accepts those. Without privileges a process on this host can do nothing here.

mod ethtool;
mod event;
mod exchange;
mod handle;
mod interface;
mod link;
mod message;
mod multipath;
mod next_hops;
mod object;
mod pace;
mod resolve;
mod socket;
mod supervisor;
mod table;
mod task;
mod via;
mod wanted;
mod ways;

use std::{io, sync::Arc};

use tokio::sync::{mpsc, watch};

pub use ethtool::takes_tags;
pub(crate) use ethtool::{ETHTOOL_SGRO, ETHTOOL_STXCSUM, set_feature};
pub use event::Event;
pub(crate) use exchange::exchange;
pub use handle::{Handle, Health};
pub use interface::{InterfaceChange, InterfaceInfo, Vlan};
pub(crate) use link::{interface_name, interface_named, link_of};
pub use next_hops::{NextHops, Waiting};
pub use pace::Pace;
pub use resolve::Unresolved;
pub use via::socket_by;
pub use wanted::Asking;
pub use ways::{Way, Ways};

use socket::Namespace;
use supervisor::Shared;
use task::{Sockets, Task};
use wanted::Wanted;

/// Why next hops cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The network namespace of the calling thread is not to be had.
    #[error("cannot tell the network namespace from {}: {source} (is /proc mounted?)", Namespace::PATH)]
    Namespace {
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel gives no socket.
    #[error("cannot open a netlink socket, by which interfaces and next hops are followed: {source}")]
    Open {
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel does not list the interfaces.
    #[error("the kernel does not list the network interfaces: {source}")]
    Interfaces {
        /// What the kernel says.
        source: io::Error,
    },
}

/// The interfaces of the network namespace of the calling thread, as they are now.
///
/// # Errors
///
/// Where the kernel does not list them.
pub fn interfaces() -> Result<Vec<InterfaceInfo>, NetlinkError> {
    let namespace = Namespace::current().map_err(|source| NetlinkError::Namespace { source })?;
    interfaces_in(&namespace)
}

fn interfaces_in(namespace: &Namespace) -> Result<Vec<InterfaceInfo>, NetlinkError> {
    let reading = socket::dump_blocking(namespace, message::interfaces_request());
    let reading = reading.map_err(|source| NetlinkError::Interfaces { source })?;
    Ok(task::interfaces_of(reading.entries))
}

/// Begins to follow the network namespace of the calling thread, at the default [`Pace`]. The events end with the
/// runtime, or once the receiver is dropped: a task that fails is started anew. Without targets and with a slow reader
/// nothing piles up.
///
/// # Errors
///
/// Where the kernel gives no socket or does not list its interfaces.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn start() -> Result<(NextHops, Handle, mpsc::Receiver<Event>), NetlinkError> {
    start_at(Pace::default())
}

/// As [`start`], at a pace of one's own.
///
/// # Errors
///
/// As [`start`].
///
/// # Panics
///
/// As [`start`], and for a pace of which a duration but `settle` is zero.
pub fn start_at(pace: Pace) -> Result<(NextHops, Handle, mpsc::Receiver<Event>), NetlinkError> {
    let namespace = Namespace::current().map_err(|source| NetlinkError::Namespace { source })?;
    // The events first: what changes after the list of interfaces was read is then among them.
    let sockets = Sockets::open(&namespace).map_err(|source| NetlinkError::Open { source })?;
    // The task reads them once more before all else: what is missing here comes as an event.
    let known = interfaces_in(&namespace)?;
    let (wanted, targets) = watch::channel(Wanted::default());
    let (interfaces, interfaces_receiver) = watch::channel(known);
    let (health_sender, health) = watch::channel(Health::default());
    let (events, events_receiver) = mpsc::channel(EVENTS);
    let namespace = Arc::new(namespace);
    let shared = Shared { namespace, pace, targets, interfaces, events, health: health_sender };
    let mut opened = Some(sockets);
    let start = move |shared: &Shared, is_first| {
        let (opened, shared) = (opened.take(), shared.clone());
        async move { Task::new(shared, opened, is_first)?.serve().await }
    };
    tokio::spawn(supervisor::keep_running(shared, start));
    Ok((NextHops::new(wanted), Handle { interfaces: interfaces_receiver, health }, events_receiver))
}

/// Events that wait in the channel; those that find no room there wait in the table, one for each target.
const EVENTS: usize = 256;
