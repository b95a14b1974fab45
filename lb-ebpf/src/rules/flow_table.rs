//! How a flow's entries are found in their group of lines, and how a place is claimed for one: without a lock, beside
//! any number of others that do the same, and beside the daemon, which takes entries out. [`lb_common::FlowLine`] says
//! which states a place goes through.
//!
//! The program, the daemon and the tests that interleave threads run this same code over memory of their own.
//!
//! Two packets of one flow that nobody knows may come on two CPUs at once, and each claim a place. Whoever looks takes
//! the first, so that both CPUs agree from then on; the other entry ends with its idle time. It costs a place, and
//! nobody can make more of them than there are CPUs.

use lb_common::{FlowEntry, FlowKind, FlowLine, FlowPlace};

use crate::cold::opaque;

/// A line of places in memory that others use at the same time. Numbers of places are below [`FlowLine::PLACES`].
pub trait Line {
    /// The tag at a place.
    fn tag(&self, number: u32) -> u32;

    /// What is at a place.
    fn entry(&self, number: u32) -> FlowEntry;

    /// Puts `to` in the place of `from`; false where something else is there. Whatever was written before is seen by
    /// whoever sees `to`.
    #[must_use]
    fn swap(&self, number: u32, from: FlowEntry, to: FlowEntry) -> bool;

    /// Sets the tag at a place that this thread has claimed. Whatever was written before is seen by whoever sees it.
    fn publish(&self, number: u32, tag: u32);

    /// How many entries went past this line.
    fn spilled(&self) -> u32;

    /// One more does.
    fn spill(&self);
}

/// A group of lines.
pub trait Group {
    /// Its lines.
    type Line: Line;

    /// A line; the number is below [`FlowLine::A_GROUP`].
    fn line(&self, number: u32) -> Self::Line;
}

/// A line as whoever takes entries out has it: the daemon, and in it one sweep at a time.
pub trait Swept: Line {
    /// Sets the count of entries that went past this line to none, where it is `count`.
    fn clear_spilled(&self, count: u32);
}

/// What is at a place that is not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// An entry that was taken out.
    Gone,
    /// An entry whose flow's name is being written.
    Claimed(FlowEntry),
    /// An entry.
    Entry(FlowEntry),
}

/// An entry, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Its place; [`FlowPlace::NONE`] of no entry.
    pub place: FlowPlace,
    /// The entry.
    pub entry: FlowEntry,
}

/// The entries of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Of the stream that a SYN opened.
    pub opened: At,
    /// Of what is kept for a settled owner, or of datagrams.
    pub kept: At,
}

impl Default for At {
    fn default() -> Self {
        Self { place: FlowPlace::NONE, entry: FlowEntry::default() }
    }
}

impl Found {
    /// Takes note of an entry, unless one of its kind is known.
    #[inline(always)]
    pub fn note(&mut self, at: At) {
        let known = if matches!(at.entry.kind(), FlowKind::Opened) { &mut self.opened } else { &mut self.kept };
        if !known.place.is_some() {
            *known = at;
        }
    }
}

/// The line behind another in its group.
#[inline(always)]
const fn after(line: u32) -> u32 {
    (line + 1) % FlowLine::A_GROUP as u32
}

/// The entries with this tag in a group, from its line `home` on, of which `is_own` says that they may be the flow's.
#[inline(always)]
pub fn find<G: Group>(group: &G, home: u32, tag: u32, mut is_own: impl FnMut(FlowEntry) -> bool) -> Found {
    let mut found = Found::default();
    let mut number = home;
    for _ in 0..FlowLine::A_GROUP {
        let line = group.line(number);
        look(&line, number, tag, &mut is_own, &mut found);
        // One that was full when it was to have the entry.
        if line.spilled() == 0 {
            break;
        }
        number = after(number);
    }
    found
}

/// Notes the entries with this tag in one line.
#[inline(always)]
fn look<L: Line>(line: &L, number: u32, tag: u32, is_own: &mut impl FnMut(FlowEntry) -> bool, found: &mut Found) {
    let mut own = tagged(line, tag);
    for _ in 0..FlowLine::PLACES {
        if own == 0 {
            return;
        }
        if let Some(place) = lowest(own) {
            let entry = line.entry(place);
            if entry.is_some() && is_own(entry) {
                found.note(At { place: FlowPlace::new(number, place), entry });
            }
        }
        own &= own - 1;
    }
}

/// The places of a line that have this tag, a bit for each.
#[inline(always)]
pub fn tagged<L: Line>(line: &L, tag: u32) -> u32 {
    let mut own = 0;
    for place in 0..FlowLine::PLACES as u32 {
        // 1 where they are the same, without a branch.
        let same = (u64::from(line.tag(place) ^ tag)).wrapping_sub(1) >> 63;
        own |= (same as u32) << place;
    }
    own
}

