//! Fifth stage, of packets on slots that move and of VIPs that track always: whom the flow belongs to, by the flow
//! table.
//!
//! Looks entries up, lets [`lb_ebpf::rules::tracking`] decide, and writes what it says.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use lb_common::{
    Backend, FlowEntry, FlowGroup, FlowKey, FlowKind, FlowLine, FlowNames, FlowOutcome, FlowPlace, NO_ID, Slot, Tick,
};
use lb_ebpf::{
    atomic,
    cold::opaque,
    hash::FlowTag,
    rules::{
        flow_table::{self, At, Found, Group, Line},
        tracking::{self, Decision, Seen, Write},
    },
    wire::Transport,
};

use super::{count, intake};
use crate::maps::{self, BACKENDS, FLOW_NAMES, FLOWS};

/// A group of lines in the map.
struct MapGroup(*mut FlowGroup);

/// A line of it.
struct MapLine(*mut FlowLine);

/// Id of the backend that the packet goes to. `always`: the VIP tracks every flow.
///
/// A function of its own, so that it takes neither registers nor stack from packets that need no flow table.
#[inline(never)]
pub fn owner(key: &FlowKey, slot: Slot, transport: &Transport, always: bool) -> u32 {
    // SAFETY: the helper reads the clock, to a tick of the kernel's own, a few milliseconds: a hundredth of ours.
    let now = Tick::at(unsafe { bpf_ktime_get_coarse_ns() });
    let tag = FlowTag::of(&maps::FlowSecret, key);
    let (index, home) = tag.home(maps::flow_groups());
    let Some(group) = FLOWS.get_ptr_mut(index).map(MapGroup) else { return slot.settled_owner() };
    let found = match find(&group, index, home, tag.tag(), key.vip()) {
        Some(Ok((at, backend))) => {
            if tracking::changes_nothing(at.entry, transport, now) && !backend.is_down() {
                count::flow(FlowOutcome::Known);
                return at.entry.backend();
            }
            let mut found = Found::default();
            found.note(at);
            found
        }
        Some(Err(found)) => found,
        None => Found::default(),
    };
    let seen = Seen { opened: found.opened.entry, kept: found.kept.entry };
    let Decision { entry, write, mut outcome } = tracking::decide(&seen, slot, transport, now, always, is_down);
    let is_reopened = matches!(write, Write::Reopen);
    let enters = match write {
        Write::Enter => entry,
        Write::Reopen if !found.kept.place.is_some() => found.opened.entry.kept(),
        Write::Nothing | Write::Replace | Write::Reopen => FlowEntry::default(),
    };
    if enters.is_some()
        && let Some(refusal) = enter(key, tag, enters)
    {
        count::flow(refusal);
        return tracking::refused(&seen, slot, transport, is_down);
    }
    if is_reopened && found.kept.place.is_some() {
        // Another CPU may have been faster: what it says is as new. So it is below.
        let _ = group.swap(found.kept, found.opened.entry.kept());
    }
    if is_reopened || matches!(write, Write::Replace) {
        let before = if matches!(entry.kind(), FlowKind::Opened) { found.opened } else { found.kept };
        if !group.swap(before, entry) && matches!(outcome, FlowOutcome::Promoted) {
            outcome = FlowOutcome::Known;
        }
    }
    count::flow(outcome);
    entry.backend()
}

/// The entries of a flow. Most have none, or one in the home line: with its backend.
#[inline(always)]
fn find(group: &MapGroup, index: u32, home: u32, tag: u32, vip: u32) -> Option<Result<(At, &'static Backend), Found>> {
    let line = group.line(home);
    let tagged = flow_table::tagged(&line, tag);
    if line.spilled() == 0 && tagged & tagged.wrapping_sub(1) == 0 {
        if tagged == 0 {
            return None;
        }
        let number = flow_table::lowest(tagged)?;
        let entry = line.entry(number);
        let backend = BACKENDS.get(entry.backend()).filter(|backend| backend.vip == vip)?;
        return Some(Ok((At { place: FlowPlace::new(home, number), entry }, backend)));
    }
    let mut found = Found::default();
    let places = naru_find(index, home, tag, vip);
    for bits in [places as u32, (places >> 32) as u32] {
        let place = FlowPlace::from_bits(bits);
        if place.is_some()
            && let Some((line, number)) = group.at(place)
        {
            let entry = line.entry(number);
            if entry.is_some() {
                found.note(At { place, entry });
            }
        }
    }
    Some(Err(found))
}

/// The places of a flow's entries, wherever they are in its group: in the lower half that of the one that a SYN opened,
/// in the upper that of the other. A function that is verified once, for whatever it is called with.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn naru_find(group: u32, home: u32, tag: u32, vip: u32) -> u64 {
    const NONE: u64 = FlowPlace::NONE.to_bits() as u64;
    let Some(group) = FLOWS.get_ptr_mut(group).map(MapGroup) else { return NONE | NONE << 32 };
    let home = home % FlowLine::A_GROUP as u32;
    let Found { opened, kept } = flow_table::find(&group, home, tag, |entry| is_of(entry.backend(), vip));
    u64::from(opened.place.to_bits()) | u64::from(kept.place.to_bits()) << 32
}

