//! Third stage: whether a frame for a VIP is addressed to this host. It comes behind the look-up of the VIP, as a frame
//! for none passes whomever it is addressed to.
//!
//! A port in promiscuous mode (a bridge's, a mirror's, one that somebody captures on) shows the frames of its
//! neighbours too. They are not this load balancer's to forward, which would double them: the stack gets them as they
//! are, and drops them. Neither are frames for groups: no client sends TCP or UDP for a unicast address to one.

use lb_common::OwnMac;
use lb_ebpf::{wire::Frame as _, xdp::XdpFrame};

use crate::maps::OWN_MACS;

/// Whether the frame is addressed to the interface that it came in by, with that index, or to one on top of it. Where no
/// address of the interface is known, every frame is that is addressed to no group.
#[inline(always)]
pub fn is_destination(frame: &XdpFrame, ifindex: u32) -> bool {
    let Some(words) = frame.words::<2>(0) else { return false };
    let own = OwnMac::of_frame(words, ifindex);
    let window = OwnMac::window(ifindex);
    OWN_MACS.get(window) == Some(&own) || !own.is_group() && is_in_window(window, own.0) != 0
}

/// Looks through the window; not 0 where the word is there. A function of its own, for frames that the first place does
/// not answer for, and a global one, which the verifier looks at once and not with whatever leads to it (kernel 5.6).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_in_window(window: u32, own: u64) -> u32 {
    let own = OwnMac(own);
    let mut is_unknown = true;
    for place in 0..OwnMac::WINDOW {
        let Some(other) = OWN_MACS.get(window + place).copied() else { return 0 };
        if other == own {
            return 1;
        }
        is_unknown &= other == OwnMac::FREE || !other.is_of_interface(own);
    }
    u32::from(is_unknown)
}
