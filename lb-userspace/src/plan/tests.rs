//! Plans, carried out step by step on simulated maps: after every step each packet must find whole things only.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    Address, BackendState, FlowEntry, FlowKey, FlowKind, NO_ID, NextHop, Slot, SlowStart, Tick, VipFlags, VipRecord,
    VipRoute,
};
use lb_ebpf::{
    hash::FlowHash,
    rules::tracking::{self, Backends, Decision, Seen, Write},
    wire::{TCP, TcpFlags, Transport},
};

use super::{
    fixtures::{SLOTS, backend, config, many, vip},
    maglev::WeightedBackend,
    *,
};
use crate::{
    model::{EchoReply, ForwardMode, IcmpRate, IdleTime, Slots, Target, Tracking},
    tracking::{
        Swept,
        rules::{self, Rules},
    },
};

impl Backends for State {
    fn is_down(&self, id: u32) -> bool {
        self.backends().get(&id).is_none_or(Entry::is_down)
    }

    fn takes_flows(&self, id: u32) -> bool {
        self.backends().get(&id).is_some_and(Entry::takes_flows)
    }
}

/// Simulated maps.
#[derive(Default)]
struct World {
    state: State,
    /// What has been written to slots.
    slots: BTreeMap<u32, Slot>,
    /// Those of the maps before, while new ones are filled.
    slots_before: Option<BTreeMap<u32, Slot>>,
    now: Tick,
    /// Connections of clients.
    flows: Vec<Flow>,
    /// Backends that were down when the last sweep began.
    downs: BTreeSet<u32>,
    /// The config that they hold.
    in_force: Option<InForce>,
}

/// A connection, and what the flow table knows of it.
#[derive(Clone)]
struct Flow {
    vip: String,
    client: u32,
    /// Of the VIP when it began, and slots of the table: others lead it elsewhere, or nowhere.
    address: Address,
    slots: u32,
    server: Address,
    /// Its entries: of the stream that its SYN opened, and of what is kept.
    entries: [FlowEntry; 2],
}

impl World {
    fn new(capacity: Capacity) -> Self {
        Self { state: State::empty(capacity, Features::default()), ..Self::default() }
    }

    /// Plans, carries out, checks; returns the changes.
    fn apply(&mut self, config: &Config) -> Vec<String> {
        let plan = self.plan_of_all(config);
        for in_force in [None, self.in_force.as_ref()] {
            let scoped = Plan::new(&self.state, config, &NextHops::new(), in_force);
            assert_eq!(scoped, plan, "what has not changed is passed over, and nothing else");
        }
        let before = self.identities();
        if let Some(capacity) = plan.rebuild() {
            *self = Self {
                state: State::empty(capacity, self.state.features),
                slots: BTreeMap::new(),
                slots_before: Some(std::mem::take(&mut self.slots)),
                in_force: self.in_force.take(),
                now: self.now,
                flows: std::mem::take(&mut self.flows),
                downs: std::mem::take(&mut self.downs),
            };
        }
        for step in plan.steps() {
            self.step(step);
            self.assert_sound();
            if plan.rebuild().is_none() {
                self.traffic();
            }
        }
        self.slots_before = None;
        self.traffic();
        self.state.features = plan.features().unwrap_or(self.state.features);
        self.state.icmp_rate = plan.icmp_rate().unwrap_or(self.state.icmp_rate);
        self.assert_holds(config);
        for (identity, id) in self.identities() {
            assert!(before.get(&identity).is_none_or(|before| *before == id), "{identity} changed its id");
        }
        let again = self.plan_of_all(config);
        assert!(again.is_empty(), "{again:?}");
        self.in_force = Some(InForce::by(&plan, config.clone()));
        plan.changes().iter().map(ToString::to_string).collect()
    }

