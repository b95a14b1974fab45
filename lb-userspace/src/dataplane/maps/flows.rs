//! The flow table as the daemon sees it: memory that packets read and write at the same time. The daemon alone takes
//! entries out ([`lb_common::FlowLine`] says how), and writes by compare-and-swap only.
//!
//! A walk sees every entry that is there from its beginning to its end. One that comes or goes meanwhile it may see or
//! not.

use std::{
    os::fd::AsFd as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::maps::{MapData, MapError};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type};
use lb_common::{FlowEntry, FlowGroup, FlowKey, FlowKind, FlowLine, FlowNames, FlowPlace, HashKey, maps};
use lb_ebpf::{
    hash::FlowTag,
    rules::flow_table::{At, Group, Line, Placed, Swept, claim, find, free, remove, unpassed},
};

use super::{layout::pin_in, mmap::Mapped};
use crate::dataplane::{Error, sys};

/// The maps that belong together: a table is in all of them.
pub(super) const OF_TABLE: [&str; 3] = [maps::FLOWS, maps::FLOW_NAMES, maps::FLOW_SECRET];

/// The table. Clones are the same one.
#[derive(Clone)]
pub struct FlowTable(Arc<Memory>);

struct Memory {
    groups: Mapped<FlowGroup, 64>,
    names: Mapped<FlowNames, 120>,
    secret: HashKey,
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// Its group.
    pub group: u32,
    /// Its place in that.
    pub place: FlowPlace,
}

impl FlowTable {
    /// The table pinned in `directory`.
    pub(in crate::dataplane) fn open(directory: &Path) -> Result<Self, Error> {
        let data = |name: &str| MapData::from_pin(pin_in(directory, name)).map_err(Error::map("open", name));
        let memory = Memory {
            groups: Mapped::open(maps::FLOWS, data(maps::FLOWS)?)?,
            names: Mapped::open(maps::FLOW_NAMES, data(maps::FLOW_NAMES)?)?,
            secret: secret(data(maps::FLOW_SECRET)?)?,
        };
        Ok(Self(Arc::new(memory)))
    }

    /// Number of groups.
    pub fn groups(&self) -> u32 {
        self.0.groups.entries
    }

    /// Flows that it is made for.
    pub fn room(&self) -> u32 {
        self.groups() * FlowLine::FLOWS_A_GROUP
    }

    /// Shows whatever is at the places of a group that are not free.
    ///
    /// A sweep comes here millions of times: what is free costs one load.
    pub fn each_in(&self, group: u32, mut visit: impl FnMut(Spot, Placed)) {
        const WORDS: u32 = size_of::<FlowLine>() as u32 / 8;
        const ENTRIES: u32 = std::mem::offset_of!(FlowLine, entries) as u32 / 8;
        let (words, halves) = (self.0.groups.cell(group), self.0.groups.halves::<128>(group));
        for line in 0..FlowLine::A_GROUP as u32 {
            for number in 0..FlowLine::PLACES as u32 {
                // The tag is read behind the entry: what was written before it, the name, is seen by whoever sees it.
                // That the entry is not a later one than the tag is sure, for nobody takes entries out beside who walks.
                let entry = words[(line * WORDS + ENTRIES + number) as usize].load(Ordering::Acquire);
                let tag = || halves[(2 * line * WORDS + number) as usize].load(Ordering::Acquire);
                if let Some(placed) = Placed::of(tag, FlowEntry::from_bits(entry)) {
                    visit(Spot { group, place: FlowPlace::new(line, number) }, placed);
                }
            }
        }
    }

    /// Every entry.
    pub fn entries(&self) -> impl Iterator<Item = (Spot, FlowEntry)> {
        let spots = |group| FlowPlace::all().map(move |place| Spot { group, place });
        (0..self.groups()).flat_map(spots).filter_map(|spot| match Placed::at(&self.line(spot), spot.place.number())? {
            Placed::Entry(entry) => Some((spot, entry)),
            Placed::Gone | Placed::Claimed(_) => None,
        })
    }

    /// Every entry with the name of its flow.
    pub fn named(&self) -> impl Iterator<Item = (FlowKey, FlowEntry)> {
        self.entries().map(|(spot, entry)| (self.name(spot), entry))
    }

