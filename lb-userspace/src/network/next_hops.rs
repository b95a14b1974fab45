//! The one store of next hops: what ways are wanted to, and the way to each. Whoever has the data plane says what it
//! needs, hands in the events about it, and is told what the data plane must know.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use lb_common::NextHop;
use tokio::sync::watch;

use super::{
    Asking, Unresolved,
    wanted::Wanted,
    ways::{Way, Ways, is_final},
};
use crate::model::Target;

/// What ways are wanted to, and the way to each.
///
/// Wanted are the targets of the config that runs, counted by backends, so that a change costs as much as it changes;
/// those of backends that the config does not have any more and that have flows; and those that a change under way has
/// asked for.
#[derive(Debug)]
pub struct NextHops {
    wanted: watch::Sender<Wanted>,
    /// Targets of backends that the config does not have any more.
    lingering: HashSet<Target>,
    /// Something may be wanted, or known, that nobody needs.
    has_unneeded: bool,
    ways: Arc<Ways>,
}

impl NextHops {
    /// Nothing is wanted yet; what will be, `wanted` tells the task that finds ways.
    pub(super) fn new(wanted: watch::Sender<Wanted>) -> Self {
        Self { wanted, lingering: HashSet::new(), has_unneeded: false, ways: Arc::default() }
    }

    /// Takes over a data plane that runs already: the ways that it has, and the targets of backends that only linger.
    pub fn adopt(
        &mut self,
        held: impl IntoIterator<Item = (Target, NextHop)>,
        lingering: impl IntoIterator<Item = Target>,
    ) {
        self.ways = Arc::new(Ways::adopted(held));
        self.lingering = lingering.into_iter().collect();
        self.has_unneeded = true;
        self.change(|wanted, lingering| add_all(wanted, lingering.iter().copied()));
    }

    /// Asks for the ways to those of `targets` that none is followed to yet, before a backend of the config is there.
    /// Gives back what is to be waited for.
    pub fn ask(&mut self, targets: impl IntoIterator<Item = Target>) -> Waiting {
        let wanted = self.wanted.borrow();
        let is_new = |target: &Target| wanted.backends(target) == 0 && !self.lingering.contains(target);
        // Many backends may be behind one target.
        let targets: hashbrown::HashSet<Target> = targets.into_iter().collect();
        let targets: HashSet<Target> = targets.into_iter().filter(is_new).collect();
        drop(wanted);
        self.has_unneeded |= !targets.is_empty();
        self.change(|wanted, _| add_all(wanted, targets.iter().copied()));
        let pending = targets.iter().filter(|target| !self.ways.is_final(target)).copied().collect();
        Waiting { targets, pending }
    }

    /// Takes note of the targets of backends that the config has no more, and of those that it has now; each as often
    /// as backends are behind it.
    pub fn follow(&mut self, (gone, come): (Vec<Target>, Vec<Target>)) {
        let mut has_unneeded = false;
        self.change(|wanted, _| {
            let is_new = come.into_iter().fold(false, |is_new, target| wanted.count(target) | is_new);
            has_unneeded = gone.iter().fold(false, |is_last, target| wanted.discount(target) | is_last);
            is_new
        });
        self.has_unneeded |= has_unneeded;
    }

    /// Takes note of the targets of backends that the config does not have any more, and lets go of what nobody needs:
    /// nobody follows the ways there, and one that comes back is asked for anew.
    pub fn keep_only_needed(&mut self, lingering: HashSet<Target>) {
        if !self.has_unneeded && lingering == self.lingering {
            return;
        }
        self.lingering = lingering;
        self.has_unneeded = false;
        self.change(|wanted, lingering| {
            wanted.prune(|target| lingering.contains(target)) | add_all(wanted, lingering.iter().copied())
        });
        let wanted = self.wanted.borrow();
        Arc::make_mut(&mut self.ways).prune(|target| wanted.contains(target));
    }

    /// Whether an event about `target` is about the target as it is wanted now. Not where it was let go of since, even
    /// if it is wanted again.
    pub fn is_current(&self, target: &Target, asking: Asking) -> bool {
        self.wanted.borrow().asking(target) == Some(asking)
    }

