//! What is known of the way to each target, what is still to be asked of the kernel, and what the daemon is still to be
//! told. Takes in changes and answers one at a time; never waits, never talks to the kernel.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::NextHop;
use nix::errno::Errno;

use super::{
    Event, InterfaceChange, InterfaceInfo, Target, Unresolved,
    message::Change,
    resolve::{Interfaces, Neighbour, NeighbourKey, Neighbours, Route, Standing, neighbour_of, next_hop},
};

/// The state of the whole.
#[derive(Debug, Default)]
pub(super) struct Table {
    targets: BTreeMap<IpAddr, Way>,
    interfaces: Interfaces,
    neighbours: Neighbours,
    /// The targets that each neighbour leads to.
    users: HashMap<NeighbourKey, BTreeSet<IpAddr>>,
    /// Targets whose route is to be asked for.
    unasked: BTreeSet<IpAddr>,
    /// Targets whose route may have changed, to be asked for once the changes have settled.
    suspect: BTreeSet<IpAddr>,
    /// Whether all targets are such. Apart from the set, because what concerns all comes by the thousand when a host is
    /// given its addresses.
    suspect_all: bool,
    /// Neighbours to resolve.
    urgent: Queue<NeighbourKey>,
    /// Neighbours to confirm.
    stale: Queue<NeighbourKey>,
    outbox: Outbox,
}

/// The way to one address.
#[derive(Debug, Default)]
struct Way {
    /// The kernel's last answer; `None` until the first.
    route: Option<Route>,
    /// Name of the interface of the last route that had one.
    interface: Option<(u32, String)>,
    /// What was last said of the address as a target that may lie behind a gateway, and of one on the link; the outer
    /// `None` where nobody asks.
    told: [Option<Option<Result<NextHop, Unresolved>>>; 2],
}