    /// A plan that passes nothing over.
    fn plan_of_all(&self, config: &Config) -> Plan {
        Plan::within(&Scope::all(config), &self.state, config, &NextHops::new(), Totals::of(config))
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::PutBackend { id, fresh, .. } => assert_ne!(*fresh, self.state.backends().contains_key(id)),
            Step::PutVip { id, fresh, .. } => assert_ne!(*fresh, self.state.vips().contains_key(id)),
            Step::PutTable { base, slots, owners, flows } => {
                for (offset, owner) in (0..).zip(refill::table(owners, *slots)) {
                    let owner = owners.get(owner as usize).map_or(NO_ID, |owner| owner.id);
                    let slot = match flows {
                        Some(Continuation { base, successors }) => self.slots_before.as_ref().unwrap_or(&self.slots)
                            [&(base + offset)]
                            .renamed(|id| successors.get(&id).copied().unwrap_or(id))
                            .given_to(owner, self.now),
                        None => Slot::settled(owner),
                    };
                    self.slots.insert(base + offset, slot);
                }
            }
            Step::FreeVip { .. }
            | Step::FreeBackend { .. }
            | Step::PutKey { .. }
            | Step::RemoveKey { .. }
            | Step::Grace => {}
        }
        self.state.record(step);
    }

    /// Whatever key a packet finds leads to written slots of that VIP's backends; an address is a VIP's while something
    /// is served on it.
    fn assert_sound(&self) {
        for (key, route) in self.state.keys() {
            if key.is_marker() {
                let is_for = |other: &VipKey| [other.marker(), VipKey::echo(other.address)].contains(key);
                assert!(self.state.keys().keys().any(|other| !other.is_marker() && is_for(other)));
                continue;
            }
            assert!(self.state.vips().contains_key(&route.id), "{key:?} leads to a VIP that is not there");
            assert!(route.slot_base + route.slots <= self.state.capacity.slots);
            for index in route.slot_base..route.slot_base + route.slots {
                let slot = self.slots.get(&index).expect("a slot that was never written");
                for id in [slot.current(), slot.settled_owner()] {
                    let owner = self.state.backends().get(&id).map(|entry| entry.vip);
                    assert!(
                        id == NO_ID || owner == Some(route.id),
                        "{key:?}: slot {index} names backend {id} of {owner:?}"
                    );
                }
            }
        }
    }

    /// The maps hold `config` and nothing else but what was removed and has flows.
    fn assert_holds(&self, config: &Config) {
        let removed = (self.state.removed_vips().count(), self.state.removed_backends().count());
        assert_eq!(self.state.vips().len() - removed.0, config.vips.len());
        let backends: usize = config.vips.iter().map(|vip| vip.backends.len()).sum();
        assert_eq!(self.state.backends().len() - removed.1, backends);
        let mut markers: BTreeSet<VipKey> = config.vips.iter().flat_map(|vip| keys(vip)).map(VipKey::marker).collect();
        markers.extend(config.vips.iter().filter(|vip| vip.answers_echo()).map(|vip| VipKey::echo(vip.address)));
        assert!(markers.iter().all(|marker| self.state.keys().get(marker) == Some(&VipRoute::default())));
        let ports: usize = config.vips.iter().map(|vip| vip.ports.len()).sum();
        assert_eq!(self.state.keys().len(), markers.len() + ports);
        for vip in &config.vips {
            let (id, record) = self.vip(&vip.name);
            let owners = vip.backends.iter().map(|own| Owner {
                backend: WeightedBackend { key: own.address.into(), weight: own.weight },
                id: NO_ID,
                eighths: if own.state == BackendState::Active {
                    own.slow_start.map_or(SlowStart::WHOLE, SlowStart::eighths)
                } else {
                    0
                },
            });
            let owners: Vec<_> = owners.collect();
            let table = refill::table(&owners, vip.settings.slots.get());
            for (index, owner) in (record.slot_base..).zip(table) {
                let entry = self.state.backends().get(&self.slots[&index].current());
                let expected = owners.get(owner as usize).map(|owner| (id, owner.backend.key));
                assert_eq!(entry.map(|entry| (entry.vip, entry.address)), expected);
            }
            for key in keys(vip) {
                let route = self.state.keys()[&key];
                assert_eq!((route.id, route.slot_base, route.slots), (id, record.slot_base, vip.settings.slots.get()));
            }
        }
    }

    /// Every connection sends a packet, which must get where the connection began; those that have lost their server,
    /// or their VIP, end.
    fn traffic(&mut self) {
        let mut flows = std::mem::take(&mut self.flows);
        flows.retain_mut(|flow| {
            let Some((record, slot)) = self.slot_of(flow) else { return false };
            let id = self.send(flow, &record, slot, TcpFlags::ACK);
            let is_lost = |(_, entry): (&u32, &Entry)| {
                entry.is_down() && self.state.vips().get(&entry.vip) == Some(&record) && entry.address == flow.server
            };
            if self.state.backends().iter().any(is_lost) {
                return false;
            }
            assert_eq!(self.state.backends()[&id].address, flow.server, "{slot:?} {:?}", flow.entries);
            true
        });
        self.flows = flows;
    }

    /// Opens connections to every VIP, and ends every third of those that there are.
    fn open_flows(&mut self, random: &mut Random) {
        self.flows.retain(|_| random.below(3) > 0);
        let names: Vec<String> = self.state.vips().values().map(|record| record.name.as_str().to_owned()).collect();
        for vip in names.into_iter().cycle().take(60) {
            let record = self.vip(&vip).1;
            let (address, slots, client) = (record.address, record.slots, random.below(1 << 32) as u32);
            let mut flow =
                Flow { vip, client, address, slots, server: Address::default(), entries: Default::default() };
            let Some((record, slot)) = self.slot_of(&flow) else { continue };
            let id = self.send(&mut flow, &record, slot, TcpFlags::SYN);
            if let Some(backend) = self.state.backends().get(&id) {
                flow.server = backend.address;
                self.flows.push(flow);
            }
        }
    }

    /// The idle time passes, during which every connection sends something; then a sweep, by the sweeper's own rules.
    fn sweep(&mut self) {
        let half = rules::ticks(IdleTime::TCP.seconds()).div_ceil(2);
        self.now = Tick(self.now.0.wrapping_add(half));
        self.traffic();
        self.now = Tick(self.now.0.wrapping_add(half));

        let downs = self.state.backends().iter().filter(|(_, entry)| entry.is_down()).map(|(id, _)| *id);
        let downs: BTreeSet<u32> = downs.collect();
        let before = std::mem::replace(&mut self.downs, downs);
        let is_removed = |id: &u32| self.state.backends().get(id).is_some_and(Entry::is_removed);
        let given_up = self.downs.iter().copied().filter(|id| is_removed(id) || before.contains(id));
        let given_up: BTreeSet<u32> = given_up.collect();

        let swept = self.walk(&given_up);
        self.free(&swept);
        self.settle(&swept, &given_up);
        self.assert_sound();
    }

    /// What a sweep finds, and does to entries.
    fn walk(&mut self, given_up: &BTreeSet<u32>) -> Swept {
        let rules = Rules::new(&self.state, |id| given_up.contains(&id), |_| false, |_| true, false, self.now);
        let mut swept = Swept::new(1, 1, self.state.capacity.slots, rules.backends(), rules.vips());
        let mut flows = std::mem::take(&mut self.flows);
        for flow in &mut flows {
            let Some(key) = self.key_of(flow) else { continue };
            for index in 0..2 {
                let entry = flow.entries[index];
                if !entry.is_some() {
                    continue;
                }
                assert_eq!(rules.slot(&key), self.index_of(flow), "the sweeper and the data plane look elsewhere");
                let kept = rules.entry_after(entry, self.now);
                flow.entries[index] = kept.unwrap_or_default();
                if let Some(kept) = kept {
                    rules.note(kept, || key, |index| self.slots.get(&index).copied(), &mut swept);
                }
            }
        }
        self.flows = flows;
        swept
    }

    fn free(&mut self, swept: &Swept) {
        let holds = |base, id| {
            let Some(record) = self.state.vips().values().find(|record| record.slot_base == base) else { return false };
            let mut slots = (base..base + record.slots).map(|index| self.slots[&index]);
            slots.any(|slot| slot.is_moving() && !slot.is_settling() && slot.settled_owner() == id)
        };
        let (vips, backends) = rules::freeable(&self.state, swept, holds);
        let is_served = |id: &u32| self.state.keys().values().any(|route| route.id == *id);
        assert!(!vips.iter().any(is_served));
        for step in self.state.frees(&vips, &backends) {
            self.step(&step);
        }
    }

    fn settle(&mut self, swept: &Swept, given_up: &BTreeSet<u32>) {
        let idle = rules::idle_times(&self.state);
        for (id, record) in self.state.served_vips() {
            for index in record.slot_base..record.slot_base + record.slots {
                let Some(slot) = self.slots.get_mut(&index).filter(|slot| slot.is_moving()) else { continue };
                let given_up = !slot.is_settling() && given_up.contains(&slot.settled_owner());
                *slot = rules::after_sweep(*slot, swept.is_pinned(index), self.now, idle[&id], u16::MAX, given_up);
            }
        }
    }

    /// As the `flow` stage does it; returns the id of the backend that the packet goes to.
    fn send(&self, flow: &mut Flow, record: &VipRecord, slot: Slot, flags: TcpFlags) -> u32 {
        let always = record.flags.contains(VipFlags::TRACK_ALWAYS);
        if !slot.is_moving() && !always {
            return slot.current();
        }
        let transport = Transport::segment(0, flags, 1, 0);
        let [opened, kept] = flow.entries;
        let seen = Seen { opened, kept };
        let Decision { entry, write, .. } = tracking::decide(&seen, slot, &transport, self.now, always, &self.state);
        if write != Write::Nothing {
            flow.entries[usize::from(entry.kind() != FlowKind::Opened)] = entry;
        }
        entry.backend()
    }

    /// The record of a flow's VIP and its slot; `None` where its packets do not get there any more.
    fn slot_of(&self, flow: &Flow) -> Option<(VipRecord, Slot)> {
        let index = self.index_of(flow)?;
        let (_, record) = self.vip(&flow.vip);
        Some((record, self.slots[&index]))
    }

    /// Where the data plane looks for its slot.
    fn index_of(&self, flow: &Flow) -> Option<u32> {
        let key = self.key_of(flow)?;
        let record = self.state.vips().get(&key.vip()).filter(|record| record.address == flow.address)?;
        let route = self.state.keys().values().find(|route| route.id == key.vip())?;
        let hash = match (key.source.v4(), flow.address.v4()) {
            (Some(source), Some(destination)) => {
                FlowHash::v4(self.state.seed.key(), source, destination, key.ports, TCP)
            }
            _ => FlowHash::v6(self.state.seed.key(), key.source, flow.address, key.ports, TCP),
        };
        (record.slots == flow.slots && route.slots == flow.slots).then(|| route.slot_base + hash.slot(flow.slots))
    }

    /// Its key in the flow table.
    fn key_of(&self, flow: &Flow) -> Option<FlowKey> {
        let (id, _) = self.state.vips().iter().find(|(_, record)| record.name.as_str() == flow.vip)?;
        let source = match flow.address.v4() {
            Some(_) => IpAddr::from(flow.client.to_be_bytes()),
            None => IpAddr::from(std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(flow.client))),
        };
        Some(FlowKey::new(source.into(), 0x5000_9c40, *id, TCP))
    }

    /// A plan for `config` gives these backends, and no others, new ids that continue their counts.
    fn assert_successors(&self, config: &Config, old: &[u32]) {
        let plan = Plan::new(&self.state, config, &NextHops::new(), None);
        let successors = plan.steps().iter().filter_map(|step| match step {
            Step::PutBackend { id, entry, .. } if entry.is_removed() => Some((*id, entry.successor)),
            _ => None,
        });
        let (removed, successors): (Vec<u32>, Vec<u32>) = successors.unzip();
        assert_eq!(removed, old);
        assert!(successors.iter().all(|successor| !self.state.backends().contains_key(successor)), "{successors:?}");
    }

    fn slots_in_use(&self) -> impl Iterator<Item = Slot> {
        let tables = self.state.vips().values().map(|record| record.slot_base..record.slot_base + record.slots);
        tables.flatten().map(|index| self.slots[&index])
    }

    fn vip(&self, name: &str) -> (u32, VipRecord) {
        let found = self.state.vips().iter().find(|(_, record)| record.name.as_str() == name);
        found.map(|(id, record)| (*id, *record)).unwrap_or_else(|| panic!("no VIP {name}"))
    }

    /// Everything that keeps its id as long as it stays: names of VIPs, constant parts of backends.
    fn identities(&self) -> BTreeMap<String, u32> {
        let name = |id: u32| self.state.vips()[&id].name.as_str();
        let vips = self.state.vips().keys().map(|id| (name(*id).to_owned(), *id));
        let backend = |entry: &Entry| {
            let Entry { address, outer_source, outer_sum, forward, .. } = *entry;
            format!("{} {address:?} {outer_source:?} {outer_sum} {forward}", name(entry.vip))
        };
        vips.chain(self.state.backends().iter().map(|(id, entry)| (backend(entry), *id))).collect()
    }
}

