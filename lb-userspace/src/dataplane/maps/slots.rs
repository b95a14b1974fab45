//! The slots of all tables: what packets read, and who keeps account of the slots that move.

use std::{
    ptr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use aya::maps::MapData;
use hashbrown::HashMap;
use lb_common::{NO_ID, Slot, SlotLine, SlotWord, Tick, maps};

use super::{
    Maps,
    mmap::{Mapped, Pieces},
};
use crate::{
    cpus,
    dataplane::{Error, grace::grace, sys},
    plan::{Continuation, Owner, refill},
};

/// The slots of all tables, which sweeps read while the data plane's owner writes.
pub struct Slots {
    words: Pieces,
    /// By place.
    moves: Mapped<Slot, 1>,
}

/// Which places of slots that move are in use: slots of which the same is to be said share one. A place that is free
/// holds [`Slot::EMPTY`].
#[derive(Default)]
pub(super) struct Places(Mutex<Book>);

#[derive(Default)]
struct Book {
    /// What is said at a place, and of how many slots.
    used: HashMap<u32, (Slot, u32)>,
    /// Where it is said.
    places: HashMap<Slot, u32>,
    free: Vec<u32>,
    /// From here on all places are free.
    fresh: u32,
    /// Of no slot any more, but a packet may be on its way there.
    left: Vec<u32>,
    /// As many were left before the first of those, and are free.
    freed: u64,
}

/// What packets may be on their way to when somebody begins to wait for them: he shows this when he has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// As many places were ever left by then.
    left: u64,
}

impl Slots {
    pub(super) fn open(slots: MapData, moves: MapData) -> Result<Self, Error> {
        Ok(Self { words: Pieces::open::<SlotLine>(maps::SLOTS, slots)?, moves: Mapped::open(maps::MOVES, moves)? })
    }

    /// The slot at `index`; none where there are not as many.
    pub fn at(&self, index: u32) -> Option<Slot> {
        if index >= self.entries() {
            return None;
        }
        let cell = self.words.word(index);
        loop {
            let word = load(cell);
            if let Some(owner) = word.owner() {
                return Some(Slot::settled(owner));
            }
            let slot = self.moves.load(word.place());
            // Else another slot's may be there by now.
            if load(cell) == word {
                return Some(slot);
            }
        }
    }

    /// How many there are.
    pub fn entries(&self) -> u32 {
        self.words.words()
    }

    /// How many places there are for slots that move.
    pub(super) fn places(&self) -> u32 {
        self.moves.entries
    }

    /// How many of them are not free.
    pub(super) fn places_in_use(&self) -> u64 {
        self.moves.iter().filter(|(_, slot)| *slot != Slot::EMPTY).count() as u64
    }

    /// Counts the slots of a table by the backend that they give new flows to, into `counts` by its id.
    pub fn count(&self, base: u32, slots: u32, counts: &mut [u32]) {
        for slot in (base..base + slots).map_while(|index| self.at(index)) {
            if let Some(count) = counts.get_mut(slot.current() as usize) {
                *count += 1;
            }
        }
    }

    /// What is said at each place that is in use.
    pub(super) fn said(&self) -> Vec<(u32, Slot)> {
        self.moves.iter().filter(|(_, slot)| *slot != Slot::EMPTY).collect()
    }

    /// How many of the slots in these ranges, first slot and number of each, name each place. Every CPU looks through a
    /// share of them.
    fn places_named(&self, ranges: &[(u32, u32)]) -> HashMap<u32, u32> {
        const SHARE: u32 = 1 << 20;
        let shares_of = |(first, count): &(u32, u32)| {
            let end = first + count;
            (*first..end).step_by(SHARE as usize).map(move |first| (first, SHARE.min(end - first)))
        };
        let shares: Vec<(u32, u32)> = ranges.iter().flat_map(shares_of).collect();
        let named = cpus::map(&shares, 1, |(first, count)| {
            let mut named: HashMap<u32, u32> = HashMap::new();
            let runs = self.words.runs(*first, *count);
            let words = runs.flat_map(|(_, cells)| cells).map(load);
            words.filter(|word| word.owner().is_none()).for_each(|word| *named.entry(word.place()).or_default() += 1);
            named
        });
        named.into_iter().flatten().fold(HashMap::new(), |mut all, (place, count)| {
            *all.entry(place).or_default() += count;
            all
        })
    }
}

