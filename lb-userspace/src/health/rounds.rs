//! Asks all backends that are to be asked, each in its own time, and tells of every verdict that changes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, MutexGuard},
    time::Duration,
};

use lb_common::Via;
use tokio::sync::mpsc;

use super::{
    asking::{Asking, Host, Pace, Punctuality, place_of},
    judge::Verdict,
    observer::{Flip, Observer, Status},
    paths::{Path, Paths},
    probe::{Question, To},
    trust::{Store, Trusted},
};
use crate::model::{Check, Config, Health, ProbeVia, Verdicts, Vip};

/// Backends that are new are asked no faster than one in this time, as long as none waits for longer than its interval.
const NEW: Duration = Duration::from_micros(250);

/// Keeps the probes.
pub struct Rounds {
    probes: Arc<Probes>,
    /// Those that VIPs share, by where the backend is asked.
    shared: HashMap<SocketAddr, Vec<Arc<Asking>>>,
    /// The config that they are of.
    config: Config,
    flips: mpsc::UnboundedSender<Flip>,
    host: Host,
    store: Store,
    paths: Arc<Paths>,
}

/// All backends that are probed, by name of the VIP and address of the backend.
pub type Probes = BTreeMap<String, BTreeMap<IpAddr, Arc<Probed>>>;

/// A backend that is probed.
#[derive(Debug)]
pub struct Probed {
    observer: Arc<Observer>,
    asking: Arc<Asking>,
}

impl Rounds {
    /// With nothing to probe yet, and where it tells of verdicts. Within a runtime, in which probes run where there is no
    /// thread for them.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Flip>) {
        let (flips, told) = mpsc::unbounded_channel();
        let (probes, shared, config, paths) = Default::default();
        (Self { probes, shared, config, flips, host: Host::new(), store: Store::new(), paths }, told)
    }

    /// How probes keep to their times.
    pub fn punctuality(&self) -> &Arc<Punctuality> {
        &self.host.punctuality
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
                gone.values().for_each(|probed| self.end(probed));
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
        let known = self.probes.get(&vip.name).cloned();
        let wanted = asked.into_iter().map(|(backend, health, question)| {
            let known = known.as_ref().and_then(|known| known.get(&backend));
            let status = match known {
                Some(same) if *same.asking.question() == question && same.health() == health => {
                    return (backend, Arc::clone(same));
                }
                Some(other) => other.observer.hand_over(),
                None if verdicts.has(&vip.name, backend) => Status::new(Verdict::Down),
                None => Status::new(Verdict::Unknown),
            };
            let observer = Observer::new(&vip.name, backend, Arc::clone(health), status, self.flips.clone());
            (backend, Arc::new(self.probe(&vip.name, backend, question, Arc::new(observer), beginning)))
        });
        let wanted: BTreeMap<_, _> = wanted.collect();
        let is_same = known.as_ref().is_some_and(|known| {
            known.len() == wanted.len() && known.values().zip(wanted.values()).all(|(a, b)| Arc::ptr_eq(a, b))
        });
        if !is_same {
            let stays = |backend: &IpAddr, probed: &Arc<Probed>| {
                wanted.get(backend).is_some_and(|wanted| Arc::ptr_eq(wanted, probed))
            };
            // Behind those that go on in their place: of a probe that is shared, the answers go on.
            for (_, probed) in known.iter().flatten().filter(|(backend, probed)| !stays(backend, probed)) {
                self.end(probed);
            }
            Arc::make_mut(&mut self.probes).insert(vip.name.clone(), wanted);
        }
    }

    /// Begins to probe a backend; within the time of `beginning`, where nothing is known of it yet. Where VIPs share the probe,
    /// it may have begun already.
    fn probe(
        &mut self,
        vip: &str,
        backend: IpAddr,
        question: Question,
        observer: Arc<Observer>,
        beginning: Duration,
    ) -> Probed {
        let pace = Pace::of(observer.health());
        if !observer.health().share {
            let place = place_of(vip, backend);
            let asking = Asking::begin(question, pace, place, beginning, Arc::clone(&observer), &self.host);
            return Probed { observer, asking: Arc::new(asking) };
        }
        let there = question.to.destination();
        let shared = self.shared.entry(there).or_default();
        let asking = match shared.iter().find(|asking| asking.is_same(&question, pace)) {
            Some(asking) => {
                asking.join(Arc::clone(&observer));
                Arc::clone(asking)
            }
            None => {
                let place = place_of(&there.port().to_string(), backend);
                let asking = Asking::begin(question, pace, place, beginning, Arc::clone(&observer), &self.host);
                let asking = Arc::new(asking);
                shared.push(Arc::clone(&asking));
                asking
            }
        };
        Probed { observer, asking }
    }

    /// Ends the probes of a backend at once, unless other VIPs share them.
    fn end(&mut self, probed: &Probed) {
        if !probed.asking.leave(&probed.observer) || !probed.health().share {
            return;
        }
        let there = probed.asking.question().to.destination();
        if let Some(shared) = self.shared.get_mut(&there) {
            shared.retain(|asking| !Arc::ptr_eq(asking, &probed.asking));
            if shared.is_empty() {
                self.shared.remove(&there);
            }
        }
    }
}

