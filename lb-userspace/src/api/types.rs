//! What goes over the API's socket, as JSON: the same types for the daemon, the CLI and anyone else.
//!
//! Enumerations and durations of the config are spelled here as in the config file. What the data plane reports
//! goes out as it reports it.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use crate::model::{Health, Operation, ProblemKind, Settings, WayMtu};
use crate::plan::Change;

/// Answer of `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// The config file and how it relates to what runs.
    pub config: ConfigStatus,
    /// Interfaces that the config names, attached or not, and those attached besides.
    pub interfaces: Vec<Interface>,
    /// Fingerprint of the flow hash's seed that is in force; absent where there is none. Load balancers of one site
    /// have the same.
    pub hash_seed: Option<String>,
    /// Number of VIPs.
    pub vips: usize,
    /// Number of backends over all VIPs.
    pub backends: usize,
    /// Number of backends that take new flows.
    pub backends_active: usize,
    /// Number of backends whose state an operator has set by command, over the config file.
    #[serde(default)]
    pub operations: usize,
    /// Backends that no packet can be sent to.
    pub unreachable: Vec<UnreachableBackend>,
    /// What the data plane remembers of flows.
    pub tracking: Tracking,
    /// Maps of the data plane.
    pub maps: Vec<MapUsage>,
    /// Memory of all maps together, in bytes.
    pub map_memory_bytes: u64,
    /// What is not as the config wants it although the rest is served; tried again until it is mended.
    pub problems: Vec<Problem>,
    /// What the operator should look at although it is allowed.
    pub warnings: Vec<String>,
}

/// Something that is not as the config wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What sort of thing it concerns.
    pub kind: ProblemKind,
    /// Which of them: the name of the interface, the address of the listener.
    pub what: String,
    /// What is wrong with it, and what to do.
    pub reason: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

/// What the data plane remembers of flows. What a daemon of another version does not say is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tracking {
    /// Flows that there is room for.
    pub max_flows: u64,
    /// Entries, as of the last sweep.
    pub flows: FlowEntries,
    /// Entries that sweeps have taken out, because their flows had ended.
    pub expired: FlowEntries,
    /// By VIP: flows that were not entered for want of room, or because the VIP had its share. As of the last sweep; VIPs
    /// without any are left out.
    pub refused: BTreeMap<String, u64>,
    /// Flows that were left of drains whose deadline has passed, and that were cut.
    pub cut: u64,
    /// Slots on which every flow belongs to one backend.
    pub settled_slots: u64,
    /// Slots on which flows of several backends may be.
    pub moving_slots: u64,
    /// How long the last sweep over the table took, in microseconds; absent before the first.
    pub sweep_us: Option<u64>,
}

/// Entries of the flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEntries {
    /// Of flows of which more than one packet was seen.
    pub established: u64,
    /// Of flows of which one packet was seen.
    pub embryonic: u64,
}

/// How full a map is and what it costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapUsage {
    /// Name of the map.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries that it has room for.
    pub max_entries: u64,
    /// What the kernel keeps for it, in bytes.
    pub memory_bytes: u64,
}

/// The config file and how it relates to what runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// Path of the file.
    pub path: PathBuf,
    /// Whether the file is what runs.
    pub file: FileState,
    /// When a config was last applied, in seconds since 1970.
    pub applied_at: u64,
    /// The same to the microsecond: when the last map was written, not when whoever asked was answered.
    pub applied_at_us: u64,
}

/// Whether the config file is what runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum FileState {
    /// The file is what runs.
    Applied,
    /// The file has changes that are not applied.
    Changed,
    /// The file is not a valid config.
    Invalid {
        /// What is wrong with it.
        error: String,
    },
    /// The file cannot be read.
    Unreadable {
        /// Why not.
        error: String,
    },
}

/// An interface, as `GET /v1/interfaces` and the status list it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether the config names it.
    pub configured: bool,
    /// What the kernel says of it; absent while there is no such interface.
    pub link: Option<Link>,
    /// How the data plane is attached to it; absent while it is not.
    pub attached: Option<Attached>,
    /// Why the data plane is not attached although the config names the interface.
    pub problem: Option<String>,
}

/// What the kernel says of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its MAC address, where it has one.
    pub mac: Option<String>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
}

/// How the data plane is attached to an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// `native` or `generic`.
    pub mode: String,
    /// Why the mode is generic, where native was tried first.
    pub reason: Option<String>,
}

