//! Where generated packets end that went through the load balancer of a lab: at the router's port, so that no backend
//! spends time on them. What real clients send passes.

use aya_ebpf::{Global, bindings::xdp_action, macros::map, maps::PerCpuArray, programs::XdpContext};
use lb_ebpf::{
    wire::{ETHERNET_LEN, ETHERTYPE_IPV4, Frame as _},
    xdp::XdpFrame,
};

/// Frames that were counted and dropped.
#[map]
static ABSORBED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The range of the generated clients: an IPv4 address and a mask, as they stand in packets.
#[unsafe(no_mangle)]
static RANGE: [Global<u32>; 2] = [const { Global::new(0) }; 2];

const IPV4_LEN: usize = 20;
const PROTOCOL_AT: usize = 9;
const SOURCE_AT: usize = 12;
/// IPv4 in IP (RFC 2003).
const IPIP: u8 = 4;

/// See [`crate::sink`].
#[inline(always)]
pub fn absorb(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, || false);
    if !is_generated(&frame) {
        return xdp_action::XDP_PASS;
    }
    let Some(absorbed) = ABSORBED.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
    unsafe { *absorbed += 1 };
    xdp_action::XDP_DROP
}

/// Whether the frame is an IPv4 packet in another one without options, and the inner source is in the range.
#[inline(always)]
fn is_generated(frame: &XdpFrame) -> bool {
    let [range, mask] = &RANGE;
    let source = frame.words::<1>(ETHERNET_LEN + IPV4_LEN + SOURCE_AT);
    frame.half(ETHERNET_LEN - 2) == Some(ETHERTYPE_IPV4.wire())
        && frame.byte(ETHERNET_LEN + PROTOCOL_AT) == Some(IPIP)
        && source.is_some_and(|[source]| source & mask.load() == range.load())
}
