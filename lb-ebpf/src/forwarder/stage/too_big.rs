//! What a packet is answered with that does not fit on the way to its backend: an ICMP error with the MTU that it has to keep
//! to, from the VIP (RFC 1191, RFC 8201).
//!
//! XDP cannot make two frames of one, so that what nobody makes smaller is lost: see
//! [`TooBig::gets_smaller`](lb_ebpf::wire::TooBig::gets_smaller). An answer is shorter than its packet, and each CPU sends so
//! many in a tick at most (`icmp_rate`): the packets of a flood are dropped as cheaply as without.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::{Answer, Features};
use lb_ebpf::{
    wire::{Frame as _, TooBig},
    xdp::XdpFrame,
};

use super::{
    answer::{may_send, send_back},
    aside, slot,
};
use crate::{forward, maps};

/// Answers the packet whose IP header is at `offset` and which is too long for the way to the backend that was put
/// [`aside`], or drops it. A function of its own: packets that fit do not come here.
#[inline(never)]
pub fn answer<H: TooBig>(context: &XdpContext, offset: usize) -> u32 {
    let frame = XdpFrame::new(context, || maps::uses(Features::MULTI_BUFFER));
    answered::<H>(&frame, offset).unwrap_or(xdp_action::XDP_DROP)
}

#[inline(always)]
fn answered<H: TooBig>(frame: &XdpFrame, offset: usize) -> Option<u32> {
    let header = H::parse(frame, offset)?;
    let mtu = forward::mtu(slot::backend(aside::get()?.backend).ok()?)?;
    let excess = frame.total_len() as i32 - (offset + H::QUOTED) as i32;
    let is_told = header.gets_smaller() && header.is_from_a_host() && mtu < header.total_len() && excess >= 0;
    if !is_told || !may_send(Answer::TooBig) || excess > 0 && !frame.adjust_tail(-excess) {
        return None;
    }
    let quoted = frame.sum(offset, H::QUOTED)?;
    send_back(frame, offset, H::TOO_BIG_LEN, || header.write_too_big(frame, offset, mtu, quoted))
}