impl Table {
    /// Replaces the set of targets. New ones are looked up, what is known of the others stays.
    pub fn set_targets(&mut self, targets: &[Target]) {
        let wanted: HashSet<Target> = targets.iter().copied().collect();
        let mut gone = Vec::new();
        for (address, way) in &mut self.targets {
            for on_link in [false, true] {
                let target = Target { address: *address, on_link };
                if !wanted.contains(&target) {
                    way.told[usize::from(on_link)] = None;
                    self.outbox.forget(target);
                }
            }
            if way.told.iter().all(Option::is_none) {
                gone.push(*address);
            }
        }
        for address in gone {
            self.remove(address);
        }
        for Target { address, on_link } in wanted {
            let way = self.targets.entry(address).or_insert_with(|| {
                self.unasked.insert(address);
                Way::default()
            });
            if way.told[usize::from(on_link)].is_none() {
                way.told[usize::from(on_link)] = Some(None);
                self.evaluate(address);
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

    /// Takes in how the kernel routes to `address`.
    pub fn route_is(&mut self, address: IpAddr, route: Route) {
        let Some(way) = self.targets.get_mut(&address) else { return };
        let old = way.route.as_ref().and_then(|route| neighbour_of(address, route));
        let new = neighbour_of(address, &route);
        if let Some(interface) = new.and_then(|key| self.interfaces.get(&key.ifindex)) {
            way.interface = Some((interface.ifindex, interface.name.clone()));
        }
        way.route = Some(route);
        if old != new {
            old.into_iter().for_each(|key| self.disuse(key, address));
            new.into_iter().for_each(|key| _ = self.users.entry(key).or_default().insert(address));
        }
        self.evaluate(address);
        new.into_iter().for_each(|key| self.resolve(key));
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
    pub fn take_unasked(&mut self, most: usize) -> Vec<IpAddr> {
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
        !self.outbox.interfaces.is_empty() || !self.outbox.order.is_empty()
    }

    /// Takes the next event for the daemon. Of several about one target only the last is there.
    pub fn take_event(&mut self) -> Option<Event> {
        self.outbox.take()
    }

    /// The interfaces.
    pub fn interfaces(&self) -> Vec<InterfaceInfo> {
        self.interfaces.values().cloned().collect()
    }

    fn remove(&mut self, address: IpAddr) {
        let way = self.targets.remove(&address);
        if let Some(key) = way.and_then(|way| way.route).and_then(|route| neighbour_of(address, &route)) {
            self.disuse(key, address);
        }
        self.unasked.remove(&address);
        self.suspect.remove(&address);
    }

    fn disuse(&mut self, key: NeighbourKey, address: IpAddr) {
        let Some(users) = self.users.get_mut(&key) else { return };
        users.remove(&address);
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
        let concerned = self.targets.range(network.network()..=network.broadcast());
        self.suspect.extend(concerned.map(|(address, _)| *address));
    }

    fn interface_is(&mut self, interface: InterfaceInfo) {
        let ifindex = interface.ifindex;
        let old = self.interfaces.insert(ifindex, interface.clone());
        if old.as_ref() == Some(&interface) {
            return;
        }
        // Routes by an interface come and go with these, partly without a word of their own.
        let routing = |interface: &InterfaceInfo| (interface.up, interface.carrier, interface.master);
        if old.as_ref().map_or((false, false, None), routing) != routing(&interface) {
            self.suspect_all();
        }
        match old {
            Some(old) if old.name == interface.name => self.outbox.interface_changed(interface),
            old => {
                let vanished = old.map(InterfaceChange::Vanished);
                self.outbox.interfaces.extend(vanished.into_iter().chain([InterfaceChange::Appeared(interface)]));
            }
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
        let keys = self.users.keys().filter(|key| key.ifindex == ifindex || on(key.ifindex));
        let keys: Vec<NeighbourKey> = keys.copied().collect();
        keys.into_iter().for_each(|key| self.evaluate_users(key));
    }

    fn evaluate_users(&mut self, key: NeighbourKey) {
        let addresses: Vec<IpAddr> = self.users.get(&key).into_iter().flatten().copied().collect();
        addresses.into_iter().for_each(|address| self.evaluate(address));
    }

    /// Says what the next hop to an address is now, where that is other than what was said before.
    fn evaluate(&mut self, address: IpAddr) {
        let Some(way) = self.targets.get_mut(&address) else { return };
        let Some(route) = &way.route else { return };
        for on_link in [false, true] {
            let Some(told) = &mut way.told[usize::from(on_link)] else { continue };
            let target = Target { address, on_link };
            let mut result = next_hop(target, route, &self.interfaces, &self.neighbours);
            if let (Err(Unresolved::NoRoute { .. }), Some((ifindex, name))) = (&result, &way.interface)
                && !self.interfaces.get(ifindex).is_some_and(|interface| interface.up)
            {
                result = Err(Unresolved::RouteLost { address, interface: name.clone() });
            }
            if told.as_ref() != Some(&result) {
                *told = Some(result.clone());
                self.outbox.put(target, result);
            }
        }
    }
}

/// What waits for the daemon to take it.
#[derive(Debug, Default)]
struct Outbox {
    interfaces: VecDeque<InterfaceChange>,
    order: VecDeque<Target>,
    results: HashMap<Target, Result<NextHop, Unresolved>>,
}

impl Outbox {
    fn put(&mut self, target: Target, result: Result<NextHop, Unresolved>) {
        if self.results.insert(target, result).is_none() {
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
        if let Some(change) = self.interfaces.pop_front() {
            return Some(Event::Interface(change));
        }
        while let Some(target) = self.order.pop_front() {
            if let Some(result) = self.results.remove(&target) {
                return Some(Event::NextHop { target, result });
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
    use super::*;
    use crate::netlink::resolve::Hop;

    const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn tunnel(text: &str) -> Target {
        Target { address: ip(text), on_link: false }
    }

    fn interface(ifindex: u32, name: &str) -> InterfaceInfo {
        InterfaceInfo {
            name: name.into(),
            ifindex,
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            carrier: true,
            loopback: false,
            arp: true,
            kind: None,
            master: None,
            lower: None,
            vlan: None,
        }
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
            Event::NextHop { target, result } => Some((target, result.map(|next_hop| next_hop.destination()))),
            Event::Interface(_) => None,
        };
        std::iter::from_fn(|| table.take_event()).filter_map(next_hop).collect()
    }

    /// A table with one target on the link that is resolved to `PEER`, and no events left.
    fn resolved(address: &str) -> Table {
        let mut table = Table::default();
        table.start_with(vec![interface(2, "eth0")]);
        table.set_targets(&[tunnel(address)]);
        assert_eq!(table.take_unasked(10), [ip(address)]);
        table.route_is(ip(address), on_link());
        assert_eq!(table.take_uses(10), [key(address)]);
        table.apply(Change::Neighbour(key(address), known(Standing::Usable, PEER)));
        assert_eq!(events(&mut table), [(tunnel(address), Ok(PEER))]);
        table
    }

    #[test]
    fn unchanged_targets_are_neither_asked_for_nor_told_again() {
        let mut table = resolved("10.0.0.2");
        table.set_targets(&[tunnel("10.0.0.2"), tunnel("10.0.0.3")]);
        assert_eq!(table.take_unasked(10), [ip("10.0.0.3")]);
        table.route_is(ip("10.0.0.2"), on_link());
        table.apply(Change::Neighbour(key("10.0.0.2"), known(Standing::Stale, PEER)));
        assert_eq!(events(&mut table), []);
    }

    #[test]
    fn one_address_may_be_wanted_on_the_link_and_behind_a_gateway() {
        let mut table = resolved("10.0.0.2");
        let strict = Target { address: ip("10.0.0.2"), on_link: true };
        table.set_targets(&[tunnel("10.0.0.2"), strict]);
        assert_eq!(events(&mut table), [(strict, Ok(PEER))], "what is known needs no new question");
        table.route_is(ip("10.0.0.2"), gateway("10.0.0.1"));
        table.apply(Change::Neighbour(key("10.0.0.1"), known(Standing::Usable, OTHER)));
        let told = events(&mut table);
        assert!(told.contains(&(tunnel("10.0.0.2"), Ok(OTHER))), "{told:?}");
        assert!(matches!(told.as_slice(), [.., (_, Err(Unresolved::BehindGateway { .. }))] | [(_, Err(_)), ..]));
    }

    #[test]
    fn a_removed_target_is_told_of_no_more() {
        let mut table = resolved("10.0.0.2");
        table.apply(Change::Neighbour(key("10.0.0.2"), known(Standing::Usable, OTHER)));
        table.set_targets(&[]);
        assert_eq!(events(&mut table), []);
        assert!(table.users.is_empty() && table.targets.is_empty());
        table.set_targets(&[tunnel("10.0.0.2")]);
        assert_eq!(table.take_unasked(10), [ip("10.0.0.2")], "a target that returns is a new one");
    }

    #[test]
    fn a_neighbour_concerns_the_targets_that_go_through_it() {
        let mut table = resolved("10.0.0.2");
        table.set_targets(&[tunnel("10.0.0.2"), tunnel("192.0.2.1"), tunnel("192.0.2.2")]);
        for address in ["192.0.2.1", "192.0.2.2"] {
            table.route_is(ip(address), gateway("10.0.0.1"));
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
        let told: Vec<_> = std::iter::from_fn(|| table.take_event()).collect();
        assert_eq!(told, [Event::Interface(InterfaceChange::Appeared(interface(3, "eth1")))]);
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
            table.users.entry(key).or_default().insert(key.address);
            table.urgent.push(key);
            table.stale.push(NeighbourKey { ifindex: 3, ..key });
            table.users.entry(NeighbourKey { ifindex: 3, ..key }).or_default().insert(key.address);
        }
        let taken = table.take_uses(64);
        assert_eq!(taken.iter().filter(|key| key.ifindex == 3).count(), 16);
        assert_eq!(taken.len(), 64);
    }

    #[test]
    fn a_route_event_makes_suspects_of_the_addresses_in_its_prefix() {
        let mut table = Table::default();
        let addresses = ["9.255.255.255", "10.0.0.0", "10.0.255.255", "10.1.0.0", "2001:db8::1", "2001:db9::1"];
        table.set_targets(&addresses.map(tunnel));
        table.take_unasked(10);
        table.apply(Change::Routes("10.0.0.0/16".parse().unwrap()));
        assert!(table.has_suspects() && !table.has_unasked());
        table.ask_suspects();
        assert_eq!(table.take_unasked(10), ["10.0.0.0", "10.0.255.255"].map(ip));
        table.apply(Change::Routes("2001:db8::/32".parse().unwrap()));
        table.ask_suspects();
        assert_eq!(table.take_unasked(10), [ip("2001:db8::1")]);
        table.apply(Change::Routes("0.0.0.0/0".parse().unwrap()));
        table.ask_suspects();
        assert_eq!(table.take_unasked(10).len(), 4);
        table.apply(Change::AllRoutes);
        table.ask_suspects();
        assert_eq!(table.take_unasked(10).len(), 6);
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
        table.route_is(ip("10.0.0.2"), Route::None);
        let expected = Unresolved::RouteLost { address: ip("10.0.0.2"), interface: "eth0".into() };
        assert_eq!(events(&mut table), [(tunnel("10.0.0.2"), Err(expected))]);
        assert!(!table.has_uses(), "nobody is asked for on an interface that is down");
    }

    #[test]
    fn a_vlan_goes_down_with_the_device_below() {
        let mut table = resolved("10.0.0.2");
        let vlan = Some(crate::netlink::Vlan { id: 7, provider: false });
        let above = InterfaceInfo { lower: Some(2), vlan, ..interface(5, "eth0.7") };
        table.sync_interfaces(vec![interface(2, "eth0"), above], true);
        table.route_is(ip("10.0.0.2"), Route::Hop(Hop { ifindex: 5, gateway: None, mtu: None }));
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
        assert_eq!(changes(&mut table), [InterfaceChange::Vanished(new), InterfaceChange::Appeared(renamed.clone())]);
        table.apply(Change::InterfaceGone(3));
        table.apply(Change::InterfaceGone(3));
        assert_eq!(changes(&mut table), [InterfaceChange::Vanished(renamed)]);
        assert_eq!(table.interfaces(), []);
    }
}
