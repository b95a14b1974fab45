//! HTTP on a listener that anybody may reach: a bounded number of connections, none that idles or stalls for long, and
//! none at another peer's expense.
//!
//! What somebody can do who only connects, or connects and never reads: take all places of [`Limits::connections`]. When
//! one more comes, the connection that was silent for longest among those of the peer with the most of them goes; so
//! whoever floods drives out himself, and others only where they share his address, or user. A request head must be
//! there within [`Limits::idle`], an answer must make progress within [`Limits::stall`], and neither is buffered beyond
//! [`BUFFER`]. Nothing is logged per connection.

use std::{
    collections::HashMap,
    convert::Infallible,
    hash::Hash,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, Id, JoinSet},
    time::MissedTickBehavior,
};

use crate::fault;

/// Most that is buffered of a request's head or of an answer, in bytes.
const BUFFER: usize = 64 << 10;

/// How often it is looked whether an answer stalls.
const LOOK: Duration = Duration::from_secs(1);

/// How long nothing is accepted after that failed, for want of descriptors most likely.
const REST: Duration = Duration::from_secs(1);

/// How often it is logged that nothing can be accepted.
const TELL: Duration = Duration::from_secs(60);

/// What a listener bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// How long a connection may be without a whole request head.
    pub idle: Duration,
    /// How long the peer may read nothing of an answer.
    pub stall: Duration,
}

/// Where connections come from.
pub trait Listener: Send {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// Who is on the other end; handlers get it as an extension of the request.
    type Peer: Clone + Send + Sync + 'static;
    /// Whose connections are counted together.
    type Owner: Copy + Eq + Hash + Send;

    /// Waits for a connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;

    /// Whose connection it is.
    fn owner(peer: &Self::Peer) -> Self::Owner;

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
    fn owner(peer: &SocketAddr) -> IpAddr {
        match peer.ip().to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
            v4 => v4,
        }
    }

    fn cut(stream: &TcpStream) {
        // A connection that is broken already has nothing to let go of.
        let _ = stream.set_zero_linger();
    }
}

/// Answers requests on `listener` by `router` until it is dropped, and every connection with it.
pub async fn serve<L: Listener>(listener: L, router: Router, limits: Limits) -> Infallible {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, NotConnected};
    let mut connections = Connections::<L::Owner>::new(limits);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<Instant> = None;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => connections.add(L::owner(&peer), stream, L::cut, router.clone().layer(Extension(peer))),
                // That one has gone already.
                Err(error) if matches!(error.kind(), ConnectionAborted | ConnectionReset | NotConnected) => {}
                Err(error) => {
                    if told.is_none_or(|told| told.elapsed() >= TELL) {
                        told = Some(Instant::now());
                        log::error!("no connection can be accepted: {error}; trying again");
                    }
                    tokio::time::sleep(REST).await;
                }
            },
            Some(ended) = connections.tasks.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                connections.all.remove(&id);
            }
            _ = look.tick() => connections.end_stalled(),
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

impl<O: Copy + Eq + Hash> Connections<O> {
    fn new(limits: Limits) -> Self {
        Self { limits, all: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Serves a connection, and ends another one for it where there are too many.
    fn add<S>(&mut self, owner: O, stream: S, cut: fn(&S), router: Router)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if self.all.len() >= self.limits.connections
            && let Some(id) = self.least_missed()
            && let Some(connection) = self.all.remove(&id)
        {
            connection.end();
        }
        let activity = Arc::new(Activity::default());
        let stream = Watched { stream, cut, activity: Arc::clone(&activity) };
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(self.limits.idle).max_buf_size(BUFFER);
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        // What goes wrong with a connection is its peer's affair.
        let task = self.tasks.spawn(async move { drop(connection.await) });
        self.all.insert(task.id(), Connection { owner, activity, task });
    }

    /// Of the owner with the most connections, the one that was silent for longest.
    fn least_missed(&self) -> Option<Id> {
        let mut counts: HashMap<O, usize> = HashMap::new();
        for connection in self.all.values() {
            *counts.entry(connection.owner).or_default() += 1;
        }
        let most = counts.values().max()?;
        let candidates = self.all.iter().filter(|(_, connection)| counts.get(&connection.owner) == Some(most));
        candidates.max_by_key(|(_, connection)| connection.activity.silence()).map(|(id, _)| *id)
    }

    /// Ends connections whose peers do not read.
    fn end_stalled(&self) {
        let stalled = self.all.values().filter(|connection| {
            connection.activity.stalls.load(Ordering::Relaxed) && connection.activity.silence() >= self.limits.stall
        });
        stalled.for_each(Connection::end);
    }
}

impl<O> Connection<O> {
    fn end(&self) {
        self.activity.is_cut.store(true, Ordering::Relaxed);
        self.task.abort();
    }
}

/// When bytes last went over a connection.
struct Activity {
    begun: Instant,
    /// Milliseconds after that.
    last: AtomicU64,
    /// Whether bytes wait for the peer to read.
    stalls: AtomicBool,
    /// Whether this end gives up what the peer has not read.
    is_cut: AtomicBool,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            last: AtomicU64::new(0),
            stalls: AtomicBool::default(),
            is_cut: AtomicBool::default(),
        }
    }
}

impl Activity {
    fn note(&self) {
        self.last.store(self.begun.elapsed().as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// A stream whose activity is noted.
struct Watched<S> {
    stream: S,
    cut: fn(&S),
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    /// Notes what became of an attempt to write.
    fn written(&self, attempt: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.stalls.store(attempt.is_pending(), Ordering::Relaxed);
        if attempt.is_ready() {
            self.activity.note();
        }
        attempt
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        if self.activity.is_cut.load(Ordering::Relaxed) {
            (self.cut)(&self.stream);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.activity.note();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    /// The address of a server with these limits.
    async fn server(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Router::new().route("/", get(|| async { "x" })), limits));
        address
    }

    fn limits(connections: usize, idle: u64, stall: u64) -> Limits {
        Limits { connections, idle: Duration::from_millis(idle), stall: Duration::from_millis(stall) }
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

    #[tokio::test]
    async fn who_does_not_read_is_sent_away() {
        let mut connections = Connections::new(limits(3, 60_000, 100));
        let (near, mut far) = tokio::io::duplex(1024);
        connections.add(1, near, |_| {}, Router::new().route("/", get(|| async { "x".repeat(1 << 20) })));
        far.write_all(REQUEST).await.unwrap();
        let ended = async {
            while connections.tasks.try_join_next().is_none() {
                connections.end_stalled();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ended).await.expect("the connection is ended");
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), 1024, "what was on its way");
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
        let mut connections = Connections::new(limits(3, 60_000, 60_000));
        let others: Vec<_> = [1, 2, 2, 2]
            .map(|owner| {
                let (near, far) = tokio::io::duplex(64);
                connections.add(owner, near, |_| {}, Router::new());
                far
            })
            .into();
        let mut owners: Vec<_> = connections.all.values().map(|connection| connection.owner).collect();
        owners.sort();
        assert_eq!(owners, [1, 2, 2], "the oldest connection is another's");
        drop(others);
    }
}
