//! Counts: a VIP's packets as soon as it is known, a backend's once the frame is ready, and every drop. Every counter
//! is this CPU's own.

use lb_common::{Counters, DropReason, FlowOutcome};

use crate::maps::{BACKEND_COUNTERS, DROP_COUNTERS, FLOW_COUNTERS, VIP_COUNTERS};

/// Counts a packet that came for a VIP.
#[inline(always)]
pub fn vip(id: u32, bytes: u32, opens: bool) {
    add(VIP_COUNTERS.get_ptr_mut(id), bytes, opens);
}

/// Counts a packet that went to a backend.
#[inline(always)]
pub fn backend(id: u32, bytes: u32, opens: bool) {
    add(BACKEND_COUNTERS.get_ptr_mut(id), bytes, opens);
}

/// Counts a packet that was dropped.
#[inline(always)]
pub fn dropped(reason: DropReason) {
    count(DROP_COUNTERS.get_ptr_mut(reason as u32));
}

/// Counts what became of a packet that the flow tables were asked for.
#[inline(always)]
pub fn flow(outcome: FlowOutcome) {
    count(FLOW_COUNTERS.get_ptr_mut(outcome as u32));
}

#[inline(always)]
fn count(counter: Option<*mut u64>) {
    if let Some(counter) = counter {
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