impl Places {
    /// Finds out which places are in use, of those at which something is `said`: by the words of the slots in `ranges`,
    /// which must be all that may name one.
    pub fn take_account(&self, slots: &Slots, said: &[(u32, Slot)], ranges: &[(u32, u32)]) {
        let mut book = Book::default();
        for (place, count) in slots.places_named(ranges) {
            let slot = slots.moves.load(place);
            book.used.insert(place, (slot, count));
            book.places.insert(slot, place);
        }
        for (place, _) in said.iter().copied() {
            book.free.extend(book.fresh..place);
            book.fresh = place + 1;
            if !book.used.contains_key(&place) {
                book.left.push(place);
            }
        }
        *self.lock() = book;
    }

    /// How many slots each place is used by.
    #[cfg(test)]
    fn users(&self) -> HashMap<u32, u32> {
        self.lock().used.iter().map(|(place, (_, count))| (*place, *count)).collect()
    }

    /// A place at which `slot` is said, for one slot more; the last one only for a slot that is to give back another.
    ///
    /// # Errors
    ///
    /// There is none left.
    fn take(&self, slots: &Slots, slot: Slot, gives_back: bool) -> Result<u32, Error> {
        let mut book = self.lock();
        if let Some(place) = book.places.get(&slot).copied() {
            book.used.entry(place).and_modify(|(_, count)| *count += 1);
            return Ok(place);
        }
        if !gives_back && book.left.len() + book.free.len() + (slots.places() - book.fresh) as usize <= 1 {
            return Err(Error::NoPlace { map: maps::MOVES });
        }
        let place = book.empty(slots).ok_or(Error::NoPlace { map: maps::MOVES })?;
        slots.moves.store(place, slot);
        book.used.insert(place, (slot, 1));
        book.places.insert(slot, place);
        Ok(place)
    }

    /// One slot less is at `place`.
    fn leave(&self, place: u32) {
        let mut book = self.lock();
        let Some((slot, count)) = book.used.get_mut(&place) else { return };
        *count -= 1;
        if *count == 0 {
            let slot = *slot;
            book.used.remove(&place);
            if book.places.get(&slot) == Some(&place) {
                book.places.remove(&slot);
            }
            book.left.push(place);
        }
    }

    /// Somebody begins to wait for all packets that are on their way.
    pub fn begin_wait(&self) -> Wait {
        let book = self.lock();
        Wait { left: book.freed + book.left.len() as u64 }
    }

