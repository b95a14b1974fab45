//! What netlink says of the ways to the backends.

use std::collections::{BTreeSet, HashMap, HashSet};

use lb_common::NextHop;

use crate::{
    model::{Config, Target},
    network::Unresolved,
};

/// Backends without a way that are told of one by one.
const TOLD: usize = 10;

/// A way to a target, or why there is none.
pub type Way = Result<NextHop, Unresolved>;

/// The way to each address that some backend has, or why there is none.
///
/// While a neighbour is asked for the first time, the way before stays in use: a route that moves to another gateway
/// costs no packet, and neither does a restart.
#[derive(Clone, Debug, Default)]
pub struct NextHops {
    /// What netlink last said.
    known: HashMap<Target, Way>,
    /// The ways in use.
    held: HashMap<Target, NextHop>,
    /// Interfaces that no packet can leave by at present, by index. The ways by them are held, but not used.
    barred: HashMap<u32, Unresolved>,
}

impl NextHops {
    /// The ways of a data plane that runs already, of which netlink has said nothing yet.
    pub fn adopted(held: impl IntoIterator<Item = (Target, NextHop)>) -> Self {
        Self { held: held.into_iter().collect(), ..Self::default() }
    }

    /// Takes note of what netlink says; gives back what the data plane has to be told, if anything.
    pub fn update(&mut self, target: Target, way: Way) -> Option<Option<NextHop>> {
        if self.known.get(&target) == Some(&way) {
            return None;
        }
        let news = match &way {
            Ok(next_hop) => {
                self.held.insert(target, *next_hop);
                Some(self.usable(next_hop))
            }
            Err(_) if is_settled(&way) => {
                self.held.remove(&target);
                Some(None)
            }
            Err(_) => None,
        };
        self.known.insert(target, way);
        news
    }

    /// Takes note of the interfaces that no packet can leave by; gives back what the data plane has to be told.
    pub fn bar(&mut self, barred: HashMap<u32, Unresolved>) -> Vec<(Target, Option<NextHop>)> {
        let before = std::mem::replace(&mut self.barred, barred);
        let is_news = |ifindex| before.contains_key(ifindex) != self.barred.contains_key(ifindex);
        if !before.keys().chain(self.barred.keys()).any(is_news) {
            return Vec::new();
        }
        let held = self.held.iter().filter(|(_, next_hop)| is_news(&next_hop.ifindex));
        held.map(|(target, next_hop)| (*target, self.usable(next_hop))).collect()
    }

    /// The interfaces that packets leave by, by index.
    pub fn interfaces(&self) -> BTreeSet<u32> {
        self.held.values().map(|next_hop| next_hop.ifindex).collect()
    }

    /// The way to a target, or why there is none.
    pub fn way_to(&self, target: &Target) -> Result<&NextHop, String> {
        match (self.held.get(target), self.known.get(target)) {
            (Some(next_hop), _) => match self.barred.get(&next_hop.ifindex) {
                Some(reason) => Err(reason.to_string()),
                None => Ok(next_hop),
            },
            (None, Some(Err(reason))) => Err(reason.to_string()),
            (None, Some(Ok(_)) | None) => Err("still being looked for".to_owned()),
        }
    }

    /// What the data plane has to know of a target; `None` where it is to keep what it has.
    pub fn usable_way(&self, target: &Target) -> Option<Option<NextHop>> {
        match self.held.get(target) {
            Some(next_hop) => Some(self.usable(next_hop)),
            None => self.known.get(target).is_some_and(is_settled).then_some(None),
        }
    }

    /// What must be waited for before the ways to `targets` are settled.
    pub fn waiting(&self, targets: HashSet<Target>) -> Waiting {
        let unsettled = targets.iter().filter(|target| !self.known.get(target).is_some_and(is_settled));
        Waiting { unsettled: unsettled.copied().collect(), targets }
    }

    /// The backends of `config` behind `targets` to which there is no way, one line each, at most [`TOLD`].
    pub fn missing(&self, config: &Config, targets: &HashSet<Target>) -> Vec<String> {
        if targets.is_empty() {
            return Vec::new();
        }
        let backends = config.vips.iter().flat_map(|vip| vip.backends.iter().map(move |backend| (vip, backend)));
        let mut missing = backends.filter_map(|(vip, backend)| {
            let target = Some(Target::of(&config.node, vip, backend)).filter(|target| targets.contains(target))?;
            let reason = self.way_to(&target).err()?;
            Some(format!("no packet can be sent to backend {} of VIP {} yet: {reason}", backend.address, vip.name))
        });
        let mut told: Vec<_> = missing.by_ref().take(TOLD).collect();
        match missing.count() {
            0 => {}
            more => told.push(format!("no packet can be sent to {more} more backends yet: see `naru status`")),
        }
        told
    }