fn roomy() -> World {
    World::new(Capacity { vips: 64, keys4: 64, keys6: 64, backends: 64, slots: 64 * SLOTS, moves: 0, flows: flows() })
}

/// As many as tables for a config that does not say have room for.
fn flows() -> u32 {
    Capacity::flows(&Config::default().node)
}

fn web() -> Config {
    config([
        vip("web", "203.0.113.10", &["tcp/80", "tcp/443"], &["10.0.1.11", "10.0.1.12"]),
        vip("dns", "2001:db8::53", &["udp/any"], &["10.0.1.11"]),
    ])
}

#[test]
fn a_first_load_goes_in_bottom_up() {
    let mut world = roomy();
    let changes = world.apply(&web());
    assert_eq!(
        changes,
        ["vip web: added, 203.0.113.10 tcp/80 tcp/443, 2 backends", "vip dns: added, 2001:db8::53 udp/any, 1 backend",]
    );
    assert_eq!(world.state.features, required_features(&web()));
    assert_eq!(world.state.features_in_use(), required_features(&web()));
}

#[test]
fn every_kind_of_change_is_told_in_words() {
    let mut world = roomy();
    let mut config = web();
    world.apply(&config);
    config.vip_mut(0).backends[1].weight = 50;
    config.vip_mut(0).backends[0].state = BackendState::Drain;
    config.vip_mut(0).backends.push(backend("10.0.1.13", 7));
    config.vip_mut(1).backends.clear();
    assert_eq!(
        world.apply(&config),
        [
            "vip web: backend 10.0.1.11 state active → drain",
            "vip web: backend 10.0.1.12 weight 100 → 50",
            "vip web: backend 10.0.1.13 added, weight 7, active",
            "vip dns: backend 10.0.1.11 removed",
        ]
    );
    let web = config.vip_mut(0);
    web.forward = ForwardMode::L2;
    web.settings.hash = crate::model::FlowHash::SourceIp;
    web.ports.remove(0);
    web.settings.slots = Slots::new(211);
    web.address = "203.0.113.11".parse().unwrap();
    config.vips.truncate(1);
    config.node.log_packets = true;
    config.node.icmp_rate = IcmpRate::new(0).unwrap();
    assert_eq!(
        world.apply(&config),
        [
            "node: log_packets false → true",
            "node: icmp_rate 1000 → 0",
            "vip web: address 203.0.113.10 → 203.0.113.11",
            "vip web: ports tcp/80 tcp/443 → tcp/443",
            "vip web: hash 5-tuple → source-ip",
            "vip web: slots 101 → 211",
            "vip web: forward ipip → l2",
            "vip dns: removed, 2001:db8::53",
        ]
    );
}

