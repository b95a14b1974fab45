//! Asks all backends that are to be asked, each in its own time, and tells of every verdict that changes.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use lb_common::Via;
use tokio::{
    sync::{Semaphore, mpsc},
    task::AbortHandle,
    time::Instant,
};

use super::{
    judge::{Judge, Verdict},
    paths::{Path, Paths},
    probe::{self, Failure, Outcome, Question, To},
    room::Room,
    thread::Thread,
    trust::{Store, Trusted},
};
use crate::{
    mix::mix,
    model::{Check, Config, Health, ProbeVia, Verdicts, Vip},
};

/// Programs that may run at a time.
const PROGRAMS_AT_ONCE: usize = 32;

/// Backends that are new are asked no faster than one in this time, as long as none waits for longer than its interval.
const NEW: Duration = Duration::from_micros(250);

/// A probe that begins later than this after its time is late.
const LATE: Duration = Duration::from_millis(100);

/// How probes keep to their times.
#[derive(Debug, Default)]
pub struct Punctuality {
    begun: AtomicU64,
    late: AtomicU64,
}

/// Keeps the probes.
pub struct Rounds {
    probes: Arc<Probes>,
    /// The config that they are of.
    config: Config,
    flips: mpsc::UnboundedSender<Flip>,
    room: Arc<Room>,
    /// The permits of probes that are programs.
    programs: Arc<Semaphore>,
    punctuality: Arc<Punctuality>,
    store: Store,
    paths: Arc<Paths>,
    thread: Option<Thread>,
}

/// All backends that are probed, by name of the VIP and address of the backend.
pub type Probes = BTreeMap<String, BTreeMap<IpAddr, Arc<Probed>>>;

/// A backend that is probed.
#[derive(Debug)]
pub struct Probed {
    /// How.
    pub health: Arc<Health>,
    question: Arc<Question>,
    state: Arc<Mutex<Status>>,
    task: AbortHandle,
}

/// What is known of a backend that is probed.
#[derive(Clone, Debug)]
pub struct Status {
    /// Since when the verdict stands.
    pub since: SystemTime,
    /// What came last.
    pub last: Option<Last>,
    /// How often a verdict has changed into another.
    pub flips: u64,
    /// Probes with a good answer, without one, and of which nothing follows, for this host was too busy.
    pub counts: [u64; 3],
    /// Since when nothing follows from any probe.
    pub void_since: Option<SystemTime>,
    judge: Judge,
    /// Another goes on in its place: what still comes is nothing to it.
    is_over: bool,
}

/// What came of a probe.
#[derive(Clone, Debug)]
pub struct Last {
    /// When.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What was wrong with the answer; `None` where it was good.
    pub failure: Option<String>,
}

/// A backend of which the verdict has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Name of the VIP.
    pub vip: String,
    /// The backend's address.
    pub backend: IpAddr,
    /// Whether it fails now.
    pub fails: bool,
    /// What came last, in words.
    pub reason: String,
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

impl Status {
    fn new(judge: Judge) -> Self {
        let (last, void_since) = Default::default();
        Self { since: SystemTime::now(), last, flips: 0, counts: [0; 3], void_since, judge, is_over: false }
    }

    /// Whether it works.
    pub fn verdict(&self) -> Verdict {
        self.judge.verdict()
    }

    /// Answers in a row that speak against the verdict, and as many as change it.
    pub fn against(&self, health: &Health) -> (u32, u32) {
        (self.judge.against(), self.judge.needed(health.rise, health.fall))
    }
}

