//! What the network says, followed: ways to backends, interfaces, losses.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use lb_common::NextHop;
use tokio::task::block_in_place;

use super::{Controller, Error};
use crate::{
    dataplane::LossInterfaces,
    model::{Config, Target},
    network::{Event, Waiting, Ways},
    plan::Change,
};

/// How long a change waits for the next answer about the ways to new backends: neighbours on a link that works answer
/// in milliseconds.
const RESOLVE: Duration = Duration::from_millis(500);

/// Backends without a way that are told of one by one.
const LISTED: usize = 10;

/// Events that are handled as one.
pub(super) const EVENTS: usize = 4096;

impl Controller {
    /// Finds the ways to those backends of `config` that no way is followed to yet before any packet is sent to them;
    /// waits for the answers as long as they keep coming. Ways are followed to those of `before`. Gives back what it
    /// looked for, found or not.
    pub(super) async fn resolve(&mut self, before: &Config, config: &Config) -> Result<HashSet<Target>, Error> {
        let mut waiting = self.next_hops.ask(Target::come(before, config));
        let mut events = Vec::new();
        let mut deadline = tokio::time::Instant::now() + RESOLVE;
        while waiting.pending() > 0 {
            let pending = waiting.pending();
            match tokio::time::timeout_at(deadline, self.events.recv_many(&mut events, EVENTS)).await {
                Ok(1..) => self.observe(&mut events, &mut waiting),
                // What is not found in time is found later: the backend is then without a way for as long.
                Ok(0) | Err(_) => break,
            }
            if waiting.pending() < pending {
                deadline = tokio::time::Instant::now() + RESOLVE;
            }
        }
        if !waiting.targets().is_empty() {
            self.dataplane.set_next_hops(self.next_hops.usable(waiting.targets()))?;
        }
        Ok(waiting.into_targets())
    }

    /// Lets go of the ways that only a change needed that did not happen, or that the last change no longer needs.
    pub(super) fn resolve_only_applied(&mut self) {
        self.next_hops.keep_only_needed(self.dataplane.removed_targets().collect());
    }

    /// Puts the ways in use that a change has made others of backends that stay. One whose neighbour is still asked for
    /// comes later, and until then the way before serves.
    pub(super) fn follow_moved(&mut self, changes: &[Change]) {
        if changes.iter().any(Change::moves_ways) {
            self.write_ways(self.next_hops.all_usable());
        }
    }

    /// Takes note of what netlink says, and passes it to the data plane; what is said of `waiting` later. An adopted
    /// data plane thereby keeps the ways that it has while their neighbours are asked again.
    pub(super) fn observe(&mut self, events: &mut Vec<Event>, waiting: &mut Waiting) {
        let mut news = HashMap::new();
        let mut interfaces_changed = false;
        for event in events.drain(..) {
            match event {
                Event::NextHop { target, asking, result } => {
                    let next_hop = self.next_hops.observe(target, asking, result, waiting);
                    news.extend(next_hop.map(|next_hop| (target, next_hop)));
                }
                Event::Interface(change) => {
                    interfaces_changed = true;
                    let node = &self.applied.config.node;
                    block_in_place(|| self.interfaces.update(&mut self.dataplane, node, change));
                }
                Event::Restarted => {
                    interfaces_changed = true;
                    let (links, node) = (self.netlink.interfaces(), &self.applied.config.node);
                    block_in_place(|| self.interfaces.replace(&mut self.dataplane, node, links));
                }
            }
        }
        self.write_ways(news);
        if interfaces_changed {
            self.follow_attachments();
        }
    }

    /// Counts losses at the interfaces that packets come in and leave by.
    fn follow_losses(&mut self, ingress: BTreeSet<u32>) {
        let interfaces = LossInterfaces { ingress, egress: self.next_hops.ways().interfaces() };
        block_in_place(|| self.losses.follow(interfaces, |ifindex| self.interfaces.exists(ifindex)));
    }

    /// Takes frames for the addresses, and uses the ways that packets can leave by, as the data plane is attached now;
    /// and no others.
    pub(super) fn follow_attachments(&mut self) {
        let ingress = self.interfaces.ingress(&self.dataplane);
        self.interfaces.follow_macs(&mut self.dataplane, &ingress);
        self.follow_losses(ingress);
        let news = self.next_hops.bar(self.interfaces.barred(&self.dataplane));
        self.write_ways(news.into_iter().collect());
    }

    pub(super) fn write_ways(&mut self, news: HashMap<Target, Option<NextHop>>) {
        if news.is_empty() {
            return;
        }
        let egress = news.values().flatten().map(|next_hop| next_hop.ifindex).collect();
        block_in_place(|| self.losses.follow_egress(&egress, |ifindex| self.interfaces.exists(ifindex)));
        if let Err(error) = block_in_place(|| self.dataplane.set_next_hops(news)) {
            log::error!("next hops could not be written: {error}");
        }
    }
}

/// The backends of `config` behind `targets` to which there is no way, one line each, at most [`LISTED`].
pub(super) fn missing(ways: &Ways, config: &Config, targets: &HashSet<Target>) -> Vec<String> {
    if targets.is_empty() {
        return Vec::new();
    }
    let backends = config.vips.iter().flat_map(|vip| vip.backends.iter().map(move |backend| (vip, backend)));
    let mut missing = backends.filter_map(|(vip, backend)| {
        let target = Some(Target::of(&config.node, vip, backend)).filter(|target| targets.contains(target))?;
        let reason = ways.way_to(&target).err()?;
        Some(format!("no packet can be sent to backend {} of VIP {} yet: {reason}", backend.address, vip.name))
    });
    let mut reported: Vec<_> = missing.by_ref().take(LISTED).collect();
    match missing.count() {
        0 => {}
        more => reported.push(format!("no packet can be sent to {more} more backends yet: see `naru status`")),
    }
    reported
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixtures::{config, vip};

    #[test]
    fn what_is_missing_is_told_by_backend_and_vip_with_its_reason() {
        let config = config([vip("web", "203.0.113.10", &["tcp/80"], &["10.0.0.1", "10.0.0.2"])]);
        let asked: Vec<Target> = Target::all(&config).collect();
        let missing = missing(&Ways::default(), &config, &HashSet::from([asked[1]]));
        let [line] = missing.as_slice() else { panic!("{missing:?}") };
        assert!(line.contains("10.0.0.2 of VIP web") && line.contains("still being looked for"), "{line}");
    }
}
