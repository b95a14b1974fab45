//! Backend side: an XDP program that takes the outer IP header off the packets that a load balancer sent, and passes
//! them to the stack as the client sent them.
//!
//! It accepts only the outer addresses that it was told, and delivers only to VIPs: whoever can forge an outer source
//! from an accepted range would otherwise reach, past every filter that looks at one header, whatever the stack
//! delivers or forwards to. The VIPs are those that it was told, or, where it was told none, whatever is local to this
//! host at that moment: the kernel is asked for each packet, so that a VIP that is added later is served, and one that
//! is removed no longer. The range of forged sources is for the network's border to filter; docs/backends.md says how.

#![cfg_attr(target_arch = "bpf", no_std)]
#![no_main]
#![expect(missing_docs, reason = "the `xdp` macro makes functions that carry no documentation")]

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{Array, HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    programs::XdpContext,
};
use lb_common::{Address, Be16, DECAP_VIP_BITS, DECAP_VIPS, DecapCounters, DecapOutcome, DecapSource};
use lb_ebpf::{
    decap::{Inner, Rewrite, Tunnel, tunnel},
    wire::{ETHERNET_LEN, Frame as _, VLAN_LEN},
    xdp::XdpFrame,
};

/// Ranges of outer source addresses that are accepted.
#[map]
static SOURCES: Array<DecapSource> = Array::with_max_entries(DecapSource::MAX, 0);
/// Outer destination addresses that are accepted.
#[map]
static DESTINATIONS: HashMap<Address, u32> = HashMap::with_max_entries(256, 0);
/// Prefixes of inner destinations that are delivered; not used where [`LOCAL`] is set.
#[map]
static VIPS: LpmTrie<Address, u32> = LpmTrie::with_max_entries(DECAP_VIPS, 0);
/// Whether every address of this host counts as a VIP.
#[unsafe(no_mangle)]
static LOCAL: Global<u32> = Global::new(0);
/// Counts by outcome.
#[map]
static OUTCOMES: PerCpuArray<DecapCounters> = PerCpuArray::with_max_entries(DecapOutcome::COUNT as u32, 0);

/// The decapsulation, for frames of several buffers as well (kernel 5.18).
#[xdp(frags)]
pub fn decap(context: XdpContext) -> u32 {
    run(&XdpFrame::new(&context, || true))
}

/// The decapsulation for kernels that do not know such frames.
#[xdp]
pub fn decap_linear(context: XdpContext) -> u32 {
    run(&XdpFrame::new(&context, || false))
}

#[inline(always)]
fn run(frame: &XdpFrame) -> u32 {
    let Some(tunnel) = tunnel(frame) else { return xdp_action::XDP_PASS };
    let outcome = outcome(frame, &tunnel);
    count(outcome, tunnel.total_len);
    match outcome {
        DecapOutcome::Decapsulated | DecapOutcome::Refused | DecapOutcome::Fragment => xdp_action::XDP_PASS,
        DecapOutcome::Malformed | DecapOutcome::EcnDropped | DecapOutcome::InnerRefused => xdp_action::XDP_DROP,
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
    let inner = match tunnel.inner(frame) {
        Ok(inner) => inner,
        Err(outcome) => return outcome,
    };
    if !is_delivered(frame, &inner) {
        return DecapOutcome::InnerRefused;
    }
    let rewrite = inner.rewrite;
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

/// Whether the inner packet is for a VIP.
#[inline(always)]
fn is_delivered(frame: &XdpFrame, inner: &Inner) -> bool {
    if LOCAL.load() == 0 {
        return VIPS.get(Key::new(DECAP_VIP_BITS, inner.destination)).is_some();
    }
    // What is not forwarded is delivered on this host, or to nobody.
    !inner.is_for_group() && !frame.is_routed_on(inner.source, inner.destination)
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