impl Rounds {
    /// With nothing to probe yet, and where it tells of verdicts. Within a runtime, in which probes run where there is no
    /// thread for them.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Flip>) {
        let (flips, told) = mpsc::unbounded_channel();
        let (probes, config, room, punctuality, paths) = Default::default();
        let programs = Arc::new(Semaphore::new(PROGRAMS_AT_ONCE));
        let thread = Thread::begin().inspect_err(|error| log::warn!("there is no thread for probes: {error}")).ok();
        (Self { probes, config, flips, room, programs, punctuality, store: Store::new(), paths, thread }, told)
    }

    /// How probes keep to their times.
    pub fn punctuality(&self) -> &Arc<Punctuality> {
        &self.punctuality
    }

    /// The ways of probes that go as clients' packets do.
    pub fn paths(&self) -> &Arc<Paths> {
        &self.paths
    }

    /// What is probed.
    pub fn probes(&self) -> &Arc<Probes> {
        &self.probes
    }

    /// Probes what `config` wants probed from now on, and nothing else. What stays keeps its verdict; of what is new,
    /// `verdicts` are those from before.
    pub fn follow(&mut self, config: &Config, verdicts: &Verdicts) {
        let before = std::mem::replace(&mut self.config, config.clone());
        let difference = before.difference(config);
        let probed = difference.come.iter().filter(|vip| vip.health.is_some());
        let probed: HashSet<&str> = probed.map(|vip| vip.name.as_str()).collect();
        let new =
            difference.come.iter().filter(|vip| vip.health.is_some()).map(|vip| vip.backends.len()).sum::<usize>();
        let beginning = NEW.saturating_mul(u32::try_from(new).unwrap_or(u32::MAX));
        for vip in difference.gone {
            if self.probes.contains_key(&vip.name) && !probed.contains(vip.name.as_str()) {
                let gone = Arc::make_mut(&mut self.probes).remove(&vip.name).unwrap_or_default();
                // Not by the last reference: whoever reads may have one for long.
                gone.values().for_each(|probed| probed.end());
            }
        }
        // By other routing tables, backends of VIPs that are the same are other ones.
        let moved = before.node.routing() != config.node.routing();
        let come = if moved { config.vips.iter().collect() } else { difference.come };
        for vip in come.into_iter().filter(|vip| vip.health.is_some()) {
            self.follow_vip(vip, vip.via(&config.node), verdicts, beginning);
        }
    }

    /// Has certificates read again, which may have changed.
    pub fn renew(&mut self) {
        self.store.renew();
    }

    fn follow_vip(&mut self, vip: &Vip, via: Via, verdicts: &Verdicts, beginning: Duration) {
        let asked = vip.backends.iter().filter_map(|backend| {
            let health = vip.health_of(backend.address)?;
            let trusted = health.check.trust().map(|files| self.store.get(files));
            Some((backend.address, health, question(vip, health, via, backend.address, trusted, &self.paths)))
        });
        let asked: Vec<_> = asked.collect();
        let known = self.probes.get(&vip.name);
        let wanted = asked.into_iter().map(|(backend, health, question)| {
            let known = known.and_then(|known| known.get(&backend));
            let probed = match known {
                Some(same) if *same.question == question && same.health == *health => Arc::clone(same),
                Some(other) => {
                    let mut last = other.status();
                    let judge = Judge::new(last.verdict());
                    let status = Status { judge, ..last.clone() };
                    // In one: a verdict that changed in between would be nobody's.
                    last.is_over = true;
                    drop(last);
                    self.probe(&vip.name, backend, health, question, status, beginning)
                }
                None => {
                    let is_down = verdicts.has(&vip.name, backend);
                    let judge = Judge::new(if is_down { Verdict::Down } else { Verdict::Unknown });
                    let status = Status::new(judge);
                    self.probe(&vip.name, backend, health, question, status, beginning)
                }
            };
            (backend, probed)
        });
        let wanted: BTreeMap<_, _> = wanted.collect();
        let is_same = known.is_some_and(|known| {
            known.len() == wanted.len() && known.values().zip(wanted.values()).all(|(a, b)| Arc::ptr_eq(a, b))
        });
        if !is_same {
            let stays = |probed: &Arc<Probed>| wanted.values().any(|wanted| Arc::ptr_eq(wanted, probed));
            let gone = known.into_iter().flat_map(BTreeMap::values).filter(|probed| !stays(probed));
            gone.for_each(|probed| probed.end());
            Arc::make_mut(&mut self.probes).insert(vip.name.clone(), wanted);
        }
    }

    /// Begins to probe a backend; within the time of `beginning`, where nothing is known of it yet.
    fn probe(
        &self,
        vip: &str,
        backend: IpAddr,
        health: &Arc<Health>,
        question: Question,
        status: Status,
        beginning: Duration,
    ) -> Arc<Probed> {
        let question = Arc::new(question);
        let is_new = status.judge.is_forming();
        let beginning = if is_new { beginning.max(health.fast_interval).min(health.interval) } else { health.interval };
        let state = Arc::new(Mutex::new(status));
        let round = Round {
            vip: vip.to_owned(),
            backend,
            health: Arc::clone(health),
            question: Arc::clone(&question),
            beginning,
            state: Arc::clone(&state),
            flips: self.flips.clone(),
            room: Arc::clone(&self.room),
            programs: Arc::clone(&self.programs),
            punctuality: Arc::clone(&self.punctuality),
        };
        let task = match &self.thread {
            Some(thread) => thread.handle().spawn(round.go_on()),
            None => tokio::spawn(round.go_on()),
        };
        let task = task.abort_handle();
        Arc::new(Probed { health: Arc::clone(health), question, state, task })
    }
}

