//! One entry of a VIP's Maglev table.

use core::sync::atomic::{AtomicU64, Ordering};

/// Two backend ids in one aligned 64-bit word, so that one store changes the whole slot and no packet sees half of a
/// change.
///
/// A slot is *settled* while both ids are the same: every flow on it belongs to that backend. It is *moving* while they
/// differ: new flows go to the current owner, older flows belong to the settled one.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot(u64);

impl Slot {
    /// No backend: what a table holds before it is filled, and when a VIP has no backend with weight.
    pub const EMPTY: Self = Self(0);

    /// A slot on which every flow belongs to `owner`.
    #[inline(always)]
    pub const fn settled(owner: u32) -> Self {
        Self::moving(owner, owner)
    }

    /// A slot that gives new flows to `current`, while flows from before belong to `settled`.
    #[inline(always)]
    pub const fn moving(current: u32, settled: u32) -> Self {
        Self((settled as u64) << 32 | current as u64)
    }

    /// The backend id that new flows go to.
    #[inline(always)]
    pub const fn current(self) -> u32 {
        self.0 as u32
    }

    /// The backend id that flows from before the last change belong to.
    #[inline(always)]
    pub const fn settled_owner(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether flows of more than one backend may be on this slot.
    #[inline(always)]
    pub const fn is_moving(self) -> bool {
        self.current() != self.settled_owner()
    }

    /// Reads the slot that other CPUs may be reading and the daemon may be writing.
    pub fn load(cell: &AtomicU64) -> Self {
        Self(cell.load(Ordering::Relaxed))
    }

    /// Publishes the slot: what was stored before this (the backend's entry) is visible to whoever sees it.
    pub fn store(self, cell: &AtomicU64) {
        cell.store(self.0, Ordering::Release);
    }
}

super::pod!(Slot);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_keep_to_their_halves() {
        let slot = Slot::moving(7, 0xffff_fffe);
        assert_eq!((slot.current(), slot.settled_owner()), (7, 0xffff_fffe));
        assert!(slot.is_moving());
        assert!(!Slot::settled(7).is_moving());
        assert_eq!(Slot::EMPTY.current(), crate::NO_ID);
    }
}
