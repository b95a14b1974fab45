//! Last stage: gives the frame the headers that carry it to its backend, and sends it.

use aya_ebpf::bindings::xdp_action;
use lb_common::{Backend, Be16, DropReason, Features, Forward, NextHop};
use lb_ebpf::{
    flow_hash::FlowHash,
    frame::Frame as _,
    outer::{self, Inner},
    parse::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, IPV4_LEN, IPV6_LEN, VLAN_LEN},
    xdp::XdpFrame,
};

use crate::maps::{self, DEVICES};

/// Sends the packet to `backend`. The verdict is a transmission.
#[inline(always)]
pub fn send(
    frame: &XdpFrame,
    ethernet: &Ethernet,
    backend: &Backend,
    inner: &Inner,
    hash: FlowHash,
) -> Result<u32, DropReason> {
    let next_hop = backend.next_hop.current().ok_or(DropReason::NoNextHop)?;
    match Forward::from_u32(backend.forward) {
        Some(Forward::Ipip4) if maps::uses(Features::IPIP4) => {
            encapsulate(frame, ethernet, next_hop, ETHERTYPE_IPV4, inner, outer::ipv4(backend, inner, hash))?;
        }
        Some(Forward::Ipip6) if maps::uses(Features::IPIP6) => {
            encapsulate(frame, ethernet, next_hop, ETHERTYPE_IPV6, inner, outer::ipv6(backend, inner, hash))?;
        }
        Some(Forward::L2) if maps::uses(Features::L2) => l2(frame, ethernet, next_hop, inner)?,
        _ => return Err(DropReason::NoBackend),
    }
    transmit(frame, next_hop)
}

/// Whether the frame is on its way to `backend` already: another load balancer sent it, or this one did and a switch
/// that does not know the backend flooded it back. Sent again it would circle. Only `l2` leaves frames that look like
/// new ones.
#[inline(always)]
pub fn is_under_way(frame: &XdpFrame, backend: &Backend) -> bool {
    if !maps::uses(Features::L2) || backend.forward != Forward::L2 as u32 {
        return false;
    }
    let Some(next_hop) = backend.next_hop.current() else { return false };
    let [a, b, _] = next_hop.macs;
    let Some([first, second]) = frame.words::<2>(0) else { return false };
    // Six bytes of destination address: a word and the half of another that comes first in the frame.
    const HALF: u32 = u32::from_be(0xffff_0000);
    first == a && second & HALF == b & HALF
}

/// New Ethernet addresses and the next hop's tag; the IP packet stays as it is.
#[inline(always)]
fn l2(frame: &XdpFrame, ethernet: &Ethernet, next_hop: &NextHop, inner: &Inner) -> Result<(), DropReason> {
    fits(inner.total_len, next_hop)?;
    let grow = ethernet_len(next_hop) as i32 - ethernet.len as i32;
    if grow != 0 && !frame.adjust_head(-grow) {
        return Err(DropReason::NoHeadroom);
    }
    set_ethernet(frame, next_hop, ethernet.ethertype)
}

/// The outer header and a new Ethernet header in place of the old one.
#[inline(always)]
fn encapsulate<const N: usize>(
    frame: &XdpFrame,
    ethernet: &Ethernet,
    next_hop: &NextHop,
    ethertype: Be16,
    inner: &Inner,
    header: [u32; N],
) -> Result<(), DropReason> {
    const { assert!(4 * N == IPV4_LEN || 4 * N == IPV6_LEN) };
    fits(inner.total_len + 4 * N as u32, next_hop)?;
    let ethernet_len = ethernet_len(next_hop);
    let grow = 4 * N as i32 + ethernet_len as i32 - ethernet.len as i32;
    if !frame.adjust_head(-grow) {
        return Err(DropReason::NoHeadroom);
    }
    set_ethernet(frame, next_hop, ethertype)?;
    // Two constant offsets instead of a variable one, which would cost the verifier's knowledge of the frame.
    let written = if ethernet_len == ETHERNET_LEN {
        frame.set_words(ETHERNET_LEN, header)
    } else {
        frame.set_words(ETHERNET_LEN + VLAN_LEN, header)
    };
    written.then_some(()).ok_or(DropReason::Truncated)
}

#[inline(always)]
fn fits(ip_len: u32, next_hop: &NextHop) -> Result<(), DropReason> {
    if ip_len > next_hop.mtu { Err(DropReason::TooBig) } else { Ok(()) }
}

#[inline(always)]
fn ethernet_len(next_hop: &NextHop) -> usize {
    if next_hop.vlan == 0 { ETHERNET_LEN } else { ETHERNET_LEN + VLAN_LEN }
}

#[inline(always)]
fn set_ethernet(frame: &XdpFrame, next_hop: &NextHop, ethertype: Be16) -> Result<(), DropReason> {
    let written = if next_hop.vlan == 0 {
        frame.set_words(0, next_hop.macs) && frame.set_half(12, ethertype.wire())
    } else {
        let [a, b, c] = next_hop.macs;
        frame.set_words(0, [a, b, c, outer::vlan_tag(next_hop)]) && frame.set_half(16, ethertype.wire())
    };
    written.then_some(()).ok_or(DropReason::Truncated)
}

/// Out by the interface that it came in by, or by another one.
#[inline(always)]
fn transmit(frame: &XdpFrame, next_hop: &NextHop) -> Result<u32, DropReason> {
    if next_hop.ifindex == frame.ingress() {
        return Ok(xdp_action::XDP_TX);
    }
    // The daemon enters every egress interface; one that is not there has vanished.
    DEVICES.redirect(next_hop.ifindex, 0).map_err(|_| DropReason::NoNextHop)
}
