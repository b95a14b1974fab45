//! How many probes may be under way at a time: as many as this host gets through in time. Where it is too busy, more of
//! them at a time would only make each take longer, until none is done before its timeout.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::memory;

/// So many at most: each has a socket.
const MOST: usize = 4096;
/// So many at first: what this host gets through shows only then.
const FIRST: usize = 1024;
/// So many in any case.
const FEWEST: usize = 64;
/// One more after as many that were not in vain.
const CALM: usize = 8;
/// Half as many where one was in vain, but not again within this time: those that had begun already are in vain too.
const AGAIN: Duration = Duration::from_millis(250);

/// Where there were more under way than the first, memory that was theirs goes back to the kernel once there are no more
/// than the second.
const CROWD: [usize; 2] = [512, 128];

/// Room for probes that are under way.
pub struct Room {
    permits: Semaphore,
    state: Mutex<State>,
}

/// The place of one, as long as this is there.
pub struct Place<'a> {
    room: &'a Room,
    permit: Option<SemaphorePermit<'a>>,
    /// This host was too busy for it.
    pub was_in_vain: bool,
}

struct State {
    limit: Limit,
    under_way: usize,
    was_crowded: bool,
}

/// How many may be under way.
#[derive(Debug)]
struct Limit {
    most: usize,
    /// As many more are.
    excess: usize,
    calm: usize,
    lowered: Option<Instant>,
}

/// What becomes of a place that is free.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Same,
    OneMore,
    OneLess,
}

impl Default for Room {
    fn default() -> Self {
        let limit = Limit { most: FIRST, excess: 0, calm: 0, lowered: None };
        let state = State { limit, under_way: 0, was_crowded: false };
        Self { permits: Semaphore::new(FIRST), state: Mutex::new(state) }
    }
}

impl Room {
    /// Waits until one more may be under way. `None` where none may any more.
    pub async fn enter(&self) -> Option<Place<'_>> {
        let permit = self.permits.acquire().await.ok()?;
        let mut state = self.state();
        state.under_way += 1;
        state.was_crowded |= state.under_way > CROWD[0];
        Some(Place { room: self, permit: Some(permit), was_in_vain: false })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.room.state();
        state.under_way -= 1;
        let is_over = state.was_crowded && state.under_way <= CROWD[1];
        state.was_crowded &= !is_over;
        let change = state.limit.note(self.was_in_vain, Instant::now());
        drop(state);
        match (change, self.permit.take()) {
            (Change::OneLess, Some(permit)) => permit.forget(),
            (Change::OneMore, _) => self.room.permits.add_permits(1),
            _ => {}
        }
        if is_over && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn_blocking(memory::give_back));
        }
    }
}

impl Limit {
    /// Takes note of one that is over.
    fn note(&mut self, was_in_vain: bool, now: Instant) -> Change {
        let mut change = Change::Same;
        if was_in_vain {
            if self.lowered.is_none_or(|lowered| now.duration_since(lowered) >= AGAIN) {
                let most = (self.most / 2).max(FEWEST);
                self.excess += self.most - most;
                (self.most, self.calm, self.lowered) = (most, 0, Some(now));
            }
        } else if self.most < MOST {
            self.calm += 1;
            if self.calm == CALM {
                (self.most, self.calm) = (self.most + 1, 0);
                change = Change::OneMore;
            }
        }
        if self.excess == 0 {
            return change;
        }
        self.excess -= 1;
        if change == Change::OneMore { Change::Same } else { Change::OneLess }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_are_under_way_where_some_are_in_vain_and_more_again_where_none_are() {
        let mut limit = Limit { most: MOST, excess: 0, calm: 0, lowered: None };
        let mut places = MOST;
        let mut note = |limit: &mut Limit, was_in_vain, now, count: usize| {
            for _ in 0..count {
                match limit.note(was_in_vain, now) {
                    Change::Same => {}
                    Change::OneMore => places += 1,
                    Change::OneLess => places -= 1,
                }
            }
            places
        };
        let first = Instant::now();
        assert_eq!(note(&mut limit, false, first, 100), MOST);
        assert_eq!(note(&mut limit, true, first, MOST), MOST / 2, "once for all that had begun");
        assert_eq!(note(&mut limit, true, first + AGAIN, MOST), MOST / 4);
        let last = (2..20).map(|times| note(&mut limit, true, first + AGAIN * times, MOST)).last();
        assert_eq!((last, limit.most), (Some(FEWEST), FEWEST));
        assert_eq!(note(&mut limit, false, first, CALM * 36), 100);
        assert_eq!(note(&mut limit, false, first, CALM * MOST), MOST);
    }

    #[tokio::test]
    async fn places_are_counted_however_they_are_left() {
        let room = Room::default();
        let place = room.enter().await.unwrap();
        assert_eq!((room.state().under_way, room.permits.available_permits()), (1, FIRST - 1));
        drop(place);
        let mut vain = room.enter().await.unwrap();
        vain.was_in_vain = true;
        drop(vain);
        assert_eq!((room.state().under_way, room.permits.available_permits()), (0, FIRST - 1));
        assert_eq!(room.state().limit.excess, FIRST / 2 - 1);
    }
}
