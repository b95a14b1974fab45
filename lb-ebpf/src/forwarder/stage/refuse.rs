//! What a packet is answered with for which no backend takes flows, where the VIP wants that: a TCP segment with RST
//! (RFC 9293 §3.10.7.1), as by a host that nobody listens at. Clients then know at once, and do not wait.
//!
//! An answer is never longer than what it answers, and goes back to where that came from, so that nobody is flooded by it
//! with more than a stranger sends here in his name. A segment with RST is not answered.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::Features;
use lb_ebpf::{
    wire::{Family, Frame as _, Reset},
    xdp::XdpFrame,
};

use crate::maps;

/// Answers the segment whose IP header is at `offset`. A function of its own: packets come here where nothing works.
#[inline(never)]
pub fn answer<H: Family + Reset>(context: &XdpContext, offset: usize) -> u32 {
    let frame = XdpFrame::new(context, || maps::uses(Features::MULTI_BUFFER));
    reset::<H>(&frame, offset).unwrap_or(xdp_action::XDP_DROP)
}

#[inline(always)]
fn reset<H: Family + Reset>(frame: &XdpFrame, offset: usize) -> Option<u32> {
    let packet = H::parse(frame, offset)?.packet(frame, offset).ok()??;
    let [acknowledged] = frame.words(packet.transport_offset + 8)?;
    let segment = packet.transport.reset(acknowledged)?;
    let [first, second, third] = frame.words(0)?.map(u32::from_be);
    // Back to whom it came from.
    let macs = [second << 16 | third >> 16, third << 16 | first >> 16, first << 16 | second >> 16].map(u32::to_be);
    let wanted = offset + H::RESET_LEN;
    let excess = frame.total_len() as i32 - wanted as i32;
    if excess != 0 && !frame.adjust_tail(-excess) {
        return None;
    }
    (frame.set_words(0, macs) && packet.header.write_reset(frame, offset, segment)).then_some(xdp_action::XDP_TX)
}
