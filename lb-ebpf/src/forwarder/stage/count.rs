//! Counts: a backend's packets once the frame is ready, and every drop by VIP. Every counter is this CPU's own.

use lb_common::{Counters, DropReason, FlowOutcome};

use crate::maps::{BACKEND_COUNTERS, FLOW_COUNTERS, VIP_DROPS};

/// Counts a packet that went to a backend.
#[inline(always)]
pub fn backend(id: u32, bytes: u32, opens: bool) {
    add(BACKEND_COUNTERS.get_ptr_mut(id), bytes, opens);
}

/// Counts a packet for a VIP that was dropped; of a malformed one is not known for which.
#[inline(always)]
pub fn dropped(vip: u32, reason: DropReason) {
    if let Some(drops) = VIP_DROPS.get_ptr_mut(vip) {
        // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
        let drops = unsafe { &mut (*drops).0 };
        if let Some(count) = drops.get_mut(reason as usize) {
            *count += 1;
        }
    }
}

/// Counts what became of a packet that the flow table was asked for.
#[inline(always)]
pub fn flow(outcome: FlowOutcome) {
    self::outcome(outcome as u32);
}

/// The same, by the number of the outcome.
#[inline(always)]
pub fn outcome(number: u32) {
    if let Some(counter) = FLOW_COUNTERS.get_ptr_mut(number) {
        // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
fn add(counters: Option<*mut Counters>, bytes: u32, opens: bool) {
    if let Some(counters) = counters {
        // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
        let counters = unsafe { &mut *counters };
        counters.packets += 1;
        counters.bytes += u64::from(bytes);
        counters.new_flows += u64::from(opens);
    }
}
