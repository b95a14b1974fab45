//! Fifth stage, of packets on slots that move and of VIPs that track always: whom the flow belongs to, by the flow
//! tables.
//!
//! Looks entries up, lets [`lb_ebpf::rules::tracking`] decide, and writes what it says. Flows of which one packet was
//! seen are in a table of their own, so that a flood of first packets evicts no established flow.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_ktime_get_ns};
use lb_common::{FlowEntry, FlowKey, FlowOutcome, NO_ID, Slot, Tick};
use lb_ebpf::{
    rules::tracking::{self, Decision},
    wire::Transport,
};

use super::count;
use crate::maps::{BACKENDS, EMBRYOS, FLOWS};

/// Id of the backend that the packet goes to. `always`: the VIP tracks every flow.
///
/// A function of its own, so that it takes neither registers nor stack from packets that need no flow table.
#[inline(never)]
pub fn owner(key: &FlowKey, slot: Slot, transport: &Transport, always: bool) -> u32 {
    // SAFETY: the helper reads the clock.
    let now = Tick::at(unsafe { bpf_ktime_get_ns() });
    if let Some(cell) = FLOWS.get_ptr_mut(key) {
        return follow_established(cell, slot, transport, now);
    }
    if let Some(cell) = EMBRYOS.get_ptr_mut(key) {
        return follow_embryonic(key, cell, slot, transport, now);
    }
    // Another CPU may have promoted it between the two lookups: it is then where the first one looked.
    if !transport.opens()
        && let Some(cell) = FLOWS.get_ptr_mut(key)
    {
        return follow_established(cell, slot, transport, now);
    }
    enter(key, slot, transport, now, always)
}

/// Takes a packet of a flow that has an entry into account.
#[inline(always)]
fn follow(cell: *mut FlowEntry, slot: Slot, transport: &Transport, now: Tick) -> Decision {
    // SAFETY: the map's value, which stays readable while this program runs. Other CPUs and the daemon read and write
    // it as the one word that it is; whichever of two packets of one flow writes last, the entry is one of that flow.
    let entry = unsafe { cell.read() };
    let decision = tracking::follow(entry, slot, transport, now, is_down(entry.backend()));
    if decision.entry != entry {
        // SAFETY: as above.
        unsafe { cell.write(decision.entry) };
    }
    decision
}

/// The same of a flow of which more than one packet was seen before. Returns the id of its backend.
#[inline(always)]
fn follow_established(cell: *mut FlowEntry, slot: Slot, transport: &Transport, now: Tick) -> u32 {
    let Decision { entry, outcome } = follow(cell, slot, transport, now);
    count::flow(outcome);
    entry.backend()
}

/// The same of a flow of which one packet was seen before: it is established now, if this shows that there is more to
/// it.
#[inline(always)]
fn follow_embryonic(key: &FlowKey, cell: *mut FlowEntry, slot: Slot, transport: &Transport, now: Tick) -> u32 {
    let Decision { entry, outcome } = follow(cell, slot, transport, now);
    count::flow(match outcome {
        FlowOutcome::Known if !tracking::promotes(transport) => FlowOutcome::Repeated,
        FlowOutcome::Known if promote(key, entry) => FlowOutcome::Promoted,
        other => other,
    });
    entry.backend()
}

/// From the embryonic flows to the established ones; where that fails the flow stays where it is.
#[inline(always)]
fn promote(key: &FlowKey, entry: FlowEntry) -> bool {
    let is_established = FLOWS.insert(key, entry, BPF_NOEXIST.into()).is_ok();
    if is_established {
        // Evicted meanwhile, if it is not there.
        let _ = EMBRYOS.remove(key);
    }
    is_established
}

/// Enters a flow that is at risk. One that cannot be entered belongs to the settled owner, where its packets go without
/// an entry.
#[inline(always)]
fn enter(key: &FlowKey, slot: Slot, transport: &Transport, now: Tick, always: bool) -> u32 {
    const EEXIST: i32 = -17;
    let is_settled_down = is_down(slot.settled_owner());
    let Decision { entry, outcome } = tracking::enter(slot, transport, now, always, is_settled_down);
    if outcome != FlowOutcome::Opened && outcome != FlowOutcome::Kept {
        count::flow(outcome);
        return entry.backend();
    }
    match EMBRYOS.insert(key, entry, BPF_NOEXIST.into()) {
        Ok(()) => count::flow(outcome),
        // Another CPU was first, with another packet of the same flow: it says where they go.
        Err(EEXIST) => {
            count::flow(FlowOutcome::Repeated);
            return EMBRYOS.get_ptr_mut(key).map_or(entry.backend(), |cell| {
                // SAFETY: as in `follow`.
                unsafe { cell.read() }.backend()
            });
        }
        Err(_) => {
            count::flow(FlowOutcome::TableFull);
            return if is_settled_down { slot.current() } else { slot.settled_owner() };
        }
    }
    entry.backend()
}

/// Whether the flows of a backend are lost.
#[inline(always)]
fn is_down(id: u32) -> bool {
    id == NO_ID || BACKENDS.get(id).is_none_or(|backend| backend.is_down())
}