    /// Nothing is on its way any more of what was when this wait was begun: frees the places that were left by then.
    pub fn end_wait(&self, slots: &Slots, Wait { left }: Wait) {
        let mut book = self.lock();
        let count = left.saturating_sub(book.freed).min(book.left.len() as u64);
        book.free_left(slots, count as usize);
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// A free place. Those that were left are waited for only where there is no other one: sweeps wait for packets anyway.
    fn empty(&mut self, slots: &Slots) -> Option<u32> {
        let has_fresh = self.fresh < slots.places();
        if self.free.is_empty() && !self.left.is_empty() && !has_fresh {
            grace();
            self.free_left(slots, self.left.len());
        }
        self.free.pop().or_else(|| {
            let place = self.fresh;
            self.fresh += u32::from(has_fresh);
            has_fresh.then_some(place)
        })
    }

    /// Frees the first `count` places that were left, which no packet is on its way to any more.
    fn free_left(&mut self, slots: &Slots, count: usize) {
        for place in self.left.drain(..count) {
            slots.moves.store(place, Slot::EMPTY);
            self.free.push(place);
        }
        self.freed += count as u64;
    }
}

impl Maps {
    /// Computes and writes a table; the flows of a table in `before` go on as `flows` says. Returns how many slots were
    /// others before.
    ///
    /// # Errors
    ///
    /// More is to be said of slots that move than there is room for: slots up to one of them are written. The kernel has no
    /// memory to map the slots: none is.
    pub fn put_table(
        &self,
        base: u32,
        slots: u32,
        owners: &[Owner],
        flows: Option<&Continuation>,
        before: &Self,
    ) -> Result<usize, Error> {
        self.slots.words.need(base, slots)?;
        if let Some(Continuation { base, .. }) = flows {
            before.slots.words.need(*base, slots)?;
        }
        let table = refill::table(owners, slots);
        let now = sys::now();
        let is_in_place = ptr::eq(self, before) && flows.is_some_and(|flows| flows.base == base);
        let mut written = 0;
        for (first, cells) in self.slots.words.runs(base, slots) {
            for ((index, cell), owner) in (first..).zip(cells).zip(&table[(first - base) as usize..]) {
                let owner = owners.get(*owner as usize).map_or(NO_ID, |owner| owner.id);
                let (there, settled) = (load(cell), SlotWord::settled(owner));
                let was = match flows {
                    Some(_) if is_in_place => there,
                    Some(flows) => load(before.slots.words.word(flows.base + (index - base))),
                    None => settled,
                };
                // Nearly all slots: every flow was its owner's and stays so. (No owner has a successor.)
                if was == settled && there.owner().is_some() {
                    if there != settled {
                        cell.store(settled.to_bits(), Ordering::Release);
                        written += 1;
                    }
                    continue;
                }
                let there = self.slot(index);
                let slot = match flows {
                    Some(flows) if is_in_place => given_to(there, owner, now, flows),
                    Some(flows) => given_to(before.slot(flows.base + (index - base)), owner, now, flows),
                    None => Slot::settled(owner),
                };
                if slot != there {
                    self.put(index, slot, false)?;
                    written += 1;
                }
            }
        }
        Ok(written)
    }

    /// The slot at `index`, which must be one.
    pub fn slot(&self, index: u32) -> Slot {
        self.slots.at(index).unwrap_or_else(|| panic!("slot {index} of {}", self.slots.entries()))
    }

    /// Writes a slot as it is after a while; whether it was another one before.
    ///
    /// # Errors
    ///
    /// It moves, and there is no room for what is to be said of it. It is as it was.
    pub fn put_slot(&self, index: u32, slot: Slot) -> Result<bool, Error> {
        let is_another = self.slot(index) != slot;
        if is_another {
            self.put(index, slot, true)?;
        }
        Ok(is_another)
    }

    /// Somebody begins to wait for all packets that are on their way.
    pub fn begin_wait(&self) -> Wait {
        self.places.begin_wait()
    }

    /// Nothing is on its way any more of what was when this wait was begun: places of slots that move which were left by
    /// then are free. Of other maps than these a wait is worth nothing.
    pub fn end_wait(&self, wait: Wait) {
        self.places.end_wait(&self.slots, wait);
    }

    /// How many slots each place is used by, as the book says and as the slots do.
    #[cfg(test)]
    pub fn places_used(&self) -> [HashMap<u32, u32>; 2] {
        [self.places.users(), self.slots.places_named(&[(0, self.slots.entries())])]
    }

    /// Writes a slot that is another one than before.
    fn put(&self, index: u32, slot: Slot, gives_back: bool) -> Result<(), Error> {
        let word = match slot.is_moving() {
            true => SlotWord::moving(self.places.take(&self.slots, slot, gives_back)?),
            false => SlotWord::settled(slot.current()),
        };
        let cell = self.slots.words.word(index);
        let before = load(cell);
        // With release: whoever sees the word sees what was stored before, the backend's entry or what is at its place.
        cell.store(word.to_bits(), Ordering::Release);
        if before.owner().is_none() {
            self.places.leave(before.place());
        }
        Ok(())
    }
}

fn load(cell: &AtomicU32) -> SlotWord {
    SlotWord::from_bits(cell.load(Ordering::Acquire))
}

/// A slot after a change that gives it to `owner`.
fn given_to(before: Slot, owner: u32, now: Tick, flows: &Continuation) -> Slot {
    let before = if flows.successors.is_empty() {
        before
    } else {
        before.renamed(|id| flows.successors.get(&id).copied().unwrap_or(id))
    };
    before.given_to(owner, now)
}
