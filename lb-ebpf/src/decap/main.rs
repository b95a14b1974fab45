//! Backend side: an XDP program that takes the outer IP header off the packets that a load balancer sent, and passes
//! them to the stack as the client sent them. It accepts only the outer addresses that it was told.

#![cfg_attr(target_arch = "bpf", no_std)]
#![no_main]
#![expect(missing_docs, reason = "the `xdp` macro makes functions that carry no documentation")]

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{Array, HashMap, PerCpuArray},
    programs::XdpContext,
};
use lb_common::{Address, Be16, DecapCounters, DecapOutcome, DecapSource};
use lb_ebpf::{
    decap::{Rewrite, Tunnel, tunnel},
    frame::Frame as _,
    parse::{ETHERNET_LEN, VLAN_LEN},
    xdp::XdpFrame,
};

/// Ranges of outer source addresses that are accepted.
#[map]
static SOURCES: Array<DecapSource> = Array::with_max_entries(DecapSource::MAX, 0);
/// Outer destination addresses that are accepted.
#[map]
static DESTINATIONS: HashMap<Address, u32> = HashMap::with_max_entries(256, 0);
/// Counts by outcome.
#[map]
static OUTCOMES: PerCpuArray<DecapCounters> = PerCpuArray::with_max_entries(DecapOutcome::COUNT as u32, 0);

/// The decapsulation, for frames of several buffers as well (kernel 5.18).
#[xdp(frags)]
pub fn decap(context: XdpContext) -> u32 {
    run(&XdpFrame::new(&context, true))
}

/// The decapsulation for kernels that do not know such frames.
#[xdp]
pub fn decap_linear(context: XdpContext) -> u32 {
    run(&XdpFrame::new(&context, false))
}

#[inline(always)]
fn run(frame: &XdpFrame) -> u32 {
    let Some(tunnel) = tunnel(frame) else { return xdp_action::XDP_PASS };
    let outcome = outcome(frame, &tunnel);
    count(outcome, tunnel.total_len);
    match outcome {
        DecapOutcome::Decapsulated | DecapOutcome::Refused | DecapOutcome::Fragment => xdp_action::XDP_PASS,
        DecapOutcome::Malformed | DecapOutcome::EcnDropped => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn outcome(frame: &XdpFrame, tunnel: &Tunnel) -> DecapOutcome {
    if !accepted(tunnel) {
        return DecapOutcome::Refused;
    }
    if tunnel.fragment {
        return DecapOutcome::Fragment;
    }
    let rewrite = match tunnel.inner_header(frame) {
        Ok(rewrite) => rewrite,
        Err(outcome) => return outcome,
    };
    // The lengths of the Ethernet header are told apart here, so that every offset below is a constant.
    let moved = match (tunnel.ethernet_len - ETHERNET_LEN) / VLAN_LEN {
        0 => decapsulate::<0>(frame, tunnel, rewrite),
        1 => decapsulate::<1>(frame, tunnel, rewrite),
        _ => decapsulate::<2>(frame, tunnel, rewrite),
    };
    if moved.is_some() { DecapOutcome::Decapsulated } else { DecapOutcome::Malformed }
}

/// Whether the daemon on the other side may have sent this.
#[inline(always)]
fn accepted(tunnel: &Tunnel) -> bool {
    // SAFETY: entries are whole words and are only added or removed.
    if unsafe { DESTINATIONS.get(tunnel.destination) }.is_none() {
        return false;
    }
    (0..DecapSource::MAX).any(|index| SOURCES.get(index).is_some_and(|range| range.contains(tunnel.source)))
}

/// Takes the outer header off and moves the Ethernet header with its `TAGS` up to the inner one.
#[inline(always)]
fn decapsulate<const TAGS: usize>(frame: &XdpFrame, tunnel: &Tunnel, rewrite: Rewrite) -> Option<()> {
    let macs = frame.words::<3>(0)?;
    let tags = [if TAGS > 0 { frame.words::<1>(12)? } else { [0] }, if TAGS > 1 { frame.words::<1>(16)? } else { [0] }];
    frame.adjust_head(tunnel.outer_len as i32).then_some(())?;
    let mut written = frame.set_words(0, macs);
    for (index, tag) in tags.into_iter().take(TAGS).enumerate() {
        written &= frame.set_words(12 + 4 * index, tag);
    }
    let ip = ETHERNET_LEN + VLAN_LEN * TAGS;
    written &= set_ethertype(frame, ip, tunnel.inner);
    written &= match rewrite {
        Rewrite::None => true,
        Rewrite::Ipv6(first) => frame.set_words(ip, [first]),
        Rewrite::Ipv4([first, third]) => frame.set_words(ip, [first]) && frame.set_words(ip + 8, [third]),
    };
    written.then_some(())
}

#[inline(always)]
fn set_ethertype(frame: &XdpFrame, ip: usize, ethertype: Be16) -> bool {
    frame.set_half(ip - 2, ethertype.wire())
}

#[inline(always)]
fn count(outcome: DecapOutcome, bytes: u32) {
    if let Some(counters) = OUTCOMES.get_ptr_mut(outcome as u32) {
        // SAFETY: the map's value on this CPU, which nothing else writes while this program runs.
        let counters = unsafe { &mut *counters };
        counters.packets += 1;
        counters.bytes += u64::from(bytes);
    }
}

lb_ebpf::program_object!();
