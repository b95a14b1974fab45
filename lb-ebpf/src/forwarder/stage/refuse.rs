//! What a packet is answered with for which no backend takes flows, where the VIP wants that: a TCP segment with RST
//! (RFC 9293 §3.10.7.1), a datagram with an ICMP error, port unreachable, as by a host that nobody listens at. Clients then
//! know at once, and do not wait.
//!
//! An answer goes back to where what it answers came from. RST is never longer than that, so that nobody is flooded by it
//! with more than a stranger sends here in his name; a segment with RST is not answered. An ICMP error is up to 48 bytes
//! longer, and so each CPU sends so many in a tick at most (`icmp_rate`). Datagrams with IP options or extension headers
//! get none.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::{Answer, Features};
use lb_ebpf::{
    wire::{Family, Frame as _, Reset, UDP, Unreachable},
    xdp::XdpFrame,
};

use super::answer::{may_send, send_back};
use crate::maps;

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
        if !is_plain || !packet.header.is_from_a_host() || !may_send(Answer::Unreachable) {
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