    /// Takes note of what an event says; gives back what the data plane has to be told now, if anything. Of what is
    /// waited for that is asked later, by [`Self::usable`].
    pub fn observe(
        &mut self,
        target: Target,
        asking: Asking,
        way: Way,
        waiting: &mut Waiting,
    ) -> Option<Option<NextHop>> {
        if !self.is_current(&target, asking) {
            // What was found out about it before it was let go of.
            return None;
        }
        let is_awaited = waiting.observe(&target, &way);
        Arc::make_mut(&mut self.ways).update(target, way).filter(|_| !is_awaited)
    }

    /// Takes note of the interfaces that no packet can leave by; gives back what the data plane has to be told.
    pub fn bar(&mut self, barred: HashMap<u32, Unresolved>) -> Vec<(Target, Option<NextHop>)> {
        Arc::make_mut(&mut self.ways).bar(barred)
    }

    /// What the data plane has to know of `targets`; nothing of those of which it is to keep what it has.
    pub fn usable<'t>(&self, targets: impl IntoIterator<Item = &'t Target>) -> HashMap<Target, Option<NextHop>> {
        targets.into_iter().filter_map(|target| Some((*target, self.ways.usable_way(target)?))).collect()
    }

    /// What the data plane has to know of everything.
    pub fn all_usable(&self) -> HashMap<Target, Option<NextHop>> {
        self.usable(self.ways.targets())
    }

    /// The ways as they are now.
    pub fn ways(&self) -> &Arc<Ways> {
        &self.ways
    }

    /// Changes what is wanted; tells the task where `change` says that this is other targets.
    fn change(&mut self, change: impl FnOnce(&mut Wanted, &HashSet<Target>) -> bool) {
        self.wanted.send_if_modified(|wanted| change(wanted, &self.lingering));
    }
}

/// Wants all of these; whether any is news.
fn add_all(wanted: &mut Wanted, targets: impl Iterator<Item = Target>) -> bool {
    targets.fold(false, |is_news, target| wanted.add(target) | is_news)
}

/// Targets that a change has asked for, as the answers come in.
#[derive(Debug, Default)]
pub struct Waiting {
    targets: HashSet<Target>,
    pending: HashSet<Target>,
}

impl Waiting {
    /// How many targets may still be answered for.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What was asked for.
    pub fn targets(&self) -> &HashSet<Target> {
        &self.targets
    }

    /// What was asked for, found or not.
    pub fn into_targets(self) -> HashSet<Target> {
        self.targets
    }

    /// Takes note of an answer; whether it is about one of the targets.
    fn observe(&mut self, target: &Target, way: &Way) -> bool {
        if is_final(way) {
            self.pending.remove(target);
        }
        self.targets.contains(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> NextHops {
        NextHops::new(watch::channel(Wanted::default()).0)
    }

    fn target(last: u8) -> Target {
        Target::new([10, 0, 0, last].into(), false)
    }

    fn targets<const N: usize>(last: [u8; N]) -> HashSet<Target> {
        last.into_iter().map(target).collect()
    }

    fn wanted(next_hops: &NextHops) -> HashSet<Target> {
        next_hops.wanted.borrow().askings().map(|(target, _)| target).collect()
    }

    /// Whether the task that finds ways is told of `change`.
    fn reports(next_hops: &mut NextHops, change: impl FnOnce(&mut NextHops)) -> bool {
        let mut task = next_hops.wanted.subscribe();
        task.mark_unchanged();
        change(next_hops);
        task.has_changed().unwrap()
    }

    fn next_hop(ifindex: u32) -> NextHop {
        NextHop::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], ifindex, 1500, 0)
    }

    /// What the kernel says of a target that is wanted.
    fn found(next_hops: &mut NextHops, target: Target, way: Way, waiting: &mut Waiting) -> Option<Option<NextHop>> {
        let asking = next_hops.wanted.borrow().asking(&target).unwrap();
        next_hops.observe(target, asking, way, waiting)
    }

    #[test]
    fn a_target_is_followed_for_as_long_as_a_backend_is_behind_it() {
        let mut next_hops = store();
        assert_eq!(*next_hops.ask([1, 2, 2].map(target)).targets(), targets([1, 2]));
        next_hops.follow((vec![], [1, 2, 2].map(target).to_vec()));
        next_hops.keep_only_needed(HashSet::new());
        assert!(
            !reports(&mut next_hops, |next_hops| next_hops.keep_only_needed(HashSet::new())),
            "the same is no news"
        );

        let is_reported = reports(&mut next_hops, |next_hops| {
            next_hops.follow((vec![target(2)], vec![]));
            next_hops.keep_only_needed(HashSet::new());
        });
        assert!(!is_reported, "another VIP has it still");
        assert_eq!(*next_hops.ask([2, 3].map(target)).targets(), targets([3]));
        next_hops.follow((vec![target(2)], vec![target(3)]));
        next_hops.keep_only_needed(targets([2]));
        assert_eq!(wanted(&next_hops), targets([1, 2, 3]));
        assert_eq!(next_hops.ask([target(2)]).targets().len(), 0, "it lingers");
        next_hops.keep_only_needed(HashSet::new());
        assert_eq!(wanted(&next_hops), targets([1, 3]));
    }

