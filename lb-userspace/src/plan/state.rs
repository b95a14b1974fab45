//! What the maps of the data plane hold.
//!
//! Read from the maps once, when the daemon adopts them, and kept equal to them by applying to it every step that is
//! applied to them. Of the slots it knows which ranges are taken, not what is in them: that follows from the backends.
//!
//! To copy it costs a few reference counts, and a change of the copy as much as what is changed: whoever reads keeps a
//! copy, and a plan finds what is there of one VIP without looking at the others.

use std::{collections::BTreeMap, net::IpAddr, thread};

use imbl::{OrdMap, OrdSet};
use lb_common::{Features, Forward, NO_ID, Via, VipFlags, VipName, VipRecord, VipRoute};

use super::{Capacity, Entry, Step, VipKey};
use crate::{
    model::{ForwardMode, IcmpRate, Target},
    seed::HashSeed,
};

/// The maps, mirrored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Entries of the maps.
    pub capacity: Capacity,
    /// Features of the loaded program.
    pub features: Features,
    /// Seed of the loaded program's flow hash.
    pub seed: HashSeed,
    /// How many ICMP answers of each kind the loaded program sends.
    pub icmp_rate: IcmpRate,
    /// An apply broke off half-way: names and ids hold, nothing else is to be trusted.
    pub suspect: bool,
    /// VIP id → its record.
    vips: OrdMap<u32, VipRecord>,
    /// Every VIP key, markers included.
    keys: OrdMap<VipKey, VipRoute>,
    /// Backend id → its entry.
    backends: OrdMap<u32, Entry>,
    /// Name of a VIP → its id.
    names: OrdMap<VipName, u32>,
    /// VIP id and key, without markers.
    keys_by_vip: OrdSet<(u32, VipKey)>,
    /// VIP id and backend id.
    backends_by_vip: OrdSet<(u32, u32)>,
    /// Ids of VIPs that no config has any more.
    removed_vips: OrdSet<u32>,
    /// Ids of backends that no config has any more.
    removed_backends: OrdSet<u32>,
    /// Way of forwarding → backends that have it.
    forwards: BTreeMap<u32, u32>,
}

impl State {
    /// Empty maps under a program with `features`.
    pub fn empty(capacity: Capacity, features: Features) -> Self {
        Self { capacity, features, ..Self::default() }
    }

    /// Takes note of all that maps hold; of an empty state. Every id and every key comes once.
    pub fn read(
        &mut self,
        vips: impl Iterator<Item = (u32, VipRecord)>,
        keys: impl Iterator<Item = (VipKey, VipRoute)>,
        backends: impl Iterator<Item = (u32, Entry)> + Clone + Send,
    ) {
        let all = backends.clone();
        self.backends = thread::scope(|scope| {
            // Of a hundred thousand backends this tree takes as long as all others.
            let by_id = scope.spawn(|| all.collect());
            for (id, entry) in backends {
                self.note_backend(id, &entry);
            }
            vips.for_each(|(id, record)| self.put_vip(id, record));
            keys.for_each(|(key, route)| self.put_key(key, route));
            by_id.join().expect("a tree grows without a panic")
        });
    }

    /// Does to the mirror what `step` does to the maps.
    pub fn record(&mut self, step: &Step) {
        match step {
            Step::PutBackend { id, entry, .. } => self.put_backend(*id, *entry),
            Step::PutVip { id, record, .. } => self.put_vip(*id, *record),
            Step::PutKey { key, route } => self.put_key(*key, *route),
            Step::RemoveKey { key } => self.remove_key(key),
            Step::FreeVip { id } => self.free_vip(*id),
            Step::FreeBackend { id, .. } => self.free_backend(*id),
            Step::PutTable { .. } | Step::Grace => {}
        }
    }

    /// Takes note of a VIP's record.
    pub fn put_vip(&mut self, id: u32, record: VipRecord) {
        let before = self.vips.insert(id, record);
        self.forget_vip(id, before);
        self.names.insert(record.name, id);
        if record.flags.contains(VipFlags::REMOVED) {
            self.removed_vips.insert(id);
        }
    }

