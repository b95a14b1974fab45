//! What one function puts aside for the next of the same packet, where that is more than a number: on the stack it would lie
//! beneath both, of which the packets' own way takes half already.

use lb_common::{FlowKey, Slot};

use crate::maps::ASIDE;

/// A flow that the flow table is to be asked for, and a backend.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Aside {
    /// The flow.
    pub key: FlowKey,
    /// Its slot.
    pub slot: Slot,
    /// What its packets vary by ([`lb_ebpf::hash::FlowHash::entropy`]).
    pub entropy: u32,
    /// Id of the backend that a packet does not reach, for it is too big.
    pub backend: u32,
}

/// Puts a flow aside; whether there was room.
#[inline(always)]
pub fn put(key: &FlowKey, slot: Slot, entropy: u32) -> bool {
    let Some(place) = ASIDE.get_ptr_mut(0) else { return false };
    // SAFETY: the map's value on this CPU, within which nobody else refers to anything.
    unsafe { place.write(Aside { key: *key, slot, entropy, backend: 0 }) };
    true
}

/// Puts a backend aside.
#[inline(always)]
pub fn put_backend(id: u32) {
    if let Some(place) = ASIDE.get_ptr_mut(0) {
        // SAFETY: as in `put`.
        unsafe { (&raw mut (*place).backend).write(id) };
    }
}

/// What was put aside last. On kernels that let a packet be interrupted by another on its CPU (PREEMPT_RT), that may be
/// another packet's.
#[inline(always)]
pub fn get() -> Option<&'static Aside> {
    ASIDE.get(0)
}
