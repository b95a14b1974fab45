//! Turns at what is costly: a few at a time, of which no user has more than his share; who may change things and others
//! have turns apart.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::unistd::Uid;
use tokio::sync::Notify;

use crate::server::Class;

/// Turns of who may change things, and as many of others: neither waits for the other, however many they are.
#[derive(Debug)]
pub struct ByClass {
    operators: Turns,
    others: Turns,
}

impl ByClass {
    /// At most `all` at a time of either class, and `each` of a user.
    pub fn new((all, each): (usize, usize)) -> Self {
        Self { operators: Turns::new(all, each), others: Turns::new(all, each) }
    }

    /// Those of this class.
    pub fn of(&self, class: Class) -> &Turns {
        match class {
            Class::Operator => &self.operators,
            Class::Anybody => &self.others,
        }
    }
}

/// Gives out turns. Whoever waits for one stands in nobody's way but his own: there is no queue, and who has had his
/// share is passed over.
#[derive(Debug)]
pub struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: usize,
    each: usize,
    taken: Mutex<HashMap<Uid, usize>>,
    given_back: Notify,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    user: Uid,
    shared: Arc<Shared>,
}

impl Turns {
    /// At most `all` at a time, and `each` of a user.
    pub fn new(all: usize, each: usize) -> Self {
        Self(Arc::new(Shared { all, each, taken: Mutex::default(), given_back: Notify::new() }))
    }

    /// A turn of this user, where he may have one now.
    pub fn try_take(&self, user: Uid) -> Option<Turn> {
        let mut taken = self.0.taken();
        let has = taken.get(&user).copied().unwrap_or_default();
        if has >= self.0.each || taken.values().sum::<usize>() >= self.0.all {
            return None;
        }
        taken.insert(user, has + 1);
        Some(Turn { user, shared: Arc::clone(&self.0) })
    }

    /// Waits for a turn of this user.
    pub async fn take(&self, user: Uid) -> Turn {
        loop {
            // Before it is tried, so that none is missed that is given back right after.
            let given_back = self.0.given_back.notified();
            if let Some(turn) = self.try_take(user) {
                return turn;
            }
            given_back.await;
        }
    }
}

impl Shared {
    fn taken(&self) -> MutexGuard<'_, HashMap<Uid, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Entry::Occupied(mut taken) = self.shared.taken().entry(self.user) {
            match taken.get() {
                0 | 1 => drop(taken.remove()),
                more => drop(taken.insert(more - 1)),
            }
        }
        self.shared.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn user(number: u32) -> Uid {
        Uid::from_raw(number)
    }

    #[tokio::test]
    async fn nobody_has_more_than_his_share() {
        let turns = Turns::new(3, 2);
        let [first, _second] = [1, 1].map(|number| turns.try_take(user(number)).unwrap());
        assert!(turns.try_take(user(1)).is_none());
        let other = turns.try_take(user(2)).unwrap();
        assert!(turns.try_take(user(3)).is_none(), "all are taken");
        drop(other);
        assert!(turns.try_take(user(1)).is_none());
        drop(first);
        assert!(turns.try_take(user(1)).is_some());
    }

    async fn soon(waits: tokio::task::JoinHandle<Turn>) -> Turn {
        tokio::time::timeout(Duration::from_secs(30), waits).await.expect("a turn comes").unwrap()
    }

    #[tokio::test]
    async fn who_may_have_one_waits_behind_nobody_who_may_not() {
        let turns = Arc::new(Turns::new(2, 1));
        let [first, other] = [1, 2].map(|number| turns.try_take(user(number)).unwrap());
        let waits = |number| {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { turns.take(user(number)).await })
        };
        let (again, third) = (waits(1), waits(3));
        tokio::task::yield_now().await;
        drop(other);
        drop(soon(third).await);
        tokio::task::yield_now().await;
        assert!(!again.is_finished());
        drop(first);
        soon(again).await;
    }
}
