//! What keeps the price of what is rare off the way of every packet.

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
