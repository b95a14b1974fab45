//! What a packet is answered with for which no backend takes flows, where the VIP wants that: a TCP segment with RST
//! (RFC 9293 §3.10.7.1), a datagram with an ICMP error, port unreachable, as by a host that nobody listens at. Clients then
//! know at once, and do not wait.
//!
//! An answer goes back to where what it answers came from. RST is never longer than that, so that nobody is flooded by it
//! with more than a stranger sends here in his name; a segment with RST is not answered. An ICMP error is up to 48 bytes
//! longer, and so each CPU sends [`ERRORS`] in a tick at most. Datagrams with IP options or extension headers get none.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::Features;
use lb_ebpf::{
    wire::{ETHERNET_LEN, Family, Frame as _, Reset, UDP, Unreachable, VLAN_LEN},
    xdp::XdpFrame,
};

use crate::{
    clock,
    maps::{self, PACES},
};

/// Where a frame has its ethertype, or that of its first tag.
const ETHERTYPE: usize = ETHERNET_LEN - 2;

/// ICMP errors that a CPU sends in a tick, at most: what Linux allows the host as a whole by default in a second
/// (`icmp_msgs_per_sec`).
const ERRORS: u32 = 1000;

/// Answers the packet whose IP header is at `offset`. A function of its own: packets come here where nothing works.
#[inline(never)]
pub fn answer<H: Family + Reset + Unreachable>(context: &XdpContext, offset: usize) -> u32 {
    let frame = XdpFrame::new(context, || maps::uses(Features::MULTI_BUFFER));
    refused::<H>(&frame, offset).unwrap_or(xdp_action::XDP_DROP)
}

#[inline(always)]
fn refused<H: Family + Reset + Unreachable>(frame: &XdpFrame, offset: usize) -> Option<u32> {
    let packet = H::parse(frame, offset)?.packet(frame, offset).ok()??;
    if packet.transport.protocol == UDP {
        let is_plain = packet.transport_offset == offset + H::HEADER_LEN;
        if !is_plain || !packet.header.is_from_a_host() || !may_send_error() {
            return None;
        }
        let udp = frame.words(packet.transport_offset)?;
        send_back(frame, offset, H::UNREACHABLE_LEN, || packet.header.write_unreachable(frame, offset, udp))
    } else {
        let [acknowledged] = frame.words(packet.transport_offset + 8)?;
        let segment = packet.transport.reset(acknowledged)?;
        send_back(frame, offset, H::RESET_LEN, || packet.header.write_reset(frame, offset, segment))
    }
}

/// Sends the frame back to whom it came from, with the `len` bytes that `write` puts at `offset`, where its IP header was.
#[inline(always)]
fn send_back(frame: &XdpFrame, offset: usize, len: usize, write: impl Fn() -> bool) -> Option<u32> {
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

/// Whether this CPU may send one ICMP error more.
#[inline(always)]
fn may_send_error() -> bool {
    let Some(pace) = PACES.get_ptr_mut(0) else { return false };
    // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
    let pace = unsafe { &mut *pace };
    pace.admits(clock::now(), ERRORS)
}