impl Probed {
    /// How it is asked, and what makes a verdict.
    pub fn health(&self) -> &Arc<Health> {
        self.observer.health()
    }

    /// What is known of it.
    pub fn status(&self) -> MutexGuard<'_, Status> {
        self.observer.status()
    }

    /// Of how many VIPs its probes are.
    pub fn sharers(&self) -> usize {
        self.asking.observers()
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.probes.values().flat_map(BTreeMap::values).for_each(|probed| probed.asking.end());
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
    let port = match health.check {
        Check::Icmp(_) => 0,
        _ => health.port.or(first).unwrap_or_default(),
    };
    let to = match health.via {
        ProbeVia::Address => To::Address(SocketAddr::new(backend, port), via),
        ProbeVia::Path => {
            To::Path(Path::new(Arc::clone(paths), &vip.name, SocketAddr::new(vip.address, port), backend))
        }
    };
    // What VIPs share does not speak of one of them.
    let vip = if health.share { backend } else { vip.address };
    Question { to, vip, check: health.check.clone(), trusted, timeout: health.timeout }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, time::Instant};

    use super::{super::asking::PROGRAMS_AT_ONCE, *};
    use crate::{
        model::{Backend, Check, Echo, Program},
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
        while rounds.host.programs.available_permits() > 0 {
            assert!(Instant::now() < until, "not all programs are started");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // With the probes all of them end.
        let programs = Arc::clone(&rounds.host.programs);
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
        *first.status() = Status::new(Verdict::Down);
        let health = wanted.vips[0].health.clone().unwrap();
        wanted.vip_mut(0).health = Some(Arc::new(Health { port: Some(2), ..Health::clone(&health) }));
        rounds.follow(&wanted, &Verdicts::default());
        let other = Arc::clone(&rounds.probes()["web"][&IpAddr::from([127, 0, 0, 1])]);
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!(other.status().verdict(), Verdict::Down);
        wanted.vip_mut(0).health = None;
        rounds.follow(&wanted, &Verdicts::default());
        assert!(rounds.probes().is_empty());
        let deadline = Instant::now() + patience::LIMIT;
        while ![&first, &other].iter().all(|probed| probed.asking.is_finished()) {
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

    /// VIPs whose one backend is asked alike, but for what `each` makes of it.
    fn sharing(port: u16, vips: usize, each: impl Fn(usize, &mut Health)) -> Config {
        let plain = probed(port, &["127.0.0.1"]);
        let one = |at: usize| {
            let mut health = Health { share: true, ..Health::clone(plain.vips[0].health.as_ref().unwrap()) };
            each(at, &mut health);
            let address = IpAddr::from([192, 0, 2, at as u8]);
            Vip { name: format!("v{at}"), address, health: Some(Arc::new(health)), ..Vip::clone(&plain.vips[0]) }
        };
        crate::plan::fixtures::config((0..vips).map(one))
    }

    fn of<'r>(rounds: &'r Rounds, vip: &str) -> &'r Arc<Probed> {
        &rounds.probes()[vip][&IpAddr::from([127, 0, 0, 1])]
    }

    #[tokio::test]
    async fn what_vips_share_is_asked_once_for_all() {
        const VIPS: usize = 100;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mut rounds, mut told) = Rounds::new();
        rounds.follow(&sharing(port, VIPS, |_, _| {}), &Verdicts::default());
        for _ in 0..VIPS {
            assert!(!next(&mut told).await.fails);
        }
        let until = Instant::now() + patience::LIMIT;
        let good = |rounds: &Rounds| of(rounds, "v0").status().counts[0];
        while good(&rounds) < 10 {
            assert!(Instant::now() < until, "no answers");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(rounds.probes().keys().all(|vip| of(&rounds, vip).sharers() == VIPS));
        let ended = Arc::clone(&of(&rounds, "v0").asking);
        rounds.follow(&Config::default(), &Verdicts::default());
        assert!(rounds.shared.is_empty());
        while !ended.is_finished() {
            assert!(Instant::now() < until, "probes go on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A server learns nothing of such probes; that real ones are asked as often is tested end to end.
        let (begun, _) = rounds.punctuality().counts();
        assert!((10..100).contains(&begun), "{begun} probes for ten answers");
    }

    #[tokio::test]
    async fn vips_that_share_a_probe_have_verdicts_of_their_own() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mut rounds, mut told) = Rounds::new();
        let quick = |at: usize, health: &mut Health| health.fall = [50, 1][at.min(1)];
        rounds.follow(&sharing(port, 3, quick), &Verdicts::default());
        for _ in 0..3 {
            assert!(!next(&mut told).await.fails);
        }
        drop(listener);
        let mut failed = [next(&mut told).await.vip, next(&mut told).await.vip];
        failed.sort();
        assert_eq!(failed, ["v1", "v2"], "the other goes by more failures");
        assert_eq!(of(&rounds, "v0").status().verdict(), Verdict::Up);
        // One goes and one is judged otherwise: nothing of the others changes.
        let (first, second) = (Arc::clone(of(&rounds, "v0")), Arc::clone(of(&rounds, "v1")));
        let slow = |at: usize, health: &mut Health| (health.fall, health.rise) = ([50, 1][at.min(1)], 2 + at as u32);
        rounds.follow(&sharing(port, 2, slow), &Verdicts::default());
        assert!(Arc::ptr_eq(&first, of(&rounds, "v0")));
        assert!(!Arc::ptr_eq(&second, of(&rounds, "v1")) && Arc::ptr_eq(&second.asking, &of(&rounds, "v1").asking));
        assert_eq!((of(&rounds, "v1").status().verdict(), first.sharers()), (Verdict::Down, 2));
        assert_eq!(next(&mut told).await.vip, "v0", "its failures are counted on");
    }

    #[tokio::test]
    async fn only_what_is_the_same_is_shared() {
        let (mut rounds, _told) = Rounds::new();
        let config = sharing(1, 5, |at, health| match at {
            2 => health.port = Some(2),
            3 => health.timeout *= 2,
            4 => health.interval *= 2,
            _ => {}
        });
        rounds.follow(&config, &Verdicts::default());
        let sharers: Vec<_> = rounds.probes().keys().map(|vip| of(&rounds, vip).sharers()).collect();
        assert_eq!(sharers, [2, 2, 1, 1, 1]);
        let config = sharing(1, 2, |at, health| health.share = at > 0);
        rounds.follow(&config, &Verdicts::default());
        assert_eq!(of(&rounds, "v0").sharers(), 1, "who does not say so shares nothing");
        assert_eq!(rounds.shared.values().map(Vec::len).sum::<usize>(), 1);
        // An echo is asked of no port.
        let echo = || Check::Icmp(Echo { size: Echo::SIZE });
        let mut config = sharing(1, 2, |_, health| (health.check, health.port) = (echo(), None));
        config.vip_mut(1).ports = vip("other", "192.0.2.9", &["udp/53"], &[]).ports;
        rounds.follow(&config, &Verdicts::default());
        assert_eq!(of(&rounds, "v0").sharers(), 2);
    }
}
