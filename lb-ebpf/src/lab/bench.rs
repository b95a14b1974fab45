//! Measuring one program with BPF_PROG_TEST_RUN: the kernel does not restore the packet between the runs of one call, so
//! an entry program does, and calls the program under test by tail call. The same entry with a target that does nothing
//! is what is to be subtracted.

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    macros::map,
    maps::{PerCpuArray, ProgramArray},
    programs::XdpContext,
};
use lb_ebpf::{
    frame::Frame as _,
    parse::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6},
    xdp::XdpFrame,
};

/// Entry 0 is the program under test.
#[map]
static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Number of the next flow.
#[map]
static NEXT_FLOW: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Length of the frame under test in bytes.
#[unsafe(no_mangle)]
static FRAME_LEN: Global<u32> = Global::new(0);
/// Number of flows less one; the number of flows is a power of two.
#[unsafe(no_mangle)]
static FLOW_MASK: Global<u32> = Global::new(0);
/// Whether the frame is IPv6.
#[unsafe(no_mangle)]
static IPV6: Global<u32> = Global::new(0);

/// Ethernet addresses of the frame, of no meaning.
const MACS: [u32; 3] = [0x0202_0202, 0x0303_0202, 0x0303_0303];

/// See [`crate::bench_entry`].
#[inline(always)]
pub fn entry(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, false);
    // The verifier allows no arithmetic but a difference on pointers into the frame: nothing may merge with it.
    let grown = core::hint::black_box(frame.len()) as i32 - FRAME_LEN.load() as i32;
    if grown != 0 && !frame.adjust_head(grown) {
        return xdp_action::XDP_ABORTED;
    }
    let Some(next) = NEXT_FLOW.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
    let number = unsafe {
        *next = next.read().wrapping_add(1);
        // An odd factor visits every flow once a round, in an order that no prefetcher follows.
        next.read().wrapping_mul(0x9e37_79b1) & FLOW_MASK.load()
    };
    if !restore(&frame, number) {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the context is this run's.
    unsafe { TARGET.tail_call(context, 0) };
    xdp_action::XDP_ABORTED
}

/// Rewrites what programs under test change, and what names the flow: 10 bits of it in the source address, the others in
/// the source port.
#[inline(always)]
fn restore(frame: &XdpFrame, number: u32) -> bool {
    let source = (0x0a00_0000 | number & 0x3ff).to_be();
    let port = (1024 + (number >> 10) as u16).to_be();
    let ipv6 = IPV6.load() != 0;
    let ethertype = if ipv6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    let ethernet = frame.set_words(0, MACS) && frame.set_half(ETHERNET_LEN - 2, ethertype.wire());
    let flow = if ipv6 {
        frame.set_words(ETHERNET_LEN + 20, [source]) && frame.set_half(ETHERNET_LEN + 40, port)
    } else {
        frame.set_words(ETHERNET_LEN + 12, [source]) && frame.set_half(ETHERNET_LEN + 20, port)
    };
    ethernet && flow
}

/// Puts an Ethernet header and `N` words of a constant in front.
#[inline(always)]
pub fn encapsulate<const N: usize>(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, false);
    let written = frame.adjust_head(-(4 * N as i32))
        && frame.set_words(0, MACS)
        && frame.set_half(ETHERNET_LEN - 2, ETHERTYPE_IPV4.wire())
        && frame.set_words(ETHERNET_LEN, [0x4500_0000; N]);
    if written { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

/// Rewrites the Ethernet addresses.
#[inline(always)]
pub fn rewrite(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, false);
    if frame.set_words(0, MACS) { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}
