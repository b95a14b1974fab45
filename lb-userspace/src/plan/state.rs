//! What the maps of the data plane hold.
//!
//! Read from the maps once, when the daemon adopts them, and kept equal to them by applying to it every step that is
//! applied to them. Of the slots it knows which ranges are taken, not what is in them: that follows from the backends.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use lb_common::{
    Backend, BackendState, Be16, Features, Forward, MARKER, NO_ID, Via, Vip4Key, Vip6Key, VipFlags, VipRecord, VipRoute,
};

use super::{Capacity, Step};
use crate::seed::HashSeed;

/// The maps, mirrored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Entries of the maps.
    pub capacity: Capacity,
    /// Features of the loaded program.
    pub features: Features,
    /// Seed of the loaded program's flow hash.
    pub seed: HashSeed,
    /// An apply broke off half-way: names and ids hold, nothing else is to be trusted.
    pub suspect: bool,
    /// VIP id → its record.
    pub vips: BTreeMap<u32, VipRecord>,
    /// Every VIP key, markers included.
    pub keys: BTreeMap<VipKey, VipRoute>,
    /// Backend id → its entry.
    pub backends: BTreeMap<u32, Backend>,
}

impl State {
    /// Empty maps under a program with `features`.
    pub fn empty(capacity: Capacity, features: Features) -> Self {
        Self { capacity, features, ..Self::default() }
    }

    /// Does to the mirror what `step` does to the maps.
    pub fn record(&mut self, step: &Step) {
        match step {
            Step::PutBackend { id, entry, .. } => drop(self.backends.insert(*id, *entry)),
            Step::PutVip { id, record, .. } => drop(self.vips.insert(*id, *record)),
            Step::PutKey { key, route } => drop(self.keys.insert(*key, *route)),
            Step::RemoveKey { key } => drop(self.keys.remove(key)),
            Step::FreeVip { id } => drop(self.vips.remove(id)),
            Step::FreeBackend { id, .. } => drop(self.backends.remove(id)),
            Step::PutTable { .. } | Step::Grace => {}
        }
    }

    /// The VIPs of the config.
    pub fn served_vips(&self) -> impl Iterator<Item = (u32, &VipRecord)> {
        self.vips
            .iter()
            .filter(|(_, record)| !record.flags.contains(VipFlags::REMOVED))
            .map(|(id, record)| (*id, record))
    }

    /// The VIPs that no config has any more: they stay until nothing in the flow tables is of them.
    pub fn removed_vips(&self) -> impl Iterator<Item = (u32, &VipRecord)> {
        self.vips
            .iter()
            .filter(|(_, record)| record.flags.contains(VipFlags::REMOVED))
            .map(|(id, record)| (*id, record))
    }

    /// The backends that no config has any more: they stay until their last flow has ended.
    pub fn removed_backends(&self) -> impl Iterator<Item = (u32, &Backend)> {
        self.backends.iter().filter(|(_, entry)| entry.is_removed()).map(|(id, entry)| (*id, entry))
    }

    /// Where frames to a backend go; `None` where its entry is free.
    pub fn destination(&self, entry: &Backend) -> Option<Destination> {
        let via = self.vips.get(&entry.vip).map(|record| record.via).unwrap_or_default();
        Destination::of(entry, via)
    }

    /// Where frames to all backends go.
    pub fn destinations(&self) -> impl Iterator<Item = Destination> {
        self.backends.values().filter_map(|entry| self.destination(entry))
    }

    /// Whether any VIP or backend was removed and is still there.
    pub fn has_removed(&self) -> bool {
        self.removed_vips().next().is_some() || self.removed_backends().next().is_some()
    }

    /// What frees these VIPs and backends, of which nothing is left in slots and flow tables, nor any packet on its
    /// way.
    pub fn frees(&self, vips: &[u32], backends: &[u32]) -> Vec<Step> {
        let heir = |id: &u32| self.backends.get(id).map(|entry| entry.heir).filter(|heir| *heir != NO_ID);
        let backends = backends.iter().map(|id| Step::FreeBackend { id: *id, heir: heir(id) });
        let vips = vips.iter().map(|id| Step::FreeVip { id: *id });
        backends.chain(vips).collect()
    }

