//! The packet's way: calls the stages, and turns what they say into an XDP verdict.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use aya_log_ebpf::info;
use lb_common::{DropReason, Features, FlowKey, NO_ID, VipFlags, VipRoute};
use lb_ebpf::{
    cold::cold,
    hash::FlowHash,
    wire::{Ethernet, Family, Frame as _, Ipv4, Ipv6, Packet, Reset, Transport, Unreachable},
    xdp::XdpFrame,
};

use crate::{
    forward, maps,
    stage::{
        count, flow, own_mac, probe, refuse, slot,
        vip::{self, Vips},
    },
};

/// What is left to do with a packet whose VIP is known.
struct Flow<H> {
    route: VipRoute,
    packet: Packet<H>,
}

/// A packet that is to be dropped.
struct Dropped {
    /// Id of the VIP that it was for; [`NO_ID`] where that is not known.
    vip: u32,
    reason: DropReason,
}

/// Runs one packet through all stages.
#[inline(always)]
pub fn run(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, || maps::uses(Features::MULTI_BUFFER));
    let Some(Ethernet { len, ethertype }) = Ethernet::parse(&frame) else { return xdp_action::XDP_PASS };
    let verdict = if ethertype == Ipv4::ETHERTYPE && maps::uses(Features::VIP4) {
        walk::<Ipv4>(&frame, len)
    } else if ethertype == Ipv6::ETHERTYPE && maps::uses(Features::VIP6) {
        walk::<Ipv6>(&frame, len)
    } else {
        Ok(None)
    };
    match verdict {
        Ok(Some(verdict)) => verdict,
        Ok(None) => xdp_action::XDP_PASS,
        Err(dropped) => drop(&frame, &dropped),
    }
}

/// Sends a frame of the prober's to the backend that it is for, or drops it: nothing else of the prober's is for anybody.
/// It leaves as a client's would, and is counted nowhere.
#[inline(always)]
pub fn run_probe(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, || maps::uses(Features::MULTI_BUFFER));
    let Some(Ethernet { len, ethertype }) = Ethernet::parse(&frame) else { return xdp_action::XDP_DROP };
    let verdict = if ethertype == Ipv4::ETHERTYPE {
        walk_probe::<Ipv4>(&frame, len)
    } else if ethertype == Ipv6::ETHERTYPE {
        walk_probe::<Ipv6>(&frame, len)
    } else {
        None
    };
    verdict.unwrap_or(xdp_action::XDP_DROP)
}

/// The way of a probe of one family, whose header is at `offset`.
#[inline(always)]
fn walk_probe<H: Family>(frame: &XdpFrame, offset: usize) -> Option<u32> {
    let packet = H::parse(frame, offset)?.packet(frame, offset).ok()??;
    if packet.transport.first_fragment || packet.header.is_expiring() {
        return None;
    }
    let backend = probe::backend(&packet).ok()?;
    let Transport { ports, protocol, .. } = packet.transport;
    let hash = packet.header.hash(&maps::LoadedKey, ports, protocol);
    forward::send(frame, &packet, backend, hash, frame.ingress()).ok()
}

/// The way of a packet of one family, whose header is at `offset`; no verdict where it is not for a
/// VIP, or its frame not for this host.
#[inline(always)]
fn walk<H: Vips + Reset + Unreachable>(frame: &XdpFrame, offset: usize) -> Result<Option<u32>, Dropped> {
    let found = flow::<H>(frame, offset);
    let ingress = frame.ingress();
    // Not asked of frames that pass in any case.
    if !matches!(found, Ok(None)) && !own_mac::is_destination(frame, ingress) {
        return Ok(None);
    }
    let Some(flow) = found? else { return Ok(answer::<H>(frame, offset, ingress)) };
    match send(frame, &flow, ingress) {
        Ok(verdict) => Ok(Some(verdict)),
        Err(DropReason::NoBackend) if is_refused(&flow) => {
            count::dropped(flow.route.id, DropReason::NoBackend);
            Ok(Some(refuse::answer::<H>(frame.context(), offset)))
        }
        Err(reason) => Err(Dropped { vip: flow.route.id, reason }),
    }
}

/// Whether the client is to be told that no backend takes flows.
#[inline(always)]
fn is_refused<H: Family>(Flow { route, .. }: &Flow<H>) -> bool {
    maps::uses(Features::REFUSALS) && route.flags.contains(VipFlags::REFUSES)
}

