//! The task between the kernel and the table: hears events, asks questions in batches, keeps neighbours alive. It ends
//! with an error when the kernel's answers stop making sense; its supervisor then starts another.

use std::{collections::BTreeSet, io, net::IpAddr, time::Duration};

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::{
    InterfaceInfo, Pace,
    message::{self, Change, Found},
    object::{self, ObjectRequest, Objects},
    resolve::{Lookup, NeighbourKey, Route},
    socket::{Answer, BATCH, Namespace, Socket, is_overrun},
    supervisor::Shared,
    table::Table,
};

/// What the task is made of.
pub(super) struct Task {
    shared: Shared,
    sockets: Sockets,
    table: Table,
}

/// A socket for questions and one for events, so that a flood of events cannot drown an answer.
#[derive(Debug)]
pub(super) struct Sockets {
    questions: Socket,
    events: Socket,
}

impl Sockets {
    /// Opens both in `namespace`.
    pub fn open(namespace: &Namespace) -> io::Result<Self> {
        Ok(Self { questions: Socket::open(namespace, &[])?, events: Socket::open(namespace, &GROUPS)? })
    }
}

impl Task {
    /// A task that begins with the interfaces that the daemon knows of; with `sockets`, where some are open.
    pub fn new(shared: Shared, sockets: Option<Sockets>, is_first: bool) -> io::Result<Self> {
        let sockets = match sockets {
            Some(sockets) => sockets,
            None => Sockets::open(&shared.namespace)?,
        };
        let mut table = Table::default();
        table.start_with(shared.interfaces.borrow().clone());
        if !is_first {
            table.restarted();
        }
        Ok(Self { shared, sockets, table })
    }

    /// Keeps the table true and the daemon informed while the sockets work. `Ok` when nobody listens any more.
    pub async fn serve(mut self) -> io::Result<()> {
        let pace = self.shared.pace;
        // Before any target is looked at: to use a neighbour that the operator has made permanent would end that.
        let interrupted = self.read_all().await?;
        self.shared.health.send_modify(|health| health.trouble = None);
        let mut clock = Clock::new(pace);
        if interrupted {
            clock.reading.begin(pace.settle);
        }
        self.follow_targets();
        loop {
            let due = self.next(&mut clock).await;
            let begun = Instant::now();
            match due {
                Due::Stop => return Ok(()),
                Due::Told => {}
                Due::Targets => {
                    if !self.catch_up()? {
                        clock.reading.begin(pace.settle);
                    }
                    self.follow_targets();
                }
                Due::Heard(result, changes) => {
                    if !self.observe(result, changes)? {
                        clock.reading.begin(pace.settle);
                    }
                }
                Due::ReadAll => {
                    let interrupted = self.read_all().await?;
                    clock.reading.end(begun);
                    clock.last_reading = begun;
                    if interrupted {
                        clock.reading.begin(pace.settle);
                    }
                }
                Due::Settled => {
                    self.table.ask_suspects();
                    clock.routes.end(begun);
                }
                Due::AskRoutes => {
                    self.ask_routes().await?;
                    clock.routes.charge(begun);
                }
                Due::UseNeighbours => {
                    self.use_neighbours().await?;
                    clock.uses.end(begun);
                    clock.uses.rest(USE_PAUSE);
                }
                Due::Retry => self.table.retry_neighbours(),
                Due::KeepAlive => {
                    // What it missed is read at the next turn.
                    let _interrupted = self.read_neighbours().await?;
                    self.table.refresh_neighbours();
                    // The tick that is nearest to the time.
                    if clock.last_reading.elapsed() + pace.keep_alive / 2 >= pace.resync {
                        clock.reading.begin(Duration::ZERO);
                    }
                }
            }
        }
    }

    /// Waits for the next thing to do. Events for the daemon are handed over on the way.
    async fn next(&mut self, clock: &mut Clock) -> Due {
        if self.table.has_suspects() {
            clock.routes.begin(self.shared.pace.settle);
        }
        if self.table.has_uses() {
            clock.uses.begin(Duration::ZERO);
        }
        let mut changes = Vec::new();
        tokio::select! {
            slot = self.shared.events.reserve(), if self.table.has_events() => match (slot, self.table.take_event()) {
                (Ok(slot), Some(event)) => {
                    slot.send(event);
                    Due::Told
                }
                (Ok(_), None) => Due::Told,
                (Err(_), _) => Due::Stop,
            },
            () = self.shared.events.closed() => Due::Stop,
            Ok(()) = self.shared.targets.changed() => Due::Targets,
            result = self.sockets.events.receive(|header, payload| changes.push(message::change(header, payload))) => {
                Due::Heard(result, changes)
            }
            () = clock.reading.over() => Due::ReadAll,
            () = clock.routes.over() => Due::Settled,
            () = std::future::ready(()), if self.table.has_unasked() => Due::AskRoutes,
            () = clock.uses.over() => Due::UseNeighbours,
            _ = clock.retry.tick() => Due::Retry,
            _ = clock.keep_alive.tick() => Due::KeepAlive,
        }
    }

