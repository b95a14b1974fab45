//! Asks one backend in its times, and gives each answer to all who take note of it: the backend of one VIP, or of all VIPs
//! that share the probe.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, task::AbortHandle, time::Instant};

use super::{
    observer::Observer,
    probe::{self, Failure, Outcome, Question},
    room::Room,
    thread::Thread,
};
use crate::{
    mix::mix,
    model::{Check, Health},
};

/// Programs that may run at a time.
pub const PROGRAMS_AT_ONCE: usize = 32;

/// A probe that begins later than this after its time is late.
const LATE: Duration = Duration::from_millis(100);

/// Where probes run, and how many may at a time.
pub struct Host {
    room: Arc<Room>,
    /// The permits of probes that are programs.
    pub programs: Arc<Semaphore>,
    /// How probes keep to their times.
    pub punctuality: Arc<Punctuality>,
    thread: Option<Thread>,
}

/// How probes keep to their times.
#[derive(Debug, Default)]
pub struct Punctuality {
    begun: AtomicU64,
    late: AtomicU64,
}

/// How often a backend is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    interval: Duration,
    /// The same while a verdict is forming.
    fast_interval: Duration,
}

/// The probes of one backend.
#[derive(Debug)]
pub struct Asking {
    question: Arc<Question>,
    pace: Pace,
    observers: Arc<Observers>,
    task: AbortHandle,
}

/// Those who take note of the answers; when there are none any more, nobody is asked.
#[derive(Debug)]
struct Observers {
    /// Held while they take note, so that none does that has left.
    all: Mutex<Vec<Arc<Observer>>>,
    /// How many: whoever reads has the status of one at hand, and must not wait for all while they wait for that.
    count: AtomicUsize,
}

impl Host {
    /// Within a runtime, in which probes run where there is no thread for them.
    pub fn new() -> Self {
        let (room, punctuality) = Default::default();
        let programs = Arc::new(Semaphore::new(PROGRAMS_AT_ONCE));
        let thread = Thread::begin().inspect_err(|error| log::warn!("there is no thread for probes: {error}")).ok();
        Self { room, programs, punctuality, thread }
    }
}

impl Punctuality {
    fn note(&self, lag: Duration) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        if lag > LATE {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Probes that were begun since the daemon started, and of those the ones that began more than 100 ms late.
    pub fn counts(&self) -> (u64, u64) {
        (self.begun.load(Ordering::Relaxed), self.late.load(Ordering::Relaxed))
    }
}

impl Pace {
    /// As `health` says.
    pub fn of(health: &Health) -> Self {
        Self { interval: health.interval, fast_interval: health.fast_interval }
    }
}

impl Asking {
    /// Begins to ask on behalf of `observer`; within the time of `beginning`, where nothing is known of the backend yet. Where
    /// in that time, and in each interval, follows from `place`.
    pub fn begin(
        question: Question,
        pace: Pace,
        place: u64,
        beginning: Duration,
        observer: Arc<Observer>,
        host: &Host,
    ) -> Self {
        let is_new = observer.status().is_forming();
        let beginning = if is_new { beginning.max(pace.fast_interval).min(pace.interval) } else { pace.interval };
        let question = Arc::new(question);
        let observers = Arc::new(Observers { all: Mutex::new(vec![observer]), count: AtomicUsize::new(1) });
        let round = Round {
            question: Arc::clone(&question),
            pace,
            first: share_of(place, beginning),
            observers: Arc::clone(&observers),
            room: Arc::clone(&host.room),
            programs: Arc::clone(&host.programs),
            punctuality: Arc::clone(&host.punctuality),
        };
        let task = match &host.thread {
            Some(thread) => thread.handle().spawn(round.go_on()),
            None => tokio::spawn(round.go_on()),
        };
        Self { question, pace, observers, task: task.abort_handle() }
    }

    /// What the backend is asked.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// Whether it asks that, so often.
    pub fn is_same(&self, question: &Question, pace: Pace) -> bool {
        *self.question == *question && self.pace == pace
    }

    /// Gives answers to another one as well.
    pub fn join(&self, observer: Arc<Observer>) {
        let mut all = self.observers.all();
        all.push(observer);
        self.observers.count.store(all.len(), Ordering::Relaxed);
    }

    /// Gives no more answers to one. Whether it was the last, so that nobody is asked any more.
    pub fn leave(&self, observer: &Arc<Observer>) -> bool {
        let mut all = self.observers.all();
        all.retain(|other| !Arc::ptr_eq(other, observer));
        self.observers.count.store(all.len(), Ordering::Relaxed);
        if all.is_empty() {
            self.task.abort();
        }
        all.is_empty()
    }

