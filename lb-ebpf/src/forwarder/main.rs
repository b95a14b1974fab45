//! The forwarder: an XDP program that sends each packet for a VIP to one of its backends.
//!
//! One packet walks the stages in one direction, as [`pipeline`] calls them:
//! `wire` → `vip` → `own_mac` → `slot` → (`flow`) → `forward` → `count`. A probe's way is shorter: `wire` → `probe` →
//! `forward`.

#![cfg_attr(target_arch = "bpf", no_std)]
#![no_main]
#![expect(missing_docs, reason = "the `xdp` macro makes functions that carry no documentation")]

mod clock;
mod forward;
mod maps;
mod pipeline;
mod stage;

use aya_ebpf::{macros::xdp, programs::XdpContext};

/// The forwarder, for frames of several buffers as well (kernel 5.18).
#[xdp(frags)]
#[inline(always)]
pub fn naru(context: XdpContext) -> u32 {
    pipeline::run(&context)
}

/// The forwarder for kernels that do not know such frames.
#[xdp]
#[inline(always)]
pub fn naru_linear(context: XdpContext) -> u32 {
    pipeline::run(&context)
}

/// Sends the prober's packets to the backends that they are for. It runs in generic mode, on the end that this host has of
/// the prober's veth pair.
#[xdp]
pub fn naru_probe(context: XdpContext) -> u32 {
    pipeline::run_probe(&context)
}

lb_ebpf::program_object!();
