//! HTTP on a listener that anybody may reach: a bounded number of connections, none that idles or stalls for long, and
//! none at the expense of somebody who counts for more or asks for less.
//!
//! What somebody can do who only connects, or connects and never reads: take all places of [`Limits::connections`] that
//! no [`Class`] above his has. When one more comes, one of the lowest class goes, and none of a class above the
//! newcomer's: of the owner who has most of them, one that waits for no answer, the one that was silent for longest.
//! Whoever has the most himself, and waits for an answer on each of those that could go, gets no further one; he may be
//! told so ([`Listener::refuse`]), and is not waited for. So whoever floods drives out himself; others only where they
//! share his address, or are of his class or below and have as many connections as he: with many addresses, or users,
//! he has many shares. A request head must be there within [`Limits::idle`], an answer must make progress within
//! [`Limits::stall`] and be read within [`Limits::answer`], and neither is buffered beyond [`BUFFER`]. Nothing is
//! logged per connection.

use std::{
    collections::HashMap,
    convert::Infallible,
    hash::Hash,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Extension, Router};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, Id, JoinSet},
    time::MissedTickBehavior,
};

use super::{
    Limits,
    activity::{Activity, Watched},
};
use crate::fault;

/// Most that is buffered of a request's head or of an answer, in bytes.
const BUFFER: usize = 64 << 10;

/// How often it is looked whether an answer stalls or takes too long.
const LOOK: Duration = Duration::from_secs(1);

/// How long nothing is accepted after that failed, for want of descriptors most likely.
const REST: Duration = Duration::from_secs(1);

/// How often it is logged that nothing can be accepted.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// What somebody's connections count for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Those of whoever can connect.
    Anybody,
    /// Those of who may change things.
    Operator,
}

/// Whose connections are counted together.
pub trait Owner: Copy + Eq + Hash + Send {
    /// What they count for.
    fn class(&self) -> Class;
}

/// Where connections come from.
pub trait Listener: Send {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// Who is on the other end; handlers get it as an extension of the request.
    type Peer: Clone + Send + Sync + 'static;
    /// Whose connections are counted together.
    type Owner: Owner;

    /// Waits for a connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;

    /// Whose connection it is.
    fn owner(&self, peer: &Self::Peer) -> Self::Owner;

    /// Closes a connection that is one too many. May say so on it first, but waits for nobody.
    fn refuse(stream: Self::Stream);

    /// Has the kernel let go at once of what the peer has not read, where it would keep that.
    fn cut(stream: &Self::Stream);
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;
    type Owner = IpAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let accepted = Self::accept(self).await;
        fault::part("accept");
        accepted
    }

    /// One host has a whole /64 of IPv6 addresses (RFC 4291 §2.5.4).
    fn owner(&self, peer: &SocketAddr) -> IpAddr {
        match peer.ip().to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
            v4 => v4,
        }
    }

    fn refuse(stream: TcpStream) {
        drop(stream);
    }

    fn cut(stream: &TcpStream) {
        // A connection that is broken already has nothing to let go of.
        let _ = stream.set_zero_linger();
    }
}

/// Who is behind an address nobody knows.
impl Owner for IpAddr {
    fn class(&self) -> Class {
        Class::Anybody
    }
}

/// Answers requests on `listener` by `router` until it is dropped, and every connection with it.
pub async fn serve<L: Listener>(listener: L, router: Router, limits: Limits) -> Infallible {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, NotConnected};
    let mut connections = Connections::<L::Owner>::new(limits);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reported: Option<Instant> = None;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let owner = listener.owner(&peer);
                    let router = router.clone().layer(Extension(peer));
                    if let Err(stream) = connections.add(owner, stream, L::cut, router) {
                        L::refuse(stream);
                    }
                }
                // That one has gone already.
                Err(error) if matches!(error.kind(), ConnectionAborted | ConnectionReset | NotConnected) => {}
                Err(error) => {
                    if reported.is_none_or(|reported| reported.elapsed() >= REPORT_EVERY) {
                        reported = Some(Instant::now());
                        log::error!("no connection can be accepted: {error}; trying again");
                    }
                    tokio::time::sleep(REST).await;
                }
            },
            Some(ended) = connections.tasks.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                connections.all.remove(&id);
            }
            _ = look.tick() => connections.end_slow(),
        }
    }
}

