//! Counts what is lost behind the data plane: frames for which it said "send", and which a driver did not take. XDP
//! programs are not told; the kernel's tracepoints are, and these programs sit on them.
//!
//! They see every device of every network namespace, and every program's frames. They count those that came in by an
//! interface that the daemon named in [`INGRESS`], at interfaces that it named in [`LOSSES`]; in [`LAYOUT`] it says
//! which namespace its indices are of. They read the kernel's structures at offsets that the daemon takes from the
//! kernel's own type information. The tracepoints of transmissions are met once for every bundle of frames, lost or
//! not, where the program ends with its first instructions.

#![cfg_attr(target_arch = "bpf", no_std)]
#![no_main]
#![expect(missing_docs, reason = "the macro makes functions that carry no documentation")]

use aya_ebpf::{
    bindings::{bpf_map_type, xdp_action},
    helpers::bpf_probe_read_kernel,
    macros::{map, raw_tracepoint},
    maps::{Array, HashMap, PerCpuHashMap},
    programs::RawTracePointContext,
};
use lb_common::{DeviceLayout, LossCause, Losses};

/// Interface index → frames lost there.
#[map]
static LOSSES: PerCpuHashMap<u32, Losses> = PerCpuHashMap::with_max_entries(DeviceLayout::INTERFACES, 0);
/// Indices of the interfaces that frames come in by which are the data plane's.
#[map]
static INGRESS: HashMap<u32, u32> = HashMap::with_max_entries(DeviceLayout::INTERFACES, 0);
/// One entry.
#[map]
static LAYOUT: Array<DeviceLayout> = Array::with_max_entries(1, 0);

/// `xdp_exception(dev, prog, act)`. Drivers tell by it of failed redirects too, which `xdp_redirect_err` counts, and of
/// programs that gave up.
#[raw_tracepoint(tracepoint = "xdp_exception")]
pub fn xdp_exception(context: RawTracePointContext) -> i32 {
    let act = context.arg::<u32>(2);
    lost_at(context.arg(0), i32::from(act == xdp_action::XDP_TX), LossCause::Exception)
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
    if drops <= 0 || ingress(context.arg(0)).is_none() {
        return 0;
    }
    index(context.arg(1)).map_or(0, |ifindex| count(ifindex, drops, LossCause::Transmit))
}

/// `xdp_redirect_err(dev, prog, target, err, map_type, map_id, index)`, since Linux 5.13.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
pub fn xdp_redirect_err(context: RawTracePointContext) -> i32 {
    const DEVMAP_HASH: u32 = bpf_map_type::BPF_MAP_TYPE_DEVMAP_HASH;
    // Both are read before one is looked at: the verifier wants constant offsets.
    let [kind, index] = [4, 6].map(|index| core::hint::black_box(context.arg::<u64>(index)));
    if kind as u32 != DEVMAP_HASH { 0 } else { not_redirected(context.arg(0), index as u32) }
}

/// `xdp_redirect_err(dev, prog, target, err, map, index)`, before. The kernel refuses a program that reads more
/// arguments than a tracepoint has.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
pub fn xdp_redirect_err_of_six(context: RawTracePointContext) -> i32 {
    not_redirected(context.arg(0), context.arg::<u64>(5) as u32)
}

/// `target`: the index in the map of devices is that of the interface.
#[inline(always)]
fn not_redirected(device: *const u8, target: u32) -> i32 {
    ingress(device).map_or(0, |_| count(target, 1, LossCause::Redirect))
}

/// Counts at the device that frames came in by.
#[inline(always)]
fn lost_at(device: *const u8, frames: i32, cause: LossCause) -> i32 {
    if frames <= 0 {
        return 0;
    }
    ingress(device).map_or(0, |ifindex| count(ifindex, frames, cause))
}

/// The index of a device that frames of the data plane come in by.
#[inline(always)]
fn ingress(device: *const u8) -> Option<u32> {
    index(device).filter(|ifindex| INGRESS.get_ptr(*ifindex).is_some())
}

/// The index of a device of the daemon's namespace.
#[inline(always)]
fn index(device: *const u8) -> Option<u32> {
    let layout = LAYOUT.get(0)?;
    let namespace: *const u8 = read(device, layout.namespace_at)?;
    let inode: u32 = read(namespace, layout.inode_at)?;
    if inode == layout.namespace { read(device, layout.ifindex_at) } else { None }
}

#[inline(always)]
fn read<T>(structure: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper reads nothing that is not there, and whatever bytes it finds are a number or an address that
    // is given to the helper again.
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
