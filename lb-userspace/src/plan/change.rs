//! What a plan does, in the words of the config.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    net::IpAddr,
};

use lb_common::{Address, Be32, Features, Forward, SlowStart, VipFlags, VipRecord};
use serde::{Deserialize, Serialize};

use super::{
    Entry, State,
    record::settings,
    wanted::{Index, Wanted, WantedVip, keys},
};
use crate::model::{DrainDeadline, ForwardMode, Mac, Word as _, keys::SettingChange};

/// One difference between what runs and what a config wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A VIP that does not run yet, with all its backends.
    VipAdded {
        /// Its name.
        vip: String,
        /// Its address.
        address: IpAddr,
        /// Its ports as the config spells them.
        ports: Vec<String>,
        /// Number of its backends.
        backends: usize,
    },
    /// A VIP that is no longer wanted.
    VipRemoved {
        /// Its name.
        vip: String,
        /// Its address.
        address: IpAddr,
    },
    /// A VIP of which a key has another value.
    VipChanged {
        /// Its name.
        vip: String,
        /// Key in the config.
        key: String,
        /// Value that runs.
        from: String,
        /// Value in the config.
        to: String,
    },
    /// A new backend of a VIP that runs.
    BackendAdded {
        /// Name of the VIP.
        vip: String,
        /// Address of the backend.
        backend: IpAddr,
        /// Its weight.
        weight: u32,
        /// Its state as the config spells it.
        state: String,
    },
    /// A backend that a VIP no longer has.
    BackendRemoved {
        /// Name of the VIP.
        vip: String,
        /// Address of the backend.
        backend: IpAddr,
    },
    /// A backend of which a key has another value.
    BackendChanged {
        /// Name of the VIP.
        vip: String,
        /// Address of the backend.
        backend: IpAddr,
        /// Key in the config.
        key: String,
        /// Value that runs.
        from: String,
        /// Value in the config.
        to: String,
    },
    /// The flow hash has another seed: every flow moves to another slot.
    HashSeedChanged {
        /// Fingerprint of the seed in force, or `none`.
        from: String,
        /// Fingerprint of the seed in the file, or `none`.
        to: String,
    },
    /// A key of `[node]` that the data plane follows has another value.
    NodeChanged {
        /// Key in the config.
        key: String,
        /// Value that runs.
        from: String,
        /// Value in the config.
        to: String,
    },
}

impl Change {
    /// Whether backends that stay are reached in another way from now on.
    pub fn moves_ways(&self) -> bool {
        match self {
            Self::VipChanged { key, .. } => key == "vrf" || key == "mark",
            Self::BackendChanged { key, .. } => key == "mac",
            _ => false,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VipAdded { vip, address, ports, backends } => {
                let s = if *backends == 1 { "" } else { "s" };
                write!(f, "vip {vip}: added, {address} {}, {backends} backend{s}", ports.join(" "))
            }
            Self::VipRemoved { vip, address } => write!(f, "vip {vip}: removed, {address}"),
            Self::VipChanged { vip, key, from, to } => write!(f, "vip {vip}: {key} {from} → {to}"),
            Self::BackendAdded { vip, backend, weight, state } => {
                write!(f, "vip {vip}: backend {backend} added, weight {weight}, {state}")
            }
            Self::BackendRemoved { vip, backend } => write!(f, "vip {vip}: backend {backend} removed"),
            Self::BackendChanged { vip, backend, key, from, to } => {
                write!(f, "vip {vip}: backend {backend} {key} {from} → {to}")
            }
            Self::HashSeedChanged { from, to } => {
                write!(f, "node: hash_seed changed (fingerprint {from} → {to}): every flow moves to another slot")
            }
            Self::NodeChanged { key, from, to } => write!(f, "node: {key} {from} → {to}"),
        }
    }
}