/// The connections of a listener.
struct Connections<O> {
    limits: Limits,
    all: HashMap<Id, Connection<O>>,
    /// Each ends when this is dropped.
    tasks: JoinSet<()>,
}

struct Connection<O> {
    owner: O,
    activity: Arc<Activity>,
    task: AbortHandle,
}

impl<O: Owner> Connections<O> {
    fn new(limits: Limits) -> Self {
        Self { limits, all: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Serves a connection, and ends another one for it where there are too many. Gives it back where none is to give
    /// way.
    fn add<S>(&mut self, owner: O, stream: S, cut: fn(&S), router: Router) -> Result<(), S>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if self.all.len() >= self.limits.connections {
            let Some(connection) = self.least_missed(&owner).and_then(|id| self.all.remove(&id)) else {
                return Err(stream);
            };
            connection.end();
        }
        let activity = Arc::new(Activity::default());
        let stream = Watched::new(stream, cut, Arc::clone(&activity));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(self.limits.idle).max_buf_size(BUFFER);
        let (router, noted) = (TowerToHyperService::new(router), Arc::clone(&activity));
        let service = service_fn(move |request: Request<Incoming>| noted.answer(router.call(request)));
        let connection = http.serve_connection(TokioIo::new(stream), service);
        // What goes wrong with a connection is its peer's affair.
        let task = self.tasks.spawn(async move { drop(connection.await) });
        self.all.insert(task.id(), Connection { owner, activity, task });
        Ok(())
    }

    /// The connection that gives way to one of `newcomer`'s, if any does.
    fn least_missed(&self, newcomer: &O) -> Option<Id> {
        let lowest = self.all.values().map(|connection| connection.owner.class()).min()?;
        if lowest > newcomer.class() {
            return None;
        }
        let mut counts: HashMap<O, usize> = HashMap::new();
        for connection in self.all.values().filter(|connection| connection.owner.class() == lowest) {
            *counts.entry(connection.owner).or_default() += 1;
        }
        let most = counts.values().max()?;
        let candidates = self.all.iter().filter(|(_, connection)| counts.get(&connection.owner) == Some(most));
        let ranked = candidates.map(|(id, connection)| (connection.activity.dispensable(), *id));
        let ((is_idle, _), id) = ranked.max_by_key(|(rank, _)| *rank)?;
        (is_idle || counts.get(newcomer) != Some(most)).then_some(id)
    }

    /// Ends connections whose peers do not read, or not fast enough.
    fn end_slow(&self) {
        let slow = self.all.values().filter(|connection| connection.activity.is_slow(&self.limits));
        slow.for_each(Connection::end);
    }
}

impl<O> Connection<O> {
    fn end(&self) {
        self.activity.cut();
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    impl Owner for (Class, u32) {
        fn class(&self) -> Class {
            self.0
        }
    }

    /// The address of a server with these limits.
    async fn server(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Router::new().route("/", get(|| async { "x" })), limits));
        address
    }

    fn limits(connections: usize, idle: u64, stall: u64) -> Limits {
        let [idle, stall] = [idle, stall].map(Duration::from_millis);
        Limits { connections, idle, stall, answer: Duration::from_secs(60) }
    }

