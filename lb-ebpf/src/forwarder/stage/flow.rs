//! Fifth stage, of packets on slots that move and of VIPs that track always: whom the flow belongs to, by the flow
//! table.
//!
//! Looks entries up, lets [`lb_ebpf::rules::tracking`] decide, and writes what it says.

use lb_common::{
    Backend, FlowEntry, FlowGroup, FlowKey, FlowKind, FlowLine, FlowNames, FlowOutcome, FlowPlace, NO_ID, Slot, Tick,
};
use lb_ebpf::{
    atomic,
    cold::opaque,
    hash::FlowTag,
    rules::{
        flow_table::{self, At, Found, Group, Line},
        tracking::{self, Backends, Claim, Decision, Seen, Write},
    },
    wire::{TCP, TcpFlags, Transport},
};

use super::{aside::Aside, count, intake};
use crate::{
    clock,
    maps::{self, BACKENDS, FLOW_NAMES, FLOWS},
};

/// A group of lines in the map.
struct MapGroup(*mut FlowGroup);

/// A line of it.
struct MapLine(*mut FlowLine);

/// Id of the backend that the packet goes to. `always`: the VIP tracks every flow.
///
/// A function of its own, so that it takes neither registers nor stack from packets that need no flow table.
#[inline(never)]
pub fn owner(key: &FlowKey, slot: Slot, transport: &Transport, always: bool) -> u32 {
    let now = clock::now();
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
    let (opened_place, kept_place) = (found.opened.place, found.kept.place);
    let mut case = Case::new(&found, slot, transport, now, always);
    // Of a flow without an entry no more needs to be known.
    let claim = if opened_place.is_some() || kept_place.is_some() {
        naru_claim(&raw mut case)
    } else {
        case.claim = if transport.opens() { NEW } else { NOBODY };
        0
    };
    let write = if claim == FOLLOWS { naru_follow(&raw mut case) } else { naru_begin(&raw mut case) };
    if write == Write::Enter as u32
        && let Some(refusal) = enter(key, tag, case.entry)
    {
        count::flow(refusal);
        return naru_refused(&raw mut case);
    }
    if write == Write::Replace as u32 {
        let is_opened = matches!(case.entry.kind(), FlowKind::Opened);
        let (place, before) = if is_opened { (opened_place, case.opened) } else { (kept_place, case.kept) };
        // Another CPU may have been faster: what it says is as new.
        let is_replaced = group.at(place).is_some_and(|(line, number)| line.swap(number, before, case.entry));
        if !is_replaced && case.outcome == FlowOutcome::Promoted as u8 {
            case.outcome = FlowOutcome::Known as u8;
        }
    }
    count::outcome(case.outcome.into());
    case.entry.backend()
}

/// Id of the backend that a message about a flow goes to, which changes nothing here.
#[inline(never)]
pub fn told(Aside { key, slot, .. }: &Aside) -> u32 {
    let slot = *slot;
    let transport =
        if key.protocol() == TCP { Transport::segment(0, TcpFlags::ACK, 0, 0) } else { Transport::datagram(0, 0) };
    let tag = FlowTag::of(&maps::FlowSecret, key);
    let (index, home) = tag.home(maps::flow_groups());
    let Some(group) = FLOWS.get_ptr_mut(index).map(MapGroup) else { return slot.settled_owner() };
    let mut found = Found::default();
    match find(&group, index, home, tag.tag(), key.vip()) {
        Some(Ok((at, _))) => found.note(at),
        Some(Err(several)) => found = several,
        None => {}
    }
    let seen = Seen { opened: found.opened.entry, kept: found.kept.entry };
    tracking::told(&seen, slot, &transport, &MapBackends)
}

/// What the rules are asked, and what they answer. Without padding: the verifier wants all of it written. As small as
/// can be: it lies on the stack, of which there are 512 bytes for all functions that wait for one another.
#[repr(C)]
struct Case {
    opened: FlowEntry,
    kept: FlowEntry,
    slot: Slot,
    /// Of the answer.
    entry: FlowEntry,
    sequence: u32,
    data_len: u32,
    now: Tick,
    flags: u8,
    protocol: u8,
    always: bool,
    /// Of the answer: number of the [`FlowOutcome`].
    outcome: u8,
    /// Number of the [`Claim`].
    claim: u8,
    /// In the place of padding.
    unused: u8,
}

