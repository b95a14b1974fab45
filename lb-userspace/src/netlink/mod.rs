//! Next hops and interfaces, as the kernel's routing tables have them and as they change.
//!
//! A [`Handle`] names the addresses that naru forwards to; one task asks the kernel how it would route to each and
//! which MAC address that leads to, follows the changes of routes, neighbours and interfaces, and keeps the neighbour
//! entries in use from growing stale, which nobody else does for packets that never pass through the kernel's stack.
//! What it finds comes as [`Event`]s. It changes nothing in the kernel but what resolving a neighbour changes.

mod interface;
mod message;
mod multipath;
mod nexthop;
mod resolve;
mod socket;
mod table;
mod task;

use std::{io, net::IpAddr, time::Duration};

use lb_common::NextHop;
use tokio::sync::{mpsc, watch};

pub use interface::{InterfaceChange, InterfaceInfo, Vlan};
pub use resolve::Unresolved;

use socket::Namespace;
use table::Table;
use task::{Sockets, Task};

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

/// An address that frames are to be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The address.
    pub address: IpAddr,
    /// Whether it must be on a link of this host, so that a frame can be addressed to it directly: a route by a gateway
    /// is an error then.
    pub on_link: bool,
}

/// Something that the daemon should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next hop to a target is known, other than before, or no longer known. May still come for a target that
    /// [`Handle::set_targets`] has just removed.
    NextHop {
        /// The target.
        target: Target,
        /// Its next hop, or why there is none.
        result: Result<NextHop, Unresolved>,
    },
    /// An interface is new, other than before, or gone.
    Interface(InterfaceChange),
}

/// How fast things are done. The default suits everything but tests in a hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long changes of routes may settle before routes are asked for anew.
    pub settle: Duration,
    /// How often neighbours that do not answer are tried again.
    pub retry: Duration,
    /// How often the neighbour table is read, and entries in use that are stale are confirmed.
    pub keep_alive: Duration,
    /// How often everything is read anew, in case a change came without an event; rounded to multiples of
    /// `keep_alive`.
    pub resync: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(30),
            retry: Duration::from_secs(1),
            keep_alive: Duration::from_secs(10),
            resync: Duration::from_secs(30),
        }
    }
}

/// Says what to follow, and knows the interfaces. Never waits for anything.
#[derive(Clone, Debug)]
pub struct Handle {
    targets: watch::Sender<Vec<Target>>,
    interfaces: watch::Receiver<Vec<InterfaceInfo>>,
}

impl Handle {
    /// Replaces the set of targets, in any order. What is found of the new ones comes as events, at first usually that
    /// their neighbours are still to answer; of those that were there before, only changes come.
    pub fn set_targets(&self, targets: Vec<Target>) {
        self.targets.send_replace(targets);
    }

    /// The interfaces as they are now, by ifindex. Their changes come as events.
    pub fn interfaces(&self) -> Vec<InterfaceInfo> {
        self.interfaces.borrow().clone()
    }
}

/// Begins to follow the network namespace of the calling thread, at the default [`Pace`]. The events end when the task
/// does, which is never before the receiver is dropped; without targets and with a slow reader nothing piles up.
///
/// # Errors
///
/// Where the kernel gives no socket or does not list its interfaces.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn start() -> Result<(Handle, mpsc::Receiver<Event>), NetlinkError> {
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
pub fn start_at(pace: Pace) -> Result<(Handle, mpsc::Receiver<Event>), NetlinkError> {
    let namespace = Namespace::current().map_err(|source| NetlinkError::Namespace { source })?;
    // The events first: what changes after the list of interfaces was read is then among them.
    let sockets = Sockets::open(&namespace).map_err(|source| NetlinkError::Open { source })?;
    // The task reads them once more before all else: what is missing here comes as an event.
    let reading = socket::dump_blocking(&namespace, message::interfaces_request())
        .map_err(|source| NetlinkError::Interfaces { source })?;
    let mut table = Table::default();
    table.start_with(task::interfaces_of(reading.entries));

    let (targets_sender, targets) = watch::channel(Vec::new());
    let (interfaces, interfaces_receiver) = watch::channel(table.interfaces());
    let (events, events_receiver) = mpsc::channel(EVENTS);
    tokio::spawn(Task { namespace, pace, sockets, table, targets, interfaces, events }.run());
    Ok((Handle { targets: targets_sender, interfaces: interfaces_receiver }, events_receiver))
}

/// Events that wait in the channel; those that find no room there wait in the table, one for each target.
const EVENTS: usize = 256;
