//! What the compiler must not know.

use lb_common::DropReason;

/// The reason, where it is named and nowhere before. The compiler has one place for all packets that are dropped, and
/// would have every packet note, before each check, as what it is dropped if that fails: a store each, by a third of
/// all checks.
#[inline(always)]
pub fn cold(reason: DropReason) -> DropReason {
    #[cfg(target_arch = "bpf")]
    {
        let mut number = reason as u64;
        // SAFETY: a move of a register to itself. It has no effect but that the compiler does not know so.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) number, options(nomem, nostack)) };
        // SAFETY: the number of a reason, as it was.
        unsafe { core::mem::transmute(number as u32) }
    }
    #[cfg(not(target_arch = "bpf"))]
    reason
}

/// The number, of which the compiler knows nothing. What is computed from it is computed from what was compared with a
/// bound, which the compiler would else compute once more from what it came from, where the verifier sees no bound.
#[inline(always)]
pub fn opaque(number: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut number = u64::from(number);
        // SAFETY: a move of a register to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack)) };
        number as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    number
}
