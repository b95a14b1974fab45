//! Atomic operations on words of maps, which rustc has no names for on the eBPF target: the kernel has them since 5.12, on
//! arm64 since 5.18. All but [`add`] and [`store`] are full barriers (kernel documentation, "BPF instruction set", atomic
//! operations with `FETCH`; `CMPXCHG` and `XCHG` always are).

use core::arch::asm;

/// Puts `to` in the place of `from`. Returns what was there: `from`, where it did.
///
/// # Safety
/// `cell` must be an aligned word of a map that this program may write.
#[inline(always)]
pub unsafe fn compare_and_swap(cell: *mut u64, from: u64, to: u64) -> u64 {
    let found;
    // SAFETY: the caller's.
    unsafe {
        asm!("r0 = cmpxchg_64({cell} + 0, r0, {to})", cell = in(reg) cell, to = in(reg) to,
            inlateout("r0") from => found, options(nostack));
    }
    found
}

/// Puts a word in the place of whatever is there.
///
/// # Safety
/// As of [`compare_and_swap`].
#[inline(always)]
pub unsafe fn swap(cell: *mut u32, word: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("{word} = xchg32_32({cell} + 0, {word})", cell = in(reg) cell, word = inout(wreg) word => _,
            options(nostack));
    }
}

/// Adds to a word. What comes later need not wait for it.
///
/// # Safety
/// As of [`compare_and_swap`].
#[inline(always)]
pub unsafe fn add(cell: *mut u32, addend: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("lock *(u32 *)({cell} + 0) += {addend}", cell = in(reg) cell, addend = in(wreg) addend,
            options(nostack));
    }
}

/// Puts a word in the place of whatever is there, after all stores before in the program. Others see it after those too
/// only where the processor keeps stores in order, as x86 does (Intel SDM, vol. 3, §9.2.2); nobody waits for memory then.
///
/// # Safety
/// As of [`compare_and_swap`].
#[inline(always)]
pub unsafe fn store(cell: *mut u32, word: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("*(u32 *)({cell} + 0) = {word}", cell = in(reg) cell, word = in(wreg) word, options(nostack));
    }
}
