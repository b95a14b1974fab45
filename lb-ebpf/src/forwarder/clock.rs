//! What time it is, to a tick of the kernel's own, a few milliseconds: a hundredth of a [`Tick`].
//!
//! The kernel's count of jiffies is a word in memory that the verifier puts into the program (`bpf_jiffies64`, inlined
//! since 5.6). To ask the clock is a call, which on processors that pay for returns was a ninth of what a packet took whose
//! flow is known (ADR 17).

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use lb_common::Tick;

use crate::maps;

/// The time now. The daemon's clock may be ahead by a few milliseconds.
#[inline(always)]
pub fn now() -> Tick {
    Tick::at(match maps::jiffies() {
        // SAFETY: the helper reads a word.
        Some((jiffy, none)) => unsafe { bpf_jiffies64() }.wrapping_mul(jiffy).wrapping_add(none),
        // SAFETY: the helper reads the clock.
        None => unsafe { bpf_ktime_get_coarse_ns() },
    })
}
