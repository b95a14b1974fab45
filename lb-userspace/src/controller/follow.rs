//! What the network says, followed: ways to backends, interfaces, losses.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use lb_common::NextHop;
use tokio::task::block_in_place;

use super::{Controller, Error, next_hops::Waiting};
use crate::{
    dataplane::LossInterfaces,
    model::{Config, Target},
    network::Event,
    plan::Change,
};

/// How long a change waits for the next answer about the ways to new backends: neighbours on a link that works answer
/// in milliseconds.
const RESOLVE: Duration = Duration::from_millis(500);

/// Events that are handled as one.
pub(super) const EVENTS: usize = 4096;

impl Controller {
    /// Finds the ways to those backends of `config` that no way is followed to yet before any packet is sent to them;
    /// waits for the answers as long as they keep coming. Ways are followed to those of `before`. Gives back what it
    /// looked for, found or not.
    pub(super) async fn resolve(&mut self, before: &Config, config: &Config) -> Result<HashSet<Target>, Error> {
        let new = self.targets.new_in(before, config);
        if new.is_empty() {
            return Ok(new);
        }
        self.netlink.set_targets(new.union(&self.targets.all()).copied().collect());
        let mut waiting = self.next_hops.waiting(new.clone());
        let mut events = Vec::new();
        let mut deadline = tokio::time::Instant::now() + RESOLVE;
        while waiting.unsettled() > 0 {
            let unsettled = waiting.unsettled();
            match tokio::time::timeout_at(deadline, self.events.recv_many(&mut events, EVENTS)).await {
                Ok(1..) => self.observe(&mut events, &mut waiting),
                // What is not found in time is found later: the backend is then without a way for as long.
                Ok(0) | Err(_) => break,
            }
            if waiting.unsettled() < unsettled {
                deadline = tokio::time::Instant::now() + RESOLVE;
            }
        }
        let ways = new.iter().filter_map(|target| Some((*target, self.next_hops.usable_way(target)?)));
        self.dataplane.set_next_hops(ways.collect::<Vec<_>>())?;
        Ok(new)
    }

    /// Lets go of the ways that only a change needed that did not happen, or that the last change no longer needs.
    pub(super) fn resolve_only_applied(&mut self) {
        let lingering = self.dataplane.removed_targets().collect();
        if !self.targets.follow_lingering(lingering) {
            return;
        }
        let targets = self.targets.all();
        Arc::make_mut(&mut self.next_hops).prune(&targets);
        self.netlink.set_targets(targets.into_iter().collect());
    }

    /// Puts the ways in use that a change has made others of backends that stay. One whose neighbour is still asked for
    /// comes later, and until then the way before serves.
    pub(super) fn follow_moved(&mut self, changes: &[Change]) {
        if changes.iter().any(Change::moves_ways) {
            let ways = |target: &Target| Some((*target, self.next_hops.usable_way(target)?));
            let news = self.targets.all().iter().filter_map(ways).collect();
            self.write_ways(news);
        }
    }

    /// Takes note of what netlink says, and passes it to the data plane; what is said of `waiting` later. An adopted
    /// data plane thereby keeps the ways that it has while their neighbours are asked again.
    pub(super) fn observe(&mut self, events: &mut Vec<Event>, waiting: &mut Waiting) {
        let mut news = HashMap::new();
        let mut interfaces_changed = false;
        for event in events.drain(..) {
            match event {
                // What was found out about it before it was let go of.
                Event::NextHop { target, asking, .. } if !self.netlink.is_current(&target, asking) => {}
                Event::NextHop { target, result, .. } => {
                    let is_awaited = waiting.observe(&target, &result);
                    if let Some(next_hop) = Arc::make_mut(&mut self.next_hops).update(target, result)
                        && !is_awaited
                    {
                        news.insert(target, next_hop);
                    }
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
        let interfaces = LossInterfaces { ingress, egress: self.next_hops.interfaces() };
        block_in_place(|| self.losses.follow(interfaces, |ifindex| self.interfaces.exists(ifindex)));
    }

    /// Takes frames for the addresses, and uses the ways that packets can leave by, as the data plane is attached now;
    /// and no others.
    pub(super) fn follow_attachments(&mut self) {
        let ingress = self.interfaces.ingress(&self.dataplane);
        self.interfaces.follow_macs(&mut self.dataplane, &ingress);
        self.follow_losses(ingress);
        let news = Arc::make_mut(&mut self.next_hops).bar(self.interfaces.barred(&self.dataplane));
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
