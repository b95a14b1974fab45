//! Counts what is lost behind the data plane: frames for which it said "send", and which a driver did not take. XDP
//! programs are not told; the kernel's tracepoints are, and these programs sit on them.
//!
//! They see every device of every network namespace, and count those alone that the daemon named: it put an entry into
//! [`LOSSES`] for each, and says in [`LAYOUT`] which namespace its indices are of. They read the kernel's structures at
//! offsets that the daemon takes from the kernel's own type information. The tracepoints of transmissions are met once
//! for every bundle of frames, lost or not, where the program ends with its first instructions.

#![cfg_attr(target_arch = "bpf", no_std)]
#![no_main]
#![expect(missing_docs, reason = "the macro makes functions that carry no documentation")]

use aya_ebpf::{
    helpers::bpf_probe_read_kernel,
    macros::{map, raw_tracepoint},
    maps::{Array, PerCpuHashMap},
    programs::RawTracePointContext,
};
use lb_common::{DeviceLayout, LossCause, Losses};

/// Interface index → frames lost there.
#[map]
static LOSSES: PerCpuHashMap<u32, Losses> = PerCpuHashMap::with_max_entries(DeviceLayout::INTERFACES, 0);
/// One entry.
#[map]
static LAYOUT: Array<DeviceLayout> = Array::with_max_entries(1, 0);

/// `xdp_exception(dev, prog, act)`.
#[raw_tracepoint(tracepoint = "xdp_exception")]
pub fn xdp_exception(context: RawTracePointContext) -> i32 {
    lost_at(context.arg(0), 1, LossCause::Exception)
}

/// `xdp_bulk_tx(dev, sent, drops, err)`.
#[raw_tracepoint(tracepoint = "xdp_bulk_tx")]
pub fn xdp_bulk_tx(context: RawTracePointContext) -> i32 {
    lost_at(context.arg(0), context.arg::<i32>(2), LossCause::Transmit)
}

/// `xdp_devmap_xmit(from_dev, to_dev, sent, drops, err)`.
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
pub fn xdp_devmap_xmit(context: RawTracePointContext) -> i32 {
    let drops = context.arg::<i32>(3);
    // What another program redirects to the same interface is not ours.
    if drops <= 0 || ours(context.arg(0)).is_none() {
        return 0;
    }
    lost_at(context.arg(1), drops, LossCause::Transmit)
}

/// `xdp_redirect_err(dev, prog, target, err, map_type, map_id, index)`; before Linux 5.14 a map and the index behind the
/// error.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
pub fn xdp_redirect_err(context: RawTracePointContext) -> i32 {
    // Map types are small numbers, maps are not.
    const MAP_TYPES: u64 = 1 << 16;
    // All are read before any is looked at: the verifier wants constant offsets.
    let [kind, old, new] = [4, 5, 6].map(|index| core::hint::black_box(context.arg::<u64>(index)));
    if ours(context.arg(0)).is_none() {
        return 0;
    }
    let target = if kind < MAP_TYPES { new } else { old };
    // The index in the map of devices is that of the interface.
    count(target as u32, 1, LossCause::Redirect)
}

#[inline(always)]
fn lost_at(device: *const u8, frames: i32, cause: LossCause) -> i32 {
    if frames <= 0 {
        return 0;
    }
    match ours(device) {
        Some(ifindex) => count(ifindex, frames, cause),
        None => 0,
    }
}

/// The index of a device, if it is one of the daemon's namespace that it counts.
#[inline(always)]
fn ours(device: *const u8) -> Option<u32> {
    let layout = LAYOUT.get(0)?;
    let namespace: *const u8 = read(device, layout.namespace_at)?;
    let inode: u32 = read(namespace, layout.inode_at)?;
    if inode != layout.namespace {
        return None;
    }
    let ifindex: u32 = read(device, layout.ifindex_at)?;
    LOSSES.get_ptr(ifindex).map(|_| ifindex)
}

#[inline(always)]
fn read<T>(structure: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper reads nothing that is not there, and whatever bytes it finds are a number or an address that is
    // given to the helper again.
    unsafe { bpf_probe_read_kernel(structure.wrapping_add(offset as usize).cast()) }.ok()
}

#[inline(always)]
fn count(ifindex: u32, frames: i32, cause: LossCause) -> i32 {
    if let Some(losses) = LOSSES.get_ptr_mut(ifindex) {
        // SAFETY: the map's value on this CPU. A tracepoint met within another is not run on the same CPU.
        let Losses(counts) = unsafe { &mut *losses };
        if let Some(count) = counts.get_mut(cause as usize) {
            *count += frames as u64;
        }
    }
    0
}

lb_ebpf::program_object!();
