//! What one function puts aside for the next of the same packet, where that is more than a number: on the stack it would lie
//! beneath both, of which the packets' own way takes half already.

use lb_common::{FlowKey, Slot};

use crate::maps::ASIDE;

/// A flow that the flow table is to be asked for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Aside {
    /// The flow.
    pub key: FlowKey,
    /// Its slot.
    pub slot: Slot,
    /// What its packets vary by ([`lb_ebpf::hash::FlowHash::entropy`]).
    pub entropy: u64,
}

/// Puts it aside; whether there was room.
#[inline(always)]
pub fn put(flow: Aside) -> bool {
    let Some(place) = ASIDE.get_ptr_mut(0) else { return false };
    // SAFETY: the map's value on this CPU, which nothing else reads or writes while this program runs.
    unsafe { place.write(flow) };
    true
}

/// What was put aside last.
#[inline(always)]
pub fn get() -> Option<&'static Aside> {
    ASIDE.get(0)
}
