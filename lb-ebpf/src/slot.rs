//! Third stage: which backend a flow belongs to.

use lb_common::{Backend, DropReason, NO_ID, VipRoute};
use lb_ebpf::flow_hash::FlowHash;

use crate::maps::{BACKENDS, SLOTS};

/// The backend that owns the flow's slot, and its id.
#[inline(always)]
pub fn owner(route: &VipRoute, hash: FlowHash) -> Result<(u32, &'static Backend), DropReason> {
    let slot = SLOTS.get(route.slot_base.wrapping_add(hash.slot(route.slots))).ok_or(DropReason::NoBackend)?;
    let id = slot.current();
    if id == NO_ID {
        return Err(DropReason::NoBackend);
    }
    let backend = BACKENDS.get(id).ok_or(DropReason::NoBackend)?;
    Ok((id, backend))
}
