//! A config with ids: what stays is found in the state, what is new gets something free.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::{Address, Backend, BackendState, Be32, MacPin, NO_ID, NextHop, VipFlags, VipRecord, VipRoute};

use super::{
    Continuation, Entry, Owner, State, Step, VipKey,
    allocate::{KeptIds, Pools},
    maglev::WeightedBackend,
    record::record,
    state::target_of,
};
use crate::{
    cpus,
    model::{self, Config, Difference, Node, Protocol, Target},
};

/// The next hops that are known.
pub type NextHops = hashbrown::HashMap<Target, NextHop>;

/// What of a config and of a state a plan looks at: everything, or what can differ.
pub(super) struct Scope<'a> {
    /// VIPs of the config.
    pub(super) vips: Vec<&'a model::Vip>,
    /// Ids of the VIPs of the state; `None` for all.
    ids: Option<HashSet<u32>>,
}

/// A config within a scope, with ids.
pub(super) struct Wanted<'a> {
    pub(super) node: &'a Node,
    pub(super) vips: Vec<WantedVip<'a>>,
    /// VIPs that the config does not have, while flows of theirs may be in the tables.
    pub(super) leaving: Vec<LeavingVip>,
    /// All VIPs, those out of the scope included.
    all: &'a Config,
}

/// A VIP as the config wants it.
pub(super) struct WantedVip<'a> {
    pub(super) config: &'a model::Vip,
    pub(super) id: u32,
    /// What is there under its name.
    pub(super) known: Option<&'a VipRecord>,
    pub(super) record: VipRecord,
    pub(super) backends: Vec<WantedBackend<'a>>,
    /// Backends that the config does not have, while flows of theirs may go on: id and entry.
    pub(super) leaving: Vec<(u32, Entry)>,
}

/// A VIP that the config does not have.
pub(super) struct LeavingVip {
    pub(super) id: u32,
    pub(super) record: VipRecord,
    /// Id and entry.
    pub(super) backends: Vec<(u32, Entry)>,
}

/// A backend as the config wants it.
pub(super) struct WantedBackend<'a> {
    pub(super) config: &'a model::Backend,
    pub(super) id: u32,
    /// What is there of it, and the id that it has there: another one where its constant part changes.
    pub(super) known: Option<(u32, &'a Entry)>,
    pub(super) entry: Entry,
}

/// What of the state a plan looks up, in the shape that it looks it up in.
#[derive(Default)]
pub(super) struct Index<'a> {
    vips: HashMap<&'a str, (u32, &'a VipRecord)>,
    /// VIP id → its backends in the order of their addresses, and those of one address in that of their ids: there are
    /// several where a real server was reached in other ways before.
    by_address: HashMap<u32, Vec<(u32, &'a Entry)>>,
    /// VIP id → its backends in the order of their ids.
    members: HashMap<u32, Vec<(u32, &'a Entry)>>,
    /// VIP id → its keys in their order.
    keys: HashMap<u32, Vec<VipKey>>,
}

impl<'a> Scope<'a> {
    /// All of it.
    pub(super) fn all(config: &'a Config) -> Self {
        Self { vips: config.vips.iter().map(|vip| &**vip).collect(), ids: None }
    }

    /// What differs between `config` and the config that `state` holds. Where that is not known, or where something
    /// differs that concerns every VIP, each is compared with what is there.
    pub(super) fn new(state: &State, config: &'a Config, in_force: Option<&'a Config>) -> Self {
        let common = |node: &Node| (node.encap_source4, node.encap_source6, node.routing());
        let Some(before) = in_force.filter(|before| common(&before.node) == common(&config.node)) else {
            return Self::compared(state, config);
        };
        let Difference { gone, come } = before.difference(config);
        let ids = gone.iter().chain(&come).filter_map(|vip| state.vip_id(&vip.name)).collect();
        Self { vips: come.into_iter().map(|vip| &**vip).collect(), ids: Some(ids) }
    }

    /// All but the VIPs that `state` holds just as `config` wants them.
    fn compared(state: &State, config: &'a Config) -> Self {
        let ids = cpus::map(&config.vips, 256, |vip| held(state, vip, &config.node));
        let vips = config.vips.iter().zip(&ids).filter(|(_, id)| id.is_none()).map(|(vip, _)| &**vip).collect();
        let held: HashSet<u32> = ids.into_iter().flatten().collect();
        Self { vips, ids: Some(state.vips().keys().copied().filter(|id| !held.contains(id)).collect()) }
    }

    /// The VIPs of the state in the scope: id and record.
    fn vips_of<'s>(&self, state: &'s State) -> Vec<(u32, &'s VipRecord)> {
        match &self.ids {
            None => state.vips().iter().map(|(id, record)| (*id, record)).collect(),
            Some(ids) => ids.iter().filter_map(|id| Some((*id, state.vips().get(id)?))).collect(),
        }
    }
}

