//! Last stage: gives the frame the headers that carry it to its backend, each forward mode in a file of its own, and
//! sends it.

mod ipip;
mod l2;

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::{Backend, Be16, DropReason, Features, Forward, NextHop};
use lb_ebpf::{
    cold::cold,
    encap,
    hash::FlowHash,
    wire::{ETHERNET_LEN, Family, Frame as _, Ipv4, Ipv6, Packet, VLAN_LEN},
    xdp::XdpFrame,
};

use crate::maps::{self, DEVICES, NEXT_HOPS};

/// Sends the packet, which came in by the interface with the index `ingress`, to `backend`. The verdict is a
/// transmission.
#[inline(always)]
pub fn send<H: Family>(
    frame: &XdpFrame,
    packet: &Packet<H>,
    backend: &Backend,
    hash: FlowHash,
    ingress: u32,
) -> Result<u32, DropReason> {
    let next_hop = next_hop(backend).ok_or_else(|| cold(DropReason::NoNextHop))?;
    match Forward::from_u32(backend.forward) {
        Some(way @ Forward::Ipip4) if maps::uses(way.feature()) => {
            ipip::forward::<Ipv4, _, _>(frame, packet, next_hop, backend, hash)?;
        }
        Some(way @ Forward::Ipip6) if maps::uses(way.feature()) => {
            ipip::forward::<Ipv6, _, _>(frame, packet, next_hop, backend, hash)?;
        }
        Some(way @ Forward::L2) if maps::uses(way.feature()) => l2::forward(frame, packet, next_hop)?,
        _ => return Err(cold(DropReason::NoBackend)),
    }
    transmit(next_hop, ingress)
}

/// The largest packet that reaches the backend, in bytes; `None` where there is no way to it.
#[inline(always)]
pub fn mtu(backend: &Backend) -> Option<u32> {
    let way = Forward::from_u32(backend.forward)?;
    Some(next_hop(backend)?.mtu.saturating_sub(way.overhead()))
}

/// Where frames to the backend go.
#[inline(always)]
fn next_hop(backend: &Backend) -> Option<&'static NextHop> {
    // SAFETY: a reference. Volatile, so that it is read once: the daemon may store another place.
    let place = unsafe { (&raw const backend.hop).read_volatile() };
    NEXT_HOPS.get(place)?.current()
}

/// An outer header of `N` words and a new Ethernet header in place of the old one.
#[inline(always)]
fn encapsulate<H: Family, const N: usize>(
    frame: &XdpFrame,
    packet: &Packet<H>,
    next_hop: &NextHop,
    ethertype: Be16,
    header: [u32; N],
) -> Result<(), DropReason> {
    fits(packet.header.total_len() + 4 * N as u32, next_hop)?;
    prepare(frame, packet)?;
    let ethernet_len = ethernet_len(next_hop);
    let grow = 4 * N as i32 + ethernet_len as i32 - packet.offset as i32;
    if !frame.adjust_head(-grow) {
        return Err(cold(DropReason::NoHeadroom));
    }
    set_headers(frame, next_hop, ethertype, header)
}

/// What forwarding does to the packet itself: one is taken off its lifetime, and what lies behind it in the frame is
/// cut off.
#[inline(always)]
fn prepare<H: Family>(frame: &XdpFrame, packet: &Packet<H>) -> Result<(), DropReason> {
    let end = packet.offset as u32 + packet.header.total_len();
    let len = frame.len() as u32;
    if len > SMALL && len != end && !cut(frame.context(), end) {
        return Err(cold(DropReason::BadLength));
    }
    let (at, lifetime) = packet.header.aged();
    frame.set_words(packet.offset + at, [lifetime]).then_some(()).ok_or_else(|| cold(DropReason::Truncated))
}

/// Frames up to this length in bytes are sent with what lies behind the packet, be it padding: with 60 bytes more they
/// still fit anywhere. Drivers that spread a frame over several buffers put more than this in the first.
const SMALL: u32 = 256;

/// Cuts off what lies behind `end`. Nobody but a neighbour on the link can send it, and the next driver would refuse a
/// frame that is larger than its MTU for it, after it was counted as sent.
///
/// A frame of several buffers, of which the first ends exactly where the packet does, is not looked at: to ask for its
/// length costs every packet a call. It is lost at the next driver, which counts it.
///
/// A function of its own, so that what it does to pointers into the frame concerns no other frame.
#[inline(never)]
fn cut(context: &XdpContext, end: u32) -> bool {
    let frame = XdpFrame::new(context, || maps::uses(Features::MULTI_BUFFER));
    let excess = frame.total_len() as i32 - end as i32;
    excess <= 0 || frame.adjust_tail(-excess)
}

#[inline(always)]
fn fits(ip_len: u32, next_hop: &NextHop) -> Result<(), DropReason> {
    if ip_len > next_hop.mtu { Err(cold(DropReason::TooBig)) } else { Ok(()) }
}

#[inline(always)]
fn ethernet_len(next_hop: &NextHop) -> usize {
    if next_hop.vlan == 0 { ETHERNET_LEN } else { ETHERNET_LEN + VLAN_LEN }
}

/// The Ethernet header that the next hop asks for, and `N` words behind it.
#[inline(always)]
fn set_headers<const N: usize>(
    frame: &XdpFrame,
    next_hop: &NextHop,
    ethertype: Be16,
    words: [u32; N],
) -> Result<(), DropReason> {
    let written = if next_hop.vlan == 0 {
        frame.set_headers(next_hop.macs, ethertype.wire(), words)
    } else {
        let [a, b, c] = next_hop.macs;
        frame.set_headers([a, b, c, encap::vlan_tag(next_hop)], ethertype.wire(), words)
    };
    written.then_some(()).ok_or_else(|| cold(DropReason::Truncated))
}

/// Out by the interface that it came in by, or by another one.
#[inline(always)]
fn transmit(next_hop: &NextHop, ingress: u32) -> Result<u32, DropReason> {
    if next_hop.ifindex == ingress {
        return Ok(xdp_action::XDP_TX);
    }
    // The daemon enters every egress interface; one that is not there has vanished.
    DEVICES.redirect(next_hop.ifindex, 0).map_err(|_| DropReason::NoNextHop)
}
