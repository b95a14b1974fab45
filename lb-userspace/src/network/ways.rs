//! The way to each target, or why there is none.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
};

use lb_common::NextHop;

use super::Unresolved;
use crate::model::Target;

/// A way to a target, or why there is none.
pub type Way = Result<NextHop, Unresolved>;

/// The way to each target, or why there is none.
///
/// While a neighbour is asked for the first time, the way before stays in use: a route that moves to another gateway
/// costs no packet, and neither does a restart.
#[derive(Clone, Debug, Default)]
pub struct Ways {
    known: HashMap<Target, Known>,
    /// Interfaces that no packet can leave by at present, by index. The ways by them are kept, but not used.
    barred: HashMap<u32, Unresolved>,
}

/// What is known of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// The way that the kernel says.
    Found(NextHop),
    /// The way before, or that of the daemon before: what the kernel says is still to come.
    Kept(NextHop),
    /// There is none.
    Missing(Unresolved),
}

impl Known {
    fn next_hop(&self) -> Option<&NextHop> {
        match self {
            Self::Found(next_hop) | Self::Kept(next_hop) => Some(next_hop),
            Self::Missing(_) => None,
        }
    }
}

impl Ways {
    /// The ways of a data plane that runs already, of which the kernel has said nothing yet.
    pub(super) fn adopted(held: impl IntoIterator<Item = (Target, NextHop)>) -> Self {
        let known = held.into_iter().map(|(target, next_hop)| (target, Known::Kept(next_hop)));
        Self { known: known.collect(), barred: HashMap::new() }
    }

    /// Takes note of what the kernel says; gives back what the data plane has to be told, if anything.
    pub(super) fn update(&mut self, target: Target, way: Way) -> Option<Option<NextHop>> {
        let before = self.known.get(&target);
        let is_final = is_final(&way);
        let after = match (way, before.and_then(Known::next_hop)) {
            (Ok(next_hop), _) => Known::Found(next_hop),
            (Err(_), Some(next_hop)) if !is_final => Known::Kept(*next_hop),
            (Err(reason), _) => Known::Missing(reason),
        };
        if before == Some(&after) {
            return None;
        }
        let next_hop = after.next_hop().copied();
        self.known.insert(target, after);
        is_final.then(|| next_hop.and_then(|next_hop| self.usable(&next_hop)))
    }

    /// Takes note of the interfaces that no packet can leave by; gives back what the data plane has to be told.
    pub(super) fn bar(&mut self, barred: HashMap<u32, Unresolved>) -> Vec<(Target, Option<NextHop>)> {
        let before = mem::replace(&mut self.barred, barred);
        let is_news = |ifindex| before.contains_key(ifindex) != self.barred.contains_key(ifindex);
        if !before.keys().chain(self.barred.keys()).any(is_news) {
            return Vec::new();
        }
        let held = self.held().filter(|(_, next_hop)| is_news(&next_hop.ifindex));
        held.map(|(target, next_hop)| (*target, self.usable(next_hop))).collect()
    }

    /// The interfaces that packets leave by, by index.
    pub fn interfaces(&self) -> BTreeSet<u32> {
        self.held().map(|(_, next_hop)| next_hop.ifindex).collect()
    }

    /// The way to a target, or why there is none.
    pub fn way_to(&self, target: &Target) -> Result<&NextHop, String> {
        match self.known.get(target) {
            Some(Known::Found(next_hop) | Known::Kept(next_hop)) => match self.barred.get(&next_hop.ifindex) {
                Some(reason) => Err(reason.to_string()),
                None => Ok(next_hop),
            },
            Some(Known::Missing(reason)) => Err(reason.to_string()),
            None => Err("still being looked for".to_owned()),
        }
    }

    /// What the data plane has to know of a target; `None` where it is to keep what it has.
    pub(super) fn usable_way(&self, target: &Target) -> Option<Option<NextHop>> {
        match self.known.get(target)? {
            Known::Found(next_hop) | Known::Kept(next_hop) => Some(self.usable(next_hop)),
            Known::Missing(reason) => (!is_pending(reason)).then_some(None),
        }
    }

    /// Whether the kernel has said all that it will, unless something changes.
    pub(super) fn is_final(&self, target: &Target) -> bool {
        match self.known.get(target) {
            Some(Known::Found(_)) => true,
            Some(Known::Missing(reason)) => !is_pending(reason),
            Some(Known::Kept(_)) | None => false,
        }
    }