    /// The features that packets need while the maps hold this.
    pub fn features_in_use(&self) -> Features {
        let keys = self.keys.keys().map(|key| key.features());
        let backends = self.backends.values().filter_map(|entry| Forward::from_u32(entry.forward)).map(forward_feature);
        let tracks = self.vips.values().any(|record| !record.flags.contains(VipFlags::TRACK_NEVER));
        keys.chain(backends).chain(tracks.then_some(Features::TRACKING)).fold(Features::default(), Features::with)
    }

    /// Ranges of slots that some packet may look into: first slot and number.
    pub(super) fn taken_slots(&self) -> impl Iterator<Item = (u32, u32)> {
        let records = self.vips.values().map(|record| (record.slot_base, record.slots));
        let routes = self.keys.values().map(|route| (route.slot_base, route.slots));
        records.chain(routes).filter(|(_, slots)| *slots > 0)
    }
}

/// The feature that forwards this way.
pub(super) fn forward_feature(forward: Forward) -> Features {
    match forward {
        Forward::L2 => Features::L2,
        Forward::Ipip4 => Features::IPIP4,
        Forward::Ipip6 => Features::IPIP6,
    }
}

/// The weight that an entry counts with in its VIP's table.
pub fn effective_weight(entry: &Backend) -> u32 {
    if entry.is_removed() {
        return 0;
    }
    match entry.backend_state() {
        BackendState::Active => entry.weight,
        BackendState::Drain | BackendState::Down => 0,
    }
}

/// What a packet is looked up by, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipKey {
    /// Address of the VIP.
    pub address: IpAddr,
    /// IP protocol number; with [`MARKER`] in a marker.
    pub protocol: u8,
    /// Port; 0 for any, and in the marker.
    pub port: u16,
}

impl VipKey {
    /// The marker beside this key: some VIP serves this protocol on this address.
    #[must_use]
    pub fn marker(self) -> Self {
        Self { protocol: self.protocol | MARKER, port: 0, ..self }
    }

    /// Whether this is a marker.
    pub fn is_marker(&self) -> bool {
        self.protocol & MARKER != 0
    }

    /// As the map of its family has it.
    pub fn in_map(&self) -> FamilyKey {
        let (port, protocol) = (Be16::new(self.port), self.protocol);
        match self.address {
            IpAddr::V4(v4) => FamilyKey::V4(Vip4Key::new(v4.into(), port, protocol)),
            IpAddr::V6(v6) => FamilyKey::V6(Vip6Key::new(v6.into(), port, protocol)),
        }
    }

    fn features(&self) -> Features {
        let family = if self.address.is_ipv4() { Features::VIP4 } else { Features::VIP6 };
        if self.port == 0 && !self.is_marker() { family.with(Features::ANY_PORT) } else { family }
    }
}

/// A key in the map of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKey {
    /// In `VIPS4`.
    V4(Vip4Key),
    /// In `VIPS6`.
    V6(Vip6Key),
}

impl From<Vip4Key> for VipKey {
    fn from(key: Vip4Key) -> Self {
        Self { address: Ipv4Addr::from(key.address()).into(), protocol: key.protocol(), port: key.port().host() }
    }
}

impl From<Vip6Key> for VipKey {
    fn from(key: Vip6Key) -> Self {
        Self { address: key.address().into(), protocol: key.protocol(), port: key.port().host() }
    }
}

/// Where frames to a backend go: what a next hop is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Address of the backend.
    pub address: IpAddr,
    /// The backend must be a neighbour (`l2`); otherwise a router may be in between.
    pub on_link: bool,
    /// By which routing tables.
    pub via: Via,
    /// Its MAC address, where the operator has pinned that.
    pub mac: Option<[u8; 6]>,
}

impl Destination {
    /// Of a backend's entry whose VIP is reached by `via`; `None` where the entry is free.
    pub fn of(entry: &Backend, via: Via) -> Option<Self> {
        let forward = Forward::from_u32(entry.forward).filter(|_| entry.vip != NO_ID)?;
        Some(Self { address: entry.address.into(), on_link: forward == Forward::L2, via, mac: entry.pin.mac() })
    }
}
