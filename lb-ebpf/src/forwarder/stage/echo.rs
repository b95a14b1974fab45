//! Echo requests to VIPs, which naru itself answers: a backend would say that it is there, and not the VIP.
//!
//! A reply is as long as its request and goes to where that came from, so that nobody is flooded by it with more than a
//! stranger sends here in his name, and each CPU sends so many in a tick at most (`icmp_rate`). None goes to what is no
//! host's address.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::{Answer, DropReason, Features, NO_ID};
use lb_ebpf::{
    wire::{Echo, Frame as _, Unreachable},
    xdp::XdpFrame,
};

use super::{
    answer::{may_send, send_back},
    count,
    vip::{self, Vips},
};
use crate::maps;

/// Answers the request whose IP header is at `offset`, where its address has a reply. One that is malformed, or has IP
/// options, is the stack's. A function of its own: few packets are.
#[inline(never)]
pub fn answer<H: Vips + Echo + Unreachable>(context: &XdpContext, offset: usize) -> u32 {
    let frame = XdpFrame::new(context, || maps::uses(Features::MULTI_BUFFER));
    answered::<H>(&frame, offset).unwrap_or(xdp_action::XDP_PASS)
}

#[inline(always)]
fn answered<H: Vips + Echo + Unreachable>(frame: &XdpFrame, offset: usize) -> Option<u32> {
    let header = H::parse(frame, offset)?;
    let (_, len) = header.next();
    let total_len = header.total_len() as usize;
    let is_whole = total_len >= H::HEADER_LEN + 8 && offset + total_len <= frame.total_len();
    if !vip::answers_echo(&header) {
        // Nor is the stack to answer, where it has the address as well.
        let is_vip = vip::serves(&header, 0);
        return is_vip.then(|| {
            count::dropped(NO_ID, DropReason::NoEcho);
            xdp_action::XDP_DROP
        });
    }
    if !is_whole || len != H::HEADER_LEN || !header.is_from_a_host() {
        return None;
    }
    if !may_send(Answer::Echo) {
        count::dropped(NO_ID, DropReason::RateLimited);
        return Some(xdp_action::XDP_DROP);
    }
    let [first] = frame.words(offset + len)?;
    let sent = send_back(frame, offset, total_len, || header.write_reply(frame, offset, first));
    Some(sent.unwrap_or(xdp_action::XDP_DROP))
}
