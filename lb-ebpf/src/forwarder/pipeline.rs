//! The packet's way: calls the stages, and turns what they say into an XDP verdict.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use aya_log_ebpf::info;
use lb_common::{Address, DropReason, Features, FlowKey, VipFlags, VipRoute};
use lb_ebpf::{
    encap::Inner,
    hash::FlowHash,
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Frame as _, Ipv4, Ipv6, Transport},
    xdp::XdpFrame,
};

use crate::{
    forward, maps,
    stage::{count, flow, own_mac, slot, vip},
};

/// What is left to do with a packet whose VIP is known.
struct Flow {
    route: VipRoute,
    hash: FlowHash,
    inner: Inner,
    source: Address,
    transport: Transport,
}

/// Runs one packet through all stages.
#[inline(always)]
pub fn run(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, maps::uses(Features::MULTI_BUFFER));
    if !own_mac::is_destination(&frame) {
        return xdp_action::XDP_PASS;
    }
    let Some(ethernet) = Ethernet::parse(&frame) else { return xdp_action::XDP_PASS };
    let flow = if ethernet.ethertype == ETHERTYPE_IPV4 && maps::uses(Features::VIP4) {
        ipv4_flow(&frame, &ethernet)
    } else if ethernet.ethertype == ETHERTYPE_IPV6 && maps::uses(Features::VIP6) {
        ipv6_flow(&frame, &ethernet)
    } else {
        Ok(None)
    };
    match flow {
        Ok(Some(flow)) => match send(&frame, &ethernet, &flow) {
            Ok(verdict) => verdict,
            Err(reason) => drop(&frame, reason),
        },
        Ok(None) => xdp_action::XDP_PASS,
        Err(reason) => drop(&frame, reason),
    }
}

/// The flow of an IPv4 packet for a VIP. What is malformed is an error only where some VIP serves
/// its protocol on its address.
#[inline(always)]
fn ipv4_flow(frame: &XdpFrame, ethernet: &Ethernet) -> Result<Option<Flow>, DropReason> {
    let Some(header) = Ipv4::parse(frame, ethernet.len) else { return Ok(None) };
    let transport = match header.transport(frame, ethernet.len) {
        Ok(Some(transport)) => transport,
        Ok(None) => return Ok(None),
        Err(reason) if vip::serves4(header.destination(), header.protocol()) => return Err(reason),
        Err(_) => return Ok(None),
    };
    let Some(route) = vip::lookup4(header.destination(), &transport) else { return Ok(None) };
    let (ports, protocol) = hashed(&route, &transport)?;
    let hash = FlowHash::v4(&maps::LoadedKey, header.source(), header.destination(), ports, protocol);
    Ok(Some(Flow { route, hash, inner: Inner::from(&header), source: Address::from_v4(header.source()), transport }))
}

/// The flow of an IPv6 packet for a VIP.
#[inline(always)]
fn ipv6_flow(frame: &XdpFrame, ethernet: &Ethernet) -> Result<Option<Flow>, DropReason> {
    let Some(header) = Ipv6::parse(frame, ethernet.len) else { return Ok(None) };
    let transport = match header.transport(frame, ethernet.len) {
        Ok(Some(transport)) => transport,
        Ok(None) => return Ok(None),
        Err(reason) => {
            let protocol = header.announced_protocol(frame, ethernet.len);
            return if vip::serves6(header.destination(), protocol) { Err(reason) } else { Ok(None) };
        }
    };
    let Some(route) = vip::lookup6(header.destination(), &transport) else { return Ok(None) };
    let (ports, protocol) = hashed(&route, &transport)?;
    let hash = FlowHash::v6(&maps::LoadedKey, header.source(), header.destination(), ports, protocol);
    Ok(Some(Flow { route, hash, inner: Inner::from(&header), source: header.source(), transport }))
}

/// What of the transport header the VIP's hash covers.
#[inline(always)]
fn hashed(route: &VipRoute, transport: &Transport) -> Result<(u32, u8), DropReason> {
    if transport.first_fragment {
        // What follows it could not be sent after it.
        return Err(DropReason::Fragment);
    }
    if route.flags.contains(VipFlags::HASH_SOURCE_IP) {
        return Ok((0, 0));
    }
    Ok((transport.ports, transport.protocol))
}

/// The stages behind the VIP lookup.
#[inline(always)]
fn send(frame: &XdpFrame, ethernet: &Ethernet, flow: &Flow) -> Result<u32, DropReason> {
    let Flow { route, hash, inner, transport, .. } = flow;
    let opens = transport.opens();
    count::vip(route.id, inner.total_len, opens);
    if inner.is_expiring() {
        return Err(DropReason::TtlExceeded);
    }
    let id = owner(flow)?;
    let backend = slot::backend(id)?;
    let verdict = forward::send(frame, ethernet, backend, inner, *hash)?;
    count::backend(id, inner.total_len, opens);
    if maps::uses(Features::LOG) {
        log_sent(frame.context(), route.id, id, inner.total_len, verdict);
    }
    Ok(verdict)
}

/// Id of the backend that the flow belongs to: the owner of its slot, except where the flow tables may say otherwise.
#[inline(always)]
fn owner(flow: &Flow) -> Result<u32, DropReason> {
    let Flow { route, hash, source, transport, .. } = flow;
    let slot = slot::of(route, *hash)?;
    let always = route.flags.contains(VipFlags::TRACK_ALWAYS);
    if !maps::uses(Features::TRACKING) || !(slot.is_moving() || always) {
        return Ok(slot.current());
    }
    let key = FlowKey::new(*source, transport.ports, route.id, transport.protocol);
    // A copy that may lie on the stack, so that the original need not.
    let transport = *transport;
    Ok(flow::owner(&key, slot, &transport, always))
}

#[inline(always)]
fn drop(frame: &XdpFrame, reason: DropReason) -> u32 {
    count::dropped(reason);
    if maps::uses(Features::LOG) {
        log_drop(frame.context(), reason, frame.len() as u32);
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
