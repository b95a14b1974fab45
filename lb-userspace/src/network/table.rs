//! What is known of the way to each target, what is still to be asked of the kernel, and what the daemon is still to be
//! told. Takes in changes and answers one at a time; never waits, never talks to the kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use ipnet::IpNet;
use lb_common::{NextHop, Via};
use nix::errno::Errno;

use super::{
    Asking, Event, InterfaceChange, InterfaceInfo, Unresolved,
    message::Change,
    resolve::{
        Interfaces, Lookup, Neighbour, NeighbourKey, Neighbours, Route, Standing, neighbour_of, next_hop, vrf_of,
    },
    wanted::Wanted,
};
use crate::model::Target;

/// The state of the whole.
#[derive(Debug, Default)]
pub(super) struct Table {
    targets: BTreeMap<Lookup, Way>,
    interfaces: Interfaces,
    neighbours: Neighbours,
    /// The targets that each neighbour leads to.
    users: HashMap<NeighbourKey, BTreeSet<Lookup>>,
    /// Targets whose route is to be asked for.
    unasked: BTreeSet<Lookup>,
    /// Targets whose route may have changed, to be asked for once the changes have settled.
    suspect: BTreeSet<Lookup>,
    /// Whether all targets are such. Apart from the set, because what concerns all comes by the thousand when a host is
    /// given its addresses.
    suspect_all: bool,
    /// Neighbours to resolve.
    urgent: Queue<NeighbourKey>,
    /// Neighbours to confirm.
    stale: Queue<NeighbourKey>,
    outbox: Outbox,
}

/// The way to one address by certain routing tables.
#[derive(Debug, Default)]
struct Way {
    /// The kernel's last answer; `None` until the first.
    route: Option<Route>,
    /// Name of the interface of the last route that had one.
    interface: Option<(u32, String)>,
    /// The neighbour whose MAC address is asked for.
    neighbour: Option<NeighbourKey>,
    /// The targets at this address.
    reported: BTreeMap<Manner, Reported>,
}

/// What tells targets at one address apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Manner {
    on_link: bool,
    mac: Option<[u8; 6]>,
    mtu: Option<u16>,
}

/// What was said of a target.
#[derive(Debug)]
struct Reported {
    asking: Asking,
    /// The last that was said, if anything was.
    result: Option<Result<NextHop, Unresolved>>,
}

impl Manner {
    fn target(self, Lookup { address, via }: Lookup) -> Target {
        let Self { on_link, mac, mtu } = self;
        Target { address, on_link, via, mac, mtu }
    }
}

impl Table {
    /// Replaces the set of targets. New ones are looked up, and those that are asked for anew; what is known of the
    /// others stays.
    pub fn set_targets(&mut self, wanted: &Wanted) {
        let mut fewer = Vec::new();
        for (lookup, way) in &mut self.targets {
            let count = way.reported.len();
            way.reported.retain(|manner, report| {
                let target = manner.target(*lookup);
                let stays = wanted.asking(&target) == Some(report.asking);
                if !stays {
                    self.outbox.forget(target);
                }
                stays
            });
            if way.reported.len() < count {
                fewer.push(*lookup);
            }
        }
        for lookup in fewer {
            if self.targets.get(&lookup).is_some_and(|way| way.reported.is_empty()) {
                self.remove(lookup);
            } else {
                self.follow_neighbour(lookup);
            }
        }
        for (Target { address, on_link, via, mac, mtu }, asking) in wanted.askings() {
            let (lookup, manner) = (Lookup { address, via }, Manner { on_link, mac, mtu });
            let way = self.targets.entry(lookup).or_insert_with(|| {
                self.unasked.insert(lookup);
                Way::default()
            });
            if let std::collections::btree_map::Entry::Vacant(vacant) = way.reported.entry(manner) {
                vacant.insert(Reported { asking, result: None });
                self.follow_neighbour(lookup);
                self.evaluate(lookup);
            }
        }
    }

