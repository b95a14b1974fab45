//! Third stage: which slot of its VIP's table a flow is on, and the backend behind an id.

use lb_common::{Backend, DropReason, NO_ID, Slot, VipRoute};
use lb_ebpf::hash::FlowHash;

use crate::maps::{BACKENDS, SLOTS};

/// The slot of the flow.
#[inline(always)]
pub fn of(route: &VipRoute, hash: FlowHash) -> Result<Slot, DropReason> {
    SLOTS.get(route.slot_base.wrapping_add(hash.slot(route.slots))).copied().ok_or(DropReason::NoBackend)
}

/// The entry of a backend.
#[inline(always)]
pub fn backend(id: u32) -> Result<&'static Backend, DropReason> {
    if id == NO_ID {
        return Err(DropReason::NoBackend);
    }
    BACKENDS.get(id).ok_or(DropReason::NoBackend)
}