    /// Takes in what was heard. Returns whether that was all; else everything must be read anew.
    fn observe(&mut self, result: io::Result<()>, changes: Vec<Change>) -> io::Result<bool> {
        let mut complete = true;
        if let Err(error) = result {
            if !is_overrun(&error) {
                return Err(error);
            }
            log::warn!("netlink: events came faster than they were read; reading everything anew");
            complete = false;
        }
        let interfaces = changes.iter().any(|change| matches!(change, Change::Interface(_) | Change::InterfaceGone(_)));
        for change in changes {
            complete &= self.table.apply(change);
        }
        if interfaces {
            self.publish_interfaces();
        }
        Ok(complete)
    }

    /// Reads interfaces and neighbours anew, and has all routes asked for. Returns whether it is to be repeated soon,
    /// because the tables changed while they were read.
    async fn read_all(&mut self) -> io::Result<bool> {
        let reading = self.sockets.questions.dump(message::interfaces_request()).await?;
        let (interrupted, complete) = (reading.interrupted, reading.is_complete());
        self.table.sync_interfaces(interfaces_of(reading.entries), complete);
        self.publish_interfaces();
        let interrupted = interrupted | self.read_neighbours().await?;
        self.table.suspect_all();
        Ok(interrupted)
    }

    /// Reads the neighbours anew. Returns whether their table changed meanwhile.
    async fn read_neighbours(&mut self) -> io::Result<bool> {
        let reading = self.sockets.questions.dump(message::neighbours_request()).await?;
        let (interrupted, complete) = (reading.interrupted, reading.is_complete());
        let neighbours = reading.entries.iter().filter_map(|entry| match entry {
            RouteNetlinkMessage::NewNeighbour(message) => message::neighbour(message),
            _ => None,
        });
        self.table.sync_neighbours(neighbours.collect(), complete);
        Ok(interrupted)
    }

    /// Hears what the kernel has said so far, or much of it, so that a new target begins with what is true. Returns as
    /// [`Self::observe`].
    fn catch_up(&mut self) -> io::Result<bool> {
        let mut complete = true;
        for _ in 0..CATCH_UP {
            let mut changes = Vec::new();
            let heard =
                self.sockets.events.receive_now(|header, payload| changes.push(message::change(header, payload)));
            let Some(result) = heard else { break };
            complete &= self.observe(result, changes)?;
        }
        Ok(complete)
    }

    fn follow_targets(&mut self) {
        self.table.set_targets(&self.shared.targets.borrow_and_update());
    }

    async fn ask_routes(&mut self) -> io::Result<()> {
        let mut lookups = self.table.take_unasked(BATCH);
        let mut requests = Vec::with_capacity(lookups.len());
        lookups.retain(|lookup| match self.table.vrf(lookup.via) {
            Ok(vrf) => {
                requests.push(message::route_request(lookup.address, vrf, lookup.via.mark));
                true
            }
            Err(route) => {
                self.table.route_is(*lookup, route);
                false
            }
        });
        let answers = self.sockets.questions.exchange(requests).await?;
        let answered = |(lookup, answer): (Lookup, Answer)| (lookup, found(answer, lookup.address));
        let found: Vec<_> = lookups.into_iter().zip(answers).map(answered).collect();
        let ids =
            found.iter().filter_map(|(_, found)| if let Found::Object { id, .. } = found { Some(*id) } else { None });
        let objects = self.ask_objects(ids.collect()).await?;
        for (lookup, found) in found {
            let route = match found {
                Found::Route(route) => route,
                Found::Object { id, mtu } => object::route(&objects, id, lookup.address, mtu),
            };
            self.table.route_is(lookup, route);
        }
        Ok(())
    }

    /// The next-hop objects of these ids, and those that they are made of.
    async fn ask_objects(&mut self, mut ids: BTreeSet<u32>) -> io::Result<Objects> {
        let mut objects = Objects::new();
        // A second time for the members of groups.
        for _ in 0..2 {
            let unknown: Vec<u32> = ids.iter().filter(|id| !objects.contains_key(*id)).copied().collect();
            for batch in unknown.chunks(BATCH) {
                let requests = batch.iter().map(|id| ObjectRequest::message(*id)).collect();
                for answer in self.sockets.questions.exchange(requests).await? {
                    if let Answer::Object(id, object) = answer {
                        ids.extend(object.members());
                        objects.insert(id, object);
                    }
                }
            }
        }
        Ok(objects)
    }

    async fn use_neighbours(&mut self) -> io::Result<()> {
        let keys: Vec<NeighbourKey> = self.table.take_uses(BATCH);
        let requests = keys.iter().copied().map(message::use_request).collect();
        let answers = self.sockets.questions.exchange(requests).await?;
        for (key, answer) in keys.into_iter().zip(answers) {
            if let Answer::Refused(errno) = answer {
                self.table.neighbour_is_refused(key, errno);
            }
        }
        Ok(())
    }

    fn publish_interfaces(&self) {
        let interfaces = self.table.interfaces();
        self.shared.interfaces.send_if_modified(|published| {
            let modified = *published != interfaces;
            *published = interfaces;
            modified
        });
    }
}

