//! Backends, and the next hops that they share.

use std::mem::{self, offset_of};

use aya::maps::MapData;
use hashbrown::{HashMap, HashSet};
use lb_common::{Backend, BackendRecord, NO_ID, NextHop, NextHopCell, maps};

use super::{Maps, mmap::Mapped};
use crate::{
    dataplane::{Error, grace::grace},
    plan::Entry,
};

/// The place of no next hop, at which none is ever written.
const NOWHERE: u32 = 0;

/// The entries of all backends.
pub(super) struct Backends {
    entries: Mapped<Backend, 8>,
    records: Mapped<BackendRecord, 3>,
    cells: Mapped<NextHopCell, 8>,
    book: Book,
}

/// Which next hops are in use. Nothing of it is in the maps: it is counted when they are read
/// ([`Backends::take_account`]).
#[derive(Default)]
struct Book {
    /// Place → backends that have it.
    users: HashMap<u32, u32>,
    places: HashMap<NextHop, u32>,
    free: Vec<u32>,
    /// From here on all places are free, but for the first, which is nobody's.
    fresh: u32,
    /// Nobody's any more, but a packet may be on its way there.
    left: Vec<u32>,
    /// Those of which the idle half was in use until a moment ago: a packet may be reading it.
    turned: HashSet<u32>,
    /// Interfaces that packets may still be redirected to which found a next hop that is no more.
    devices: HashSet<u32>,
    /// A grace period has passed since this daemon began, or no packet reads these maps. Before that, another daemon may
    /// have left or turned any of them a moment ago.
    is_begun: bool,
}

impl Backends {
    pub(super) fn open(entries: MapData, records: MapData, cells: MapData) -> Result<Self, Error> {
        Ok(Self {
            entries: Mapped::open(maps::BACKENDS, entries)?,
            records: Mapped::open(maps::BACKEND_RECORDS, records)?,
            cells: Mapped::open(maps::NEXT_HOPS, cells)?,
            book: Book::default(),
        })
    }

    /// Takes the maps for new ones, which no packet reads.
    pub(super) fn unread(self) -> Self {
        Self { book: Book { is_begun: true, ..self.book }, ..self }
    }

    /// Id of the VIP that a backend is of; [`NO_ID`] where the entry is free.
    pub(super) fn vip(&self, id: u32) -> u32 {
        self.entries.load(id).vip
    }

    /// Ids that there is room for.
    pub(super) fn room(&self) -> u32 {
        self.entries.entries
    }