/// What a plan does to markers of echo requests: `+` and `-` with the address.
fn echo_steps(plan: &Plan) -> Vec<String> {
    let is_echo = |key: &VipKey| *key == VipKey::echo(key.address);
    let told = |step: &Step| match step {
        Step::PutKey { key, .. } if is_echo(key) => Some(format!("+{}", key.address)),
        Step::RemoveKey { key } if is_echo(key) => Some(format!("-{}", key.address)),
        _ => None,
    };
    plan.steps().iter().filter_map(told).collect()
}

#[test]
fn an_address_answers_echo_requests_while_any_of_its_vips_says_so() {
    let echo = |config: &mut Config, vips: [EchoReply; 3]| {
        (0..).zip(vips).for_each(|(vip, echo)| config.vip_mut(vip).settings.echo = echo);
    };
    let mut world = roomy();
    let mut config = config([
        vip("a", "192.0.2.1", &["tcp/80"], &["10.0.0.1"]),
        vip("b", "192.0.2.1", &["tcp/81", "udp/81"], &["10.0.0.2"]),
        vip("c", "2001:db8::1", &["udp/53"], &["10.0.0.2"]),
    ]);
    use EchoReply::{Always, Never, Ready};
    for (vips, expected) in [
        ([Always, Always, Ready], vec!["+192.0.2.1", "+2001:db8::1"]),
        ([Always, Never, Ready], vec![]),
        ([Never, Never, Ready], vec!["-192.0.2.1"]),
        ([Never, Ready, Never], vec!["-2001:db8::1", "+192.0.2.1"]),
        ([Ready, Never, Never], vec![]),
        ([Never, Never, Never], vec!["-192.0.2.1"]),
        ([Never, Never, Always], vec!["+2001:db8::1"]),
    ] {
        echo(&mut config, vips);
        let plan = Plan::new(&world.state, &config, &NextHops::new(), world.in_force.as_ref());
        let mut steps = echo_steps(&plan);
        steps.sort_unstable_by_key(|step| expected.iter().position(|expected| step == expected));
        assert_eq!(steps, expected, "{vips:?}");
        world.apply(&config);
        let is_used = vips != [Never; 3];
        assert!(world.state.features.contains(Features::ECHO), "the stack is not to answer either");
        assert_eq!(world.state.features_in_use().contains(Features::ECHO), is_used);
    }
    // The VIP goes that had it answer, or goes elsewhere.
    echo(&mut config, [Always, Never, Always]);
    world.apply(&config);
    let moved = config.vip_mut(2);
    moved.address = "2001:db8::2".parse().unwrap();
    config.vips.remove(0);
    let plan = Plan::new(&world.state, &config, &NextHops::new(), world.in_force.as_ref());
    assert_eq!(echo_steps(&plan), ["+2001:db8::2", "-192.0.2.1", "-2001:db8::1"]);
    world.apply(&config);
}

