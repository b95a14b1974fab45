//! Fourth stage: counts. Every counter is this CPU's own.

use lb_common::{Counters, DropReason};

use crate::maps::{BACKEND_COUNTERS, DROP_COUNTERS, VIP_COUNTERS};

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
    if let Some(count) = DROP_COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
        unsafe { *count += 1 };
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
