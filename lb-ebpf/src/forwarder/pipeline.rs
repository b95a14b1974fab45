//! The packet's way: calls the stages, and turns what they say into an XDP verdict.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use aya_log_ebpf::info;
use lb_common::{Address, Backend, DropReason, Features, FlowKey, NO_ID, Slot, VipFlags, VipRoute};
use lb_ebpf::{
    cold::cold,
    hash::FlowHash,
    wire::{
        Echo, Ethernet, Family, Frame as _, ICMP_ERROR_LEN, Ipv4, Ipv6, Packet, Quoted, Reset, TCP, TcpFlags, TooBig,
        Transport, icmp,
    },
    xdp::XdpFrame,
};

use crate::{
    forward, maps,
    stage::{
        aside, count, echo, flow, own_mac, probe, refuse, slot, too_big,
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

/// What is no packet of a flow.
enum Other {
    /// It is to be dropped.
    Dropped(Dropped),
    /// An ICMP message; whose is not known.
    Icmp,
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
fn walk<H: Vips + Reset + TooBig + Echo>(frame: &XdpFrame, offset: usize) -> Result<Option<u32>, Dropped> {
    let found = flow::<H>(frame, offset);
    let ingress = frame.ingress();
    // Not asked of frames that pass in any case.
    if !matches!(found, Ok(None)) && !own_mac::is_destination(frame, ingress) {
        return Ok(None);
    }
    let flow = match found {
        Ok(Some(flow)) => flow,
        Ok(None) => return Ok(answer::<H>(frame, offset, ingress)),
        Err(Other::Icmp) => return Ok(Some(message::<H>(frame.context(), offset))),
        Err(Other::Dropped(dropped)) => return Err(dropped),
    };
    match send(frame, &flow, ingress) {
        Ok(verdict) => Ok(Some(verdict)),
        Err(DropReason::NoBackend) if is_refused(&flow) => {
            count::dropped(flow.route.id, DropReason::NoBackend);
            Ok(Some(refuse::answer::<H>(frame.context(), offset)))
        }
        Err(DropReason::TooBig) if maps::icmp_rate() != 0 => {
            count::dropped(flow.route.id, DropReason::TooBig);
            Ok(Some(too_big::answer::<H>(frame.context(), offset)))
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

/// The flow of a packet for a VIP. What is malformed is to be dropped only where some VIP serves its protocol on its
/// address.
#[inline(always)]
fn flow<H: Vips>(frame: &XdpFrame, offset: usize) -> Result<Option<Flow<H>>, Other> {
    let Some(header) = H::parse(frame, offset) else { return Ok(None) };
    let packet = match header.packet(frame, offset) {
        Ok(Some(packet)) => packet,
        Ok(None) => {
            let (protocol, _) = header.next();
            return if protocol == H::ICMP { Err(Other::Icmp) } else { Ok(None) };
        }
        Err(reason) => {
            let is_served = vip::serves(&header, header.announced_protocol(frame, offset));
            return if is_served { Err(Other::Dropped(Dropped { vip: NO_ID, reason })) } else { Ok(None) };
        }
    };
    let Some(route) = vip::lookup(&header, &packet.transport) else { return Ok(None) };
    if packet.transport.first_fragment {
        // What follows it could not be sent after it.
        return Err(Other::Dropped(Dropped { vip: route.id, reason: DropReason::Fragment }));
    }
    Ok(Some(Flow { route, packet }))
}

/// What becomes of an ICMP message: an echo request to a VIP is answered, an error about a flow of a VIP's goes where that
/// does, one about a probe to the prober, and all else passes.
///
/// A function of its own, for few packets are; and what it does are several, which it calls one after the other, so that
/// they take no stack from each other: of all that wait for one another there are 512 bytes.
#[inline(never)]
fn message<H: Vips + Echo + TooBig>(context: &XdpContext, offset: usize) -> u32 {
    if maps::uses(Features::PROBES) && probe::is_for_node::<H>(context, offset) {
        return probe::hand_over::<H>(context, offset);
    }
    let frame = XdpFrame::new(context, || maps::uses(Features::MULTI_BUFFER));
    let Some(header) = H::parse(&frame, offset) else { return xdp_action::XDP_PASS };
    let Some((kind, at)) = icmp(&header, &frame, offset) else { return xdp_action::XDP_PASS };
    if kind == H::REQUEST && maps::uses(Features::ECHO) {
        return echo::answer::<H>(context, offset);
    }
    // What is quoted must be of the packet, and not of what lies behind it in the frame.
    let end = offset + header.total_len() as usize;
    let has_quote = at + ICMP_ERROR_LEN + H::HEADER_LEN + QUOTED_LEN <= end && end <= frame.total_len();
    if !H::is_icmp_error(kind) || !has_quote || !is_about::<H>(&frame, at, header.destination()) {
        return xdp_action::XDP_PASS;
    }
    match owner_told::<H>(context, at + ICMP_ERROR_LEN) {
        Owner::NOBODY => xdp_action::XDP_PASS,
        Owner::DROPPED => xdp_action::XDP_DROP,
        owner => send_error::<H>(context, offset, owner),
    }
}

/// What every ICMP error quotes behind the IP header, in bytes (RFC 792).
const QUOTED_LEN: usize = 8;

/// Whether the ICMP error whose own header is at `error` is about a packet from this address.
#[inline(always)]
fn is_about<H: Family>(frame: &XdpFrame, error: usize, address: Address) -> bool {
    H::parse(frame, error + ICMP_ERROR_LEN).is_some_and(|quoted| quoted.source() == address)
}

/// The backend that a flow belongs to, and of the flow's hash what its packets vary by on their way there. A number, as
/// functions return it.
#[derive(Clone, Copy)]
struct Owner(u64);

impl Owner {
    /// Of no VIP's flow.
    const NOBODY: u64 = 0;
    /// There is none, and the packet is counted as dropped.
    const DROPPED: u64 = 1;
    /// The flow table must be asked, for what [`aside`] has. In the lower half is what that flow's packets vary by; no
    /// backend's id has this bit.
    const ASK: u64 = 1 << 63;

    #[inline(always)]
    fn new(id: u32, hash: FlowHash) -> Self {
        Self(u64::from(id) << 32 | u64::from(hash.entropy()))
    }

    #[inline(always)]
    const fn to_bits(self) -> u64 {
        self.0
    }

    #[inline(always)]
    const fn id(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline(always)]
    const fn hash(self) -> FlowHash {
        FlowHash::of_entropy(self.0 as u32)
    }
}

/// Whose the flow is of the packet whose IP header is at `offset`, and which an ICMP error quotes: it went from a VIP to a
/// client. An [`Owner`], or why there is none.
///
/// Nothing is entered, refreshed or learnt by it, and it is for the backend's own stack to judge whether an error is true
/// (RFC 5927): who does not see the connection guesses sequence numbers, as he would without a load balancer.
#[inline(always)]
fn owner_told<H: Vips>(context: &XdpContext, offset: usize) -> u64 {
    let told = slot_told::<H>(context, offset);
    if told & Owner::ASK == 0 {
        return told;
    }
    // Another packet may have come between on kernels that let one (PREEMPT_RT): what it put aside is not this one's.
    let Some(aside) = aside::get().filter(|aside| aside.entropy == told as u32) else { return Owner::DROPPED };
    let id = flow::told(aside);
    if slot::backend(id).is_err() {
        count::dropped(aside.key.vip(), DropReason::NoBackend);
        return Owner::DROPPED;
    }
    Owner::new(id, FlowHash::of_entropy(aside.entropy)).to_bits()
}

/// The same, as far as the flow's slot tells.
#[inline(never)]
fn slot_told<H: Vips>(context: &XdpContext, offset: usize) -> u64 {
    let frame = XdpFrame::new(context, || maps::uses(Features::MULTI_BUFFER));
    let Some(quoted) = Quoted::<H>::at(&frame, offset) else { return Owner::NOBODY };
    let Quoted { header, protocol, ports } = quoted.turned();
    let transport = match protocol {
        TCP => Transport::segment(ports, TcpFlags::ACK, 0, 0),
        _ => Transport::datagram(ports, 0),
    };
    let Some(route) = vip::lookup(&header, &transport) else { return Owner::NOBODY };
    let flow = Flow { route, packet: Packet { header, offset, transport_offset: offset, transport } };
    let hash = hash(&flow);
    let mut asks = false;
    let id = owner(&flow, hash, |key, slot, _, _| {
        asks = aside::put(key, slot, hash.entropy());
        slot.settled_owner()
    });
    match id.and_then(|id| slot::backend(id).map(|_| id)) {
        _ if asks => Owner::ASK | u64::from(hash.entropy()),
        Ok(id) => Owner::new(id, hash).to_bits(),
        Err(reason) => {
            count::dropped(route.id, reason);
            Owner::DROPPED
        }
    }
}

/// Sends an ICMP error, whose IP header is at `offset`, to the backend of an [`Owner`].
#[inline(never)]
fn send_error<H: Family>(context: &XdpContext, offset: usize, owner: u64) -> u32 {
    let frame = XdpFrame::new(context, || maps::uses(Features::MULTI_BUFFER));
    let owner = Owner(owner);
    let Ok(backend) = slot::backend(owner.id()) else { return xdp_action::XDP_DROP };
    match sent_to::<H>(&frame, offset, backend, owner.hash()) {
        Ok((verdict, bytes)) => {
            count::backend(owner.id(), bytes, false);
            verdict
        }
        Err(reason) => drop(&frame, &Dropped { vip: backend.vip, reason }),
    }
}

#[inline(always)]
fn sent_to<H: Family>(
    frame: &XdpFrame,
    offset: usize,
    backend: &Backend,
    hash: FlowHash,
) -> Result<(u32, u32), DropReason> {
    let header = H::parse(frame, offset).ok_or_else(|| cold(DropReason::Truncated))?;
    let bytes = header.total_len();
    if header.is_expiring() {
        return Err(cold(DropReason::TtlExceeded));
    }
    let packet = Packet { header, offset, transport_offset: offset, transport: Transport::datagram(0, 0) };
    let verdict = forward::send(frame, &packet, backend, hash, frame.ingress())?;
    Ok((verdict, bytes))
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
    let id = owner(flow, hash, flow::owner)?;
    let backend = slot::backend(id)?;
    let verdict = forward::send(frame, packet, backend, hash, ingress).inspect_err(|reason| {
        if matches!(reason, DropReason::TooBig) && maps::icmp_rate() != 0 {
            aside::put_backend(id);
        }
    })?;
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

/// Id of the backend that the flow belongs to: the owner of its slot, except where the flow table, which `ask` asks, may say
/// otherwise.
#[inline(always)]
fn owner<H: Family>(
    Flow { route, packet }: &Flow<H>,
    hash: FlowHash,
    ask: impl FnOnce(&FlowKey, Slot, &Transport, bool) -> u32,
) -> Result<u32, DropReason> {
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
    Ok(ask(&key, slot, &transport, always))
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