#[test]
fn who_answers_while_ready_follows_the_probes_at_the_cost_of_one_key() {
    let mut world = roomy();
    let mut config = many(9, 2, SLOTS);
    for vip in 0..9 {
        config.vip_mut(vip).settings.echo = EchoReply::Ready;
        config.vip_mut(vip).health = Some(crate::model::Health::new(crate::model::Check::Tcp).into());
    }
    world.apply(&config);
    assert_eq!(world.state.keys().keys().filter(|key| **key == VipKey::echo(key.address)).count(), 9);
    for (fails, expected) in
        [([true, false], vec![]), ([true, true], vec!["-198.18.0.4"]), ([false; 2], vec!["+198.18.0.4"])]
    {
        for (own, fails) in config.vip_mut(4).backends.iter_mut().zip(fails) {
            own.fails = fails;
        }
        let plan = Plan::new(&world.state, &config, &NextHops::new(), world.in_force.as_ref());
        assert_eq!(echo_steps(&plan), expected);
        let others = plan.steps().iter().filter(|step| !matches!(step, Step::PutBackend { .. })).count();
        assert_eq!(others, expected.len(), "{plan:?}");
        assert_eq!(plan.features(), None, "it may come to answer again");
        world.apply(&config);
    }
}

/// Nobody has noted them: what a version left that knows none.
#[test]
fn a_daemon_that_starts_adds_the_markers_that_are_missing_and_removes_those_that_are_too_many() {
    let mut world = roomy();
    let mut config = web();
    world.apply(&config);
    let [web, dns] = [0, 1].map(|vip| VipKey::echo(config.vips[vip].address));
    world.state.record(&Step::RemoveKey { key: web });
    config.vip_mut(1).settings.echo = EchoReply::Never;
    let plan = Plan::new(&world.state, &config, &NextHops::new(), None);
    let expected = [Step::PutKey { key: web, route: VipRoute::default() }, Step::RemoveKey { key: dns }];
    assert_eq!(plan.steps(), expected);
}

#[test]
fn the_order_of_a_config_means_nothing() {
    let mut world = roomy();
    world.apply(&web());
    let mut reordered = web();
    reordered.vips.reverse();
    reordered.vip_mut(1).backends.reverse();
    reordered.vip_mut(1).ports.reverse();
    assert_eq!(world.apply(&reordered), Vec::<String>::new());
}