impl Probed {
    /// Ends its probes at once.
    fn end(&self) {
        self.status().is_over = true;
        self.task.abort();
    }

    /// What is known of it.
    pub fn status(&self) -> MutexGuard<'_, Status> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.probes.values().flat_map(BTreeMap::values).for_each(|probed| probed.task.abort());
    }
}

/// What a backend is asked.
fn question(
    vip: &Vip,
    health: &Health,
    via: Via,
    backend: IpAddr,
    trusted: Option<Arc<Trusted>>,
    paths: &Arc<Paths>,
) -> Question {
    let wanted = health.check.protocol();
    let is_wanted = |protocol| wanted.is_none_or(|wanted| wanted == protocol);
    let first = vip.ports.iter().filter(|port| is_wanted(port.protocol)).find_map(|port| port.port);
    // A config has one or the other, where it is a port that is asked.
    let port = health.port.or(first).unwrap_or_default();
    let to = match health.via {
        ProbeVia::Address => To::Address(SocketAddr::new(backend, port), via),
        ProbeVia::Path => {
            To::Path(Path::new(Arc::clone(paths), &vip.name, SocketAddr::new(vip.address, port), backend))
        }
    };
    Question { to, vip: vip.address, check: health.check.clone(), trusted, timeout: health.timeout }
}

/// The probes of one backend, one after the other.
struct Round {
    vip: String,
    backend: IpAddr,
    health: Arc<Health>,
    question: Arc<Question>,
    /// Within this time it begins.
    beginning: Duration,
    state: Arc<Mutex<Status>>,
    flips: mpsc::UnboundedSender<Flip>,
    room: Arc<Room>,
    /// The permits of probes that are programs.
    programs: Arc<Semaphore>,
    punctuality: Arc<Punctuality>,
}