    /// Takes note of a key, or of a marker.
    pub fn put_key(&mut self, key: VipKey, route: VipRoute) {
        let before = self.keys.insert(key, route);
        self.forget_key(key, before);
        if !key.is_marker() {
            self.keys_by_vip.insert((route.id, key));
        }
    }

    /// Takes note of a backend's entry.
    pub fn put_backend(&mut self, id: u32, entry: Entry) {
        let before = self.backends.insert(id, entry);
        self.forget_backend(id, before);
        self.note_backend(id, &entry);
    }

    /// Enters what follows from a backend's entry.
    fn note_backend(&mut self, id: u32, entry: &Entry) {
        self.backends_by_vip.insert((entry.vip, id));
        if entry.is_removed() {
            self.removed_backends.insert(id);
        }
        *self.forwards.entry(entry.forward).or_default() += 1;
    }

    fn free_vip(&mut self, id: u32) {
        let gone = self.vips.remove(&id);
        self.forget_vip(id, gone);
    }

    fn remove_key(&mut self, key: &VipKey) {
        let gone = self.keys.remove(key);
        self.forget_key(*key, gone);
    }

    fn free_backend(&mut self, id: u32) {
        let gone = self.backends.remove(&id);
        self.forget_backend(id, gone);
    }

    /// Takes out what followed from a record that is no more.
    fn forget_vip(&mut self, id: u32, gone: Option<VipRecord>) {
        let Some(VipRecord { name, .. }) = gone else { return };
        self.removed_vips.remove(&id);
        // Another id may have the name by now.
        if self.names.get(&name) == Some(&id) {
            self.names.remove(&name);
        }
    }

    /// Takes out what followed from a key that is no more, or leads elsewhere.
    fn forget_key(&mut self, key: VipKey, gone: Option<VipRoute>) {
        if let Some(route) = gone {
            self.keys_by_vip.remove(&(route.id, key));
        }
    }

    /// Takes out what followed from an entry that is no more.
    fn forget_backend(&mut self, id: u32, gone: Option<Entry>) {
        let Some(Entry { vip, forward, .. }) = gone else { return };
        self.backends_by_vip.remove(&(vip, id));
        self.removed_backends.remove(&id);
        self.forwards.entry(forward).and_modify(|count| *count -= 1);
        self.forwards.retain(|_, count| *count > 0);
    }

    /// VIP id → its record.
    pub fn vips(&self) -> &OrdMap<u32, VipRecord> {
        &self.vips
    }

    /// Every VIP key, markers included, and what it leads to.
    pub fn keys(&self) -> &OrdMap<VipKey, VipRoute> {
        &self.keys
    }

    /// Backend id → its entry.
    pub fn backends(&self) -> &OrdMap<u32, Entry> {
        &self.backends
    }

    /// Whether some VIP has this address.
    pub fn has_vip_at(&self, address: IpAddr) -> bool {
        let first = VipKey { address, ..VipKey::FIRST };
        self.keys.range(first..).next().is_some_and(|(key, _)| key.address == address)
    }

    /// The id of the VIP of that name.
    pub fn vip_id(&self, name: &str) -> Option<u32> {
        self.names.get(&VipName::new(name)?).copied()
    }

    /// The keys of a VIP without markers, in their order.
    pub fn keys_of(&self, vip: u32) -> impl Iterator<Item = VipKey> {
        let from_here = self.keys_by_vip.range((vip, VipKey::FIRST)..);
        from_here.take_while(move |(id, _)| *id == vip).map(|(_, key)| *key)
    }

    /// The backends of a VIP, in the order of their ids.
    pub fn backends_of(&self, vip: u32) -> impl Iterator<Item = (u32, &Entry)> {
        let ids = self.backends_by_vip.range((vip, 0)..=(vip, u32::MAX));
        // They mostly follow on one another: the next is looked for only where it is another.
        let mut following = self.backends.range(..0);
        ids.filter_map(move |(_, id)| {
            if let Some(next) = following.next().filter(|(next, _)| **next == *id) {
                return Some((*id, next.1));
            }
            following = self.backends.range(*id..=u32::MAX);
            following.next().filter(|(found, _)| **found == *id).map(|(_, entry)| (*id, entry))
        })
    }