    #[test]
    fn what_lingers_from_before_is_told_of() {
        let mut next_hops = store();
        assert!(reports(&mut next_hops, |next_hops| next_hops.adopt([], [target(1)])));
        assert_eq!(next_hops.ask([target(1)]).targets().len(), 0, "its way is adopted");
    }

    #[test]
    fn an_adopted_way_serves_while_it_is_asked_for_and_goes_where_nobody_needs_it() {
        let mut next_hops = store();
        next_hops.adopt([1, 2].map(|last| (target(last), next_hop(1))), []);
        let waiting = next_hops.ask([target(1)]);
        assert_eq!((waiting.pending(), next_hops.usable(waiting.targets()).len()), (1, 1));
        next_hops.follow((vec![], vec![target(1)]));
        next_hops.keep_only_needed(HashSet::new());
        assert_eq!(next_hops.all_usable(), HashMap::from([(target(1), Some(next_hop(1)))]));
    }

    #[test]
    fn what_was_asked_for_and_did_not_come_is_asked_for_again() {
        let mut next_hops = store();
        assert_eq!(next_hops.ask([target(1)]).targets().len(), 1);
        let is_reported = reports(&mut next_hops, |next_hops| next_hops.keep_only_needed(HashSet::new()));
        assert!(is_reported, "the change did not happen");
        assert_eq!(wanted(&next_hops), HashSet::new());
        assert_eq!(next_hops.ask([target(1)]).targets().len(), 1);
    }

    #[test]
    fn what_nobody_follows_any_more_is_forgotten() {
        let mut next_hops = store();
        let [stays, goes] = [1, 2].map(target);
        let mut waiting = next_hops.ask([stays, goes]);
        next_hops.follow((vec![], vec![stays]));
        for target in [stays, goes] {
            found(&mut next_hops, target, Ok(next_hop(1)), &mut waiting);
        }
        let before = next_hops.wanted.borrow().asking(&goes).unwrap();
        next_hops.keep_only_needed(HashSet::new());
        assert_eq!(next_hops.ways().way_to(&stays), Ok(&next_hop(1)));
        assert_eq!(next_hops.usable([&goes]), HashMap::new(), "it is not what a backend that returns begins with");
        assert_eq!(next_hops.ask([stays, goes]).pending(), 1);
        next_hops.observe(goes, before, Ok(next_hop(1)), &mut Waiting::default());
        assert_eq!(next_hops.usable([&goes]), HashMap::new(), "nor is an answer from before");
    }

    #[test]
    fn only_what_is_still_asked_is_waited_for() {
        let mut next_hops = store();
        let [known, pending, other] = [1, 2, 3].map(target);
        let address = known.address;
        let mut nobody = Waiting::default();
        next_hops.ask([known]);
        found(&mut next_hops, known, Err(Unresolved::NoRoute { address, via: Default::default() }), &mut nobody);
        let mut waiting = next_hops.ask([known, pending]);
        assert_eq!(waiting.pending(), 1, "no route is an answer");
        next_hops.ask([other]);
        let news = found(&mut next_hops, other, Ok(next_hop(1)), &mut waiting);
        assert_eq!(news, Some(Some(next_hop(1))), "nobody waits for it");
        let asked = Unresolved::NeighbourPending { neighbour: pending.address, interface: "eth0".into() };
        assert_eq!(found(&mut next_hops, pending, Err(asked), &mut waiting), None);
        assert_eq!(waiting.pending(), 1, "the neighbour may still answer");
        assert_eq!(found(&mut next_hops, pending, Ok(next_hop(1)), &mut waiting), None, "it is told of in the end");
        assert_eq!(waiting.pending(), 0);
        assert_eq!(next_hops.usable(waiting.targets())[&pending], Some(next_hop(1)));
    }
}