/// What differs between `state` and `wanted`: the node first, then the VIPs of the config in their order, then those
/// that go.
pub(super) fn changes(state: &State, index: &Index<'_>, wanted: &Wanted<'_>, features: Features) -> Vec<Change> {
    let mut changes = node_changes(state, wanted, features);
    for vip in &wanted.vips {
        match vip.known.filter(|known| !known.flags.contains(VipFlags::REMOVED)) {
            Some(known) => {
                changes.extend(vip_changes(vip, known, index));
                changes.extend(backend_changes(vip, index));
            }
            None => changes.push(Change::VipAdded {
                vip: vip.config.name.clone(),
                address: vip.config.address,
                ports: vip.config.ports.iter().map(ToString::to_string).collect(),
                backends: vip.backends.len(),
            }),
        }
    }
    let wanted: HashSet<u32> = wanted.vips.iter().map(|vip| vip.id).collect();
    let runs = |record: &VipRecord| !record.flags.contains(VipFlags::REMOVED);
    let gone = index.vips().into_iter().filter(|(id, record)| !wanted.contains(id) && runs(record));
    changes.extend(gone.map(|(_, record)| Change::VipRemoved {
        vip: record.name.as_str().to_owned(),
        address: record.address.into(),
    }));
    changes
}

fn node_changes(state: &State, wanted: &Wanted<'_>, features: Features) -> Vec<Change> {
    let mut changes = Vec::new();
    let logs = |features: Features| features.contains(Features::LOG);
    if logs(state.features) != logs(features) {
        changes.push(node_change("log_packets", logs(state.features), logs(features)));
    }
    if state.icmp_rate != wanted.node.icmp_rate {
        changes.push(node_change("icmp_rate", state.icmp_rate, wanted.node.icmp_rate));
    }
    let (from, to) = (state.seed, wanted.node.hash_seed);
    if from != to {
        changes.push(Change::HashSeedChanged { from: from.to_string(), to: to.to_string() });
    }
    // Outer sources of one family are the same for all backends: one tells of all.
    let mut differing = HashMap::new();
    for backend in wanted.vips.iter().flat_map(|vip| &vip.backends) {
        if let Some((_, known)) = backend.known
            && known.forward == backend.entry.forward
            && !known.is_removed()
            // Nearly all are the same: nothing is put into words for them.
            && sources(known) != sources(&backend.entry)
            && source(known) != source(&backend.entry)
        {
            differing.entry(IpAddr::from(known.outer_source).is_ipv4()).or_insert(known);
        }
    }
    if let Some(known) = differing.get(&true) {
        changes.push(node_change("encap_source4", source(known), wanted.node.encap_source4));
    }
    if let Some(known) = differing.get(&false) {
        let to = wanted.node.encap_source6.map_or("none".to_owned(), |prefix| prefix.to_string());
        changes.push(node_change("encap_source6", source(known), to));
    }
    changes
}

fn node_change(key: &str, from: impl fmt::Display, to: impl fmt::Display) -> Change {
    Change::NodeChanged { key: key.to_owned(), from: from.to_string(), to: to.to_string() }
}

fn sources(entry: &Entry) -> (Address, Be32) {
    (entry.outer_source, entry.outer_source_mask)
}

/// The outer source network of an entry; of an IPv6 one not more than its last 32 bits are known to vary.
fn source(entry: &Entry) -> String {
    let prefix = entry.outer_source_mask.host().leading_zeros();
    match IpAddr::from(entry.outer_source) {
        IpAddr::V4(network) => format!("{network}/{prefix}"),
        IpAddr::V6(network) => format!("{network}/{}", 96 + prefix),
    }
}

