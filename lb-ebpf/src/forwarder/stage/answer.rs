//! What naru itself sends: how many, and how a frame becomes an answer to who sent it.

use aya_ebpf::bindings::xdp_action;
use lb_common::Answer;
use lb_ebpf::{
    wire::{ETHERNET_LEN, Frame as _, VLAN_LEN},
    xdp::XdpFrame,
};

use crate::{
    clock,
    maps::{self, PACES},
};

/// Where a frame has its ethertype, or that of its first tag.
const ETHERTYPE: usize = ETHERNET_LEN - 2;

/// Whether this CPU may send one answer more of this kind; it counts as sent then.
#[inline(always)]
pub fn may_send(kind: Answer) -> bool {
    let Some(pace) = PACES.get_ptr_mut(kind as u32) else { return false };
    // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
    let pace = unsafe { &mut *pace };
    pace.admits(clock::now(), maps::icmp_rate())
}

/// Sends the frame back to whom it came from, with the `len` bytes that `write` puts at `offset`, where its IP header was.
/// Where that is more than the frame has, room comes in front of it, so that what the frame had from `offset` on is its end
/// then, and stays as it was where `write` leaves it.
#[inline(always)]
pub fn send_back(frame: &XdpFrame, offset: usize, len: usize, write: impl Fn() -> bool) -> Option<u32> {
    let [first, second, third] = frame.words(0)?.map(u32::from_be);
    let macs = [second << 16 | third >> 16, third << 16 | first >> 16, first << 16 | second >> 16].map(u32::to_be);
    let excess = frame.total_len() as i32 - (offset + len) as i32;
    if excess > 0 {
        if !frame.adjust_tail(-excess) {
            return None;
        }
    } else if excess < 0 {
        // In front, where every driver leaves room; behind it there may be none. Tags and ethertype go along.
        const OUTER: usize = ETHERNET_LEN;
        const INNER: usize = OUTER + VLAN_LEN;
        let ethertype = frame.half(ETHERTYPE)?;
        let tag = |at: usize| if at < offset { frame.words::<1>(at) } else { None };
        let (outer, inner) = (tag(OUTER), tag(INNER));
        if !frame.adjust_head(excess)
            || !frame.set_half(ETHERTYPE, ethertype)
            || outer.is_some_and(|tag| !frame.set_words(OUTER, tag))
            || inner.is_some_and(|tag| !frame.set_words(INNER, tag))
        {
            return None;
        }
    }
    (frame.set_words(0, macs) && write()).then_some(xdp_action::XDP_TX)
}
