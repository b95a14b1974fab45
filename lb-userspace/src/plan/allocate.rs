//! Which ids and slot ranges are free.

use std::cell::LazyCell;

use lb_common::NO_ID;

use super::{Capacity, State};

/// What a plan hands out to what is new. Most plans need nothing of it: what is free is found out when asked for.
pub(super) struct Pools<'a> {
    vips: LazyCell<Ids, Box<dyn FnOnce() -> Ids + 'a>>,
    backends: LazyCell<Ids, Box<dyn FnOnce() -> Ids + 'a>>,
    slots: LazyCell<Ranges, Box<dyn FnOnce() -> Ranges + 'a>>,
    /// Tables stay where they are as long as their size does.
    pub(super) keep_tables: bool,
}

/// Ids that stay with whom they belong to.
#[derive(Default)]
pub(super) struct KeptIds {
    pub(super) vips: Vec<u32>,
    pub(super) backends: Vec<u32>,
}

impl<'a> Pools<'a> {
    /// Of the maps in use: nothing that anything there has is handed out, even if the plan frees it, because packets
    /// that are on their way may still come across it.
    pub(super) fn in_place(state: &'a State) -> Self {
        let Capacity { vips, backends, slots, .. } = state.capacity;
        Self {
            vips: LazyCell::new(Box::new(move || Ids::new(vips, state.vips().keys().copied()))),
            backends: LazyCell::new(Box::new(move || Ids::new(backends, state.backends().keys().copied()))),
            slots: LazyCell::new(Box::new(move || Ranges::new(slots, state.taken_slots()))),
            keep_tables: true,
        }
    }

    /// Of new maps, where what stays has its old id and tables lie one behind the other.
    pub(super) fn rebuild(capacity: Capacity, kept: KeptIds) -> Self {
        Self {
            vips: LazyCell::new(Box::new(move || Ids::new(capacity.vips, kept.vips))),
            backends: LazyCell::new(Box::new(move || Ids::new(capacity.backends, kept.backends))),
            slots: LazyCell::new(Box::new(move || Ranges::new(capacity.slots, []))),
            keep_tables: false,
        }
    }

    /// An id for a VIP; `None` when there is none left.
    pub(super) fn vip(&mut self) -> Option<u32> {
        LazyCell::force_mut(&mut self.vips).take()
    }

    /// An id for a backend; `None` when there is none left.
    pub(super) fn backend(&mut self) -> Option<u32> {
        LazyCell::force_mut(&mut self.backends).take()
    }

    /// First of `slots` slots in a row; `None` when no gap is as long.
    pub(super) fn table(&mut self, slots: u32) -> Option<u32> {
        LazyCell::force_mut(&mut self.slots).take(slots)
    }
}

/// Free ids, handed out from the lowest on.
struct Ids {
    taken: Vec<bool>,
    next: usize,
}

impl Ids {
    fn new(capacity: u32, taken: impl IntoIterator<Item = u32>) -> Self {
        let mut map = vec![false; capacity as usize];
        for id in taken.into_iter().chain([NO_ID]) {
            if let Some(slot) = map.get_mut(id as usize) {
                *slot = true;
            }
        }
        Self { taken: map, next: 0 }
    }

    /// The next free id; `None` when there is none.
    fn take(&mut self) -> Option<u32> {
        let free = self.taken[self.next..].iter().position(|taken| !taken)?;
        self.next += free + 1;
        u32::try_from(self.next - 1).ok()
    }
}

/// Free ranges of slots, first fit.
struct Ranges {
    /// First slot and number of each gap, in order.
    gaps: Vec<(u32, u32)>,
}

impl Ranges {
    fn new(capacity: u32, taken: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut taken: Vec<_> = taken.into_iter().collect();
        taken.sort_unstable();
        let mut gaps = Vec::new();
        let mut free_from = 0;
        for (base, slots) in taken {
            if base > free_from {
                gaps.push((free_from, base - free_from));
            }
            free_from = free_from.max(base.saturating_add(slots));
        }
        if capacity > free_from {
            gaps.push((free_from, capacity - free_from));
        }
        Self { gaps }
    }

    /// First of `slots` slots in a row; `None` when no gap is as long.
    fn take(&mut self, slots: u32) -> Option<u32> {
        let index = self.gaps.iter().position(|(_, free)| *free >= slots)?;
        let (base, free) = self.gaps[index];
        if free == slots {
            self.gaps.remove(index);
        } else {
            self.gaps[index] = (base + slots, free - slots);
        }
        Some(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_from_the_lowest_free_one_on_and_end() {
        let mut ids = Ids::new(6, [1, 4, 900]);
        assert_eq!([ids.take(), ids.take(), ids.take(), ids.take()], [Some(2), Some(3), Some(5), None]);
        assert_eq!(ids.take(), None);
    }

    #[test]
    fn ranges_fill_the_first_gap_that_is_long_enough() {
        let mut ranges = Ranges::new(100, [(40, 10), (10, 20), (10, 20)]);
        assert_eq!(ranges.take(15), Some(50));
        assert_eq!(ranges.take(10), Some(0));
        assert_eq!(ranges.take(7), Some(30));
        assert_eq!(ranges.take(3), Some(37));
        assert_eq!(ranges.take(35), Some(65));
        assert_eq!(ranges.take(1), None);
    }

    #[test]
    fn gaps_that_are_too_short_do_not_add_up() {
        let mut ranges = Ranges::new(30, [(10, 10)]);
        assert_eq!(ranges.take(11), None);
        assert_eq!(ranges.take(10), Some(0));
    }
}