/// The interfaces among the entries of a dump.
pub(super) fn interfaces_of(entries: Vec<RouteNetlinkMessage>) -> Vec<InterfaceInfo> {
    let interface = |entry| match entry {
        RouteNetlinkMessage::NewLink(link) => message::interface(&link),
        _ => None,
    };
    entries.into_iter().filter_map(interface).collect()
}

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// The pause between batches of neighbours to resolve: some 2,500 a second, so that the answers, and the probes that
/// the kernel sends, come as a stream and not as a burst.
const USE_PAUSE: Duration = Duration::from_millis(25);

/// Most datagrams that are heard before new targets are looked at: a flood of events must not hold them up for ever.
const CATCH_UP: usize = 256;

/// Work that comes in floods rests this many times as long as it took.
const REST: u32 = 3;

/// What is to be done next.
enum Due {
    /// Nothing more: nobody listens.
    Stop,
    /// Nothing: an event was handed over.
    Told,
    /// The targets are others.
    Targets,
    /// The kernel tells of changes.
    Heard(io::Result<()>, Vec<Change>),
    /// Read everything anew.
    ReadAll,
    /// Routes have had their time to settle.
    Settled,
    /// Ask for some routes.
    AskRoutes,
    /// Have some neighbours resolved or confirmed.
    UseNeighbours,
    /// Try again those neighbours that did not answer.
    Retry,
    /// Read the neighbours, and confirm those that are stale.
    KeepAlive,
}

/// When things are due.
struct Clock {
    routes: Pause,
    reading: Pause,
    uses: Pause,
    retry: Interval,
    keep_alive: Interval,
    last_reading: Instant,
}

impl Clock {
    /// A clock that begins as everything has just been read.
    fn new(pace: Pace) -> Self {
        Self {
            routes: Pause::default(),
            reading: Pause::default(),
            uses: Pause::default(),
            retry: ticks(pace.retry),
            keep_alive: ticks(pace.keep_alive),
            last_reading: Instant::now(),
        }
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}

fn found(answer: Answer, address: IpAddr) -> Found {
    Found::Route(match answer {
        Answer::Message(RouteNetlinkMessage::NewRoute(route)) => return message::route(&route, address),
        Answer::Refused(errno) => message::no_route(errno),
        Answer::Message(_) | Answer::Object(..) | Answer::Done => {
            Route::Unknown("it answers with something else".into())
        }
        Answer::Unreadable(reason) => Route::Unknown(format!("its answer cannot be read: {reason}")),
    })
}

/// When to do a piece of work that is asked for many times at once: a while after the first asking, and not before the
/// last time has been rested from.
#[derive(Debug, Default)]
struct Pause {
    due: Option<Instant>,
    not_before: Option<Instant>,
}

impl Pause {
    /// Asks for the work in `delay` from now, unless it is asked for already.
    fn begin(&mut self, delay: Duration) {
        let due = Instant::now() + delay;
        self.due.get_or_insert(self.not_before.map_or(due, |earliest| due.max(earliest)));
    }

    /// The work, begun at `begun`, is done.
    fn end(&mut self, begun: Instant) {
        self.due = None;
        self.charge(begun);
    }

    /// Adds the time since `begun` to what has to be rested from.
    fn charge(&mut self, begun: Instant) {
        self.rest(begun.elapsed() * REST);
    }

    fn rest(&mut self, rest: Duration) {
        let now = Instant::now();
        let from = self.not_before.map_or(now, |earliest| earliest.max(now));
        self.not_before = Some(from + rest);
    }

    /// Waits until the work is due; for ever where nobody asks for it.
    async fn over(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rtnetlink::sys::protocols::NETLINK_GENERIC;
    use tokio::{
        sync::{mpsc, watch},
        time::sleep,
    };

    use super::*;
    use crate::network::{Health, wanted::Wanted};

    #[tokio::test]
    async fn a_socket_that_fails_ends_the_task() {
        let namespace = Namespace::current().unwrap();
        // The kernel refuses whatever is asked of this one.
        let questions = Socket::open_for(NETLINK_GENERIC, &namespace, &[]).unwrap();
        let sockets = Sockets { questions, events: Socket::open(&namespace, &GROUPS).unwrap() };
        let (_wanted, targets) = watch::channel(Wanted::default());
        let (events, _receiver) = mpsc::channel(1024);
        let shared = Shared {
            namespace: Arc::new(namespace),
            pace: Pace::default(),
            targets,
            interfaces: watch::channel(Vec::new()).0,
            events,
            health: watch::channel(Health::default()).0,
        };
        Task::new(shared, Some(sockets), true).unwrap().serve().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_flood_of_askings_is_answered_once_and_rested_from() {
        let begun = Instant::now();
        let mut pause = Pause::default();
        pause.begin(Duration::from_millis(30));
        pause.begin(Duration::from_secs(60));
        pause.over().await;
        assert!((30..10_000).contains(&begun.elapsed().as_millis()), "the first asking counts");
        let work = Instant::now();
        sleep(Duration::from_millis(20)).await;
        pause.end(work);
        pause.begin(Duration::ZERO);
        pause.over().await;
        assert!(work.elapsed().as_millis() >= 20 + 60);
    }
}