/// The number of the lowest bit that is set of five; BPF has no instruction for it.
#[inline(always)]
pub fn lowest(bits: u32) -> Option<u32> {
    /// By the bit alone, at three times its value.
    const NUMBERS: u64 = 1 << (3 * 2) | 2 << (3 * 4) | 3 << (3 * 8) | 4 << (3 * 16);
    let bit = bits & bits.wrapping_neg();
    let number = opaque((NUMBERS >> ((3 * bit) & 63)) as u32 & 7);
    (number < FlowLine::PLACES as u32).then_some(number)
}

/// A place of a line with `entry` in it, which nobody finds before it is published. [`FlowPlace::NONE`] where none is
/// free.
#[inline(always)]
pub fn claim_in<L: Line>(line: &L, number: u32, entry: FlowEntry) -> FlowPlace {
    let free = FlowEntry::default();
    for place in 0..FlowLine::PLACES as u32 {
        if line.entry(place) == free && line.swap(place, free, entry) {
            return FlowPlace::new(number, place);
        }
    }
    FlowPlace::NONE
}

/// The same in the lines behind `home`, which has none. Lines that the entry goes past are marked before it is there; if
/// the whole group is full, none is.
#[inline(always)]
pub fn claim_behind<G: Group>(group: &G, home: u32, entry: FlowEntry) -> FlowPlace {
    let mut number = after(home);
    for past in 1..FlowLine::A_GROUP as u32 {
        let line = group.line(number);
        if has_free(&line) {
            let mut marked = home;
            for _ in 0..past {
                group.line(marked).spill();
                marked = after(marked);
            }
            let place = claim_in(&line, number, entry);
            if place.is_some() {
                return place;
            }
        }
        number = after(number);
    }
    FlowPlace::NONE
}

#[inline(always)]
fn has_free<L: Line>(line: &L) -> bool {
    (0..FlowLine::PLACES as u32).any(|place| line.entry(place) == FlowEntry::default())
}

/// A place in the group, from `home` on.
#[inline(always)]
pub fn claim<G: Group>(group: &G, home: u32, entry: FlowEntry) -> FlowPlace {
    let place = claim_in(&group.line(home), home, entry);
    if place.is_some() { place } else { claim_behind(group, home, entry) }
}

impl Placed {
    /// By the tag and the entry of a place, each read once; `None` where it is free. They may be read in either order by
    /// whoever takes entries out himself, as nobody else does; by others the tag is read first, so that a name that was
    /// written before it is seen with it.
    #[inline(always)]
    pub fn of(tag: impl FnOnce() -> u32, entry: FlowEntry) -> Option<Self> {
        if entry == FlowEntry::default() {
            None
        } else if !entry.is_some() {
            Some(Self::Gone)
        } else if tag() == 0 {
            Some(Self::Claimed(entry))
        } else {
            Some(Self::Entry(entry))
        }
    }

    /// At a place of a line.
    #[inline(always)]
    pub fn at<L: Line>(line: &L, number: u32) -> Option<Self> {
        let tag = line.tag(number);
        Self::of(|| tag, line.entry(number))
    }
}

/// Takes an entry out; false where something else is there by now. Its place is not free before [`free`].
#[must_use]
pub fn remove<L: Swept>(line: &L, number: u32, entry: FlowEntry) -> bool {
    let is_gone = line.swap(number, entry, FlowEntry::GONE);
    if is_gone {
        // Nobody else writes to a place whose entry is gone.
        line.publish(number, 0);
    }
    is_gone
}

/// Frees a place whose entry was taken out before a grace period that has ended.
pub fn free<L: Swept>(line: &L, number: u32) {
    // A daemon that was killed just after it took the entry out has left the tag.
    line.publish(number, 0);
    let freed = line.swap(number, FlowEntry::GONE, FlowEntry::default());
    debug_assert!(freed, "nobody else writes to a place whose entry is gone");
}