impl Round {
    /// Each begins at a fixed time after the one before, however long that took; all backends are spread over the time, so
    /// that probes never come in bursts.
    async fn go_on(self) {
        let mut at = Instant::now() + self.share_of(self.beginning);
        loop {
            tokio::time::sleep_until(at).await;
            let (mut place, program) = match self.health.check {
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
            self.note(outcome, began.elapsed());
            at = following(at, self.pause(), lag > LATE, Instant::now());
        }
    }

    fn pause(&self) -> Duration {
        let is_forming = self.status().judge.is_forming();
        if is_forming { self.health.fast_interval } else { self.health.interval }
    }

    /// The backend's share of some time: where in it its probes are.
    fn share_of(&self, time: Duration) -> Duration {
        let name = self.vip.bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte)));
        let address = match self.backend {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let share = mix(name ^ mix(address as u64 ^ mix((address >> 64) as u64)));
        Duration::from_nanos(((u128::from(share) * time.as_nanos()) >> 64) as u64)
    }

    fn note(&self, outcome: Outcome, took: Duration) {
        let mut status = self.status();
        if status.is_over {
            return;
        }
        let (is_good, failure) = match outcome {
            Outcome::Good => (Some(true), None),
            Outcome::Bad(failure) => (Some(false), Some(failure.to_string())),
            Outcome::Void(failure) => (None, Some(failure.to_string())),
        };
        status.counts[match is_good {
            Some(true) => 0,
            Some(false) => 1,
            None => 2,
        }] += 1;
        match is_good {
            Some(_) => status.void_since = None,
            None => _ = status.void_since.get_or_insert_with(SystemTime::now),
        }
        let reason = failure.clone().unwrap_or_else(|| "good answers".to_owned());
        status.last = Some(Last { at: SystemTime::now(), took, failure });
        let Health { rise, fall, .. } = *self.health;
        let before = status.judge.verdict();
        let Some(verdict) = is_good.and_then(|is_good| status.judge.note(is_good, rise, fall)) else { return };
        status.since = SystemTime::now();
        let fails = verdict == Verdict::Down;
        status.flips += u64::from(fails || before != Verdict::Unknown);
        // Whoever no longer listens is about to end.
        let _ = self.flips.send(Flip { vip: self.vip.clone(), backend: self.backend, fails, reason });
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        model::{Backend, Program},
        plan::fixtures::{config, vip},
    };

    fn probed(port: u16, backends: &[&str]) -> Config {
        let mut vip = vip("web", "192.0.2.1", &["tcp/80"], backends);
        vip.health = Some(Arc::new(Health {
            via: ProbeVia::Address,
            port: Some(port),
            interval: Duration::from_millis(40),
            fast_interval: Duration::from_millis(20),
            timeout: Duration::from_secs(2),
            ..Health::new(Check::Tcp)
        }));
        config([vip])
    }

    /// However many programs hang, others are asked.
    #[tokio::test]
    async fn programs_that_hang_hold_up_no_other_verdict() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut hangs = vip("hangs", "192.0.2.2", &["tcp/80"], &[]);
        let addresses = (0..2 * PROGRAMS_AT_ONCE as u8).map(|host| IpAddr::from([127, 0, 1, host]));
        let mut config = probed(listener.local_addr().unwrap().port(), &["127.0.0.1", "127.0.0.2"]);
        let backend = config.vips[0].backends[0];
        hangs.backends = addresses.map(|address| Backend { address, ..backend }).collect();
        let command = ["/bin/sleep", "86421"].map(str::to_owned).to_vec();
        let health = Health::clone(config.vips[0].health.as_ref().unwrap());
        let timeout = Duration::from_secs(3600);
        hangs.health = Some(Arc::new(Health { check: Check::Exec(Program { command }), timeout, ..health }));
        config = crate::plan::fixtures::config([hangs, Vip::clone(&config.vips[0])]);
        let (mut rounds, mut told) = Rounds::new();
        rounds.follow(&config, &Verdicts::default());
        let mut first = [next(&mut told).await, next(&mut told).await];
        first.sort_by_key(|flip| flip.backend);
        assert_eq!(first[1], flip("127.0.0.2", true, "connection refused"));
        drop(listener);
        assert_eq!(next(&mut told).await, flip("127.0.0.1", true, "connection refused"));
        let until = Instant::now() + patience::LIMIT;
        while rounds.programs.available_permits() > 0 {
            assert!(Instant::now() < until, "not all programs are started");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // With the probes all of them end.
        let programs = Arc::clone(&rounds.programs);
        drop(rounds);
        while programs.available_permits() < PROGRAMS_AT_ONCE {
            assert!(Instant::now() < until, "programs go on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn flip(backend: &str, fails: bool, reason: &str) -> Flip {
        Flip { vip: "web".into(), backend: backend.parse().unwrap(), fails, reason: reason.into() }
    }

    async fn next(told: &mut mpsc::UnboundedReceiver<Flip>) -> Flip {
        tokio::time::timeout(patience::LIMIT, told.recv()).await.expect("a verdict in time").unwrap()
    }

    #[tokio::test]
    async fn a_server_that_ends_is_out_and_one_that_comes_back_is_in() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut rounds, mut told) = Rounds::new();
        let config = probed(address.port(), &["127.0.0.1", "127.0.0.2"]);
        rounds.follow(&config, &Verdicts::default());
        // Nobody listens at the other address.
        let mut first = [next(&mut told).await, next(&mut told).await];
        first.sort_by_key(|flip| flip.backend);
        assert_eq!(first, [flip("127.0.0.1", false, "good answers"), flip("127.0.0.2", true, "connection refused")]);
        drop(listener);
        assert_eq!(next(&mut told).await, flip("127.0.0.1", true, "connection refused"));
        let _again = TcpListener::bind(address).await.unwrap();
        assert_eq!(next(&mut told).await, flip("127.0.0.1", false, "good answers"));
        let status = rounds.probes()["web"][&address.ip()].status().clone();
        assert_eq!((status.verdict(), status.flips), (Verdict::Up, 2));
        assert!(status.counts[0] >= 3 && status.counts[1] >= 3, "{:?}", status.counts);
    }

    #[tokio::test]
    async fn verdicts_from_before_stand_until_answers_say_otherwise() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut rounds, mut told) = Rounds::new();
        let config = probed(listener.local_addr().unwrap().port(), &["127.0.0.1"]);
        let mut verdicts = Verdicts::default();
        verdicts.set("web", [127, 0, 0, 1].into(), true);
        rounds.follow(&config, &verdicts);
        let probed = Arc::clone(&rounds.probes()["web"][&IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(probed.status().verdict(), Verdict::Down);
        assert_eq!(next(&mut told).await, flip("127.0.0.1", false, "good answers"));
    }

    #[tokio::test]
    async fn what_stays_is_not_disturbed_and_what_goes_is_probed_no_more() {
        let (mut rounds, _told) = Rounds::new();
        let mut wanted = probed(1, &["127.0.0.1", "127.0.0.2"]);
        rounds.follow(&wanted, &Verdicts::default());
        let first = Arc::clone(&rounds.probes()["web"][&IpAddr::from([127, 0, 0, 1])]);
        wanted.vip_mut(0).backends.remove(1);
        wanted.vip_mut(0).backends[0].weight = 7;
        rounds.follow(&wanted, &Verdicts::default());
        assert!(Arc::ptr_eq(&first, &rounds.probes()["web"][&IpAddr::from([127, 0, 0, 1])]));
        assert_eq!(rounds.probes()["web"].len(), 1);
        // Asked otherwise it is another probe, with the verdict that stands.
        first.state.lock().unwrap().judge = Judge::new(Verdict::Down);
        let health = wanted.vips[0].health.clone().unwrap();
        wanted.vip_mut(0).health = Some(Arc::new(Health { port: Some(2), ..Health::clone(&health) }));
        rounds.follow(&wanted, &Verdicts::default());
        let other = Arc::clone(&rounds.probes()["web"][&IpAddr::from([127, 0, 0, 1])]);
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!(other.status().verdict(), Verdict::Down);
        wanted.vip_mut(0).health = None;
        rounds.follow(&wanted, &Verdicts::default());
        assert!(rounds.probes().is_empty());
        let task = other.task.clone();
        let deadline = Instant::now() + patience::LIMIT;
        while ![&first.task, &task].iter().all(|task| task.is_finished()) {
            assert!(Instant::now() < deadline, "probes go on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_backend_that_says_so_is_asked_otherwise_or_not_at_all() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut rounds, mut told) = Rounds::new();
        let address = |host| IpAddr::from([127, 0, 0, host]);
        let mut wanted = probed(1, &["127.0.0.1", "127.0.0.2"]);
        let health = wanted.vips[0].health.clone().unwrap();
        let own = Arc::new(Health { port: Some(listener.local_addr().unwrap().port()), ..Health::clone(&health) });
        wanted.vip_mut(0).asked_otherwise = [(address(1), Some(Arc::clone(&own))), (address(2), None)].into();
        rounds.follow(&wanted, &Verdicts::default());
        assert_eq!(rounds.probes()["web"].keys().copied().collect::<Vec<_>>(), [address(1)]);
        assert_eq!(next(&mut told).await, flip("127.0.0.1", false, "good answers"));
        // How one is asked is no matter of the other.
        let first = Arc::clone(&rounds.probes()["web"][&address(1)]);
        wanted.vip_mut(0).asked_otherwise.remove(&address(2));
        rounds.follow(&wanted, &Verdicts::default());
        assert!(Arc::ptr_eq(&first, &rounds.probes()["web"][&address(1)]));
        assert_eq!(next(&mut told).await, flip("127.0.0.2", true, "connection refused"));
        wanted.vip_mut(0).asked_otherwise.clear();
        rounds.follow(&wanted, &Verdicts::default());
        assert_eq!(next(&mut told).await, flip("127.0.0.1", true, "connection refused"));
    }

    #[tokio::test]
    async fn probes_are_spread_over_the_time() {
        let (rounds, _told) = Rounds::new();
        let health = probed(1, &[]).vips[0].health.clone().unwrap();
        let share = |host: u32| {
            let backend = IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + host));
            let status = Status::new(Judge::new(Verdict::Unknown));
            let round = Round {
                vip: "web".into(),
                backend,
                health: Arc::clone(&health),
                question: Arc::new(question(
                    &probed(1, &[]).vips[0],
                    &health,
                    Via::default(),
                    backend,
                    None,
                    rounds.paths(),
                )),
                beginning: health.interval,
                state: Arc::new(Mutex::new(status)),
                flips: rounds.flips.clone(),
                room: Arc::clone(&rounds.room),
                programs: Arc::clone(&rounds.programs),
                punctuality: Arc::clone(&rounds.punctuality),
            };
            round.share_of(Duration::from_millis(1000)).as_millis() / 10
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