    /// Takes in an event. Returns whether it could be understood; else everything must be read anew.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Interface(interface) => self.interface_is(interface),
            Change::InterfaceGone(ifindex) => self.interface_is_gone(ifindex),
            Change::Neighbour(key, neighbour) => self.neighbour_is(key, neighbour),
            Change::Routes(network) => self.suspect(network),
            Change::AllRoutes => self.suspect_all(),
            Change::Nothing => {}
            Change::Unknown => return false,
        }
        true
    }

    /// Takes in a list of interfaces. Those that are not in it are gone only where it is `complete`.
    pub fn sync_interfaces(&mut self, interfaces: Vec<InterfaceInfo>, complete: bool) {
        if complete {
            let present: BTreeSet<u32> = interfaces.iter().map(|interface| interface.ifindex).collect();
            let gone: Vec<u32> = self.interfaces.keys().filter(|ifindex| !present.contains(ifindex)).copied().collect();
            gone.into_iter().for_each(|ifindex| self.interface_is_gone(ifindex));
        }
        interfaces.into_iter().for_each(|interface| self.interface_is(interface));
    }

    /// Has the daemon told, before all else, that it may have missed something.
    pub fn restarted(&mut self) {
        self.outbox.restarted = true;
    }

    /// Takes in the interfaces that are there at the start, which is no change.
    pub fn start_with(&mut self, interfaces: Vec<InterfaceInfo>) {
        self.interfaces = interfaces.into_iter().map(|interface| (interface.ifindex, interface)).collect();
    }

    /// Takes in a list of neighbours; those that are not in it are gone only where it is `complete`.
    pub fn sync_neighbours(&mut self, neighbours: Neighbours, complete: bool) {
        if complete {
            let gone: Vec<_> = self.neighbours.keys().filter(|key| !neighbours.contains_key(key)).copied().collect();
            gone.into_iter().for_each(|key| self.neighbour_is(key, None));
        }
        neighbours.into_iter().for_each(|(key, neighbour)| self.neighbour_is(key, Some(neighbour)));
    }

    /// The index of the VRF that `via` names, to ask for routes in its tables; why it cannot be asked for.
    pub fn vrf(&self, via: Via) -> Result<Option<u32>, Route> {
        vrf_of(via, &self.interfaces)
    }

    /// Takes in how the kernel routes to an address.
    pub fn route_is(&mut self, lookup: Lookup, route: Route) {
        let Some(way) = self.targets.get_mut(&lookup) else { return };
        if let Some(interface) = egress(&route).and_then(|ifindex| self.interfaces.get(&ifindex)) {
            way.interface = Some((interface.ifindex, interface.name.clone()));
        }
        way.route = Some(route);
        self.follow_neighbour(lookup);
        self.evaluate(lookup);
        if let Some(key) = self.targets.get(&lookup).and_then(|way| way.neighbour) {
            self.resolve(key);
        }
    }

    /// Takes in that the kernel refuses to resolve a neighbour.
    pub fn neighbour_is_refused(&mut self, key: NeighbourKey, errno: Errno) {
        let trusted = |neighbour: &Neighbour| neighbour.is_usable() && neighbour.standing != Standing::Forgotten;
        if self.users.contains_key(&key) && !self.neighbours.get(&key).is_some_and(trusted) {
            self.neighbours.insert(key, Neighbour { standing: Standing::Refused(errno), mac: None });
            self.evaluate_users(key);
        }
    }

    /// Asks anew for all routes, after a pause.
    pub fn suspect_all(&mut self) {
        self.suspect_all = true;
    }

    /// Whether routes wait for the end of a pause to be asked for.
    pub fn has_suspects(&self) -> bool {
        self.suspect_all || !self.suspect.is_empty()
    }

    /// Ends that pause.
    pub fn ask_suspects(&mut self) {
        self.unasked.append(&mut self.suspect);
        if std::mem::take(&mut self.suspect_all) {
            self.unasked.extend(self.targets.keys());
        }
    }

    /// Has neighbours resolved again that did not answer, or that the kernel has forgotten.
    pub fn retry_neighbours(&mut self) {
        let keys: Vec<NeighbourKey> = self.users.keys().copied().collect();
        keys.into_iter().for_each(|key| self.resolve(key));
    }

    /// Has neighbours confirmed that are in use and that the kernel has not heard of for a while.
    pub fn refresh_neighbours(&mut self) {
        for key in self.users.keys() {
            if self.neighbours.get(key).is_some_and(|neighbour| neighbour.standing == Standing::Stale) {
                self.stale.push(*key);
            }
        }
    }

    /// Whether routes are to be asked for now.
    pub fn has_unasked(&self) -> bool {
        !self.unasked.is_empty()
    }

    /// Takes at most `most` addresses whose routes are to be asked for.
    pub fn take_unasked(&mut self, most: usize) -> Vec<Lookup> {
        (0..most).map_while(|_| self.unasked.pop_first()).collect()
    }

    /// Whether neighbours are to be resolved or confirmed.
    pub fn has_uses(&self) -> bool {
        !self.urgent.is_empty() || !self.stale.is_empty()
    }

    /// Takes at most `most` neighbours to resolve or confirm. Those to resolve come first but leave a quarter of the
    /// room, so that many that never answer do not let those that do grow stale.
    pub fn take_uses(&mut self, most: usize) -> Vec<NeighbourKey> {
        let reserved = (most / 4).min(self.stale.len());
        let mut keys = self.urgent.take(most - reserved);
        keys.extend(self.stale.take(most - keys.len()));
        keys.retain(|key| self.users.contains_key(key));
        keys
    }

    /// Whether there is an event for the daemon.
    pub fn has_events(&self) -> bool {
        self.outbox.restarted || !self.outbox.interfaces.is_empty() || !self.outbox.order.is_empty()
    }

    /// Takes the next event for the daemon. Of several about one target only the last is there.
    pub fn take_event(&mut self) -> Option<Event> {
        self.outbox.take()
    }

    /// The interfaces.
    pub fn interfaces(&self) -> Vec<InterfaceInfo> {
        self.interfaces.values().cloned().collect()
    }

    fn remove(&mut self, lookup: Lookup) {
        if let Some(key) = self.targets.remove(&lookup).and_then(|way| way.neighbour) {
            self.disuse(key, lookup);
        }
        self.unasked.remove(&lookup);
        self.suspect.remove(&lookup);
    }

    /// Sees to it that the neighbour is in use that the way leads to, and no other. None is where all MAC addresses are
    /// pinned.
    fn follow_neighbour(&mut self, lookup: Lookup) {
        let Some(way) = self.targets.get_mut(&lookup) else { return };
        let is_asked = way.reported.keys().any(|manner| manner.mac.is_none());
        let route = way.route.as_ref().filter(|_| is_asked);
        let new = route.and_then(|route| neighbour_of(lookup.address, route));
        let old = std::mem::replace(&mut way.neighbour, new);
        if old == new {
            return;
        }
        old.into_iter().for_each(|key| self.disuse(key, lookup));
        let Some(key) = new else { return };
        self.users.entry(key).or_default().insert(lookup);
        // Nobody may have used it for long: what the kernel has is good until it is found out, which is begun at once.
        if self.neighbours.get(&key).is_some_and(|neighbour| neighbour.standing == Standing::Stale) {
            self.stale.push(key);
        }
    }

    fn disuse(&mut self, key: NeighbourKey, lookup: Lookup) {
        let Some(users) = self.users.get_mut(&key) else { return };
        users.remove(&lookup);
        if !users.is_empty() {
            return;
        }
        self.users.remove(&key);
        // What is remembered for the users' sake has no further use.
        let memory = |neighbour: &Neighbour| {
            matches!(neighbour.standing, Standing::Forgotten | Standing::Silent | Standing::Refused(_))
        };
        if self.neighbours.get(&key).is_some_and(memory) {
            self.neighbours.remove(&key);
        }
    }

    fn suspect(&mut self, network: IpNet) {
        let first = Lookup { address: network.network(), via: Via::default() };
        let last = Lookup { address: network.broadcast(), via: Via::LAST };
        self.suspect.extend(self.targets.range(first..=last).map(|(lookup, _)| *lookup));
    }

    fn interface_is(&mut self, interface: InterfaceInfo) {
        let ifindex = interface.ifindex;
        let old = self.interfaces.insert(ifindex, interface.clone());
        if old.as_ref() == Some(&interface) {
            return;
        }
        // Routes by an interface come and go with these, partly without a word of their own. A VRF is asked for by
        // name.
        let vrf = |interface: &InterfaceInfo| interface.is_vrf().then(|| interface.name.clone());
        let routing = |interface: &InterfaceInfo| (interface.up, interface.carrier, interface.master, vrf(interface));
        if old.as_ref().map_or((false, false, None, None), routing) != routing(&interface) {
            self.suspect_all();
        }
        match old {
            Some(old) if old.name == interface.name => self.outbox.interface_changed(interface),
            Some(InterfaceInfo { name: from, .. }) => {
                self.outbox.interfaces.push_back(InterfaceChange::Renamed { from, interface });
            }
            None => self.outbox.interfaces.push_back(InterfaceChange::Appeared(interface)),
        }
        self.evaluate_by(ifindex);
    }

    fn interface_is_gone(&mut self, ifindex: u32) {
        let Some(old) = self.interfaces.remove(&ifindex) else { return };
        self.outbox.interfaces.push_back(InterfaceChange::Vanished(old));
        self.neighbours.retain(|key, _| key.ifindex != ifindex);
        self.evaluate_by(ifindex);
        self.suspect_all();
    }

    fn neighbour_is(&mut self, key: NeighbourKey, new: Option<Neighbour>) {
        let old = self.neighbours.get(&key).copied();
        let merged = Neighbour::merge(old, new, self.users.contains_key(&key));
        match merged {
            Some(neighbour) => _ = self.neighbours.insert(key, neighbour),
            None => _ = self.neighbours.remove(&key),
        }
        if merged != old {
            self.evaluate_users(key);
        }
        // Also when it has failed once more: then the kernel has stopped asking.
        self.resolve(key);
    }

    /// Has a neighbour resolved, where a target needs it, it is not known, and its interface can carry the question.
    fn resolve(&mut self, key: NeighbourKey) {
        let known = self
            .neighbours
            .get(&key)
            .is_some_and(|neighbour| neighbour.is_usable() && neighbour.standing != Standing::Forgotten);
        let able = |interface: &InterfaceInfo| {
            interface.up && interface.carrier && interface.arp && !interface.loopback && interface.mac.is_some()
        };
        if !known && self.users.contains_key(&key) && self.interfaces.get(&key.ifindex).is_some_and(able) {
            self.urgent.push(key);
        }
    }

    /// For the targets that go by an interface, or by a VLAN on it.
    fn evaluate_by(&mut self, ifindex: u32) {
        let on = |other: u32| self.interfaces.get(&other).is_some_and(|interface| interface.lower == Some(ifindex));
        let by = |way: &Way| way.route.as_ref().and_then(egress).is_some_and(|by| by == ifindex || on(by));
        let lookups: Vec<Lookup> = self.targets.iter().filter(|(_, way)| by(way)).map(|(lookup, _)| *lookup).collect();
        lookups.into_iter().for_each(|lookup| self.evaluate(lookup));
    }

    fn evaluate_users(&mut self, key: NeighbourKey) {
        let lookups: Vec<Lookup> = self.users.get(&key).into_iter().flatten().copied().collect();
        lookups.into_iter().for_each(|lookup| self.evaluate(lookup));
    }

    /// Says what the next hop to an address is now, where that is other than what was said before.
    fn evaluate(&mut self, lookup: Lookup) {
        let Some(way) = self.targets.get_mut(&lookup) else { return };
        let Some(route) = &way.route else { return };
        for (manner, report) in &mut way.reported {
            let target = manner.target(lookup);
            let mut result = next_hop(target, route, &self.interfaces, &self.neighbours);
            if let (Err(Unresolved::NoRoute { address, .. }), Some((ifindex, name))) = (&result, &way.interface)
                && !self.interfaces.get(ifindex).is_some_and(|interface| interface.up)
            {
                result = Err(Unresolved::RouteLost { address: *address, interface: name.clone() });
            }
            if report.result.as_ref() != Some(&result) {
                report.result = Some(result.clone());
                self.outbox.put(target, report.asking, result);
            }
        }
    }
}