/// By line of a group: how many entries went past it, of which none is there any more; 0 where some is. `home` tells the
/// home line of the flow whose entry is at a place. Where that was so at two times with the same count, and a grace
/// period between them, nobody is on his way past it: the count may be cleared. 0 everywhere where a place is claimed:
/// nobody knows for whom.
pub fn unpassed<G: Group>(group: &G, home: impl Fn(FlowPlace) -> u32) -> [u32; FlowLine::A_GROUP] {
    const LINES: usize = FlowLine::A_GROUP;
    let mut counts = [0; LINES];
    for (number, count) in (0..).zip(&mut counts) {
        *count = group.line(number).spilled();
    }
    let mut is_passed = [false; LINES];
    if counts != [0; LINES] {
        // Read after the counts: who went past a line has counted before.
        for place in FlowPlace::all() {
            match Placed::at(&group.line(place.line()), place.number()) {
                Some(Placed::Entry(_)) => {
                    let mut line = home(place);
                    while line != place.line() {
                        is_passed[line as usize % LINES] = true;
                        line = after(line);
                    }
                }
                Some(Placed::Claimed(_)) => is_passed = [true; LINES],
                Some(Placed::Gone) | None => {}
            }
        }
    }
    for (count, is_passed) in counts.iter_mut().zip(is_passed) {
        if is_passed {
            *count = 0;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use lb_common::{FlowParts, Position, Progress, Tick};

    use super::*;

    type Places = [Cell<FlowLine>; FlowLine::A_GROUP];

    impl Line for &Cell<FlowLine> {
        fn tag(&self, number: u32) -> u32 {
            self.get().tags[number as usize]
        }

        fn entry(&self, number: u32) -> FlowEntry {
            self.get().entries[number as usize]
        }

        fn swap(&self, number: u32, from: FlowEntry, to: FlowEntry) -> bool {
            let mut line = self.get();
            let is_there = line.entries[number as usize] == from;
            if is_there {
                line.entries[number as usize] = to;
                self.set(line);
            }
            is_there
        }

        fn publish(&self, number: u32, tag: u32) {
            let mut line = self.get();
            line.tags[number as usize] = tag;
            self.set(line);
        }

        fn spilled(&self) -> u32 {
            self.get().spilled
        }

        fn spill(&self) {
            self.set(FlowLine { spilled: self.spilled() + 1, ..self.get() });
        }
    }

    impl<'a> Group for &'a Places {
        type Line = &'a Cell<FlowLine>;

        fn line(&self, number: u32) -> Self::Line {
            &self[number as usize]
        }
    }

    fn entry(backend: u32, kind: FlowKind) -> FlowEntry {
        let (seen, next) = (Tick(0), Position::of(0));
        FlowParts { backend, kind, progress: Progress::Once, seen, next, level: 0, jumped: false }.pack()
    }

    fn enter(group: &Places, home: u32, tag: u32, entry: FlowEntry) -> FlowPlace {
        let place = claim(&group, home, entry);
        if place.is_some() {
            group[place.line() as usize].publish_at(place, tag);
        }
        place
    }

    trait PublishAt {
        fn publish_at(&self, place: FlowPlace, tag: u32);
    }

    impl PublishAt for Cell<FlowLine> {
        fn publish_at(&self, place: FlowPlace, tag: u32) {
            (&self).publish(place.number(), tag);
        }
    }

    #[test]
    fn the_lowest_bit_is_found() {
        assert!((1u32..32).all(|bits| lowest(bits) == Some(bits.trailing_zeros())));
    }

    #[test]
    fn every_place_of_a_group_is_used_and_every_entry_found() {
        for home in 0..FlowLine::A_GROUP as u32 {
            let group = Places::default();
            for tag in 1..=FlowLine::PLACES_A_GROUP as u32 {
                let place = enter(&group, home, tag, entry(tag, FlowKind::Kept));
                assert!(place.is_some(), "{tag} of {}", FlowLine::PLACES_A_GROUP);
            }
            let full = group.each_ref().map(Cell::get);
            assert!(!claim(&&group, home, entry(99, FlowKind::Kept)).is_some());
            assert_eq!(group.each_ref().map(Cell::get), full, "what finds no room marks no line");
            for tag in 1..=FlowLine::PLACES_A_GROUP as u32 {
                let found = find(&&group, home, tag, |_| true);
                assert_eq!((found.kept.entry.backend(), found.opened), (tag, At::default()));
            }
        }
    }

    #[test]
    fn a_line_that_nobody_went_past_is_the_only_one_that_is_read() {
        let group = Places::default();
        enter(&group, 3, 7, entry(1, FlowKind::Kept));
        enter(&group, 4, 8, entry(2, FlowKind::Kept));
        assert_eq!(find(&&group, 3, 8, |_| true), Found::default());
        assert_eq!(group.iter().filter(|line| line.get().spilled > 0).count(), 0);
    }

    #[test]
    fn both_kinds_are_found_and_what_is_another_flows_is_not() {
        let group = Places::default();
        for (backend, kind) in [(1, FlowKind::Kept), (2, FlowKind::Opened), (3, FlowKind::Opened)] {
            enter(&group, 0, 7, entry(backend, kind));
        }
        let found = find(&&group, 0, 7, |_| true);
        assert_eq!((found.opened.entry.backend(), found.kept.entry.backend()), (2, 1), "the first of each");
        assert_eq!(find(&&group, 0, 7, |entry| entry.backend() != 1).kept, At::default());
        // Taken out, and claimed but not published.
        let place = find(&&group, 0, 7, |_| true).kept.place;
        let cell = &&group[0];
        assert!(cell.swap(place.number(), entry(1, FlowKind::Kept), FlowEntry::GONE));
        assert_eq!(find(&&group, 0, 7, |_| true).kept, At::default());
        assert!(claim(&&group, 0, entry(4, FlowKind::Kept)).is_some());
        assert_eq!(find(&&group, 0, 7, |_| true).kept, At::default());
    }
}
