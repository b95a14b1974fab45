//! `ipip`: inside an IPv4 or IPv6 packet to the backend.

use lb_common::{Backend, DropReason, NextHop};
use lb_ebpf::{
    encap::{Inner, ipip},
    hash::FlowHash,
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet},
    xdp::XdpFrame,
};

use super::encapsulate;

/// Inside IPv4.
#[inline(always)]
pub fn in_ipv4(
    frame: &XdpFrame,
    ethernet: &Ethernet,
    next_hop: &NextHop,
    backend: &Backend,
    inner: &Inner,
    hash: FlowHash,
) -> Result<(), DropReason> {
    encapsulate(frame, ethernet, next_hop, ETHERTYPE_IPV4, inner, ipip::ipv4(backend, inner, hash))
}

/// Inside IPv6.
#[inline(always)]
pub fn in_ipv6(
    frame: &XdpFrame,
    ethernet: &Ethernet,
    next_hop: &NextHop,
    backend: &Backend,
    inner: &Inner,
    hash: FlowHash,
) -> Result<(), DropReason> {
    encapsulate(frame, ethernet, next_hop, ETHERTYPE_IPV6, inner, ipip::ipv6(backend, inner, hash))
}