/// The interface that a route leaves by.
fn egress(route: &Route) -> Option<u32> {
    if let Route::Hop(hop) = route { Some(hop.ifindex) } else { None }
}

/// What waits for the daemon to take it.
#[derive(Debug, Default)]
struct Outbox {
    restarted: bool,
    interfaces: VecDeque<InterfaceChange>,
    order: VecDeque<Target>,
    results: HashMap<Target, (Asking, Result<NextHop, Unresolved>)>,
}

impl Outbox {
    fn put(&mut self, target: Target, asking: Asking, result: Result<NextHop, Unresolved>) {
        if self.results.insert(target, (asking, result)).is_none() {
            self.order.push_back(target);
        }
    }

    /// Of an interface that flaps faster than the daemon listens, the last state is told.
    fn interface_changed(&mut self, interface: InterfaceInfo) {
        match self.interfaces.back_mut() {
            Some(InterfaceChange::Changed(last)) if last.ifindex == interface.ifindex => *last = interface,
            _ => self.interfaces.push_back(InterfaceChange::Changed(interface)),
        }
    }

    fn forget(&mut self, target: Target) {
        // Its place in the order stays; `take` passes over it.
        self.results.remove(&target);
    }

    fn take(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.restarted) {
            return Some(Event::Restarted);
        }
        if let Some(change) = self.interfaces.pop_front() {
            return Some(Event::Interface(change));
        }
        while let Some(target) = self.order.pop_front() {
            if let Some((asking, result)) = self.results.remove(&target) {
                return Some(Event::NextHop { target, asking, result });
            }
        }
        None
    }
}