    /// Forgets all but `targets`: nobody follows the ways to others. One that comes back is asked for anew.
    pub fn prune(&mut self, targets: &HashSet<Target>) {
        self.known.retain(|target, _| targets.contains(target));
        self.held.retain(|target, _| targets.contains(target));
    }

    fn usable(&self, next_hop: &NextHop) -> Option<NextHop> {
        (!self.barred.contains_key(&next_hop.ifindex)).then_some(*next_hop)
    }
}

/// Targets of a change, as the answers come in.
#[derive(Debug, Default)]
pub struct Waiting {
    targets: HashSet<Target>,
    unsettled: HashSet<Target>,
}

impl Waiting {
    /// Takes note of an answer; whether it is about one of the targets.
    pub fn observe(&mut self, target: &Target, way: &Way) -> bool {
        if is_settled(way) {
            self.unsettled.remove(target);
        }
        self.targets.contains(target)
    }

    /// How many targets may still be answered for.
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }
}

/// Whether more is not to be expected: there is a way, or there is none for a reason that waiting does not mend.
fn is_settled(way: &Way) -> bool {
    !matches!(way, Err(Unresolved::NeighbourPending { .. }))
}

/// What netlink must find the ways to, for every backend of `config`.
pub fn targets_of(config: &Config) -> impl Iterator<Item = Target> {
    let of_vip = move |vip| move |backend| Target::of(&config.node, vip, backend);
    config.vips.iter().flat_map(move |vip| vip.backends.iter().map(of_vip(vip)))
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, path::Path};

    use lb_common::{Via, VrfName};

    use super::*;

    fn config() -> Config {
        let text = "
            [[vip]]
            name = \"web\"
            address = \"203.0.113.10\"
            ports = [\"tcp/80\"]
            forward = \"ipip\"
            backends = [{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\" }]
            [[vip]]
            name = \"dns\"
            address = \"203.0.113.53\"
            ports = [\"udp/53\"]
            forward = \"l2\"
            backends = [{ address = \"10.0.0.1\" }]
        ";
        Config::parse(text, Path::new("naru.toml")).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn next_hop(ifindex: u32) -> NextHop {
        NextHop::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], ifindex, 1500, 0)
    }

    #[test]
    fn a_backend_of_two_modes_is_two_targets() {
        let targets: HashSet<_> = targets_of(&config()).collect();
        let expected = [("10.0.0.1", false), ("10.0.0.2", false), ("10.0.0.1", true)];
        let expected = expected.map(|(address, on_link)| Target::new(ip(address), on_link));
        assert_eq!(targets, HashSet::from(expected));
    }

    #[test]
    fn a_backend_of_two_vips_that_reach_it_in_two_ways_is_two_targets() {
        let text = "
            [node]
            vrf = \"blue\"
            mark = 0x10
            [[vip]]
            name = \"web\"
            address = \"203.0.113.10\"
            ports = [\"tcp/80\"]
            forward = \"l2\"
            backends = [{ address = \"10.0.0.1\", mac = \"02:00:00:00:00:07\" }]
            [[vip]]
            name = \"dns\"
            address = \"203.0.113.53\"
            ports = [\"udp/53\"]
            forward = \"l2\"
            vrf = \"default\"
            mark = 0
            backends = [{ address = \"10.0.0.1\" }]
        ";
        let config = Config::parse(text, Path::new("naru.toml")).unwrap();
        let plain = Target::new(ip("10.0.0.1"), true);
        let via = Via { vrf: VrfName::new("blue").unwrap(), mark: 0x10 };
        let by_vrf = Target { via, mac: Some([2, 0, 0, 0, 0, 7]), ..plain };
        assert_eq!(targets_of(&config).collect::<HashSet<_>>(), HashSet::from([plain, by_vrf]));
    }

    #[test]
    fn what_nobody_follows_any_more_is_forgotten() {
        let mut next_hops = NextHops::default();
        let [stays, goes] = ["10.0.0.1", "10.0.0.2"].map(|address| Target::new(ip(address), true));
        next_hops.update(stays, Ok(next_hop(1)));
        next_hops.update(goes, Ok(next_hop(1)));
        next_hops.prune(&HashSet::from([stays]));
        assert_eq!(next_hops.way_to(&stays), Ok(&next_hop(1)));
        assert_eq!(next_hops.usable_way(&goes), None, "it is not what a backend that returns begins with");
        assert_eq!(next_hops.waiting(HashSet::from([stays, goes])).unsettled(), 1);
    }

    #[test]
    fn only_what_is_still_asked_is_waited_for() {
        let mut next_hops = NextHops::default();
        let [one, two] = ["10.0.0.1", "10.0.0.2"].map(ip);
        let [known, pending, other] =
            [(one, false), (two, false), (two, true)].map(|(address, on_link)| Target::new(address, on_link));
        next_hops.update(known, Err(Unresolved::NoRoute { address: one, via: Default::default() }));
        let mut waiting = next_hops.waiting(HashSet::from([known, pending]));
        assert_eq!(waiting.unsettled(), 1, "no route is an answer");
        assert!(!waiting.observe(&other, &Ok(next_hop(1))), "nobody waits for it");
        let asked = Unresolved::NeighbourPending { neighbour: two, interface: "eth0".into() };
        assert!(waiting.observe(&pending, &Err(asked)));
        assert_eq!(waiting.unsettled(), 1, "the neighbour may still answer");
        assert!(waiting.observe(&pending, &Ok(next_hop(1))));
        assert_eq!(waiting.unsettled(), 0);
    }

    #[test]
    fn what_is_missing_is_told_by_backend_and_vip_with_its_reason() {
        let (config, mut next_hops) = (config(), NextHops::default());
        let one = ip("10.0.0.1");
        next_hops.update(Target::new(one, false), Ok(next_hop(1)));
        next_hops.update(Target::new(one, true), Err(Unresolved::NoRoute { address: one, via: Default::default() }));
        let missing = next_hops.missing(&config, &targets_of(&config).collect());
        let [web, dns] = missing.as_slice() else { panic!("{missing:?}") };
        assert!(web.contains("10.0.0.2 of VIP web") && web.contains("still being looked for"), "{web}");
        assert!(dns.contains("10.0.0.1 of VIP dns") && dns.contains("no route to 10.0.0.1"), "{dns}");
    }

    #[test]
    fn the_same_again_is_no_news() {
        let mut next_hops = NextHops::default();
        let target = Target::new(ip("10.0.0.1"), true);
        assert_eq!(next_hops.update(target, Ok(next_hop(1))), Some(Some(next_hop(1))));
        assert_eq!(next_hops.update(target, Ok(next_hop(1))), None);
        assert_eq!(next_hops.update(target, Ok(next_hop(2))), Some(Some(next_hop(2))));
    }

    #[test]
    fn the_way_before_serves_until_the_neighbour_of_the_new_one_is_settled() {
        let (target, neighbour) = (Target::new(ip("10.0.0.1"), false), ip("10.0.0.254"));
        let pending = || Err(Unresolved::NeighbourPending { neighbour, interface: "eth0".into() });
        let silent = || Err(Unresolved::NeighbourSilent { neighbour, interface: "eth0".into() });
        let with_way = || {
            let mut next_hops = NextHops::default();
            next_hops.update(target, Ok(next_hop(1)));
            next_hops
        };
        for mut next_hops in [with_way(), NextHops::adopted([(target, next_hop(1))])] {
            assert_eq!(next_hops.update(target, pending()), None);
            assert_eq!(next_hops.way_to(&target), Ok(&next_hop(1)));
            assert_eq!(next_hops.usable_way(&target), Some(Some(next_hop(1))));
            assert_eq!(next_hops.waiting(HashSet::from([target])).unsettled(), 1, "it is asked for all the same");

            assert_eq!(next_hops.update(target, silent()), Some(None));
            assert!(next_hops.way_to(&target).unwrap_err().contains("does not answer"));
            assert_eq!(next_hops.usable_way(&target), Some(None));

            assert_eq!(next_hops.update(target, pending()), None);
            assert_eq!(next_hops.usable_way(&target), None, "there is nothing to hold and nothing to say");
            assert_eq!(next_hops.update(target, Ok(next_hop(2))), Some(Some(next_hop(2))));
        }
    }

    #[test]
    fn ways_by_a_barred_interface_are_used_once_it_is_barred_no_more() {
        let mut next_hops = NextHops::default();
        let address = ip("10.0.0.1");
        let [l2, ipip] = [true, false].map(|on_link| Target::new(address, on_link));
        let barred = |ifindex| {
            let reason = Unresolved::TakesNoRedirects { interface: "br0".into(), kind: "bridge".into() };
            HashMap::from([(ifindex, reason)])
        };
        next_hops.update(l2, Ok(next_hop(1)));
        assert_eq!(next_hops.bar(barred(2)), []);
        assert_eq!(next_hops.bar(barred(1)), [(l2, None)]);
        assert_eq!(next_hops.bar(barred(1)), [], "no news");
        assert!(next_hops.way_to(&l2).unwrap_err().contains("br0 (bridge)"));
        assert_eq!(next_hops.usable_way(&l2), Some(None));

        assert_eq!(next_hops.update(ipip, Ok(next_hop(1))), Some(None));
        assert_eq!(next_hops.update(ipip, Ok(next_hop(2))), Some(Some(next_hop(2))));
        assert_eq!(next_hops.bar(HashMap::new()), [(l2, Some(next_hop(1)))]);
        assert_eq!(next_hops.way_to(&l2), Ok(&next_hop(1)));
    }
}