/// What becomes of a packet for no VIP: an answer to a probe goes to the prober.
#[inline(always)]
fn answer<H: Family>(frame: &XdpFrame, offset: usize, ingress: u32) -> Option<u32> {
    let may_be = maps::uses(Features::PROBES) && probe::may_be_answer::<H>(frame, offset);
    (may_be && own_mac::is_destination(frame, ingress)).then(|| probe::hand_over::<H>(frame.context(), offset))
}

/// The flow of a packet for a VIP. What is malformed is an error only where some VIP serves its protocol on its
/// address.
#[inline(always)]
fn flow<H: Vips>(frame: &XdpFrame, offset: usize) -> Result<Option<Flow<H>>, Dropped> {
    let Some(header) = H::parse(frame, offset) else { return Ok(None) };
    let packet = match header.packet(frame, offset) {
        Ok(Some(packet)) => packet,
        Ok(None) => return Ok(None),
        Err(reason) => {
            let is_served = vip::serves(&header, header.announced_protocol(frame, offset));
            return if is_served { Err(Dropped { vip: NO_ID, reason }) } else { Ok(None) };
        }
    };
    let Some(route) = vip::lookup(&header, &packet.transport) else { return Ok(None) };
    if packet.transport.first_fragment {
        // What follows it could not be sent after it.
        return Err(Dropped { vip: route.id, reason: DropReason::Fragment });
    }
    Ok(Some(Flow { route, packet }))
}

/// The stages behind the VIP lookup.
#[inline(always)]
fn send<H: Family>(frame: &XdpFrame, flow: &Flow<H>, ingress: u32) -> Result<u32, DropReason> {
    let Flow { route, packet } = flow;
    if maps::uses(Features::PROBES) && probe::has_returned(packet) {
        return Err(cold(DropReason::ProbeLoop));
    }
    if packet.header.is_expiring() {
        return Err(DropReason::TtlExceeded);
    }
    let hash = hash(flow);
    let id = owner(flow, hash)?;
    let backend = slot::backend(id)?;
    let verdict = forward::send(frame, packet, backend, hash, ingress)?;
    let total_len = packet.header.total_len();
    count::backend(id, total_len, packet.transport.opens());
    if maps::uses(Features::LOG) {
        log_sent(frame.context(), route.id, id, total_len, verdict);
    }
    Ok(verdict)
}

/// The hash of what the VIP's flows are told apart by.
#[inline(always)]
fn hash<H: Family>(Flow { route, packet }: &Flow<H>) -> FlowHash {
    // A mask and no branch.
    let kept = u32::from(route.flags.contains(VipFlags::HASH_SOURCE_IP)).wrapping_sub(1);
    let Transport { ports, protocol, .. } = packet.transport;
    packet.header.hash(&maps::LoadedKey, ports & kept, protocol & kept as u8)
}

/// Id of the backend that the flow belongs to: the owner of its slot, except where the flow table may say otherwise.
#[inline(always)]
fn owner<H: Family>(Flow { route, packet }: &Flow<H>, hash: FlowHash) -> Result<u32, DropReason> {
    let word = slot::of(route, hash)?;
    let always = maps::uses(Features::TRACKING) && route.flags.contains(VipFlags::TRACK_ALWAYS);
    if let Some(owner) = word.owner()
        && !always
    {
        return Ok(owner);
    }
    let slot = slot::whole(word)?;
    if !maps::uses(Features::TRACKING) {
        return Ok(slot.current());
    }
    // A copy that may lie on the stack, so that the original need not.
    let transport = packet.transport;
    let key = FlowKey::new(packet.header.source(), transport.ports, route.id, transport.protocol);
    Ok(flow::owner(&key, slot, &transport, always))
}

#[inline(always)]
fn drop(frame: &XdpFrame, Dropped { vip, reason }: &Dropped) -> u32 {
    count::dropped(*vip, *reason);
    if maps::uses(Features::LOG) {
        log_drop(frame.context(), *reason, frame.len() as u32);
    }
    xdp_action::XDP_DROP
}

// Functions of their own, so that formatting takes neither registers nor stack from the path of a packet.

#[inline(never)]
fn log_sent(context: &XdpContext, vip: u32, backend: u32, bytes: u32, verdict: u32) {
    info!(context, "vip {}: {} bytes to backend {}, verdict {}", vip, bytes, backend, verdict);
}

#[inline(never)]
fn log_drop(context: &XdpContext, reason: DropReason, bytes: u32) {
    info!(context, "dropped {} bytes: {}", bytes, reason.name());
}