#[test]
fn only_the_table_of_the_vip_that_changed_is_written() {
    let mut world = roomy();
    let mut config = many(20, 2, SLOTS);
    world.apply(&config);
    config.vip_mut(7).backends[1].weight = 1;
    let plan = Plan::new(&world.state, &config, &NextHops::new(), None);
    assert!(matches!(plan.steps(), [Step::PutBackend { fresh: false, .. }, Step::PutTable { .. }]), "{plan:?}");
}

#[test]
fn a_backend_that_takes_no_flows_gives_away_its_own_slots_alone_and_gets_them_back() {
    let mut world = roomy();
    let mut config = many(1, 10, SLOTS);
    world.apply(&config);
    let owners = |world: &World| world.slots.values().map(|slot| slot.current()).collect::<Vec<_>>();
    let all = owners(&world);
    let id = all[0];
    let place =
        config.vips[0].backends.iter().position(|own| world.state.backends()[&id].address == own.address.into());
    for state in [BackendState::Drain, BackendState::Down] {
        config.vip_mut(0).backends[place.unwrap()].state = state;
        world.apply(&config);
        let others = owners(&world);
        assert!(all.iter().zip(&others).all(|(before, after)| (before == after) == (*before != id)), "{others:?}");
        config.vip_mut(0).backends[place.unwrap()].state = BackendState::Active;
        world.apply(&config);
        assert_eq!(owners(&world), all);
    }
}

/// In parts, and with connections that go on: each step gives it slots that it keeps, and no other slot moves.
#[test]
fn a_backend_gets_its_slots_back_in_parts() {
    let mut world = roomy();
    let mut config = many(1, 5, SLOTS);
    world.apply(&config);
    let mut random = Random(7);
    let owners = |world: &World| world.slots.values().map(|slot| slot.current()).collect::<Vec<_>>();
    let all = owners(&world);
    let own = world
        .state
        .backends_of(world.vip(&config.vips[0].name).0)
        .find(|(_, entry)| entry.address == config.vips[0].backends[2].address.into());
    let own = own.unwrap().0;
    config.vip_mut(0).backends[2].state = BackendState::Down;
    world.apply(&config);
    world.open_flows(&mut random);
    let mut before = owners(&world);
    config.vip_mut(0).backends[2].state = BackendState::Active;
    let mut slow = Some(SlowStart::new(0));
    for now in [0, 10, 20, 30] {
        slow = slow.and_then(|slow| slow.at(now, 30));
        config.vip_mut(0).backends[2].slow_start = slow;
        let record = |world: &World| world.vip(&config.vips[0].name).1;
        world.apply(&config);
        assert_eq!(record(&world).flags.contains(VipFlags::SLOW_START), slow.is_some());
        let flags = world.state.keys().values().fold(VipFlags::default(), |all, route| all.with(route.flags));
        assert!(!flags.contains(VipFlags::SLOW_START), "packets need not know");
        let after = owners(&world);
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || *after == own));
        assert_ne!(before, after);
        before = after;
        world.traffic();
        world.open_flows(&mut random);
        // A daemon that reads the maps finds it as it is.
        assert!(Plan::new(&world.state, &config, &NextHops::new(), None).steps().is_empty());
    }
    assert_eq!(before, all);
}

/// A version that knows no parts makes a table of its own.
#[test]
fn a_table_with_parts_is_not_taken_for_a_whole_one() {
    let mut world = roomy();
    let mut config = many(1, 5, SLOTS);
    config.vip_mut(0).backends[2].slow_start = Some(SlowStart::new(0));
    world.apply(&config);
    config.vip_mut(0).backends[2].slow_start = None;
    let (id, _) = world.vip(&config.vips[0].name);
    // What that version reads of the backends.
    let read: Vec<_> = world.state.backends().iter().map(|(id, entry)| (*id, *entry)).collect();
    for (backend, entry) in read {
        world.state.put_backend(backend, Entry { slow_start: None, ..entry });
    }
    let plan = Plan::new(&world.state, &config, &NextHops::new(), None);
    assert!(plan.steps().iter().any(|step| matches!(step, Step::PutTable { flows: Some(_), .. })), "{plan:?} {id}");
}

#[test]
fn a_table_of_a_version_that_kept_no_places_is_computed_anew() {
    let mut world = roomy();
    let config = many(2, 2, SLOTS);
    world.apply(&config);
    let (id, record) = world.vip(&config.vips[0].name);
    let record = VipRecord { flags: record.flags.without(VipFlags::KEEPS_PLACES), ..record };
    world.state.put_vip(id, record);
    let plan = Plan::new(&world.state, &config, &NextHops::new(), None);
    let is_table = |step: &&Step| matches!(step, Step::PutTable { flows: Some(_), .. });
    assert_eq!(plan.steps().iter().filter(is_table).count(), 1, "{plan:?}");
    assert!(plan.changes().is_empty(), "{plan:?}");
}