/// A VIP, as `GET /v1/vips` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its ports: `tcp/80`, `udp/any`.
    pub ports: Vec<String>,
    /// Its forward mode.
    pub forward: String,
    /// Its values for the keys that have a default; those of the node where it does not say.
    #[serde(flatten)]
    pub settings: Settings,
    /// How it is found out whether its backends work; absent where that is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Why it cannot serve: `null` where it can. For whoever announces its address.
    #[serde(default)]
    pub not_ready: Option<String>,
    /// Its backends, in the order of the config; behind them those that the config does not have any more, as long as
    /// flows may be left of them.
    pub backends: Vec<Backend>,
}

/// A backend of a VIP, as `GET /v1/backends` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Name of the VIP.
    pub vip: String,
    /// Its address.
    pub address: IpAddr,
    /// Its weight in the config, or the last that it had there.
    pub weight: u32,
    /// `active`, `drain` or `down`, or `removed` where the config does not have it any more. It is that of `operation`
    /// where that is there, else that of the config file; `failed` where it would be `active` and fails its probes, unless
    /// all do.
    pub state: String,
    /// What is known of it by its probes; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<BackendHealth>,
    /// How far it is, where it was out and has a part of its slots only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// How it is asked, where it is asked otherwise than its VIP says; absent where it is as the VIP says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// What an operator has done to it and not taken back: `naru backend drain`, `down` and `restore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// Its state in the config file, where an operation goes before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_state: Option<String>,
    /// Number of slots of the VIP's table that are its own.
    pub slots: u32,
    /// Entries of its flows in the flow table, as of the last sweep.
    pub flows: u64,
    /// Number of slots that are no longer its own and on which flows without an entry go to it still.
    pub held_slots: u32,
    /// Seconds until the last of those is let go, at the latest, unless more flows of the VIP are refused.
    pub held_seconds: u64,
    /// Whether they are held for longer than otherwise, because flows of the VIP were refused: each that is holds them anew.
    #[serde(default)]
    pub held_by_refusals: bool,
    /// Whether it takes no new flows and the last of its flows has ended.
    pub drained: bool,
    /// Where it takes no new flows and its drain has a deadline: seconds until those that are left are cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_seconds: Option<u64>,
    /// Where it takes no new flows: whose it still has, by prefix, as of the last sweep; the most numerous first, and no
    /// more than three.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<ClientFlows>,
    /// Its MAC address, where the config pins it; absent where the network is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The largest packet that the way to it carries, where the config says so of this one; absent where it is as of its VIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<WayMtu>,
    /// The way to it.
    pub next_hop: NextHop,
}

/// How far a backend is that was out and gets its slots back in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowStart {
    /// Eighths of its slots that it has: 1, 2 or 4.
    pub eighths: u32,
    /// Milliseconds until it has all.
    pub whole_ms: u64,
}

/// What is known of a backend by its probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendHealth {
    /// `up`, `down`, or `unknown` where none has answered yet, nor failed often enough.
    pub verdict: String,
    /// Seconds since 1970 at which that came about.
    pub since: u64,
    /// Seconds since 1970 of the last probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// How long that took, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
    /// What was wrong with its answer; absent where it was good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Answers in a row that speak against the verdict, and as many as change it.
    pub against: u32,
    /// The same.
    pub needed: u32,
    /// How often the verdict has changed since the daemon started.
    pub flips: u64,
    /// Probes with a good answer since then.
    pub good: u64,
    /// Probes without one.
    pub failed: u64,
    /// Probes of which nothing follows: this host was too busy, or had no socket left.
    pub void: u64,
    /// Of how many VIPs' backends these probes are, each of which counts them; absent without `share`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_by: Option<usize>,
}

/// How a backend is asked that is asked otherwise than its VIP says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// Not at all: it counts as working.
    None,
    /// So, with what the VIP says besides.
    #[serde(untagged)]
    So(Box<Health>),
}

/// Flows of the clients in one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFlows {
    /// 24 bits of IPv4, 48 of IPv6.
    pub prefix: IpNet,
    /// How many.
    pub flows: u64,
}

impl Backend {
    /// [`Backend::state`] of a backend that the config does not have any more.
    pub const REMOVED: &'static str = "removed";
    /// [`Backend::state`] of a backend that is out because it fails its probes.
    pub const FAILED: &'static str = "failed";
    /// [`Backend::state`] of a backend that stands by, for enough of the tiers before its own work.
    pub const STANDBY: &'static str = "standby";

    /// Whether the config does not have it any more.
    pub fn is_removed(&self) -> bool {
        self.state == Self::REMOVED
    }
}