fn vip_changes(vip: &WantedVip<'_>, known: &VipRecord, index: &Index<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut differs = |key: &str, from: String, to: String| {
        if from != to {
            changes.push(Change::VipChanged { vip: vip.config.name.clone(), key: key.to_owned(), from, to });
        }
    };
    differs("address", IpAddr::from(known.address).to_string(), vip.config.address.to_string());
    let there = index.keys(vip.id).iter().map(|key| (key.protocol, key.port)).collect();
    let ports = keys(vip.config).map(|key| (key.protocol, key.port)).collect();
    differs("ports", ports_words(there), ports_words(ports));
    for SettingChange { key, from, to } in settings(known).changes(&settings(&vip.record)) {
        differs(key, from, to);
    }
    if let Some((_, member)) = index.members(vip.id).iter().find(|(_, entry)| !entry.is_removed()) {
        let mode = Forward::from_u32(member.forward).map(ForwardMode::of);
        differs("forward", mode.map(|mode| mode.to_string()).unwrap_or_default(), vip.config.forward.to_string());
    }
    changes
}

/// Sorted, so that only the set counts.
fn ports_words(mut ports: Vec<(u8, u16)>) -> String {
    ports.sort_unstable();
    let word = |(protocol, port)| {
        let protocol = if i32::from(protocol) == libc::IPPROTO_TCP { "tcp" } else { "udp" };
        if port == 0 { format!("{protocol}/any") } else { format!("{protocol}/{port}") }
    };
    ports.into_iter().map(word).collect::<Vec<_>>().join(" ")
}

/// By address: a backend that is reached in another way from now on is still the same to the operator.
fn backend_changes(vip: &WantedVip<'_>, index: &Index<'_>) -> Vec<Change> {
    let name = || vip.config.name.clone();
    let members = index.members(vip.id).iter().filter(|(_, entry)| !entry.is_removed());
    let mut there: BTreeMap<IpAddr, &Entry> = members.map(|(_, entry)| (entry.address.into(), *entry)).collect();
    let mut changes = Vec::new();
    for backend in &vip.backends {
        let address = backend.config.address;
        let (weight, state) = (backend.config.weight, backend.config.state.word());
        let Some(known) = there.remove(&address) else {
            changes.push(Change::BackendAdded { vip: name(), backend: address, weight, state: state.to_owned() });
            continue;
        };
        let told = |entry: &Entry| {
            let Entry { weight, pin, drain_deadline, fails, .. } = *entry;
            (weight, entry.backend_state(), pin, drain_deadline, fails, slots_words(entry))
        };
        if told(known) == told(&backend.entry) {
            // Nearly all: nothing is put into words for them.
            continue;
        }
        let mut differs = |key: &str, from: String, to: String| {
            if from != to {
                changes.push(Change::BackendChanged { vip: name(), backend: address, key: key.to_owned(), from, to });
            }
        };
        let health = |fails: bool| if fails { "down" } else { "up" }.to_owned();
        differs("health", health(known.fails), health(backend.entry.fails));
        differs("slots", slots_words(known).to_owned(), slots_words(&backend.entry).to_owned());
        differs("weight", known.weight.to_string(), weight.to_string());
        differs("state", known.backend_state().word().to_owned(), state.to_owned());
        let pin = |entry: &Entry| entry.pin.mac().map_or("none".to_owned(), |mac| Mac::from(mac).to_string());
        differs("mac", pin(known), pin(&backend.entry));
        // What follows from the VIP's is told of that.
        let of_vip = |record: &VipRecord, entry: &Entry| entry.drain_deadline == record.drain_deadline;
        if !vip.known.is_some_and(|record| of_vip(record, known)) || !of_vip(&vip.record, &backend.entry) {
            let deadline = |entry: &Entry| DrainDeadline::from_seconds(entry.drain_deadline).to_string();
            differs("drain_deadline", deadline(known), deadline(&backend.entry));
        }
    }
    changes.extend(there.into_keys().map(|backend| Change::BackendRemoved { vip: name(), backend }));
    changes
}

/// The part of its slots that a backend has while it takes flows.
fn slots_words(entry: &Entry) -> &'static str {
    match entry.slow_start.map(SlowStart::eighths) {
        None => "all",
        Some(1) => "1/8",
        Some(2) => "1/4",
        Some(_) => "1/2",
    }
}
