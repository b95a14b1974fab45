//! Measuring one program with BPF_PROG_TEST_RUN: the kernel does not restore the packet between the runs of one call,
//! so an entry program does, and calls the program under test by tail call. The same entry with a target that does
//! nothing is what is to be subtracted.
//!
//! The same packets as live frames, sent to an interface, and what receives and counts them at the other end.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, xdp_action},
    helpers::{bpf_ktime_get_ns, bpf_redirect},
    macros::map,
    maps::{Array, PerCpuArray, ProgramArray},
    programs::XdpContext,
};
use lb_ebpf::{
    wire::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame as _},
    xdp::XdpFrame,
};

/// Entry 0 is the program under test.
#[map]
static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Number of the next packet.
#[map]
static NEXT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Frames and bytes that [`count`] took in; by the monotonic clock in nanoseconds, when it had the first [`STAMPED`]
/// frames, and when it last had a multiple of them.
#[map]
static RECEIVED: PerCpuArray<[u64; 4]> = PerCpuArray::with_max_entries(1, 0);

/// Which flow each packet is of, where that is not told by rule: in the upper bits by how much the VIP's address exceeds
/// that of the template, in the lower [`CHOSEN_FLOW_BITS`] the number of the flow. The loader sets the size.
#[map]
static CHOICES: Array<u32> = Array::with_max_entries(1, 0);
/// Of the number of a flow that is chosen.
const CHOSEN_FLOW_BITS: u32 = 18;

/// Cache lines that [`encapsulate_reading`] and [`encapsulate_writing`] choose among. The loader sets the size.
#[map]
static LINES: Array<[u32; 16]> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// What the line of the packet before had, for [`encapsulate_waiting`].
#[map]
static LINE_BEFORE: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
/// How many lines there are.
#[unsafe(no_mangle)]
static LINE_COUNT: Global<u32> = Global::new(1);

/// There are 2 to the power of this many choices; none where this is 0.
#[unsafe(no_mangle)]
static CHOICE_BITS: Global<u32> = Global::new(0);
/// Length of the frame under test in bytes.
#[unsafe(no_mangle)]
static FRAME_LEN: Global<u32> = Global::new(0);
/// The frame's words behind the Ethernet header: IP and transport header, and where the latter is short, payload.
#[unsafe(no_mangle)]
static TEMPLATE: [Global<u32>; 15] = [const { Global::new(0) }; 15];
/// Whether the frame is IPv6.
#[unsafe(no_mangle)]
static IPV6: Global<u32> = Global::new(0);
/// Whether the frame is TCP; otherwise it is UDP.
#[unsafe(no_mangle)]
static TCP: Global<u32> = Global::new(0);
/// The flags of a flow's packets, in turn. A flow's first packet may be any of them.
#[unsafe(no_mangle)]
static TCP_FLAGS: [Global<u16>; 16] = [const { Global::new(0) }; 16];
/// Bytes that a flow's TCP stream goes on by from packet to packet; none where they repeat one another.
#[unsafe(no_mangle)]
static TCP_STEP: Global<u32> = Global::new(0);
/// There are 2 to the power of this many flows, at most 32.
#[unsafe(no_mangle)]
static FLOW_BITS: Global<u32> = Global::new(0);
/// In which order flows take turns: an odd number.
#[unsafe(no_mangle)]
static FLOW_FACTOR: Global<u32> = Global::new(1);
/// 2 to the power of this many packets of one flow come in a row.
#[unsafe(no_mangle)]
static ROW_BITS: Global<u32> = Global::new(0);
/// Whether every flow begins with the first of the flags, and goes on in its row; otherwise each begins with flags of
/// its own, and has the same throughout a row.
#[unsafe(no_mangle)]
static FROM_FIRST: Global<u32> = Global::new(0);
/// Index of the interface that live frames are sent to.
#[unsafe(no_mangle)]
static EGRESS: Global<u32> = Global::new(0);

/// Ethernet addresses of the frame, as its first words: 02:00:00:00:00:0c sends it to 02:00:00:00:00:0a unless somebody
/// says otherwise.
#[unsafe(no_mangle)]
static MACS: [Global<u32>; 3] = [
    Global::new(u32::from_ne_bytes([0x02, 0, 0, 0])),
    Global::new(u32::from_ne_bytes([0, 0x0a, 0x02, 0])),
    Global::new(u32::from_ne_bytes([0, 0, 0, 0x0c])),
];

/// Frames that [`count`] takes in between two looks at the clock: too few looks to be a cost.
const STAMPED: u64 = 1024;

/// What varies from packet to packet.
struct Variant {
    /// Number of the flow.
    flow: u32,
    /// By how much the VIP's address exceeds that of the template.
    vip: u32,
    /// Number of the packet among those of its flow, and a start of its own.
    age: u32,
}