    /// To how many it gives answers. Waits for nothing.
    pub fn observers(&self) -> usize {
        self.observers.count.load(Ordering::Relaxed)
    }

    /// Ends its probes at once, whoever takes note of them.
    pub fn end(&self) {
        self.task.abort();
    }

    /// Whether nothing is left of its probes.
    #[cfg(test)]
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

impl Observers {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<Observer>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where in any time the probes of a backend are that somebody of this name has.
pub fn place_of(name: &str, backend: IpAddr) -> u64 {
    let name = name.bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte)));
    let address = match backend {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    mix(name ^ mix(address as u64 ^ mix((address >> 64) as u64)))
}

fn share_of(place: u64, time: Duration) -> Duration {
    Duration::from_nanos(((u128::from(place) * time.as_nanos()) >> 64) as u64)
}

/// The probes of one backend, one after the other.
struct Round {
    question: Arc<Question>,
    pace: Pace,
    /// After this time it begins.
    first: Duration,
    observers: Arc<Observers>,
    room: Arc<Room>,
    programs: Arc<Semaphore>,
    punctuality: Arc<Punctuality>,
}

impl Round {
    /// Each begins at a fixed time after the one before, however long that took; all backends are spread over the time, so
    /// that probes never come in bursts.
    async fn go_on(self) {
        let mut at = Instant::now() + self.first;
        loop {
            tokio::time::sleep_until(at).await;
            let (mut place, program) = match self.question.check {
                Check::Exec(_) => match Arc::clone(&self.programs).acquire_owned().await {
                    Ok(permit) => (None, Some(permit)),
                    Err(_) => return,
                },
                _ => match self.room.enter().await {
                    Some(place) => (Some(place), None),
                    None => return,
                },
            };
            let began = Instant::now();
            let lag = began.saturating_duration_since(at);
            self.punctuality.note(lag);
            // Of its own, for only as long as it takes: what a connection needs is ten times what waiting does.
            let outcome = Box::pin(probe::ask_by(&self.question, program)).await;
            if let Some(place) = &mut place {
                place.was_in_vain = matches!(outcome, Outcome::Void(Failure::TimedOut(_)));
            }
            drop(place);
            let took = began.elapsed();
            self.observers.all().iter().for_each(|observer| observer.note(&outcome, took));
            at = following(at, self.pause(), lag > LATE, Instant::now());
        }
    }

    /// Faster while a verdict is forming, be it of one of many.
    fn pause(&self) -> Duration {
        let is_forming = self.observers.all().iter().any(|observer| observer.status().is_forming());
        if is_forming { self.pace.fast_interval } else { self.pace.interval }
    }
}

/// When the probe is begun that follows one that was to begin `at`. What was missed is not made up for.
fn following(at: Instant, pause: Duration, was_late: bool, now: Instant) -> Instant {
    let next = at + pause;
    if next >= now {
        next
    } else if was_late {
        // At its own part of the time again: all that this host had been too busy for would come at once, and again.
        let missed = now.duration_since(at).as_nanos() / pause.as_nanos().max(1);
        at + pause.saturating_mul(u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1))
    } else {
        // It took longer than that.
        now
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn probes_are_spread_over_the_time() {
        let share = |host: u32| {
            let place = place_of("web", IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + host)));
            share_of(place, Duration::from_millis(1000)).as_millis() / 10
        };
        let shares: Vec<_> = (0..1000).map(share).collect();
        assert!(shares.iter().collect::<HashSet<_>>().len() > 95, "nearly each of 100 parts has some");
        let most = (0..100).map(|part| shares.iter().filter(|share| **share == part).count()).max();
        assert!(most < Some(30), "{most:?} of 1000 in one part of 100");
    }

    #[test]
    fn what_was_missed_is_not_made_up_for_and_comes_in_its_own_part_of_the_time() {
        let (at, pause) = (Instant::now(), Duration::from_secs(3));
        let after = |seconds| at + Duration::from_secs(seconds);
        assert_eq!(following(at, pause, false, after(1)), after(3));
        assert_eq!(following(at, pause, true, after(2)), after(3));
        assert_eq!(following(at, pause, true, after(7)), after(9));
        assert_eq!(following(at, pause, false, after(7)), after(7), "it took so long");
    }
}