impl<'a> Wanted<'a> {
    /// `config` with the ids that `index` knows and others from `pools`; `None` where those run out.
    pub(super) fn assign(
        config: &'a Config,
        scope: &Scope<'a>,
        index: &Index<'a>,
        next_hops: &NextHops,
        mut pools: Pools<'_>,
    ) -> Option<Self> {
        let vips = scope.vips.iter().map(|vip| WantedVip::assign(vip, &config.node, index, next_hops, &mut pools));
        let vips = vips.collect::<Option<Vec<_>>>()?;
        let kept: HashSet<u32> = vips.iter().map(|vip| vip.id).collect();
        let leaving = index.vips().into_iter().filter(|(id, _)| !kept.contains(id));
        Some(Self {
            node: &config.node,
            leaving: leaving.map(|(id, record)| LeavingVip::new(id, record, index, pools.keep_tables)).collect(),
            vips,
            all: config,
        })
    }

    /// Those of `markers` that no VIP needs, those out of the scope included.
    pub(super) fn unneeded(&self, mut markers: BTreeSet<VipKey>) -> BTreeSet<VipKey> {
        if !markers.is_empty() {
            let addresses: BTreeSet<IpAddr> = markers.iter().map(|marker| marker.address).collect();
            let sharers = self.all.vips.iter().filter(|vip| addresses.contains(&vip.address));
            let needed = sharers.flat_map(|vip| self::markers(vip));
            needed.for_each(|marker| {
                markers.remove(&marker);
            });
        }
        markers
    }
}