#[test]
fn a_backend_without_weight_comes_and_goes_without_touching_slots() {
    let mut world = roomy();
    let mut config = web();
    world.apply(&config);
    config.vip_mut(0).backends.push(backend("10.0.1.14", 0));
    let plan = Plan::new(&world.state, &config, &NextHops::new(), None);
    assert!(matches!(plan.steps(), [Step::PutBackend { fresh: true, .. }]), "{plan:?}");
}

#[test]
fn a_renamed_vip_is_replaced_without_a_gap() {
    let mut world = roomy();
    let mut config = web();
    world.apply(&config);
    config.vip_mut(0).name = "www".to_owned();
    let plan = Plan::new(&world.state, &config, &NextHops::new(), None);
    assert!(!plan.steps().iter().any(|step| matches!(step, Step::RemoveKey { .. })));
    world.apply(&config);
}

#[test]
fn another_outer_source_makes_another_entry_that_continues_the_counts() {
    let mut world = roomy();
    let mut config = web();
    world.apply(&config);
    config.node.encap_source4 = "172.31.0.0/24".parse().unwrap();
    world.assert_successors(&config, &[1, 2, 3]);
    assert_eq!(world.apply(&config), ["node: encap_source4 172.16.0.0/16 → 172.31.0.0/24"]);
}

#[test]
fn another_way_of_forwarding_makes_another_entry_that_continues_the_counts() {
    let mut world = roomy();
    let mut config = web();
    world.apply(&config);
    let (ipip, l2) = (NextHop::new([2; 6], [4; 6], 1, 1500, 0), NextHop::new([2; 6], [6; 6], 2, 1500, 0));
    for (id, entry) in world.state.backends().clone() {
        world.state.put_backend(id, Entry { next_hop: Some(ipip), ..entry });
    }
    config.vip_mut(0).forward = ForwardMode::L2;
    world.assert_successors(&config, &[1, 2]);
    // The way to it through a tunnel says nothing of the way to it on the link.
    let address = "10.0.1.11".parse().unwrap();
    let known = Target { address, on_link: true, via: Default::default(), mac: None, mtu: None };
    let plan = Plan::new(&world.state, &config, &NextHops::from([(known, l2)]), None);
    let next_hops = plan.steps().iter().filter_map(|step| match step {
        Step::PutBackend { entry, .. } if !entry.is_removed() => Some(entry.next_hop),
        _ => None,
    });
    assert_eq!(next_hops.collect::<Vec<_>>(), [Some(l2), None]);
    assert_eq!(world.apply(&config), ["vip web: forward ipip → l2"]);
    config.vip_mut(0).forward = ForwardMode::Ipip;
    assert_eq!(world.apply(&config), ["vip web: forward l2 → ipip"]);
}

/// The way with another MTU is put in use with it, if it is known; else the one before serves, with no more than that.
#[test]
fn another_mtu_is_another_next_hop_of_the_same_entry() {
    let mut world = roomy();
    let mut config = web();
    world.apply(&config);
    let hop = |mtu| NextHop::new([2; 6], [4; 6], 1, mtu, 0);
    for (id, entry) in world.state.backends().clone() {
        world.state.put_backend(id, Entry { next_hop: Some(hop(1500)), ..entry });
    }
    config.vip_mut(0).settings.mtu = "1400".parse().unwrap();
    config.vip_mut(0).backends[1].mtu = Some("1300".parse().unwrap());
    let targets: Vec<_> = Target::all(&config).collect();
    let known = NextHops::from([(targets[0], hop(1380))]);
    let plan = Plan::new(&world.state, &config, &known, world.in_force.as_ref());
    let mtus = |plan: &Plan| -> Vec<_> {
        let put = plan.steps().iter().map(|step| match step {
            Step::PutBackend { id, entry, fresh: false } => (*id, entry.mtu, entry.next_hop.unwrap().mtu),
            _ => panic!("{step:?}"),
        });
        put.collect()
    };
    assert_eq!(mtus(&plan), [(1, 1400, 1380), (2, 1300, 1300)]);
    assert!(plan.changes().is_empty(), "the config tells it");
    plan.steps().iter().for_each(|step| world.state.record(step));
    assert_eq!(world.state.targets().collect::<Vec<_>>(), targets, "a daemon that starts follows the same ways");
    assert!(Plan::new(&world.state, &config, &NextHops::new(), None).is_empty());
    // The way before serves until the wider one is known.
    config.vip_mut(0).settings.mtu = crate::model::WayMtu::NONE;
    assert_eq!(mtus(&Plan::new(&world.state, &config, &NextHops::new(), None)), [(1, 0, 1380)]);
}

#[test]
fn what_a_plan_frees_it_does_not_hand_out() {
    let full = |names: &[&str]| config(names.iter().map(|name| vip(name, "192.0.2.1", &["tcp/80"], &["10.0.0.1"])));
    let mut world =
        World::new(Capacity { vips: 2, keys4: 3, keys6: 3, backends: 2, slots: SLOTS, moves: 0, flows: flows() });
    world.apply(&full(&["a"]));
    let plan = Plan::new(&world.state, &full(&["b"]), &NextHops::new(), None);
    assert!(plan.rebuild().is_some(), "there is no room for both at once");
    world.apply(&full(&["b"]));
}

