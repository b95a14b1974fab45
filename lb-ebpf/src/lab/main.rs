//! Programs for the lab and the benchmarks; no load balancer carries them.

#![cfg_attr(target_arch = "bpf", no_std)]
#![no_main]
#![expect(missing_docs, reason = "the `xdp` macro makes functions that carry no documentation")]

mod bench;
mod dwell;
mod reader;
mod sink;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Passes every frame. A veth takes in what XDP transmits or redirects to it only while it has a program.
#[xdp(frags)]
pub fn pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Counts and drops what the load balancer encapsulated of a range of clients; passes everything else.
#[xdp(frags)]
pub fn sink(context: XdpContext) -> u32 {
    sink::absorb(&context)
}

/// Stays on its way for many milliseconds, and counts when it begins and when it ends.
#[xdp]
pub fn dwell(context: XdpContext) -> u32 {
    dwell::dwell(&context)
}

/// Makes of the frame the next packet, whatever was done to it, then calls the program under test.
#[xdp(frags)]
pub fn bench_entry(context: XdpContext) -> u32 {
    bench::entry(&context)
}

/// Makes of a live frame the next packet, and sends it to the interface under test.
#[xdp]
pub fn bench_generate(context: XdpContext) -> u32 {
    bench::generate(&context)
}

/// Counts what comes back from there, and drops it.
#[xdp]
pub fn bench_count(context: XdpContext) -> u32 {
    bench::count(&context)
}

/// Does nothing: what a run of `bench_entry` itself costs.
#[xdp(frags)]
pub fn bench_nothing(_: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Puts a constant Ethernet and IPv4 header in front: the floor of any 4in4 or 6in4 encapsulation.
#[xdp(frags)]
pub fn bench_encapsulate4(context: XdpContext) -> u32 {
    bench::encapsulate::<5>(&context)
}

/// The same with an IPv6 header.
#[xdp(frags)]
pub fn bench_encapsulate6(context: XdpContext) -> u32 {
    bench::encapsulate::<10>(&context)
}

/// Puts a constant Ethernet and IPv4 header in front and reads one line of a table, by the packet's flow: the floor of a
/// look-up in a table of that size.
#[xdp(frags)]
pub fn bench_encapsulate4_reading(context: XdpContext) -> u32 {
    bench::encapsulate_reading(&context)
}

/// The same, one packet after the other.
#[xdp(frags)]
pub fn bench_encapsulate4_waiting(context: XdpContext) -> u32 {
    bench::encapsulate_waiting(&context)
}

/// The same with a line that is written.
#[xdp(frags)]
pub fn bench_encapsulate4_writing(context: XdpContext) -> u32 {
    bench::encapsulate_writing(&context)
}

/// Rewrites the Ethernet addresses: the floor of `l2`.
#[xdp(frags)]
pub fn bench_rewrite(context: XdpContext) -> u32 {
    bench::rewrite(&context)
}

/// Looks a VIP up and reads what it found a good while later.
#[xdp]
pub fn slow_reader(_: XdpContext) -> u32 {
    reader::read()
}

lb_ebpf::program_object!();