/// A queue in which nothing stands twice.
#[derive(Debug)]
struct Queue<T> {
    order: VecDeque<T>,
    members: HashSet<T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { order: VecDeque::new(), members: HashSet::new() }
    }
}

impl<T: Copy + Eq + std::hash::Hash> Queue<T> {
    fn push(&mut self, item: T) {
        if self.members.insert(item) {
            self.order.push_back(item);
        }
    }

    fn take(&mut self, most: usize) -> Vec<T> {
        let taken: Vec<T> = self.order.drain(..most.min(self.order.len())).collect();
        taken.iter().for_each(|item| _ = self.members.remove(item));
        taken
    }

    fn len(&self) -> usize {
        self.order.len()
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lb_common::VrfName;

    use super::*;
    use crate::network::resolve::Hop;

    const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn tunnel(text: &str) -> Target {
        Target::new(ip(text), false)
    }

    fn to(text: &str) -> Lookup {
        Lookup { address: ip(text), via: Via::default() }
    }

    /// Wants these targets, each asked for once.
    fn want(table: &mut Table, targets: &[Target]) {
        table.set_targets(&Wanted::by(1, targets));
    }

    fn unasked(table: &mut Table) -> Vec<IpAddr> {
        table.take_unasked(10).into_iter().map(|lookup| lookup.address).collect()
    }

    fn interface(ifindex: u32, name: &str) -> InterfaceInfo {
        InterfaceInfo::ethernet(ifindex, name, [2, 0, 0, 0, 0, 1])
    }

    fn key(address: &str) -> NeighbourKey {
        NeighbourKey { ifindex: 2, address: ip(address) }
    }

    fn known(standing: Standing, mac: [u8; 6]) -> Option<Neighbour> {
        Some(Neighbour { standing, mac: Some(mac) })
    }

    fn gateway(address: &str) -> Route {
        Route::Hop(Hop { ifindex: 2, gateway: Some(ip(address)), mtu: None })
    }

    fn on_link() -> Route {
        Route::Hop(Hop { ifindex: 2, gateway: None, mtu: None })
    }

    fn events(table: &mut Table) -> Vec<(Target, Result<[u8; 6], Unresolved>)> {
        let next_hop = |event| match event {
            Event::NextHop { target, result, .. } => Some((target, result.map(|next_hop| next_hop.destination()))),
            Event::Interface(_) | Event::Restarted => None,
        };
        std::iter::from_fn(|| table.take_event()).filter_map(next_hop).collect()
    }

    /// A table with one target on the link that is resolved to `PEER`, and no events left.
    fn resolved(address: &str) -> Table {
        let mut table = Table::default();
        table.start_with(vec![interface(2, "eth0")]);
        want(&mut table, &[tunnel(address)]);
        assert_eq!(unasked(&mut table), [ip(address)]);
        table.route_is(to(address), on_link());
        assert_eq!(table.take_uses(10), [key(address)]);
        table.apply(Change::Neighbour(key(address), known(Standing::Usable, PEER)));
        assert_eq!(events(&mut table), [(tunnel(address), Ok(PEER))]);
        table
    }

    #[test]
    fn unchanged_targets_are_neither_asked_for_nor_told_again() {
        let mut table = resolved("10.0.0.2");
        want(&mut table, &[tunnel("10.0.0.2"), tunnel("10.0.0.3")]);
        assert_eq!(unasked(&mut table), [ip("10.0.0.3")]);
        table.route_is(to("10.0.0.2"), on_link());
        table.apply(Change::Neighbour(key("10.0.0.2"), known(Standing::Stale, PEER)));
        assert_eq!(events(&mut table), []);
    }

    #[test]
    fn one_address_may_be_wanted_on_the_link_and_behind_a_gateway() {
        let mut table = resolved("10.0.0.2");
        let strict = Target::new(ip("10.0.0.2"), true);
        want(&mut table, &[tunnel("10.0.0.2"), strict]);
        assert_eq!(events(&mut table), [(strict, Ok(PEER))], "what is known needs no new question");
        table.route_is(to("10.0.0.2"), gateway("10.0.0.1"));
        table.apply(Change::Neighbour(key("10.0.0.1"), known(Standing::Usable, OTHER)));
        let reported = events(&mut table);
        assert!(reported.contains(&(tunnel("10.0.0.2"), Ok(OTHER))), "{reported:?}");
        assert!(matches!(reported.as_slice(), [.., (_, Err(Unresolved::BehindGateway { .. }))] | [(_, Err(_)), ..]));
    }

    #[test]
    fn a_removed_target_is_told_of_no_more() {
        let mut table = resolved("10.0.0.2");
        table.apply(Change::Neighbour(key("10.0.0.2"), known(Standing::Usable, OTHER)));
        want(&mut table, &[]);
        assert_eq!(events(&mut table), []);
        assert!(table.users.is_empty() && table.targets.is_empty());
        want(&mut table, &[tunnel("10.0.0.2")]);
        assert_eq!(unasked(&mut table), [ip("10.0.0.2")], "a target that returns is a new one");
    }

    #[test]
    fn a_target_that_is_asked_for_anew_is_told_anew() {
        let mut table = resolved("10.0.0.2");
        let reported = |table: &mut Table| match table.take_event() {
            Some(Event::NextHop { asking, result, .. }) => (asking, result.map(|next_hop| next_hop.destination())),
            other => panic!("{other:?}"),
        };
        // It went and came back, and the task saw only that it is there: the asking tells.
        table.set_targets(&Wanted::by(2, &[tunnel("10.0.0.2")]));
        assert_eq!(unasked(&mut table), [ip("10.0.0.2")]);
        table.route_is(to("10.0.0.2"), on_link());
        assert_eq!(reported(&mut table), (2, Ok(PEER)));
        table.set_targets(&Wanted::by(2, &[tunnel("10.0.0.2")]));
        assert_eq!(table.take_event(), None);
    }

    #[test]
    fn a_stale_neighbour_is_confirmed_when_it_comes_into_use() {
        let mut table = resolved("10.0.0.2");
        want(&mut table, &[]);
        table.apply(Change::Neighbour(key("10.0.0.2"), known(Standing::Stale, PEER)));
        table.set_targets(&Wanted::by(2, &[tunnel("10.0.0.2")]));
        table.route_is(to("10.0.0.2"), on_link());
        assert_eq!(events(&mut table), [(tunnel("10.0.0.2"), Ok(PEER))], "it is all that the kernel knows");
        assert_eq!(table.take_uses(10), [key("10.0.0.2")], "and it is asked whether it still holds");
    }

    #[test]
    fn one_address_by_two_marks_is_two_ways() {
        let mut table = resolved("10.0.0.2");
        let via = Via { mark: 0x10, ..Via::default() };
        let marked = Target { via, ..tunnel("10.0.0.2") };
        want(&mut table, &[tunnel("10.0.0.2"), marked]);
        let lookup = Lookup { via, ..to("10.0.0.2") };
        assert_eq!(table.take_unasked(10), [lookup]);
        table.route_is(lookup, gateway("10.0.0.1"));
        table.apply(Change::Neighbour(key("10.0.0.1"), known(Standing::Usable, OTHER)));
        assert_eq!(events(&mut table), [(marked, Ok(OTHER))]);
        table.apply(Change::Routes("10.0.0.2/32".parse().unwrap()));
        table.ask_suspects();
        assert_eq!(table.take_unasked(10), [to("10.0.0.2"), lookup], "a route may lead by either");
        want(&mut table, &[marked]);
        assert!(!table.users.contains_key(&key("10.0.0.2")) && table.users.contains_key(&key("10.0.0.1")));
    }

    #[test]
    fn a_vrf_that_comes_and_goes_takes_its_ways_along() {
        let mut table = resolved("10.0.0.2");
        let via = Via { vrf: VrfName::new("blue").unwrap(), mark: 0 };
        let blue = InterfaceInfo { kind: Some("vrf".into()), up: false, carrier: false, ..interface(9, "blue") };
        assert!(table.vrf(via).is_err() && !table.has_suspects());
        table.apply(Change::Interface(blue.clone()));
        assert!(table.vrf(via).is_err() && table.has_suspects(), "another reason");
        table.ask_suspects();
        table.apply(Change::Interface(InterfaceInfo { up: true, carrier: true, ..blue.clone() }));
        assert_eq!(table.vrf(via), Ok(Some(9)));
        assert!(table.has_suspects());
        table.ask_suspects();
        table.apply(Change::Interface(InterfaceInfo { up: true, carrier: true, ..interface(9, "red") }));
        assert!(table.vrf(via).is_err() && table.has_suspects());
    }

    #[test]
    fn of_a_pinned_mac_address_nobody_is_asked() {
        let mut table = Table::default();
        table.start_with(vec![interface(2, "eth0")]);
        let pinned = Target { mac: Some(OTHER), on_link: true, ..tunnel("10.0.0.2") };
        want(&mut table, &[pinned]);
        table.route_is(to("10.0.0.2"), on_link());
        assert_eq!(events(&mut table), [(pinned, Ok(OTHER))]);
        table.apply(Change::Neighbour(key("10.0.0.2"), known(Standing::Usable, PEER)));
        table.retry_neighbours();
        assert!(events(&mut table).is_empty() && !table.has_uses() && table.users.is_empty());
        // Interfaces are followed all the same.
        table.apply(Change::Interface(InterfaceInfo { up: false, carrier: false, ..interface(2, "eth0") }));
        let down = Unresolved::InterfaceDown { interface: "eth0".into() };
        assert_eq!(events(&mut table), [(pinned, Err(down))]);
        // And beside it one that believes the network.
        table.apply(Change::Interface(interface(2, "eth0")));
        want(&mut table, &[pinned, tunnel("10.0.0.2")]);
        let reported = events(&mut table);
        assert!(
            reported.contains(&(pinned, Ok(OTHER))) && reported.contains(&(tunnel("10.0.0.2"), Ok(PEER))),
            "{reported:?}"
        );
        want(&mut table, &[pinned]);
        assert!(table.users.is_empty());
    }

    #[test]
    fn targets_that_differ_in_their_mtu_alone_share_a_look_up() {
        let mut table = Table::default();
        table.start_with(vec![interface(2, "eth0")]);
        let narrow = Target { mtu: Some(1400), ..tunnel("10.0.0.2") };
        want(&mut table, &[tunnel("10.0.0.2"), narrow]);
        table.route_is(to("10.0.0.2"), on_link());
        table.apply(Change::Neighbour(key("10.0.0.2"), known(Standing::Usable, PEER)));
        let reported = events(&mut table);
        assert!(reported.contains(&(narrow, Ok(PEER))) && reported.contains(&(tunnel("10.0.0.2"), Ok(PEER))));
        assert_eq!(table.targets.len(), 1);
    }

    #[test]
    fn that_it_was_started_anew_is_told_first_and_once() {
        let mut table = resolved("10.0.0.2");
        table.apply(Change::Interface(interface(7, "eth7")));
        table.restarted();
        assert!(table.has_events());
        assert_eq!(table.take_event(), Some(Event::Restarted));
        assert_eq!(table.take_event(), Some(Event::Interface(InterfaceChange::Appeared(interface(7, "eth7")))));
        assert_eq!(table.take_event(), None);
    }

    #[test]
    fn a_neighbour_concerns_the_targets_that_go_through_it() {
        let mut table = resolved("10.0.0.2");
        want(&mut table, &[tunnel("10.0.0.2"), tunnel("192.0.2.1"), tunnel("192.0.2.2")]);
        for address in ["192.0.2.1", "192.0.2.2"] {
            table.route_is(to(address), gateway("10.0.0.1"));
        }
        assert_eq!(table.take_uses(10), [key("10.0.0.1")], "one gateway is asked for once");
        events(&mut table);
        table.apply(Change::Neighbour(key("10.0.0.1"), known(Standing::Usable, OTHER)));
        assert_eq!(events(&mut table), [(tunnel("192.0.2.1"), Ok(OTHER)), (tunnel("192.0.2.2"), Ok(OTHER))]);
    }

    #[test]
    fn the_last_of_several_changes_is_told() {
        let mut table = resolved("10.0.0.2");
        for mac in [OTHER, PEER, OTHER] {
            table.apply(Change::Neighbour(key("10.0.0.2"), known(Standing::Usable, mac)));
        }
        assert_eq!(events(&mut table), [(tunnel("10.0.0.2"), Ok(OTHER))]);
    }

    #[test]
    fn a_neighbour_that_fails_is_tried_again_until_it_answers() {
        let mut table = resolved("10.0.0.2");
        let failed = Some(Neighbour { standing: Standing::Silent, mac: None });
        table.apply(Change::Neighbour(key("10.0.0.2"), failed));
        let silent = Unresolved::NeighbourSilent { neighbour: ip("10.0.0.2"), interface: "eth0".into() };
        assert_eq!(events(&mut table), [(tunnel("10.0.0.2"), Err(silent))]);
        assert_eq!(table.take_uses(10), [key("10.0.0.2")], "at once");
        table.retry_neighbours();
        assert_eq!(table.take_uses(10), [key("10.0.0.2")], "at every retry");
        table.apply(Change::Neighbour(key("10.0.0.2"), None));
        assert_eq!(events(&mut table), [], "the kernel forgot a failure: no news");
        table.apply(Change::Neighbour(key("10.0.0.2"), known(Standing::Usable, PEER)));
        assert_eq!(events(&mut table), [(tunnel("10.0.0.2"), Ok(PEER))]);
        table.take_uses(10);
        table.retry_neighbours();
        assert!(!table.has_uses());
    }

    #[test]
    fn a_neighbour_that_the_kernel_forgets_serves_until_it_fails() {
        let mut table = resolved("10.0.0.2");
        table.sync_neighbours(Neighbours::new(), true);
        assert_eq!(events(&mut table), []);
        assert_eq!(table.take_uses(10), [key("10.0.0.2")]);
        table.neighbour_is_refused(key("10.0.0.2"), Errno::ENOBUFS);
        assert!(matches!(events(&mut table)[..], [(_, Err(Unresolved::NeighbourTableFull { .. }))]));
        table.apply(Change::Neighbour(key("10.0.0.2"), known(Standing::Usable, PEER)));
        assert_eq!(events(&mut table), [(tunnel("10.0.0.2"), Ok(PEER))]);
    }

    #[test]
    fn what_an_incomplete_list_does_not_have_is_not_gone() {
        let mut table = resolved("10.0.0.2");
        table.take_uses(10);
        table.sync_interfaces(vec![interface(3, "eth1")], false);
        table.sync_neighbours(Neighbours::new(), false);
        let reported: Vec<_> = std::iter::from_fn(|| table.take_event()).collect();
        assert_eq!(reported, [Event::Interface(InterfaceChange::Appeared(interface(3, "eth1")))]);
        assert_eq!(table.interfaces(), [interface(2, "eth0"), interface(3, "eth1")]);
        assert!(!table.has_uses(), "nor is a neighbour asked for that is known");
        table.sync_interfaces(vec![interface(3, "eth1")], true);
        assert_eq!(table.interfaces(), [interface(3, "eth1")]);
    }

    #[test]
    fn stale_neighbours_in_use_are_confirmed() {
        let mut table = resolved("10.0.0.2");
        table.refresh_neighbours();
        assert!(!table.has_uses());
        table.apply(Change::Neighbour(key("10.0.0.2"), known(Standing::Stale, PEER)));
        table.apply(Change::Neighbour(key("10.0.0.9"), known(Standing::Stale, PEER)));
        assert!(!table.has_uses(), "only when it is time");
        table.refresh_neighbours();
        assert_eq!(table.take_uses(10), [key("10.0.0.2")], "and only those in use");
    }

    #[test]
    fn dead_neighbours_leave_room_for_stale_ones() {
        let mut table = Table::default();
        for last in 0..100 {
            let key = NeighbourKey { ifindex: 2, address: [10, 0, 0, last].into() };
            table.users.entry(key).or_default().insert(Lookup { address: key.address, via: Via::default() });
            table.urgent.push(key);
            table.stale.push(NeighbourKey { ifindex: 3, ..key });
            table
                .users
                .entry(NeighbourKey { ifindex: 3, ..key })
                .or_default()
                .insert(Lookup { address: key.address, via: Via::default() });
        }
        let taken = table.take_uses(64);
        assert_eq!(taken.iter().filter(|key| key.ifindex == 3).count(), 16);
        assert_eq!(taken.len(), 64);
    }

    #[test]
    fn a_route_event_makes_suspects_of_the_addresses_in_its_prefix() {
        let mut table = Table::default();
        let addresses = ["9.255.255.255", "10.0.0.0", "10.0.255.255", "10.1.0.0", "2001:db8::1", "2001:db9::1"];
        want(&mut table, &addresses.map(tunnel));
        unasked(&mut table);
        table.apply(Change::Routes("10.0.0.0/16".parse().unwrap()));
        assert!(table.has_suspects() && !table.has_unasked());
        table.ask_suspects();
        assert_eq!(unasked(&mut table), ["10.0.0.0", "10.0.255.255"].map(ip));
        table.apply(Change::Routes("2001:db8::/32".parse().unwrap()));
        table.ask_suspects();
        assert_eq!(unasked(&mut table), [ip("2001:db8::1")]);
        table.apply(Change::Routes("0.0.0.0/0".parse().unwrap()));
        table.ask_suspects();
        assert_eq!(unasked(&mut table).len(), 4);
        table.apply(Change::AllRoutes);
        table.ask_suspects();
        assert_eq!(unasked(&mut table).len(), 6);
    }

    #[test]
    fn an_interface_that_goes_down_takes_its_next_hops_along() {
        let mut table = resolved("10.0.0.2");
        let down = InterfaceInfo { up: false, carrier: false, ..interface(2, "eth0") };
        table.apply(Change::Interface(down.clone()));
        assert_eq!(table.take_event(), Some(Event::Interface(InterfaceChange::Changed(down))));
        let expected = Unresolved::InterfaceDown { interface: "eth0".into() };
        assert_eq!(events(&mut table), [(tunnel("10.0.0.2"), Err(expected))]);
        assert!(table.has_suspects(), "the kernel removes routes of such an interface without a word");
        table.route_is(to("10.0.0.2"), Route::None);
        let expected = Unresolved::RouteLost { address: ip("10.0.0.2"), interface: "eth0".into() };
        assert_eq!(events(&mut table), [(tunnel("10.0.0.2"), Err(expected))]);
        assert!(!table.has_uses(), "nobody is asked for on an interface that is down");
    }

    #[test]
    fn a_vlan_goes_down_with_the_device_below() {
        let mut table = resolved("10.0.0.2");
        let vlan = Some(crate::network::Vlan { id: 7, provider: false });
        let above = InterfaceInfo { lower: Some(2), vlan, ..interface(5, "eth0.7") };
        table.sync_interfaces(vec![interface(2, "eth0"), above], true);
        table.route_is(to("10.0.0.2"), Route::Hop(Hop { ifindex: 5, gateway: None, mtu: None }));
        let key = NeighbourKey { ifindex: 5, address: ip("10.0.0.2") };
        table.apply(Change::Neighbour(key, known(Standing::Usable, OTHER)));
        assert_eq!(events(&mut table), [(tunnel("10.0.0.2"), Ok(OTHER))]);
        table.apply(Change::Interface(InterfaceInfo { carrier: false, ..interface(2, "eth0") }));
        let expected = Unresolved::NoCarrier { interface: "eth0".into() };
        assert_eq!(events(&mut table), [(tunnel("10.0.0.2"), Err(expected))]);
    }

    #[test]
    fn interfaces_that_change_nothing_of_routing_ask_for_no_routes() {
        let mut table = resolved("10.0.0.2");
        let down = InterfaceInfo { up: false, carrier: false, ..interface(7, "veth7") };
        table.apply(Change::Interface(down.clone()));
        table.apply(Change::Interface(InterfaceInfo { mtu: 1400, ..interface(2, "eth0") }));
        assert!(!table.has_suspects());
        table.apply(Change::Interface(InterfaceInfo { up: true, carrier: true, ..down }));
        assert!(table.has_suspects());
    }

    #[test]
    fn interfaces_come_and_go_under_their_names() {
        let mut table = Table::default();
        let changes = |table: &mut Table| -> Vec<InterfaceChange> {
            let taken = std::iter::from_fn(|| table.take_event());
            taken.filter_map(|event| if let Event::Interface(change) = event { Some(change) } else { None }).collect()
        };
        table.start_with(vec![interface(2, "eth0")]);
        table.sync_interfaces(vec![interface(2, "eth0")], true);
        assert_eq!(changes(&mut table), []);
        table.sync_interfaces(vec![interface(3, "eth0")], true);
        let (old, new) = (interface(2, "eth0"), interface(3, "eth0"));
        assert_eq!(changes(&mut table), [InterfaceChange::Vanished(old), InterfaceChange::Appeared(new.clone())]);
        table.apply(Change::Interface(interface(3, "wan")));
        let renamed = interface(3, "wan");
        assert_eq!(changes(&mut table), [InterfaceChange::Renamed { from: "eth0".into(), interface: renamed.clone() }]);
        let named = InterfaceInfo { altnames: vec!["uplink".into()], ..renamed };
        table.apply(Change::Interface(named.clone()));
        assert_eq!(changes(&mut table), [InterfaceChange::Changed(named.clone())]);
        let renamed = named;
        table.apply(Change::InterfaceGone(3));
        table.apply(Change::InterfaceGone(3));
        assert_eq!(changes(&mut table), [InterfaceChange::Vanished(renamed)]);
        assert_eq!(table.interfaces(), []);
    }
}
