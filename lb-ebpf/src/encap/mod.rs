//! What carries a frame to its backend: Ethernet with at most one tag, and an outer header where the mode has one, a
//! mode a file.

pub mod ipip;

use lb_common::{Backend, Be32, NextHop};

use crate::{
    hash::FlowHash,
    wire::{ETHERTYPE_VLAN, Family},
};

/// A family of outer headers, of `N` words.
pub trait Outer<const N: usize>: Family {
    /// The outer header of a packet with this header.
    fn outer<H: Family>(backend: &Backend, inner: &H, hash: FlowHash) -> [u32; N];
}

/// The tag behind the Ethernet addresses, for a next hop on a VLAN.
#[inline(always)]
pub fn vlan_tag(next_hop: &NextHop) -> u32 {
    (u32::from(ETHERTYPE_VLAN.host()) << 16 | next_hop.vlan & 0xfff).to_be()
}

#[inline(always)]
pub(super) fn vary(source: Be32, mask: Be32, hash: FlowHash) -> Be32 {
    Be32::from_wire(source.wire() | hash.entropy() & mask.wire())
}

#[inline(always)]
pub(super) const fn halves(word: Be32) -> u32 {
    (word.host() >> 16) + (word.host() & 0xffff)
}
