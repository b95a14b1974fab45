//! Says how many jiffies the kernel has counted: the daemon tells the forwarder what time that is. It is run by
//! `BPF_PROG_TEST_RUN` and attached to nothing.

#![cfg_attr(target_arch = "bpf", no_std)]
#![no_main]
#![expect(missing_docs, reason = "the macro makes functions that carry no documentation")]

use aya_ebpf::{bindings::xdp_action, helpers::generated::bpf_jiffies64, macros::xdp, programs::XdpContext};
use lb_ebpf::xdp::XdpFrame;

/// Writes them to the first eight bytes of the frame, the lower half first.
#[xdp]
pub fn jiffies(context: XdpContext) -> u32 {
    // SAFETY: the helper reads a word.
    let jiffies = unsafe { bpf_jiffies64() };
    let written = XdpFrame::new(&context, || false).set_words(0, [jiffies as u32, (jiffies >> 32) as u32]);
    if written { xdp_action::XDP_PASS } else { xdp_action::XDP_ABORTED }
}

lb_ebpf::program_object!();