    /// Every backend, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, Entry)> + Clone + Send {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.vip != NO_ID)
            .map(|(id, entry)| (id, Entry::new(entry, self.records.load(id), self.next_hop(entry.hop))))
    }

    /// Finds out which next hops are in use.
    pub(super) fn take_account(&mut self) {
        let mut book = Book { is_begun: self.book.is_begun, ..Book::default() };
        for (_, Backend { hop, .. }) in self.entries.iter().filter(|(_, entry)| entry.vip != NO_ID) {
            if hop != NOWHERE {
                *book.users.entry(hop).or_default() += 1;
            }
        }
        for hop in book.users.keys() {
            if let Some(next_hop) = self.next_hop(*hop) {
                book.places.insert(next_hop, *hop);
            }
        }
        book.fresh = 1;
        for (place, _) in self.cells.iter().filter(|(_, cell)| *cell != NextHopCell::default()) {
            book.free.extend(book.fresh..place);
            book.fresh = place + 1;
            if !book.users.contains_key(&place) {
                book.left.push(place);
            }
        }
        self.book = book;
    }

    /// Writes a backend's entry; only words that differ.
    fn put(&mut self, id: u32, entry: Entry) {
        // The VIP and the forward mode make the entry valid.
        const VALID: usize = offset_of!(Backend, vip) / size_of::<u64>();
        let before = self.entries.load(id);
        let there = if before.vip == NO_ID { NOWHERE } else { before.hop };
        let leads_there = self.next_hop(there) == entry.next_hop;
        let hop = if leads_there && entry.vip != NO_ID { there } else { self.take(entry.next_hop) };
        let (backend, record) = entry.in_maps(hop);
        self.records.store(id, record);
        self.entries.store_in_order(id, backend, [VALID]);
        if hop != there {
            self.leave(there);
        }
    }

    /// Gives backends the next hops of these entries, in which nothing else differs. Where all backends at a place go on
    /// together, to where no others go, the place is written and none of them.
    fn turn(&mut self, entries: &[(u32, Entry)]) {
        let mut by_place: HashMap<u32, Vec<&(u32, Entry)>> = HashMap::new();
        for entry in entries {
            by_place.entry(self.entries.load(entry.0).hop).or_default().push(entry);
        }
        for (place, entries) in by_place {
            let next_hop = entries[0].1.next_hop;
            let are_all = self.book.users.get(&place) == Some(&(entries.len() as u32))
                && entries.iter().all(|(_, entry)| entry.next_hop == next_hop);
            let is_there = next_hop.is_some_and(|next_hop| self.book.places.contains_key(&next_hop));
            if place != NOWHERE && are_all && !is_there {
                self.turn_place(place, next_hop);
            } else {
                entries.into_iter().for_each(|(id, entry)| self.put(*id, *entry));
            }
        }
    }

    fn turn_place(&mut self, place: u32, next_hop: Option<NextHop>) {
        if !self.book.is_begun || self.book.turned.contains(&place) {
            self.wait();
        }
        let before = self.cells.load(place);
        self.forget(place, before.current());
        self.book.turned.insert(place);
        self.write(place, before.turned(next_hop));
        if let Some(next_hop) = next_hop {
            self.book.places.insert(next_hop, place);
        }
    }

    fn next_hop(&self, place: u32) -> Option<NextHop> {
        self.cells.load(place).current().copied()
    }

    /// The place of a next hop, for one backend more.
    fn take(&mut self, next_hop: Option<NextHop>) -> u32 {
        let Some(next_hop) = next_hop else { return NOWHERE };
        let place = match self.book.places.get(&next_hop) {
            Some(place) => *place,
            None => {
                let place = self.empty();
                self.write(place, NextHopCell::default().turned(Some(next_hop)));
                self.book.places.insert(next_hop, place);
                place
            }
        };
        *self.book.users.entry(place).or_default() += 1;
        place
    }

    /// One backend less is at `place`.
    fn leave(&mut self, place: u32) {
        let Some(count) = self.book.users.get_mut(&place) else { return };
        *count -= 1;
        let is_last = *count == 0;
        let next_hop = self.next_hop(place);
        self.book.devices.extend(next_hop.map(|next_hop| next_hop.ifindex));
        if is_last {
            self.book.users.remove(&place);
            self.forget(place, next_hop.as_ref());
            self.book.left.push(place);
        }
    }

    /// `next_hop` is no longer at `place`.
    fn forget(&mut self, place: u32, next_hop: Option<&NextHop>) {
        let Some(next_hop) = next_hop else { return };
        self.book.devices.insert(next_hop.ifindex);
        if self.book.places.get(next_hop) == Some(&place) {
            self.book.places.remove(next_hop);
        }
    }

    /// A free place: there is one more than backends.
    fn empty(&mut self) -> u32 {
        let has_fresh = self.book.fresh.max(1) < self.cells.entries;
        if self.book.free.is_empty() && !has_fresh {
            self.wait();
        }
        self.book.free.pop().unwrap_or_else(|| {
            let place = self.book.fresh.max(1);
            self.book.fresh = place + 1;
            place
        })
    }

    /// Waits until no packet is on its way along a next hop that is no more.
    fn wait(&mut self) {
        grace();
        for place in mem::take(&mut self.book.left) {
            self.write(place, NextHopCell::default());
            self.book.free.push(place);
        }
        self.book.turned.clear();
        self.book.devices.clear();
        self.book.is_begun = true;
    }

    fn write(&self, place: u32, cell: NextHopCell) {
        const IN_USE: usize = offset_of!(NextHopCell, in_use) / size_of::<u64>();
        self.cells.store_in_order(place, cell, [IN_USE]);
    }
}

impl Maps {
    /// Writes a backend's entry; only words that differ.
    pub fn put_backend(&mut self, id: u32, entry: Entry) {
        self.uncounted_from = self.uncounted_from.max(id + 1);
        self.backends.put(id, entry);
    }

    /// Gives backends the next hops of these entries, in which nothing else differs.
    pub fn put_next_hops(&mut self, entries: &[(u32, Entry)]) {
        self.backends.turn(entries);
    }

    /// By backend id: the place of its next hop.
    #[cfg(test)]
    pub fn hops(&self) -> std::collections::BTreeMap<u32, u32> {
        self.backends.iter().map(|(id, _)| (id, self.backends.entries.load(id).hop)).collect()
    }

    /// Interfaces that packets may still be redirected to which found a next hop that is no more.
    pub fn left_devices(&self) -> impl Iterator<Item = u32> {
        self.backends.book.devices.iter().copied()
    }
}
