//! What the VIPs of a config must not have in common, and must not need together.

use std::{net::IpAddr, sync::Arc};

use hashbrown::{HashMap, HashSet, hash_map::Entry};
use lb_common::VipName;

use super::{Node, Port, Vip};

/// What of a VIP may be in conflict with other VIPs; `None` where that is not known.
pub trait Claims {
    /// Its name.
    fn name(&self) -> Option<&str>;
    /// Its address.
    fn address(&self) -> Option<IpAddr>;
    /// What is served on it.
    fn ports(&self) -> impl Iterator<Item = Port>;
    /// How many backends it has.
    fn backends(&self) -> usize;
    /// How many slots its table has.
    fn slots(&self) -> u32;
}

/// Why VIPs are no config. VIPs and ports are told by their places in the order that they have there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The name does not fit the maps.
    LongName {
        /// Whose.
        vip: usize,
    },
    /// The name is taken.
    Name {
        /// The VIP.
        vip: usize,
        /// The one that has the name.
        first: usize,
    },
    /// Another VIP, or the same one, serves the port on the same address already. Of a VIP whose name is taken this is
    /// not told: it is most likely a copy that has no name of its own yet.
    Service {
        /// The VIP.
        vip: usize,
        /// Which of its ports: the first of those that `first` serves.
        port: usize,
        /// The one that serves the port.
        first: usize,
    },
    /// More than a limit of the node allows.
    Limit {
        /// The first VIP that is too much.
        vip: usize,
        /// The key of the limit.
        key: &'static str,
        /// What the key allows.
        max: u32,
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        sum: u64,
    },
}

/// Every reason why `vips` are no config on this node.
pub fn conflicts<C: Claims>(node: &Node, vips: &[C]) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    let mut names: HashMap<&str, usize> = HashMap::with_capacity(vips.len());
    let mut services: HashMap<(IpAddr, Port), usize> = HashMap::with_capacity(vips.len());
    for (vip, claims) in vips.iter().enumerate() {
        if let Some(name) = claims.name() {
            if VipName::new(name).is_none() {
                conflicts.push(Conflict::LongName { vip });
            }
            let first = *names.entry(name).or_insert(vip);
            if first != vip {
                conflicts.push(Conflict::Name { vip, first });
                continue;
            }
        }
        let Some(address) = claims.address() else { continue };
        let mut reported = None;
        for (port, claimed) in claims.ports().enumerate() {
            match services.entry((address, claimed)) {
                Entry::Vacant(free) => _ = free.insert(vip),
                Entry::Occupied(first) if reported.is_some() && *first.get() != vip => {}
                Entry::Occupied(first) => {
                    let first = *first.get();
                    reported = reported.or((first != vip).then_some(first));
                    conflicts.push(Conflict::Service { vip, port, first });
                }
            }
        }
    }
    conflicts.extend(beyond_limits(node, vips));
    conflicts
}

/// Whether `come`, which are in no conflict with each other, go together with the others of a config.
pub(super) fn go_together<'v>(come: &[Arc<Vip>], mut others: impl Iterator<Item = &'v Arc<Vip>>) -> bool {
    if come.is_empty() {
        return true;
    }
    let names: HashSet<&str> = come.iter().map(|vip| vip.name.as_str()).collect();
    let services = |vip: &Arc<Vip>| vip.ports.iter().map(move |port| (vip.address, *port)).collect::<Vec<_>>();
    // Most VIPs are told apart by their address alone.
    let addresses: HashSet<IpAddr> = come.iter().map(|vip| vip.address).collect();
    let come: HashSet<(IpAddr, Port)> = come.iter().flat_map(services).collect();
    let is_served = |vip: &Vip| vip.ports.iter().any(|port| come.contains(&(vip.address, *port)));
    !others.any(|vip| names.contains(vip.name.as_str()) || addresses.contains(&vip.address) && is_served(vip))
}

/// The limits of the node that `vips` are beyond.
pub(super) fn beyond_limits<C: Claims>(node: &Node, vips: &[C]) -> Vec<Conflict> {
    let limits = [
        ("max_vips", node.max_vips, "VIPs"),
        ("max_backends", node.max_backends, "backends"),
        ("max_slots", node.max_slots, "slots"),
    ];
    let (mut sums, mut beyond) = ([0; 3], [None; 3]);
    for (vip, claims) in vips.iter().enumerate() {
        let needs = [1, claims.backends() as u64, claims.slots().into()];
        for (limit, need) in needs.into_iter().enumerate() {
            sums[limit] += need;
            if sums[limit] > u64::from(limits[limit].1) {
                beyond[limit].get_or_insert(vip);
            }
        }
    }
    let conflict = |((key, max, what), (sum, beyond)): (_, (_, Option<usize>))| {
        beyond.map(|vip| Conflict::Limit { vip, key, max, what, sum })
    };
    limits.into_iter().zip(sums.into_iter().zip(beyond)).filter_map(conflict).collect()
}

impl Claims for Arc<Vip> {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn address(&self) -> Option<IpAddr> {
        Some(self.address)
    }

    fn ports(&self) -> impl Iterator<Item = Port> {
        self.ports.iter().copied()
    }

    fn backends(&self) -> usize {
        self.backends.len()
    }

    fn slots(&self) -> u32 {
        self.settings.slots.get()
    }
}
