//! The ways that frames leave by: next hops of backends, and the interfaces that packets can be redirected to.

use std::{collections::HashSet, sync::Arc};

use hashbrown::HashMap;
use lb_common::NextHop;
use log::debug;

use super::{Dataplane, Error};
use crate::{model::Target, plan::Entry};

impl Dataplane {
    /// Says where frames to these targets go from now on, `None` for nowhere; other targets stay as they are.
    /// Returns the number of backends that it concerned.
    ///
    /// # Errors
    ///
    /// The kernel refuses an interface as the target of redirects.
    pub fn set_next_hops(
        &mut self,
        next_hops: impl IntoIterator<Item = (Target, Option<NextHop>)>,
    ) -> Result<usize, Error> {
        let mut known: HashMap<Target, Option<NextHop>> = next_hops.into_iter().collect();
        for (target, next_hop) in &mut known {
            if let Some(NextHop { ifindex, .. }) = *next_hop
                && !self.generation.maps.put_device(ifindex)?
            {
                debug!("interface {ifindex} on the way to {} is gone", target.address);
                *next_hop = None;
            }
            match *next_hop {
                Some(next_hop) if self.next_hops.get(target) == Some(&next_hop) => {}
                Some(next_hop) => drop(Arc::make_mut(&mut self.next_hops).insert(*target, next_hop)),
                None if !self.next_hops.contains_key(target) => {}
                None => drop(Arc::make_mut(&mut self.next_hops).remove(target)),
            }
        }
        let concerned = |(id, entry, target): (u32, &Entry, Target)| {
            let next_hop = *known.get(&target)?;
            (entry.next_hop != next_hop).then_some((id, Entry { next_hop, ..*entry }))
        };
        let concerned: Vec<_> = self.state.backends_with_targets().filter_map(concerned).collect();
        if !concerned.is_empty() {
            self.generation.maps.put_next_hops(&concerned);
            let state = Arc::make_mut(&mut self.state);
            concerned.iter().for_each(|(id, entry)| state.put_backend(*id, *entry));
        }
        self.keep_used_devices()?;
        Ok(concerned.len())
    }

    /// Forgets the way to those of `targets` where no backend is any more: nobody follows it from now on.
    pub(super) fn forget(&mut self, mut targets: HashSet<Target>) -> Result<(), Error> {
        if targets.is_empty() {
            return Ok(());
        }
        for target in self.state.targets() {
            targets.remove(&target);
        }
        let known = self.next_hops.len();
        Arc::make_mut(&mut self.next_hops).retain(|target, _| !targets.contains(target));
        if self.next_hops.len() == known { Ok(()) } else { self.keep_used_devices() }
    }

    /// Forgets the ways to where no backend is any more, because the same ones are reached in another way now.
    pub(super) fn forget_unused_ways(&mut self) {
        if self.next_hops.len() > self.state.backends().len() {
            let used: HashSet<Target> = self.state.targets().collect();
            Arc::make_mut(&mut self.next_hops).retain(|target, _| used.contains(target));
        }
    }

    /// Next hops by an interface that is gone are none: what a plan takes from them would lead nowhere.
    pub(super) fn forget_gone_devices(&mut self) -> Result<(), Error> {
        let used: HashSet<u32> = self.next_hops.values().map(|next_hop| next_hop.ifindex).collect();
        let mut gone = HashSet::new();
        for ifindex in used {
            if !self.generation.maps.put_device(ifindex)? {
                gone.insert(ifindex);
            }
        }
        let lost = self.next_hops.iter().filter(|(_, next_hop)| gone.contains(&next_hop.ifindex));
        let lost: Vec<_> = lost.map(|(target, _)| (*target, None)).collect();
        if lost.is_empty() { Ok(()) } else { self.set_next_hops(lost).map(drop) }
    }

    /// Interfaces that no next hop leaves by are no longer redirected to, except by packets that may be on their way:
    /// those interfaces stay until a call after the next grace period.
    fn keep_used_devices(&mut self) -> Result<(), Error> {
        let in_use = self.state.backends().values().filter_map(egress);
        let used: hashbrown::HashSet<u32> = in_use.chain(self.generation.maps.left_devices()).collect();
        self.generation.maps.keep_devices(|ifindex| used.contains(&ifindex))
    }
}

/// The interface that frames to a backend leave by.
pub(super) fn egress(entry: &Entry) -> Option<u32> {
    entry.next_hop.map(|next_hop| next_hop.ifindex)
}