#[test]
fn a_gap_that_is_too_short_is_closed_by_a_rebuild_of_the_same_size() {
    let at = |name: &str, port: &str, slots| {
        let mut vip = vip(name, "192.0.2.1", &[port], &["10.0.0.1"]);
        vip.settings.slots = Slots::new(slots);
        vip
    };
    let node = &Config::default().node;
    let capacity = Capacity::with_headroom(Capacity::default(), node).with_flows_of(node);
    let third = capacity.slots / 3;
    // The state alone: what is in hundreds of thousands of slots does not matter here.
    let mut state = State::empty(capacity, Features::default());
    let mut apply = |config: &Config| {
        let plan = Plan::new(&state, config, &NextHops::new(), None);
        plan.steps().iter().for_each(|step| state.record(step));
        // Nothing has flows.
        let vips: Vec<u32> = state.removed_vips().map(|(id, _)| id).collect();
        let backends: Vec<u32> = state.removed_backends().map(|(id, _)| id).collect();
        state.frees(&vips, &backends).iter().for_each(|step| state.record(step));
        plan.rebuild()
    };
    let full = config([at("a", "tcp/1", third), at("b", "tcp/2", third), at("c", "tcp/3", third)]);
    assert_eq!(apply(&full), None);
    assert_eq!(apply(&config([at("b", "tcp/2", third)])), None);
    assert_eq!(apply(&config([at("b", "tcp/2", third), at("d", "tcp/4", third + 1000)])), Some(capacity));
}

#[test]
fn maps_in_doubt_are_replaced_with_the_same_ids() {
    let mut world = roomy();
    world.apply(&many(5, 3, SLOTS));
    world.state.suspect = true;
    let mut config = many(5, 3, SLOTS);
    config.vips.remove(0);
    assert_eq!(world.apply(&config), ["vip vip0: removed, 198.18.0.0"]);
    assert!(!world.state.suspect);
}

/// Configs that drift at random, in maps that are tight at first.
#[test]
fn no_walk_through_configs_shows_a_packet_half_a_change() {
    for seed in 1..=40 {
        let mut random = Random(seed);
        let mut world =
            World::new(Capacity { vips: 6, keys4: 10, keys6: 10, backends: 20, slots: 700, moves: 0, flows: flows() });
        for _ in 0..12 {
            world.apply(&random.config());
        }
    }
}

/// What is removed stays while it has flows, and then goes; it comes back with the ids that it had.
#[test]
fn no_walk_through_configs_breaks_a_connection() {
    let mut followed = 0;
    for seed in 1..=60 {
        let mut random = Random(seed);
        let mut world =
            World::new(Capacity { vips: 6, keys4: 10, keys6: 10, backends: 20, slots: 700, moves: 0, flows: flows() });
        for _ in 0..12 {
            world.apply(&random.config());
            world.open_flows(&mut random);
            if random.below(3) == 0 {
                world.sweep();
            }
            followed += world.flows.len();
        }
        world.flows.clear();
        for _ in 0..5 {
            world.sweep();
        }
        assert!(world.slots_in_use().all(|slot| !slot.is_moving()), "a slot moves although no connection is left");
        assert_eq!((world.state.removed_vips().count(), world.state.removed_backends().count()), (0, 0));
    }
    assert!(followed > 10_000, "only {followed} connections were followed");
}

/// Marsaglia's xorshift: the walks are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    fn config(&mut self) -> Config {
        let mut config = Config::default();
        config.node.encap_source4 = self.pick(&["172.16.0.0/16", "172.31.0.0/16"]).parse().unwrap();
        for (number, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            if self.below(3) == 0 {
                continue;
            }
            // Ports that no other VIP has, on addresses that others have too.
            let first = 100 * number as u64;
            let ports = [first + 1 + self.below(3), first + 10 + self.below(3)].map(|port| format!("tcp/{port}"));
            let ports: Vec<&str> = ports.iter().take(1 + self.below(2) as usize).map(String::as_str).collect();
            let mut vip = vip(name, self.pick(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]), &ports, &[]);
            vip.settings.slots = Slots::new(self.pick(&[53, 101, 101, 101]));
            vip.forward = self.pick(&[ForwardMode::Ipip, ForwardMode::Ipip, ForwardMode::L2]);
            vip.settings.echo = self.pick(&[EchoReply::Always, EchoReply::Ready, EchoReply::Never]);
            vip.settings.tracking = self.pick(&[Tracking::Adaptive, Tracking::Adaptive, Tracking::Always]);
            for address in ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8:1::1", "2001:db8:1::2"] {
                if self.below(2) == 0 {
                    let mut backend = backend(address, self.pick(&[0, 1, 50, 100]));
                    use BackendState::{Active, Down, Drain};
                    backend.state = self.pick(&[Active, Active, Active, Active, Active, Drain, Drain, Down]);
                    vip.backends.push(backend);
                }
            }
            config.vips.push(vip.into());
        }
        config
    }
}