/// The way to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NextHop {
    /// Known.
    Known {
        /// Interface that frames leave by.
        interface: String,
        /// Destination MAC address of the frames.
        mac: String,
        /// VLAN id of the frames; 0 for none.
        vlan: u32,
        /// Largest IP packet in bytes.
        mtu: u32,
    },
    /// Not known.
    Unknown {
        /// Why not.
        reason: String,
    },
}

/// A backend that no packet can be sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreachableBackend {
    /// Name of the VIP.
    pub vip: String,
    /// Address of the backend.
    pub address: IpAddr,
    /// Why its next hop is not known.
    pub reason: String,
}

/// Answer of `GET /v1/stats`. Counts go on over restarts of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Per VIP, in the order of the config.
    pub vips: Vec<VipStats>,
    /// Dropped packets per reason, every reason; those included of which is not known for which VIP, and those for VIPs
    /// that are no more.
    pub drops: Vec<DropStats>,
    /// Packets that the flow table was asked for per outcome, every outcome.
    pub tracked: Vec<TrackedStats>,
    /// Frames that were sent and lost behind the data plane, each cause at each interface.
    #[serde(default)]
    pub losses: Vec<LossStats>,
}

/// Frames that were sent and that an interface lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossStats {
    /// Name of the interface.
    pub interface: String,
    /// Why.
    pub cause: String,
    /// How many.
    pub packets: u64,
}

/// Counts of a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStats {
    /// Name of the VIP.
    pub name: String,
    /// What was sent to its backends, those included that it has no more.
    #[serde(flatten)]
    pub counts: Counts,
    /// Packets for it that were dropped, per reason that there was; they are not among its counts.
    #[serde(default)]
    pub drops: Vec<DropStats>,
    /// Counts of its backends, in the order of the config; behind them those that the config does not have any more, as
    /// long as flows may be left of them.
    pub backends: Vec<BackendStats>,
}

/// Counts of a backend of a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStats {
    /// Address of the backend.
    pub address: IpAddr,
    /// Whether the config does not have it any more.
    pub removed: bool,
    /// Its counts.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What is counted of a VIP or of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes from the IP header on, before any encapsulation.
    pub bytes: u64,
    /// TCP segments that open a connection (SYN without ACK, FIN and RST).
    pub new_flows: u64,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropStats {
    /// The reason.
    pub reason: String,
    /// Packets.
    pub packets: u64,
}

/// Packets that the flow table was asked for, with one outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedStats {
    /// The outcome.
    pub outcome: String,
    /// Packets.
    pub packets: u64,
}

/// Answer of `GET /v1/diff`: what an apply of the file would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The changes; each prints as one line.
    pub changes: Vec<Change>,
    /// Why an apply without force would be refused, if it would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What of the file is not heard, because an operator has done something else, and what is forgotten of that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What `POST /v1/apply` may say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// Apply whatever the file takes away.
    #[serde(default)]
    pub force: bool,
}

/// Answer of `POST /v1/apply`, `POST /v1/edit` and `POST /v1/operate`: what was done, all of it before the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The changes; each prints as one line.
    pub changes: Vec<Change>,
    /// Number of writes to the maps.
    pub writes: usize,
    /// Microseconds from the request to the last write to the maps: packets have followed the change since.
    pub maps_us: u64,
    /// Microseconds from the request to the end, when the file has been written too.
    pub elapsed_us: u64,
    /// What the operator should look at although it is allowed.
    pub warnings: Vec<String>,
}

/// Every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, where, and what to do.
    pub error: String,
    /// What sort of failure it is.
    pub kind: ErrorKind,
}

/// What sort of failure an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// Nothing of that name (404).
    NotFound,
    /// The request, the edit or the config file is not valid (422).
    Invalid,
    /// Whoever asks may not ask for this (403).
    Forbidden,
    /// What the file or the system is now does not allow it (409).
    Refused,
    /// The daemon or the kernel failed at it; what ran before runs on (500).
    Failed,
}

impl Counts {
    /// What came on top of `before`, per second, over `elapsed`.
    pub fn per_second(self, before: Self, elapsed: Duration) -> Self {
        let rate = |now: u64, then: u64| (now.saturating_sub(then) as f64 / elapsed.as_secs_f64()).round() as u64;
        Self {
            packets: rate(self.packets, before.packets),
            bytes: rate(self.bytes, before.bytes),
            new_flows: rate(self.new_flows, before.new_flows),
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, Self { packets, bytes, new_flows }: Self) {
        self.packets += packets;
        self.bytes += bytes;
        self.new_flows += new_flows;
    }
}

impl From<lb_common::Counters> for Counts {
    fn from(lb_common::Counters { packets, bytes, new_flows }: lb_common::Counters) -> Self {
        Self { packets, bytes, new_flows }
    }
}
