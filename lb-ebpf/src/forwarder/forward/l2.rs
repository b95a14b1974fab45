//! `l2`: the packet as it is, to the backend's own MAC address.

use lb_common::{DropReason, NextHop};
use lb_ebpf::{
    cold::cold,
    wire::{Family, Frame as _, Packet},
    xdp::XdpFrame,
};

use super::{ethernet_len, fits, prepare, set_headers};

/// New Ethernet addresses and the next hop's tag; of the IP packet the lifetime alone changes. Two load balancers that
/// are each other's backend would send a packet to and fro: what the backend itself sent does not go back to it, and
/// rings of more end with the packet's lifetime.
#[inline(always)]
pub fn forward<H: Family>(frame: &XdpFrame, packet: &Packet<H>, next_hop: &NextHop) -> Result<(), DropReason> {
    let Some(sender) = frame.words(0) else { return Err(cold(DropReason::Truncated)) };
    if next_hop.is_source_of(sender) {
        return Err(cold(DropReason::Loop));
    }
    fits(packet.header.total_len(), next_hop)?;
    prepare(frame, packet)?;
    let grow = ethernet_len(next_hop) as i32 - packet.offset as i32;
    if grow != 0 && !frame.adjust_head(-grow) {
        return Err(cold(DropReason::NoHeadroom));
    }
    set_headers(frame, next_hop, H::ETHERTYPE, [])
}