impl<'a> WantedVip<'a> {
    fn assign(
        config: &'a model::Vip,
        node: &Node,
        index: &Index<'a>,
        next_hops: &NextHops,
        pools: &mut Pools<'_>,
    ) -> Option<Self> {
        let known = index.vips.get(config.name.as_str()).copied();
        let id = match known {
            Some((id, _)) => id,
            None => pools.vip()?,
        };
        let slot_base = match known {
            Some((_, record)) if pools.keep_tables && record.slots == config.settings.slots.get() => record.slot_base,
            _ => pools.table(config.settings.slots.get())?,
        };
        let record = record(config, node, slot_base)?;
        let backend = |backend: &'a model::Backend| {
            let mut entry = entry(id, config, backend, node);
            let known = known.and_then(|_| index.backend(&entry));
            let id = match known {
                Some((id, there)) if same_constants(&entry, there) => id,
                _ => pools.backend()?,
            };
            let way = || target_of(&entry, record.via).and_then(|target| next_hops.get(&target)).copied();
            entry.next_hop = match known {
                Some((_, there)) if there.forward != entry.forward => way(),
                // Where the way with this MTU is not known yet, the one before serves.
                Some((_, there)) if there.mtu != entry.mtu => way().or_else(|| limited(there.next_hop, entry.mtu)),
                Some((_, there)) => there.next_hop,
                None => way(),
            };
            Some(WantedBackend { config: backend, id, known, entry })
        };
        let backends = config.backends.iter().map(backend).collect::<Option<Vec<_>>>()?;
        let mut vip =
            Self { config, id, known: known.map(|(_, record)| record), record, backends, leaving: Vec::new() };
        if known.is_some() {
            vip.leaving = vip.leaving(index);
        }
        Some(vip)
    }

    /// What is there of this VIP and is not wanted.
    fn leaving(&self, index: &Index<'_>) -> Vec<(u32, Entry)> {
        let kept: HashSet<u32> = self.backends.iter().map(|own| own.id).collect();
        let successors: HashMap<Address, &WantedBackend<'_>> =
            self.backends.iter().map(|own| (own.entry.address, own)).collect();
        let gone = index.members(self.id).iter().filter(|(id, _)| !kept.contains(id));
        let (before, after) = (self.known.map(|record| record.drain_deadline), self.record.drain_deadline);
        let left = |(id, there): &(u32, &Entry)| {
            let entry = removed(there, successors.get(&there.address).copied());
            // What it had of the VIP follows the VIP.
            let drain_deadline = if before == Some(entry.drain_deadline) { after } else { entry.drain_deadline };
            (*id, Entry { drain_deadline, ..entry })
        };
        gone.map(left).collect()
    }

    pub(super) fn route(&self) -> VipRoute {
        route(self.id, &self.record)
    }

    pub(super) fn table(&self) -> Step {
        let owner = |backend: &WantedBackend<'_>| {
            let (weight, eighths) = backend.entry.place_in_table()?;
            Some(Owner { backend: WeightedBackend { key: backend.entry.address, weight }, id: backend.id, eighths })
        };
        let owners = self.backends.iter().filter_map(owner).collect();
        Step::PutTable { base: self.record.slot_base, slots: self.record.slots, owners, flows: self.flows() }
    }

    /// The flows that go on. Where another number of slots, or another hash, leads every flow to another slot, what
    /// slots remember is of no use.
    fn flows(&self) -> Option<Continuation> {
        let same_slots = |known: &VipRecord| {
            let hash = |record: &VipRecord| record.flags.contains(VipFlags::HASH_SOURCE_IP);
            known.slots == self.record.slots && hash(known) == hash(&self.record)
        };
        let known = self.known.filter(|known| same_slots(known))?;
        if self.record.flags.contains(VipFlags::TRACK_NEVER) {
            return None;
        }
        Some(Continuation {
            base: known.slot_base,
            successors: self
                .leaving
                .iter()
                .filter(|(_, entry)| entry.successor != NO_ID)
                .map(|(id, entry)| (*id, entry.successor))
                .collect(),
        })
    }

    /// Whether its table lies elsewhere than before.
    pub(super) fn table_moves(&self) -> bool {
        let place = |record: &VipRecord| (record.slot_base, record.slots);
        self.known.is_some_and(|known| place(known) != place(&self.record))
    }

    /// Whether the table that is there is the one that is wanted: same place, same ids with the same weights, the same
    /// parts that they take, and flows remembered or not as before.
    pub(super) fn table_stays(&self, index: &Index<'_>) -> bool {
        let remembers =
            |record: &VipRecord| (record.flags.without(VipFlags::TRACK_ALWAYS.with(VipFlags::REFUSES)), record.slots);
        if self.known.is_none_or(|known| remembers(known) != remembers(&self.record)) || self.table_moves() {
            return false;
        }
        let place = |id: u32, entry: &Entry| Some((id, entry.place_in_table()?));
        let there = index.members(self.id).iter().filter_map(|(id, entry)| place(*id, entry));
        let mut wanted: Vec<_> = self.backends.iter().filter_map(|own| place(own.id, &own.entry)).collect();
        wanted.sort_unstable();
        there.eq(wanted)
    }
}

impl LeavingVip {
    fn new(id: u32, there: &VipRecord, index: &Index<'_>, keep_tables: bool) -> Self {
        let mut record = VipRecord { flags: there.flags.with(VipFlags::REMOVED), ..*there };
        if !keep_tables {
            (record.slot_base, record.slots) = (0, 0);
        }
        let backends = index.members(id).iter().map(|(id, there)| (*id, removed(there, None)));
        Self { id, record, backends: backends.collect() }
    }
}

/// The entry of a backend that is not wanted; `successor` is the same real server as it is wanted.
fn removed(there: &Entry, successor: Option<&WantedBackend<'_>>) -> Entry {
    let is_down = successor.map_or(there.is_down(), |successor| successor.entry.is_down());
    let state = if is_down { BackendState::Down } else { BackendState::Drain };
    Entry {
        state: state as u32 | Backend::REMOVED,
        successor: successor.map_or(there.successor, |successor| successor.id),
        ..*there
    }
}

