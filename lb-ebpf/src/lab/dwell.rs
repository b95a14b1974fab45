//! A program that takes its time: what waits for programs to end has something to wait for.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, ProgramArray},
    programs::XdpContext,
};

/// Runs that have begun, and runs that have ended. One run at a time.
#[map]
static RUNS: Array<u64> = Array::with_max_entries(2, 0);
/// Entry 0 is this program.
#[map]
static AGAIN: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Looks at the clock between two tail calls, each of which takes tens of nanoseconds: as many as the verifier walks
/// through.
const LOOKS: u32 = 20_000;

/// See [`crate::dwell`].
#[inline(always)]
pub fn dwell(context: &XdpContext) -> u32 {
    let (Some(begun), Some(ended)) = (RUNS.get_ptr_mut(0), RUNS.get_ptr_mut(1)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: values of the map, which nothing else writes while the one run goes on.
    let (begun, ended) = unsafe { (&mut *begun, &mut *ended) };
    // Otherwise the run goes on after a tail call.
    if *begun == *ended {
        *begun += 1;
    }
    for _ in 0..LOOKS {
        // SAFETY: the helper reads the clock.
        core::hint::black_box(unsafe { bpf_ktime_get_ns() });
    }
    // The kernel ends the chain after 33 of them; this returns then.
    // SAFETY: the context is this run's.
    unsafe { AGAIN.tail_call(context, 0) };
    *ended = *begun;
    xdp_action::XDP_PASS
}