impl Case {
    #[inline(always)]
    fn new(found: &Found, slot: Slot, transport: &Transport, now: Tick, always: bool) -> Self {
        let (opened, kept) = (found.opened.entry, found.kept.entry);
        Self {
            opened,
            kept,
            slot,
            entry: opened,
            sequence: transport.sequence(),
            data_len: transport.data_len(),
            now,
            flags: transport.flags().0,
            protocol: transport.protocol,
            always,
            outcome: 0,
            claim: 0,
            unused: 0,
        }
    }

    #[inline(always)]
    fn seen(&self) -> Seen {
        Seen { opened: self.opened, kept: self.kept }
    }

    /// Notes what was decided; the number of what is to be written.
    #[inline(always)]
    fn answer(&mut self, Decision { entry, write, outcome }: Decision) -> u32 {
        (self.entry, self.outcome) = (entry, outcome as u8);
        write as u32
    }

    #[inline(always)]
    fn transport(&self) -> Transport {
        let Self { sequence, data_len, flags, protocol, .. } = *self;
        if protocol == TCP {
            Transport::segment(0, TcpFlags(flags), sequence, data_len)
        } else {
            Transport::datagram(0, data_len)
        }
    }
}

/// What [`naru_claim`] says of a packet that some entry is for.
const FOLLOWS: u32 = 1;

// What [`tracking::decide`] does, in functions that are verified once, for whatever they are called with: its many branches,
// times the many ways that lead to them, are what the verifier would take most of its time for. Several, so that each takes
// little of the stack.

/// Whose the packet is: notes the entry that it follows, or how it begins.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn naru_claim(case: *mut Case) -> u32 {
    // SAFETY: the caller's, who has it to himself; the verifier has it checked for null.
    let Some(case) = (unsafe { case.as_mut() }) else { return 0 };
    let claim = tracking::claim(&case.seen(), case.slot, &case.transport(), case.now, &MapBackends);
    case.claim = claim as u8;
    case.entry = if matches!(claim, Claim::Opened) { case.opened } else { case.kept };
    if matches!(claim, Claim::Opened | Claim::Kept) { FOLLOWS } else { 0 }
}

/// Of a packet that some entry is for; returns the number of a [`Write`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn naru_follow(case: *mut Case) -> u32 {
    // SAFETY: as in `naru_claim`.
    let Some(case) = (unsafe { case.as_mut() }) else { return Write::Nothing as u32 };
    case.answer(tracking::follow(case.entry, case.slot, &case.transport(), case.now, &MapBackends))
}

/// Of a packet that none is for; returns the number of a [`Write`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn naru_begin(case: *mut Case) -> u32 {
    // SAFETY: as in `naru_claim`.
    let Some(case) = (unsafe { case.as_mut() }) else { return Write::Nothing as u32 };
    let claim = match case.claim {
        AGAIN => Claim::Again,
        NEW => Claim::New,
        _ => Claim::Nobody,
    };
    let (seen, transport) = (case.seen(), case.transport());
    case.answer(tracking::begin(claim, &seen, case.slot, &transport, case.now, case.always, &MapBackends))
}

const NOBODY: u8 = Claim::Nobody as u8;
const AGAIN: u8 = Claim::Again as u8;
const NEW: u8 = Claim::New as u8;

/// Where a packet goes whose flow was to get an entry and found no room. A function of its own as well, for few packets need
/// it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn naru_refused(case: *mut Case) -> u32 {
    // SAFETY: as in `naru_claim`.
    let Some(case) = (unsafe { case.as_ref() }) else { return NO_ID };
    tracking::refused(&case.seen(), case.slot, &case.transport(), &MapBackends)
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
#[inline(always)]
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

/// The backends in the map.
struct MapBackends;

impl Backends for MapBackends {
    #[inline(always)]
    fn is_down(&self, id: u32) -> bool {
        id == NO_ID || BACKENDS.get(id).is_none_or(|backend| backend.is_down())
    }

    #[inline(always)]
    fn takes_flows(&self, id: u32) -> bool {
        id != NO_ID && BACKENDS.get(id).is_some_and(|backend| backend.takes_flows())
    }
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
        // SAFETY: within the line.
        let cell = unsafe { (&raw mut (*self.0).tags).cast::<u32>().add(number as usize) };
        if maps::stores_are_ordered() {
            // SAFETY: a map's value.
            unsafe { atomic::store(cell, tag) };
        } else {
            // SAFETY: a map's value.
            unsafe { atomic::swap(cell, tag) };
        }
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

const _: () = assert!(size_of::<Case>() == 4 * size_of::<u64>() + 2 * size_of::<u32>() + size_of::<u16>() + 4 + 2);
const _: () = assert!(size_of::<FlowNames>() == FlowLine::PLACES_A_GROUP * size_of::<FlowKey>());
