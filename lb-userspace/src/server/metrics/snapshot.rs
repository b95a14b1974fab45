//! What a scrape shows: numbers by VIP and backend, small enough to be kept while a slow reader reads. The text is made as
//! it is read.

use std::{net::IpAddr, time::SystemTime};

use crate::api::types::{Counts, DropStats, Interface, LossStats, MapUsage, Problem, TrackedStats, Tracking};

/// What a scrape shows.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// VIPs, in the order of the config.
    pub vips: Vec<VipSample>,
    /// Dropped packets per reason.
    pub drops: Vec<DropStats>,
    /// Frames that were sent and lost behind the data plane.
    pub losses: Vec<LossStats>,
    /// Packets that the flow tables were asked for per outcome.
    pub tracked: Vec<TrackedStats>,
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// What the data plane remembers of flows.
    pub tracking: Tracking,
    /// Maps.
    pub maps: Vec<MapUsage>,
    /// What is not as the config wants it.
    pub problems: Vec<Problem>,
    /// How often the task that follows next hops and interfaces was started anew.
    pub netlink_restarts: u64,
    /// When a config was last applied.
    pub applied_at: SystemTime,
    /// Applies since the daemon started.
    pub applies: Applies,
}

/// What is shown of a VIP.
#[derive(Clone, Debug)]
pub struct VipSample {
    /// Its name.
    pub name: String,
    /// What it counted.
    pub counts: Counts,
    /// Its backends; none where the config wants none shown.
    pub backends: Vec<BackendSample>,
}

/// What is shown of a backend.
#[derive(Clone, Copy, Debug)]
pub struct BackendSample {
    /// Its address.
    pub address: IpAddr,
    /// What it counted.
    pub counts: Counts,
    /// Its weight in the config; none where that does not have it any more.
    pub weight: Option<u32>,
    /// Slots of the VIP's table that are its own.
    pub slots: u32,
    /// Whether the way to it is known.
    pub next_hop_up: bool,
    /// Entries of its flows in the flow tables.
    pub flows: u64,
    /// Slots that are no longer its own and on which flows without an entry go to it still.
    pub held_slots: u32,
}

/// How many applies there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applies {
    /// That did what they should.
    pub succeeded: u64,
    /// That changed nothing because something was wrong.
    pub failed: u64,
}