    /// Reads until the server ends the connection.
    async fn read_to_end(stream: &mut TcpStream) -> usize {
        let mut read = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut read)).await;
        // A connection that is reset has ended too.
        let _ = ended.expect("the server ends the connection");
        read.len()
    }

    async fn is_answered(stream: &mut TcpStream) -> bool {
        stream.write_all(REQUEST).await.is_ok() && stream.read(&mut [0; 256]).await.is_ok_and(|read| read > 0)
    }

    #[tokio::test]
    async fn who_says_nothing_is_sent_away() {
        let address = server(limits(4, 100, 60_000)).await;
        let [mut silent, mut half] =
            [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        half.write_all(&REQUEST[..10]).await.unwrap();
        assert_eq!(read_to_end(&mut silent).await, 0);
        read_to_end(&mut half).await;
    }

    /// Connections whose requests are answered with `size` bytes, or never, and the far ends of these connections.
    struct Bench {
        connections: Connections<(Class, u32)>,
        router: Router,
        far: Vec<DuplexStream>,
    }

    impl Bench {
        fn new(limits: Limits, size: usize) -> Self {
            let answer = move || async move { axum::body::Bytes::from(vec![b'x'; size]) };
            Self::with(limits, Router::new().route("/", get(answer)))
        }

        fn without_answers(limits: Limits) -> Self {
            Self::with(limits, Router::new().route("/", get(std::future::pending::<()>)))
        }

        fn with(limits: Limits, router: Router) -> Self {
            Self { connections: Connections::new(limits), router, far: Vec::new() }
        }

        async fn connect(&mut self, owner: (Class, u32)) -> &mut DuplexStream {
            // So that each was silent for another time.
            tokio::time::sleep(Duration::from_millis(2)).await;
            let (near, far) = tokio::io::duplex(1024);
            // One that is given back is closed.
            drop(self.connections.add(owner, near, |_| {}, self.router.clone()));
            self.far.push(far);
            self.far.last_mut().unwrap()
        }

        /// The same, and asks; returns once an answer is waited for.
        async fn ask(&mut self, owner: (Class, u32)) {
            let before = self.waiting();
            self.connect(owner).await.write_all(REQUEST).await.unwrap();
            let waits = async {
                while self.waiting() == before {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), waits).await.expect("an answer is waited for");
        }

        fn waiting(&self) -> usize {
            let all = self.connections.all.values();
            all.filter(|connection| !connection.activity.dispensable().0).count()
        }

        /// Whose connections there are, and for how many an answer is waited for.
        fn owners(&self) -> (Vec<u32>, usize) {
            let mut owners: Vec<_> = self.connections.all.values().map(|connection| connection.owner.1).collect();
            owners.sort();
            (owners, self.waiting())
        }

        /// Reads by `read` until the connection is ended, and how much that was in all.
        async fn read_slowly(&mut self, pause: Option<Duration>) -> usize {
            let mut far = self.far.pop().unwrap();
            far.write_all(REQUEST).await.unwrap();
            let mut total = 0;
            let ended = async {
                while self.connections.tasks.try_join_next().is_none() {
                    self.connections.end_slow();
                    tokio::time::sleep(pause.unwrap_or(Duration::from_millis(10))).await;
                    if pause.is_some() {
                        total += far.read(&mut [0; 256]).await.unwrap();
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(30), ended).await.expect("the connection is ended");
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.unwrap();
            total + rest.len()
        }
    }

    const ALICE: (Class, u32) = (Class::Anybody, 1);
    const BOB: (Class, u32) = (Class::Anybody, 2);
    const ROOT: (Class, u32) = (Class::Operator, 0);
    const ADMIN: (Class, u32) = (Class::Operator, 3);

    #[tokio::test]
    async fn who_does_not_read_is_sent_away() {
        let mut bench = Bench::new(limits(3, 60_000, 100), 1 << 20);
        bench.connect(ALICE).await;
        assert_eq!(bench.read_slowly(None).await, 1024, "what was on its way");
    }

    #[tokio::test]
    async fn who_reads_a_little_now_and_then_is_sent_away() {
        let pieces = || {
            let piece = Ok::<_, Infallible>(vec![b'x'; 1 << 10]);
            axum::body::Body::from_stream(futures_util::stream::iter(vec![piece; 1 << 10]))
        };
        let limits = Limits { answer: Duration::from_millis(200), ..limits(3, 60_000, 10_000) };
        let mut bench = Bench::with(limits, Router::new().route("/", get(move || async move { pieces() })));
        bench.connect(ALICE).await;
        let read = bench.read_slowly(Some(Duration::from_millis(5))).await;
        assert!((1024..1 << 20).contains(&read), "{read} bytes were read in time");
    }

    #[tokio::test]
    async fn who_has_read_an_answer_in_time_may_stay() {
        let limits = Limits { answer: Duration::from_millis(1), ..limits(3, 60_000, 10_000) };
        let mut bench = Bench::new(limits, 10);
        let far = bench.connect(ALICE).await;
        for _ in 0..2 {
            far.write_all(REQUEST).await.unwrap();
            while far.read_u8().await.unwrap() != b'x' {}
            far.read_exact(&mut [0; 9]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let activity = &bench.connections.all.values().next().unwrap().activity;
        assert!(!activity.is_slow(&limits));
    }

    #[tokio::test]
    async fn the_longest_silent_connection_gives_way() {
        let address = server(limits(2, 60_000, 60_000)).await;
        let [mut first, mut second] =
            [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        assert!(is_answered(&mut second).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(is_answered(&mut first).await);
        let mut third = TcpStream::connect(address).await.unwrap();
        assert!(is_answered(&mut third).await);
        read_to_end(&mut second).await;
        assert!(is_answered(&mut first).await);
    }

    #[tokio::test]
    async fn whoever_has_the_most_connections_gives_way() {
        let mut bench = Bench::without_answers(limits(3, 60_000, 60_000));
        for owner in [ALICE, BOB, BOB, BOB] {
            bench.connect(owner).await;
        }
        assert_eq!(bench.owners().0, [1, 2, 2], "the oldest connection is another's");
    }

    #[tokio::test]
    async fn the_lowest_class_gives_way_however_few_and_busy_its_connections_are() {
        let mut bench = Bench::without_answers(limits(4, 60_000, 60_000));
        for _ in 0..3 {
            bench.connect(ROOT).await;
        }
        bench.ask(ALICE).await;
        bench.connect(ADMIN).await;
        assert_eq!(bench.owners(), (vec![0, 0, 0, 3], 0));
    }

    #[tokio::test]
    async fn no_connection_gives_way_to_a_lower_class() {
        let mut bench = Bench::without_answers(limits(3, 60_000, 60_000));
        for owner in [ROOT, ROOT, ADMIN, ALICE] {
            bench.connect(owner).await;
        }
        assert_eq!(bench.owners().0, [0, 0, 3]);
        assert_eq!(bench.far[3].read(&mut [0]).await.unwrap(), 0, "it is closed");
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_is_not_silent() {
        let mut bench = Bench::without_answers(limits(3, 60_000, 60_000));
        bench.ask(ROOT).await;
        for _ in 0..10 {
            bench.connect(ROOT).await;
        }
        assert_eq!(bench.owners(), (vec![0, 0, 0], 1));
        assert_eq!(bench.connections.tasks.len(), 11);
    }

    #[tokio::test]
    async fn whoever_waits_most_himself_gets_no_further_connection() {
        let mut bench = Bench::without_answers(limits(3, 60_000, 60_000));
        for owner in [ADMIN, ROOT, ROOT] {
            bench.ask(owner).await;
        }
        bench.connect(ROOT).await;
        assert_eq!(bench.far[3].read(&mut [0]).await.unwrap(), 0, "it is closed");
        assert_eq!(bench.owners(), (vec![0, 0, 3], 3));
        // Who has fewer gets one.
        bench.connect(ADMIN).await;
        assert_eq!(bench.owners(), (vec![0, 3, 3], 2));
    }
}