/// Enters a flow; what came in the way, if anything did.
///
/// A function of its own, for the same reason as [`owner`].
#[inline(never)]
fn enter(key: &FlowKey, tag: FlowTag, entry: FlowEntry) -> Option<FlowOutcome> {
    if !intake::admits(key.vip()) {
        return Some(FlowOutcome::OverShare);
    }
    let (index, home) = tag.home(maps::flow_groups());
    let group = FLOWS.get_ptr_mut(index).map(MapGroup)?;
    let mut place = flow_table::claim_in(&group.line(home), home, entry);
    if !place.is_some() {
        place = FlowPlace::from_bits(naru_claim_behind(index, home, entry.to_bits()));
    }
    let Some((line, number)) = group.at(place).filter(|_| place.is_some()) else {
        intake::give_back(key.vip());
        return Some(FlowOutcome::TableFull);
    };
    if let Some(names) = FLOW_NAMES.get_ptr_mut(index) {
        let in_group = opaque(place.line() * FlowLine::PLACES as u32 + number) as usize;
        if in_group < FlowLine::PLACES_A_GROUP {
            // SAFETY: within the map's value. The place is this CPU's own until it is published.
            unsafe { names.cast::<FlowKey>().add(in_group).write(*key) };
        }
    }
    line.publish(number, tag.tag());
    None
}

/// A place behind the home line of a group, which is full; as bits. Few flows need it: a function that is verified once,
/// for whatever it is called with.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn naru_claim_behind(group: u32, home: u32, entry: u64) -> u32 {
    let Some(group) = FLOWS.get_ptr_mut(group).map(MapGroup) else { return FlowPlace::NONE.to_bits() };
    let home = home % FlowLine::A_GROUP as u32;
    flow_table::claim_behind(&group, home, FlowEntry::from_bits(entry)).to_bits()
}

/// Whether a backend is this VIP's: an entry is not, where two flows' tags are the same by chance.
#[inline(always)]
fn is_of(id: u32, vip: u32) -> bool {
    BACKENDS.get(id).is_some_and(|backend| backend.vip == vip)
}

/// Whether the flows of a backend are lost.
#[inline(always)]
fn is_down(id: u32) -> bool {
    id == NO_ID || BACKENDS.get(id).is_none_or(|backend| backend.is_down())
}

impl Group for MapGroup {
    type Line = MapLine;

    #[inline(always)]
    fn line(&self, number: u32) -> MapLine {
        // SAFETY: within the map's value, whatever the number.
        MapLine(unsafe { self.0.cast::<FlowLine>().add((number % FlowLine::A_GROUP as u32) as usize) })
    }
}

impl MapGroup {
    /// The line of a place, and its number there: with bounds that the verifier sees.
    #[inline(always)]
    fn at(&self, place: FlowPlace) -> Option<(MapLine, u32)> {
        let number = opaque(place.number());
        (number < FlowLine::PLACES as u32).then(|| (self.line(opaque(place.line())), number))
    }

    /// Puts `to` where an entry is; false where that is another one by now.
    #[inline(always)]
    fn swap(&self, At { place, entry }: At, to: FlowEntry) -> bool {
        self.at(place).is_some_and(|(line, number)| line.swap(number, entry, to))
    }
}

impl MapLine {
    #[inline(always)]
    fn cell(&self, number: u32) -> *mut FlowEntry {
        // SAFETY: within the line, as callers check.
        unsafe { (&raw mut (*self.0).entries).cast::<FlowEntry>().add(number as usize) }
    }
}

// Volatile, so that each word is read once: other CPUs and the daemon write meanwhile.
impl Line for MapLine {
    #[inline(always)]
    fn tag(&self, number: u32) -> u32 {
        // SAFETY: within the line.
        unsafe { (&raw const (*self.0).tags).cast::<u32>().add(number as usize).read_volatile() }
    }

    #[inline(always)]
    fn entry(&self, number: u32) -> FlowEntry {
        // SAFETY: within the line.
        unsafe { self.cell(number).read_volatile() }
    }

    #[inline(always)]
    fn swap(&self, number: u32, from: FlowEntry, to: FlowEntry) -> bool {
        // SAFETY: within the line, and a map's value.
        let found = unsafe { atomic::compare_and_swap(self.cell(number).cast(), from.to_bits(), to.to_bits()) };
        found == from.to_bits()
    }

    #[inline(always)]
    fn publish(&self, number: u32, tag: u32) {
        // SAFETY: within the line, and a map's value.
        unsafe { atomic::swap((&raw mut (*self.0).tags).cast::<u32>().add(number as usize), tag) };
    }

    #[inline(always)]
    fn spilled(&self) -> u32 {
        // SAFETY: within the line.
        unsafe { (&raw const (*self.0).spilled).read_volatile() }
    }

    #[inline(always)]
    fn spill(&self) {
        // SAFETY: within the line, and a map's value. The claim that follows is behind it: that is a full barrier.
        unsafe { atomic::add(&raw mut (*self.0).spilled, 1) };
    }
}

const _: () = assert!(size_of::<FlowNames>() == FlowLine::PLACES_A_GROUP * size_of::<FlowKey>());