    /// The name of the flow whose entry is there.
    pub fn name(&self, spot: Spot) -> FlowKey {
        FlowKey::from_words(self.name_words(spot).each_ref().map(|word| word.load(Ordering::Acquire)))
    }

    /// The group of a flow, and its home line there.
    pub fn home(&self, key: &FlowKey) -> (u32, u32) {
        FlowTag::of(&self.0.secret, key).home(self.groups())
    }

    /// Puts `to` in the place of `from`; false where something else is there by now.
    pub fn replace(&self, spot: Spot, from: FlowEntry, to: FlowEntry) -> bool {
        self.line(spot).swap(spot.place.number(), from, to)
    }

    /// Takes an entry out; false where something else is there by now. Its place is not free yet.
    pub fn remove(&self, spot: Spot, entry: FlowEntry) -> bool {
        remove(&self.line(spot), spot.place.number(), entry)
    }

    /// Frees a place whose entry was taken out before a grace period that has ended.
    pub fn free(&self, spot: Spot) {
        free(&self.line(spot), spot.place.number());
    }

    /// By line of a group: how many entries went past it, of which none is there any more; see [`unpassed`].
    pub fn unpassed(&self, group: u32) -> [u32; FlowLine::A_GROUP] {
        unpassed(&TableGroup { table: self, group }, |place| self.home(&self.name(Spot { group, place })).1)
    }

    /// No entry is past a line, nor on its way past it, if `spilled` is still how many went.
    pub fn clear_spilled(&self, group: u32, line: u32, spilled: u32) {
        TableGroup { table: self, group }.line(line).clear_spilled(spilled);
    }

    /// The flow's entry of the kind that `entry` is of.
    pub fn find(&self, key: &FlowKey, kind: FlowKind) -> Option<(Spot, FlowEntry)> {
        let tag = FlowTag::of(&self.0.secret, key);
        let (group, home) = tag.home(self.groups());
        let found = find(&TableGroup { table: self, group }, home, tag.tag(), |_| true);
        let At { place, entry } = if kind == FlowKind::Opened { found.opened } else { found.kept };
        let spot = Spot { group, place };
        (place.is_some() && self.name(spot) == *key).then_some((spot, entry))
    }

    /// Enters a flow, unless it has an entry of that kind already; false where there is no room.
    pub fn enter(&self, key: &FlowKey, entry: FlowEntry) -> bool {
        if self.find(key, entry.kind()).is_some() {
            return true;
        }
        let tag = FlowTag::of(&self.0.secret, key);
        let (group, home) = tag.home(self.groups());
        let place = claim(&TableGroup { table: self, group }, home, entry);
        if place.is_some() {
            self.put_name(Spot { group, place }, key);
            self.line(Spot { group, place }).publish(place.number(), tag.tag());
        }
        place.is_some()
    }

    /// Enters what this has and `other` has not; returns how many found no room there.
    ///
    /// Packets go on here meanwhile, so that what is entered there is as old as the copy. A stream that a SYN has opened
    /// is therefore kept there, unless something is that has not ended: what is kept goes to the backend that it names,
    /// wherever the stream has come to.
    pub(super) fn copy_to(&self, other: &Self) -> usize {
        let has = |key: &FlowKey, kind| self.find(key, kind).is_some_and(|(_, entry)| !entry.has_ended());
        let copied = |key: &FlowKey, entry: FlowEntry| match entry.kind() {
            FlowKind::Opened if !has(key, FlowKind::Kept) => {
                let is_known = other.find(key, FlowKind::Opened).is_some();
                is_known || other.enter(key, entry.kept())
            }
            FlowKind::Kept if entry.has_ended() && has(key, FlowKind::Opened) => true,
            _ => other.enter(key, entry),
        };
        self.named().filter(|(key, entry)| !copied(key, *entry)).count()
    }

    /// Tells of flows of another table that this had no room for.
    pub(in crate::dataplane) fn tell_of_lost(&self, flows: usize) {
        if flows > 0 {
            log::warn!("{flows} tracked flows found no room in the new table for {}: they may be reset", self.room());
        }
    }

    fn put_name(&self, spot: Spot, key: &FlowKey) {
        for (cell, word) in self.name_words(spot).iter().zip(key.to_words()) {
            cell.store(word, Ordering::Release);
        }
    }