    /// The targets of which something is known.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Target> {
        self.known.keys()
    }

    /// Forgets all but what `stays`.
    pub(super) fn prune(&mut self, stays: impl Fn(&Target) -> bool) {
        self.known.retain(|target, _| stays(target));
    }

    fn held(&self) -> impl Iterator<Item = (&Target, &NextHop)> {
        self.known.iter().filter_map(|(target, known)| Some((target, known.next_hop()?)))
    }

    fn usable(&self, next_hop: &NextHop) -> Option<NextHop> {
        (!self.barred.contains_key(&next_hop.ifindex)).then_some(*next_hop)
    }
}

/// Whether more is not to be expected: there is a way, or there is none for a reason that waiting does not mend.
pub(super) fn is_final(way: &Way) -> bool {
    !way.as_ref().is_err_and(is_pending)
}

fn is_pending(reason: &Unresolved) -> bool {
    matches!(reason, Unresolved::NeighbourPending { .. })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn next_hop(ifindex: u32) -> NextHop {
        NextHop::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], ifindex, 1500, 0)
    }

    #[test]
    fn the_same_again_is_no_news() {
        let mut ways = Ways::default();
        let target = Target::new(ip("10.0.0.1"), true);
        assert_eq!(ways.update(target, Ok(next_hop(1))), Some(Some(next_hop(1))));
        assert_eq!(ways.update(target, Ok(next_hop(1))), None);
        assert_eq!(ways.update(target, Ok(next_hop(2))), Some(Some(next_hop(2))));
    }

    #[test]
    fn the_way_before_serves_until_the_neighbour_of_the_new_one_has_answered_or_not() {
        let (target, neighbour) = (Target::new(ip("10.0.0.1"), false), ip("10.0.0.254"));
        let pending = || Err(Unresolved::NeighbourPending { neighbour, interface: "eth0".into() });
        let silent = || Err(Unresolved::NeighbourSilent { neighbour, interface: "eth0".into() });
        let with_way = || {
            let mut ways = Ways::default();
            ways.update(target, Ok(next_hop(1)));
            ways
        };
        for mut ways in [with_way(), Ways::adopted([(target, next_hop(1))])] {
            assert_eq!(ways.update(target, pending()), None);
            assert_eq!(ways.way_to(&target), Ok(&next_hop(1)));
            assert_eq!(ways.usable_way(&target), Some(Some(next_hop(1))));
            assert!(!ways.is_final(&target), "it is asked for all the same");

            assert_eq!(ways.update(target, silent()), Some(None));
            assert!(ways.way_to(&target).unwrap_err().contains("does not answer"));
            assert_eq!(ways.usable_way(&target), Some(None));

            assert_eq!(ways.update(target, pending()), None);
            assert_eq!(ways.usable_way(&target), None, "there is nothing to hold and nothing to say");
            assert_eq!(ways.update(target, Ok(next_hop(2))), Some(Some(next_hop(2))));
        }
        let mut ways = Ways::adopted([(target, next_hop(1))]);
        assert_eq!(ways.update(target, Ok(next_hop(1))), Some(Some(next_hop(1))), "the kernel says so as well");
        assert!(ways.is_final(&target));
    }

    #[test]
    fn ways_by_a_barred_interface_are_used_once_it_is_barred_no_more() {
        let mut ways = Ways::default();
        let address = ip("10.0.0.1");
        let [l2, ipip] = [true, false].map(|on_link| Target::new(address, on_link));
        let barred = |ifindex| {
            let reason = Unresolved::TakesNoRedirects { interface: "br0".into(), kind: "bridge".into() };
            HashMap::from([(ifindex, reason)])
        };
        ways.update(l2, Ok(next_hop(1)));
        assert_eq!(ways.bar(barred(2)), []);
        assert_eq!(ways.bar(barred(1)), [(l2, None)]);
        assert_eq!(ways.bar(barred(1)), [], "no news");
        assert!(ways.way_to(&l2).unwrap_err().contains("br0 (bridge)"));
        assert_eq!(ways.usable_way(&l2), Some(None));

        assert_eq!(ways.update(ipip, Ok(next_hop(1))), Some(None));
        assert_eq!(ways.update(ipip, Ok(next_hop(2))), Some(Some(next_hop(2))));
        assert_eq!(ways.bar(HashMap::new()), [(l2, Some(next_hop(1)))]);
        assert_eq!(ways.way_to(&l2), Ok(&next_hop(1)));
    }
}