/// See [`crate::bench_entry`].
#[inline(always)]
pub fn entry(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, || false);
    if !next(&frame) {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the context is this run's.
    unsafe { TARGET.tail_call(context, 0) };
    xdp_action::XDP_ABORTED
}

/// See [`crate::bench_generate`].
#[inline(always)]
pub fn generate(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, || false);
    if !next(&frame) {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the helper takes numbers only.
    unsafe { bpf_redirect(EGRESS.load(), 0) as u32 }
}

/// See [`crate::bench_count`].
#[inline(always)]
pub fn count(context: &XdpContext) -> u32 {
    let Some(received) = RECEIVED.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
    let [frames, bytes, first, last] = unsafe { &mut *received };
    *frames += 1;
    *bytes += XdpFrame::new(context, || false).len() as u64;
    if *frames % STAMPED == 0 {
        // SAFETY: the helper reads the clock.
        *last = unsafe { bpf_ktime_get_ns() };
        if *frames == STAMPED {
            *first = *last;
        }
    }
    xdp_action::XDP_DROP
}

/// Puts an Ethernet header and `N` words of a constant in front.
#[inline(always)]
pub fn encapsulate<const N: usize>(context: &XdpContext) -> u32 {
    put_in_front(&XdpFrame::new(context, || false), [HEADER_WORD; N])
}

/// Encapsulates an IPv4 packet, and reads a word of a line of [`LINES`]. The outer destination depends on it, as it does on
/// what a load balancer looks up; lines are zeros unless the loader writes others.
#[inline(always)]
pub fn encapsulate_reading(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, || false);
    let Some(hash) = flow_hash(&frame) else { return xdp_action::XDP_ABORTED };
    let Some([word, ..]) = LINES.get(line_of(hash)) else { return xdp_action::XDP_ABORTED };
    put_in_front(&frame, [HEADER_WORD, HEADER_WORD, HEADER_WORD, HEADER_WORD, HEADER_WORD ^ *word])
}

/// As [`encapsulate_reading`], where none of it can begin before the line of the packet before has come: which line it is
/// depends on what that one had.
#[inline(always)]
pub fn encapsulate_waiting(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, || false);
    let (Some(hash), Some(before)) = (flow_hash(&frame), LINE_BEFORE.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: this CPU's own.
    let hash = hash ^ unsafe { before.read_volatile() };
    let Some([word, ..]) = LINES.get(line_of(hash)) else { return xdp_action::XDP_ABORTED };
    // SAFETY: as above.
    unsafe { before.write_volatile(*word) };
    put_in_front(&frame, [HEADER_WORD, HEADER_WORD, HEADER_WORD, HEADER_WORD, HEADER_WORD ^ *word])
}

/// Encapsulates an IPv4 packet, and writes to a line of [`LINES`] without reading it.
#[inline(always)]
pub fn encapsulate_writing(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, || false);
    let Some(hash) = flow_hash(&frame) else { return xdp_action::XDP_ABORTED };
    let Some(line) = LINES.get_ptr_mut(line_of(hash)) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the map's value, which nothing reads.
    unsafe { line.cast::<u32>().write(hash) };
    put_in_front(&frame, [HEADER_WORD; 5])
}