    fn name_words(&self, Spot { group, place }: Spot) -> &[AtomicU64; size_of::<FlowKey>() / 8] {
        &self.0.names.cell(group).as_chunks().0[place.in_group() as usize]
    }

    fn line(&self, Spot { group, place }: Spot) -> TableLine<'_> {
        TableLine { table: self, group, number: place.line() }
    }
}

/// A line of a table in memory.
struct TableLine<'a> {
    table: &'a FlowTable,
    group: u32,
    number: u32,
}

impl TableLine<'_> {
    /// Its first word of 32 bits.
    fn first_half(&self) -> u32 {
        const HALVES: u32 = size_of::<FlowLine>() as u32 / 4;
        (self.group * FlowLine::A_GROUP as u32 + self.number) * HALVES
    }

    fn cell(&self, number: u32) -> &AtomicU64 {
        const LINE: usize = size_of::<FlowLine>() / 8;
        const FIRST: usize = std::mem::offset_of!(FlowLine, entries) / 8;
        &self.table.0.groups.cell(self.group)[self.number as usize * LINE + FIRST + number as usize]
    }
}

/// A group of a table.
struct TableGroup<'a> {
    table: &'a FlowTable,
    group: u32,
}

impl<'a> Group for TableGroup<'a> {
    type Line = TableLine<'a>;

    fn line(&self, number: u32) -> TableLine<'a> {
        TableLine { table: self.table, group: self.group, number }
    }
}

impl Line for TableLine<'_> {
    fn tag(&self, number: u32) -> u32 {
        self.table.0.groups.half(self.first_half() + number).load(Ordering::Acquire)
    }

    fn entry(&self, number: u32) -> FlowEntry {
        FlowEntry::from_bits(self.cell(number).load(Ordering::Acquire))
    }

    fn swap(&self, number: u32, from: FlowEntry, to: FlowEntry) -> bool {
        let (from, to) = (from.to_bits(), to.to_bits());
        self.cell(number).compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn publish(&self, number: u32, tag: u32) {
        self.table.0.groups.half(self.first_half() + number).swap(tag, Ordering::AcqRel);
    }

    fn spilled(&self) -> u32 {
        self.table.0.groups.half(self.first_half() + FlowLine::PLACES as u32).load(Ordering::Acquire)
    }

    fn spill(&self) {
        self.table.0.groups.half(self.first_half() + FlowLine::PLACES as u32).fetch_add(1, Ordering::AcqRel);
    }
}

impl Swept for TableLine<'_> {
    fn clear_spilled(&self, count: u32) {
        let cell = self.table.0.groups.half(self.first_half() + FlowLine::PLACES as u32);
        // Else one went past it meanwhile.
        let _ = cell.compare_exchange(count, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Makes the map of a table's secret, with one that nobody knows.
pub(super) fn create_secret(directory: &Path) -> Result<(), Error> {
    let name = maps::FLOW_SECRET;
    let pin = pin_in(directory, name);
    if pin.exists() {
        return Ok(());
    }
    let kind = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    let map = aya_obj::Map::new_from_params(kind, 4, size_of::<HashKey>() as u32, 1, BPF_F_MMAPABLE);
    let map = MapData::create(map, name, None).map_err(Error::map("make", name))?;
    let mut words = [0u8; size_of::<HashKey>()];
    getrandom::fill(&mut words).map_err(|error| {
        let error = std::io::Error::other(error.to_string());
        Error::map("fill with random words", name)(MapError::IoError(error))
    })?;
    // Before anybody can find it.
    let written = sys::update_of(map.fd().as_fd(), &0u32.to_ne_bytes(), &words, 0);
    written.map_err(|error| Error::map("write to", name)(MapError::IoError(error)))?;
    map.pin(pin).map_err(Error::pin(name))
}

/// The key that flows of the table pinned in `directory` find their lines and tags by.
pub fn flow_secret(directory: &Path) -> Result<HashKey, Error> {
    let name = maps::FLOW_SECRET;
    secret(MapData::from_pin(pin_in(directory, name)).map_err(Error::map("open", name))?)
}

fn secret(map: MapData) -> Result<HashKey, Error> {
    Ok(Mapped::<HashKey, { HashKey::WORDS }>::open(maps::FLOW_SECRET, map)?.load(0))
}
