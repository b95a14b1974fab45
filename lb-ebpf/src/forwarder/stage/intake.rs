//! How much of the flow table a VIP may take: every sweep says how many flows each CPU may enter for it until the next
//! one, and each CPU counts its own.

use lb_common::Intake;

use crate::maps::{ALLOWANCES, INTAKES};

/// Whether one flow more of a VIP may be entered; it counts as entered then, and as refused otherwise.
#[inline(always)]
pub fn admits(vip: u32) -> bool {
    let (Some(allowance), Some(intake)) = (ALLOWANCES.get(vip), INTAKES.get_ptr_mut(vip)) else { return false };
    // SAFETY: a reference. Volatile, so that it is read once, as one word: the daemon may store another.
    let allowance = unsafe { core::ptr::from_ref(allowance).read_volatile() };
    let sweep = allowance.sweep();
    // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
    let Intake { sweep: since, entered, refused } = unsafe { &mut *intake };
    if *since != sweep {
        (*since, *entered) = (sweep, 0);
    }
    if *entered >= allowance.flows() {
        *refused += 1;
        return false;
    }
    *entered += 1;
    true
}

/// A flow that was admitted found no place.
#[inline(always)]
pub fn give_back(vip: u32) {
    if let Some(intake) = INTAKES.get_ptr_mut(vip) {
        // SAFETY: as in `admits`.
        let Intake { entered, refused, .. } = unsafe { &mut *intake };
        *entered = entered.saturating_sub(1);
        *refused += 1;
    }
}