    /// What reaches the backends that are there.
    pub(super) fn forward_features(&self) -> Features {
        let forwards = self.forwards.keys().filter_map(|forward| Forward::from_u32(*forward));
        forwards.map(Forward::feature).fold(Features::default(), Features::with)
    }

    /// The VIPs of the config.
    pub fn served_vips(&self) -> impl Iterator<Item = (u32, &VipRecord)> {
        let all = self.vips.iter().map(|(id, record)| (*id, record));
        all.filter(|(_, record)| !record.flags.contains(VipFlags::REMOVED))
    }

    /// The VIPs that no config has any more: they stay until nothing in the flow table is of them.
    pub fn removed_vips(&self) -> impl Iterator<Item = (u32, &VipRecord)> {
        self.removed_vips.iter().filter_map(|id| Some((*id, self.vips.get(id)?)))
    }

    /// The backends that no config has any more: they stay until their last flow has ended.
    pub fn removed_backends(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.removed_backends.iter().filter_map(|id| Some((*id, self.backends.get(id)?)))
    }

    /// Where frames to a backend go; `None` where its entry is free.
    pub fn target(&self, entry: &Entry) -> Option<Target> {
        let via = self.vips.get(&entry.vip).map(|record| record.via).unwrap_or_default();
        target_of(entry, via)
    }

    /// Where frames to all backends go.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        self.backends_with_targets().map(|(.., target)| target)
    }

    /// Every backend: its id, its entry, and where frames to it go.
    pub fn backends_with_targets(&self) -> impl Iterator<Item = (u32, &Entry, Target)> {
        // The backends of a VIP mostly follow on one another.
        let mut last = None;
        self.backends.iter().filter_map(move |(id, entry)| {
            let via = match last {
                Some((vip, via)) if vip == entry.vip => via,
                _ => self.vips.get(&entry.vip).map(|record| record.via).unwrap_or_default(),
            };
            last = Some((entry.vip, via));
            Some((*id, entry, target_of(entry, via)?))
        })
    }

    /// Whether any VIP or backend was removed and is still there.
    pub fn has_removed(&self) -> bool {
        !self.removed_vips.is_empty() || !self.removed_backends.is_empty()
    }

    /// What frees these VIPs and backends, of which nothing is left in slots and the flow table, nor any packet on its
    /// way.
    pub fn frees(&self, vips: &[u32], backends: &[u32]) -> Vec<Step> {
        let successor =
            |id: &u32| self.backends.get(id).map(|entry| entry.successor).filter(|successor| *successor != NO_ID);
        let backends = backends.iter().map(|id| Step::FreeBackend { id: *id, successor: successor(id) });
        let vips = vips.iter().map(|id| Step::FreeVip { id: *id });
        backends.chain(vips).collect()
    }

    /// The features that packets need while the maps hold this.
    pub fn features_in_use(&self) -> Features {
        let keys = self.keys.keys().map(|key| key.features());
        let tracks = self.vips.values().any(|record| !record.flags.contains(VipFlags::TRACK_NEVER));
        let refuses = self.vips.values().any(|record| record.flags.contains(VipFlags::REFUSES));
        let own = [(tracks, Features::TRACKING), (refuses, Features::REFUSALS)];
        let own = own.into_iter().filter_map(|(is_used, feature)| is_used.then_some(feature));
        let features = keys.chain(own).fold(Features::default(), Features::with);
        features.with(self.forward_features())
    }

    /// Ranges of slots that some packet may look into: first slot and number.
    pub(super) fn taken_slots(&self) -> impl Iterator<Item = (u32, u32)> {
        let records = self.vips.values().map(|record| (record.slot_base, record.slots));
        let routes = self.keys.values().map(|route| (route.slot_base, route.slots));
        records.chain(routes).filter(|(_, slots)| *slots > 0)
    }
}

/// The target of a backend's entry whose VIP is reached by `via`; `None` where the entry is free.
pub(super) fn target_of(entry: &Entry, via: Via) -> Option<Target> {
    let forward = Forward::from_u32(entry.forward).filter(|_| entry.vip != NO_ID)?;
    Some(Target {
        address: entry.address.into(),
        on_link: ForwardMode::of(forward).is_on_link(),
        via,
        mac: entry.pin.mac(),
        mtu: (entry.mtu > 0).then_some(entry.mtu),
    })
}