impl<'a> Index<'a> {
    pub(super) fn of(state: &'a State, scope: &Scope<'_>) -> Self {
        let mut index = Self::default();
        for (id, record) in scope.vips_of(state) {
            index.vips.insert(record.name.as_str(), (id, record));
            index.keys.insert(id, state.keys_of(id).collect());
            let members: Vec<_> = state.backends_of(id).collect();
            let mut by_address = members.clone();
            by_address.sort_by_key(|(_, entry)| place_of(entry));
            index.by_address.insert(id, by_address);
            index.members.insert(id, members);
        }
        index
    }

    /// The VIPs in their order: id and record.
    pub(super) fn vips(&self) -> BTreeMap<u32, &'a VipRecord> {
        self.vips.values().copied().collect()
    }

    /// The keys of all VIPs without the markers, in their order.
    pub(super) fn all_keys(&self) -> BTreeSet<VipKey> {
        self.keys.values().flatten().copied().collect()
    }

    /// The ids of all that is there: what is no longer wanted has flows.
    pub(super) fn ids(&self) -> KeptIds {
        let backends = self.members.values().flatten().map(|(id, _)| *id);
        KeptIds { vips: self.vips.values().map(|(id, _)| *id).collect(), backends: backends.collect() }
    }

    /// What is there of the backend that `entry` is of: the same way to it, else the one in use, else any.
    fn backend(&self, entry: &Entry) -> Option<(u32, &'a Entry)> {
        let of_vip = self.by_address.get(&entry.vip)?;
        let first = of_vip.partition_point(|(_, there)| place_of(there) < place_of(entry));
        let there = of_vip[first..].split(|(_, there)| there.address != entry.address).next()?;
        let same = there.iter().find(|(_, there)| same_constants(entry, there));
        same.or_else(|| there.iter().find(|(_, there)| !there.is_removed())).or_else(|| there.first()).copied()
    }

    /// The backends of a VIP, in the order of their ids.
    pub(super) fn members(&self, vip: u32) -> &[(u32, &'a Entry)] {
        self.members.get(&vip).map(Vec::as_slice).unwrap_or_default()
    }

    /// The keys of a VIP without the marker, in their order.
    pub(super) fn keys(&self, vip: u32) -> &[VipKey] {
        self.keys.get(&vip).map(Vec::as_slice).unwrap_or_default()
    }
}

/// What puts the backends of a VIP in an order, in which those of one address follow on one another.
fn place_of(entry: &Entry) -> [u32; 4] {
    entry.address.0.map(Be32::wire)
}

/// The id of a VIP that `state` holds just as it is wanted, with all its keys and backends and no others: there is
/// nothing to be done for it.
fn held(state: &State, vip: &model::Vip, node: &Node) -> Option<u32> {
    let id = state.vip_id(&vip.name)?;
    let there = state.vips().get(&id)?;
    let record = record(vip, node, there.slot_base).filter(|record| record == there)?;
    let mut wanted: Vec<VipKey> = keys(vip).collect();
    wanted.sort_unstable();
    let leads = |key: &VipKey, route| state.keys().get(key) == Some(&route);
    let is_served = |key: &VipKey| leads(key, route(id, &record)) && leads(&key.marker(), VipRoute::default());
    if !state.keys_of(id).eq(wanted.iter().copied()) || !wanted.iter().all(is_served) {
        return None;
    }
    // Where another VIP on the address has it answer, this one is looked at in vain.
    let answers = state.keys().get(&VipKey::echo(vip.address));
    if answers != vip.answers_echo().then(VipRoute::default).as_ref() {
        return None;
    }
    let mut members: Vec<&Entry> = state.backends_of(id).map(|(_, entry)| entry).collect();
    members.sort_by_key(|entry| place_of(entry));
    let is_member = |backend: &model::Backend| {
        let entry = entry(id, vip, backend, node);
        let found = members.binary_search_by_key(&place_of(&entry), |there| place_of(there));
        found.is_ok_and(|place| *members[place] == Entry { next_hop: members[place].next_hop, ..entry })
    };
    // Of as many backends as members, each at another address.
    (members.len() == vip.backends.len() && vip.backends.iter().all(is_member)).then_some(id)
}

fn route(id: u32, record: &VipRecord) -> VipRoute {
    let flags = record.flags.without(VipFlags::SLOW_START);
    VipRoute { id, slot_base: record.slot_base, slots: record.slots, flags }
}

