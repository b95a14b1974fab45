//! Probes of backends over the path of clients: which packets are the prober's own, which are answers to them.
//!
//! A probe is a packet of a socket in a network namespace of the daemon's, from an address of this node to a VIP. It is
//! forwarded to the one backend that its key names, as a client's packet would be, and counted and tracked nowhere. What
//! the backend answers comes to this node's address as to any client's, and goes to that socket before the stack sees it:
//! the stack would drop it where the VIP is an address of this host as well.
//!
//! The key has the VIP, the prober's port and the protocol, and is there while a probe is under way. So a stranger who
//! forges an answer must come with a VIP as his source and guess the port, and then meets a socket, which asks for
//! sequence numbers in the window as any other does (RFC 5961), of ICMP errors too. Of UDP, the port is all that there
//! is to guess. What has no key, or is for another address, goes the way that it would without probes. A stranger cannot
//! have anything sent to a backend as a probe: those come by the veth pair alone.

use aya_ebpf::{bindings::xdp_action, helpers::bpf_redirect, programs::XdpContext};
use lb_common::{Address, Backend, DropReason, Features, ProbeKey};
use lb_ebpf::{
    cold::cold,
    wire::{ETHERNET_LEN, Family, Packet, Quoted, Transport},
    xdp::XdpFrame,
};

use super::slot;
use crate::maps::{self, PROBE_PATH, PROBES};

/// The backend that the prober's packet is for.
#[inline(always)]
pub fn backend<H: Family>(packet: &Packet<H>) -> Result<&'static Backend, DropReason> {
    let id = id_of(&key(packet)).ok_or_else(|| cold(DropReason::NoBackend))?;
    slot::backend(id)
}

/// Whether a packet for a VIP is a probe that this load balancer has sent, and that a backend without the VIP sent back.
#[inline(always)]
pub fn has_returned<H: Family>(packet: &Packet<H>) -> bool {
    let source = packet.header.source();
    PROBE_PATH.get(0).is_some_and(|path| path.may_have(source)) && is_probe(&source, &key(packet)) != 0
}

/// Whether the packet with this header at `offset` may be an answer to a probe: `false` is certain, `true` is not.
#[inline(always)]
pub fn may_be_answer<H: Family>(frame: &XdpFrame, offset: usize) -> bool {
    let Some(header) = H::parse(frame, offset) else { return false };
    PROBE_PATH.get(0).is_some_and(|path| path.may_have(header.destination()))
}

/// Whether the packet with this header at `offset` is for an address that probes come from, which no VIP has. A function of
/// its own: few packets are asked.
#[inline(never)]
pub fn is_for_node<H: Family>(context: &XdpContext, offset: usize) -> bool {
    let frame = XdpFrame::new(context, || maps::uses(Features::MULTI_BUFFER));
    let Some(header) = H::parse(&frame, offset) else { return false };
    PROBE_PATH.get(0).is_some_and(|path| path.has(header.destination()))
}

/// Sends an answer to the prober, and passes what is none. A function of its own: few packets come here.
#[inline(never)]
pub fn hand_over<H: Family>(context: &XdpContext, offset: usize) -> u32 {
    let frame = XdpFrame::new(context, || maps::uses(Features::MULTI_BUFFER));
    answer::<H>(&frame, offset).unwrap_or(xdp_action::XDP_PASS)
}

#[inline(always)]
fn answer<H: Family>(frame: &XdpFrame, offset: usize) -> Option<u32> {
    let header = H::parse(frame, offset)?;
    let destination = header.destination();
    let key = match header.packet(frame, offset) {
        Ok(Some(packet)) => ProbeKey::new(header.source(), packet.transport.destination(), packet.transport.protocol),
        Ok(None) => {
            let quoted = Quoted::of(&header, frame, offset)?;
            if quoted.header.source() != destination {
                return None;
            }
            let port = Transport::datagram(quoted.ports, 0).source();
            ProbeKey::new(quoted.header.destination(), port, quoted.protocol)
        }
        Err(_) => return None,
    };
    if is_probe(&destination, &key) == 0 {
        return None;
    }
    let path = PROBE_PATH.get(0).filter(|path| path.ifindex != 0)?;
    // Without tags: the far end of the pair is in no VLAN.
    let excess = offset as i32 - ETHERNET_LEN as i32;
    if excess != 0 && !frame.adjust_head(excess) {
        return None;
    }
    if !frame.set_headers(path.macs, H::ETHERTYPE.wire(), []) {
        return None;
    }
    // SAFETY: takes integers only.
    Some(unsafe { bpf_redirect(path.ifindex, 0) } as u32)
}

#[inline(always)]
fn key<H: Family>(packet: &Packet<H>) -> ProbeKey {
    ProbeKey::new(packet.header.destination(), packet.transport.source(), packet.transport.protocol)
}

/// Not 0 where a probe with this key is under way, and `node` is one of the addresses that probes come from.
#[inline(never)]
fn is_probe(node: &Address, key: &ProbeKey) -> u32 {
    let has = PROBE_PATH.get(0).is_some_and(|path| path.has(*node));
    u32::from(has && id_of(key).is_some())
}

#[inline(always)]
fn id_of(key: &ProbeKey) -> Option<u32> {
    // SAFETY: the daemon removes an entry, and never writes another value to it; the kernel frees it after a grace period.
    unsafe { PROBES.get(key) }.copied()
}
