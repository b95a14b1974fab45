//! Fourth stage: which slot of its VIP's table a flow is on, and the backend behind an id.

use lb_common::{Backend, DropReason, NO_ID, Slot, SlotWord, VipRoute};
use lb_ebpf::{cold::cold, hash::FlowHash};

use crate::maps::{BACKENDS, MOVES, SLOTS};

/// What the table has of the flow's slot.
#[inline(always)]
pub fn of(route: &VipRoute, hash: FlowHash) -> Result<SlotWord, DropReason> {
    let index = route.slot_base.wrapping_add(hash.slot(route.slots));
    let line = SLOTS.get(index / SlotWord::A_LINE).ok_or_else(|| cold(DropReason::NoBackend))?;
    let word = line.get((index % SlotWord::A_LINE) as usize).ok_or_else(|| cold(DropReason::NoBackend))?;
    // SAFETY: a reference. Volatile, so that it is read once: the daemon may store another word.
    Ok(unsafe { core::ptr::from_ref(word).read_volatile() })
}

/// All of the slot. Where it moves, the rest is read at an address that was computed from the word, so that it is not
/// older than the word (see [`lb_common::NextHopCell::current`]).
#[inline(always)]
pub fn whole(word: SlotWord) -> Result<Slot, DropReason> {
    match word.owner() {
        Some(owner) => Ok(Slot::settled(owner)),
        None => MOVES.get(word.place()).copied().ok_or_else(|| cold(DropReason::NoBackend)),
    }
}

/// The entry of a backend.
#[inline(always)]
pub fn backend(id: u32) -> Result<&'static Backend, DropReason> {
    if id == NO_ID {
        return Err(cold(DropReason::NoBackend));
    }
    BACKENDS.get(id).ok_or_else(|| cold(DropReason::NoBackend))
}