/// The keys of a VIP's ports.
pub(super) fn keys(vip: &model::Vip) -> impl Iterator<Item = VipKey> {
    vip.ports.iter().map(|port| VipKey {
        address: vip.address,
        protocol: match port.protocol {
            Protocol::Tcp => libc::IPPROTO_TCP as u8,
            Protocol::Udp => libc::IPPROTO_UDP as u8,
        },
        port: port.port.unwrap_or(0),
    })
}

/// The markers that a VIP needs: for the protocols that it serves, and if its address answers echo requests.
pub(super) fn markers(vip: &model::Vip) -> impl Iterator<Item = VipKey> {
    let echo = vip.answers_echo().then(|| VipKey::echo(vip.address));
    keys(vip).map(VipKey::marker).chain(echo)
}

/// A backend's entry, as yet without next hop.
fn entry(vip_id: u32, vip: &model::Vip, backend: &model::Backend, node: &Node) -> Entry {
    let forward = vip.forward.way(backend.address);
    let (outer_source, outer_source_mask) = match vip.forward.outer_source(backend.address, node) {
        Some(Ok((_, IpNet::V4(prefix)))) => outer_source4(prefix),
        Some(Ok((_, IpNet::V6(prefix)))) => outer_source6(prefix),
        // No config is valid that needs one and has none.
        Some(Err(_)) | None => Default::default(),
    };
    let outer_sum = vip.forward.outer_sum(vip.address, backend.address);
    Entry {
        address: backend.address.into(),
        outer_source,
        outer_source_mask,
        outer_sum,
        vip: vip_id,
        forward: forward as u32,
        weight: backend.weight,
        state: backend.state as u32,
        successor: NO_ID,
        next_hop: None,
        pin: MacPin::new(backend.mac.map(Into::into)),
        mtu: vip.mtu_to(backend).bytes().unwrap_or(0),
        drain_deadline: backend.drain_deadline.unwrap_or(vip.settings.drain_deadline).seconds(),
        fails: backend.fails,
        slow_start: backend.slow_start,
    }
}

/// The way with no larger MTU than this, 0 for any.
fn limited(next_hop: Option<NextHop>, mtu: u16) -> Option<NextHop> {
    let most = if mtu == 0 { u32::MAX } else { mtu.into() };
    next_hop.map(|next_hop| NextHop { mtu: next_hop.mtu.min(most), ..next_hop })
}

fn outer_source4(net: Ipv4Net) -> (Address, Be32) {
    (Address::from_v4(net.network().into()), Be32::from(net.hostmask()))
}

/// Of the host bits those in the last 32-bit word: as many as the flow hash has.
fn outer_source6(net: Ipv6Net) -> (Address, Be32) {
    (Address::from(net.network()), Be32::new(net.hostmask().to_bits() as u32))
}

/// Whether two entries agree in everything that must not change while slots name them.
fn same_constants(a: &Entry, b: &Entry) -> bool {
    let Entry {
        address,
        outer_source,
        outer_source_mask,
        outer_sum,
        vip,
        forward,
        weight: _,
        state: _,
        successor: _,
        next_hop: _,
        pin: _,
        mtu: _,
        drain_deadline: _,
        fails: _,
        slow_start: _,
    } = *a;
    (address, outer_source, outer_source_mask, outer_sum, vip, forward)
        == (b.address, b.outer_source, b.outer_source_mask, b.outer_sum, b.vip, b.forward)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn outer_sources_vary_within_their_last_word() {
        let source = |net: &str| {
            let (network, mask) = outer_source6(net.parse().unwrap());
            (IpAddr::from(network).to_string(), mask.host())
        };
        assert_eq!(source("fd6e:e::/64"), ("fd6e:e::".into(), 0xffff_ffff));
        assert_eq!(source("2001:db8::ab00/120"), ("2001:db8::ab00".into(), 0xff));
        assert_eq!(source("2001:db8::1/128"), ("2001:db8::1".into(), 0));
        let (network, mask) = outer_source4("172.16.0.0/16".parse().unwrap());
        assert_eq!(network, Address::from_v4(Be32::new(0xac10_0000)));
        assert_eq!(mask.host(), 0xffff);
    }
}
