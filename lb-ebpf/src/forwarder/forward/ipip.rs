//! `ipip`: inside an IPv4 or IPv6 packet to the backend.

use lb_common::{Backend, DropReason, NextHop};
use lb_ebpf::{
    encap::Outer,
    hash::FlowHash,
    wire::{Family, Packet},
    xdp::XdpFrame,
};

use super::encapsulate;

/// Inside a packet of the family `O`.
#[inline(always)]
pub fn forward<O: Outer<N>, H: Family, const N: usize>(
    frame: &XdpFrame,
    packet: &Packet<H>,
    next_hop: &NextHop,
    backend: &Backend,
    hash: FlowHash,
) -> Result<(), DropReason> {
    encapsulate(frame, packet, next_hop, O::ETHERTYPE, O::outer(backend, &packet.header, hash))
}
