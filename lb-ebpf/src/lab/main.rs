//! Programs for the lab: what the peers of a veth need to take in frames that XDP sends.

#![cfg_attr(target_arch = "bpf", no_std)]
#![no_main]
#![expect(missing_docs, reason = "the `xdp` macro makes functions that carry no documentation")]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Passes every frame. A veth takes in what XDP transmits or redirects to it only while it has a program.
#[xdp(frags)]
pub fn pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

lb_ebpf::program_object!();