/// Rewrites the Ethernet addresses.
#[inline(always)]
pub fn rewrite(context: &XdpContext) -> u32 {
    let frame = XdpFrame::new(context, || false);
    if frame.set_words(0, macs()) { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

/// Of which the constant headers are made.
const HEADER_WORD: u32 = 0x4500_0000;

/// Puts an Ethernet header and these words in front.
#[inline(always)]
fn put_in_front<const N: usize>(frame: &XdpFrame, header: [u32; N]) -> u32 {
    let written = frame.adjust_head(-(4 * N as i32))
        && frame.set_words(0, macs())
        && frame.set_half(ETHERNET_LEN - 2, ETHERTYPE_IPV4.wire())
        && frame.set_words(ETHERNET_LEN, header);
    if written { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

/// A hash of an IPv4 packet's source address and ports: the finalizer of MurmurHash3 (Appleby), a permutation. No bit varies
/// by flow in both the address and the ports ([`Variant::source`]), so that no two flows have one hash.
#[inline(always)]
fn flow_hash(frame: &XdpFrame) -> Option<u32> {
    let [source] = frame.words(ETHERNET_LEN + 12)?;
    let [ports] = frame.words(ETHERNET_LEN + 20)?;
    let hash: u32 = source ^ ports;
    let hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    Some(hash ^ hash >> 16)
}

/// The line of that hash, by multiply-shift.
#[inline(always)]
fn line_of(hash: u32) -> u32 {
    ((u64::from(hash) * u64::from(LINE_COUNT.load())) >> 32) as u32
}

#[inline(always)]
fn macs() -> [u32; 3] {
    let [first, second, third] = &MACS;
    [first.load(), second.load(), third.load()]
}

/// Makes the frame the next packet, whatever was done to it.
#[inline(always)]
fn next(frame: &XdpFrame) -> bool {
    // The verifier allows no arithmetic but a difference on pointers into the frame: nothing may merge with it.
    let grown = core::hint::black_box(frame.len()) as i32 - FRAME_LEN.load() as i32;
    if grown != 0 && !frame.adjust_head(grown) {
        return false;
    }
    let Some(next) = NEXT.get_ptr_mut(0) else { return false };
    // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
    let number = unsafe {
        let number = next.read();
        *next = number.wrapping_add(1);
        number
    };
    let variant = Variant::new(number);
    let ethertype = if IPV6.load() != 0 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    let written = frame.set_words(0, macs()) && frame.set_half(ETHERNET_LEN - 2, ethertype.wire());
    if IPV6.load() != 0 {
        written && frame.set_words::<5>(ETHERNET_LEN + 40, template(10)) && headers::<40>(frame, &variant)
    } else {
        written && headers::<20>(frame, &variant)
    }
}

impl Variant {
    /// Of the packet with this number.
    #[inline(always)]
    fn new(number: u64) -> Self {
        if CHOICE_BITS.load() != 0 {
            let index = number & ((1 << CHOICE_BITS.load()) - 1);
            let choice = CHOICES.get(index as u32).copied().unwrap_or_default();
            let (vip, flow) = (choice >> CHOSEN_FLOW_BITS, choice & ((1 << CHOSEN_FLOW_BITS) - 1));
            return Self { flow, vip, age: (number >> CHOICE_BITS.load()) as u32 };
        }
        let (row, place) = (number >> ROW_BITS.load(), number & ((1 << ROW_BITS.load()) - 1));
        // An odd factor visits every flow once a round.
        let flow = (row as u32).wrapping_mul(FLOW_FACTOR.load()) & ((1u64 << FLOW_BITS.load()) - 1) as u32;
        let round = (row >> FLOW_BITS.load()) as u32;
        if FROM_FIRST.load() != 0 {
            return Self { flow, vip: 0, age: round << ROW_BITS.load() | place as u32 };
        }
        let start = (flow ^ flow >> 7).wrapping_mul(0x85eb_ca6b) >> 28;
        Self { flow, vip: 0, age: round.wrapping_add(start) }
    }

    /// Source address and port, given the template's address: ten bits of the flow's number go in the port, the others
    /// in the lower bits of the address.
    #[inline(always)]
    fn source(&self, [base]: [u32; 1]) -> (u32, u16) {
        let Self { flow, .. } = self;
        let address = u32::from_be(base) | flow & 0x3ff | flow >> 20 << 10;
        (address.to_be(), (1024 + (flow >> 10 & 0x3ff) as u16).to_be())
    }
}

/// Writes the IP header of `LEN` bytes and what fits behind it into ten words, and over it what varies.
#[inline(always)]
fn headers<const LEN: usize>(frame: &XdpFrame, variant: &Variant) -> bool {
    const IPV4: usize = 20;
    // The IPv4 source address ends four bytes before the header does, that of IPv6 sixteen.
    let source = LEN - if LEN == IPV4 { 8 } else { 20 };
    let (address, port) = variant.source(template(source / 4));
    let transport = ETHERNET_LEN + LEN;
    // Words as the program reads them: one put together from several stores is read only once these have left the store
    // buffer, for which nobody waits who has his packets from a card.
    let [ports] = template::<1>(LEN / 4);
    let ports = u32::from(port) | ports & SECOND_HALF;
    let flow = frame.set_words::<10>(ETHERNET_LEN, template(0))
        && frame.set_words(ETHERNET_LEN + source, [address])
        && frame.set_words(transport, [ports])
        && (CHOICE_BITS.load() == 0 || {
            let [base] = template::<1>(LEN / 4 - 1);
            frame.set_words(transport - 4, [u32::from_be(base).wrapping_add(variant.vip).to_be()])
        });
    if TCP.load() == 0 {
        return flow;
    }
    let Some(flags) = TCP_FLAGS.get((variant.age & 15) as usize).map(Global::load) else { return false };
    // Behind a SYN's header are twelve bytes of options, behind any other as many of payload.
    const SYN: u16 = 0x02;
    let words: u16 = if flags & SYN != 0 { 8 } else { 5 };
    let [window] = template::<1>(LEN / 4 + 3);
    let sequence = variant.flow.wrapping_add(variant.age.wrapping_mul(TCP_STEP.load()));
    flow && frame.set_words(transport + 4, [sequence.to_be()])
        && frame.set_words(transport + 12, [u32::from((words << 12 | flags).to_be()) | window & SECOND_HALF])
}

/// The bytes of a word that come second in the packet.
const SECOND_HALF: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// `N` words of the template.
#[inline(always)]
fn template<const N: usize>(first: usize) -> [u32; N] {
    core::array::from_fn(|index| TEMPLATE.get(first + index).map_or(0, Global::load))
}
