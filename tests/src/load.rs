//! Concurrent HTTP requests: who answered them, which failed, why, when, and from which port.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    task::{JoinSet, LocalSet},
    time::{sleep_until, timeout},
};

use crate::{lab::Host, netns};

/// What to request, how often, and how stubbornly.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to connect to.
    pub target: SocketAddr,
    /// The source address, where it matters which.
    pub source: Option<IpAddr>,
    /// First and last of the client's ports, which are taken one after the other, again and again. `None`: the kernel
    /// chooses.
    pub ports: Option<(u16, u16)>,
    /// Path and query of each request.
    pub path: String,
    /// Requests under way at a time.
    pub concurrency: usize,
    /// Ends after so many requests.
    pub count: Option<u64>,
    /// Ends after so much time.
    pub duration: Option<Duration>,
    /// At most so many requests a second, over all connections.
    pub rate: Option<f64>,
    /// Whether a connection carries one request after the other; otherwise each request has one of its own.
    pub keep_alive: bool,
    /// How often a request that failed before any byte of its response came is tried again on a new connection, as HTTP
    /// clients do with requests that are safe to repeat (RFC 9110 §9.2.2).
    pub retries: u32,
    /// For connecting, and again for the whole response.
    pub timeout: Duration,
}

impl Options {
    /// Requests for `/` at `target`, each on a connection of its own, eight at a time, without retries, until stopped.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            source: None,
            ports: None,
            path: "/".to_owned(),
            concurrency: 8,
            count: None,
            duration: None,
            rate: None,
            keep_alive: false,
            retries: 0,
            timeout: Duration::from_secs(5),
        }
    }

    /// The same, but `count` requests.
    #[must_use]
    pub fn count(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// The same, but with up to `retries` retries of each request.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// The same, but at most `rate` requests a second.
    #[must_use]
    pub fn rate(mut self, rate: f64) -> Self {
        self.rate = Some(rate);
        self
    }

    /// The same, but with `concurrency` requests under way at a time.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nobody listens on the port.
    Refused,
    /// The connection was reset.
    Reset,
    /// No answer in time.
    TimedOut,
    /// The connection was closed before the response was complete.
    ClosedEarly,
    /// A response with a status other than 200.
    BadStatus,
    /// No route to the host, or no local address or port.
    Unreachable,
    /// Something that is no HTTP response.
    Garbled,
}

/// One attempt that failed.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Seconds since 1970.
    pub at: f64,
    /// The client's port; `None` where the connection did not get that far.
    pub local_port: Option<u16>,
    /// Why.
    pub cause: Cause,
    /// The error in its own words.
    pub detail: String,
    /// Bytes of the response that had come.
    pub received: u64,
}

/// What became of the requests so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Requests that ended, well or not.
    pub requests: u64,
    /// Attempts that these requests and those under way took.
    pub attempts: u64,
    /// Requests that failed: the last attempt of each.
    pub failed: Vec<Failure>,
    /// Attempts that failed and were followed by another.
    pub retried: Vec<Failure>,
    /// Connections opened.
    pub connections: u64,
    /// Good responses by the backend that sent them.
    pub backends: BTreeMap<String, u64>,
    /// From the first request to now or to the last, in seconds.
    pub seconds: f64,
    /// The longest that one good request took with its retries, in seconds. A lost segment shows here: TCP waits for
    /// at least 0.2 s, and 1 s for a SYN.
    pub slowest: f64,
}

impl Report {
    /// Failed requests by cause.
    pub fn failed_by_cause(&self) -> BTreeMap<Cause, usize> {
        by_cause(&self.failed)
    }

    /// Retried attempts by cause.
    pub fn retried_by_cause(&self) -> BTreeMap<Cause, usize> {
        by_cause(&self.retried)
    }

    /// Good responses.
    pub fn succeeded(&self) -> u64 {
        self.backends.values().sum()
    }

    /// The share of the good responses that came from `backend`: 0 to 1.
    pub fn share(&self, backend: &str) -> f64 {
        let count = self.backends.get(backend).copied().unwrap_or(0);
        count as f64 / self.succeeded().max(1) as f64
    }
}

/// Requests under way on a thread of their own.
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Load {
    /// Starts to send requests from `host`.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(host: &Host, options: Options) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(options));
        let thread = host.spawn({
            let shared = Arc::clone(&shared);
            move || drive(&shared)
        })?;
        Ok(Self { shared, thread })
    }

    /// What became of the requests so far.
    pub fn snapshot(&self) -> Report {
        self.shared.report()
    }

    /// Starts no more requests, waits for those under way, and reports on all.
    pub fn stop(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits until `count` more requests have succeeded.
    ///
    /// # Panics
    ///
    /// When they do not within [`patience::LIMIT`].
    pub fn more(&self, count: u64) {
        let enough = self.snapshot().succeeded() + count;
        let what = format!("{count} more requests succeed");
        patience::until_or(&what, || self.snapshot().succeeded() >= enough, || format!("{:?}", self.snapshot()));
    }

    /// Waits for the end that the options set, and reports. Each request has its time-out.
    ///
    /// # Panics
    ///
    /// When the options set no end.
    pub fn wait(self) -> Report {
        let Options { count, duration, .. } = self.shared.options;
        let is_stopped = self.shared.stop.load(Ordering::Relaxed);
        assert!(is_stopped || count.is_some() || duration.is_some(), "this load has no end");
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
        self.shared.report()
    }
}

/// Sends requests from this thread, to the end that `options` set; `progress` sees a report every `interval`.
pub fn run(options: Options, interval: Duration, mut progress: impl FnMut(&Report) + Send) -> Report {
    let shared = Arc::new(Shared::new(options));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                std::thread::park_timeout(interval);
                progress(&shared.report());
            }
        });
        drive(&shared);
        ended.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
    });
    shared.report()
}

struct Shared {
    options: Options,
    started: Instant,
    begun: AtomicU64,
    /// Of ports taken.
    ports: AtomicU64,
    stop: AtomicBool,
    report: Mutex<Report>,
}

impl Shared {
    fn new(options: Options) -> Self {
        Self {
            options,
            started: Instant::now(),
            begun: AtomicU64::new(0),
            ports: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            report: Mutex::default(),
        }
    }

    fn report(&self) -> Report {
        let mut report = self.update(|report| report.clone());
        if report.seconds == 0.0 {
            report.seconds = self.started.elapsed().as_secs_f64();
        }
        report
    }

    fn update<R>(&self, change: impl FnOnce(&mut Report) -> R) -> R {
        change(&mut self.report.lock().expect("nothing panics while it holds the report"))
    }

    /// Waits for the turn of the next request; `None` when there is none.
    async fn next(&self) -> Option<()> {
        let options = &self.options;
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        if options.count.is_some_and(|count| number >= count) {
            return None;
        }
        if let Some(rate) = options.rate {
            sleep_until((self.started + Duration::from_secs_f64(number as f64 / rate)).into()).await;
        }
        let late = options.duration.is_some_and(|duration| self.started.elapsed() >= duration);
        (!late && !self.stop.load(Ordering::Relaxed)).then_some(())
    }
}

/// Sends the requests, on this thread.
fn drive(shared: &Arc<Shared>) {
    let tasks = LocalSet::new();
    netns::runtime().block_on(tasks.run_until(async {
        let mut workers = JoinSet::new();
        for _ in 0..shared.options.concurrency {
            workers.spawn_local(work(Arc::clone(shared)));
        }
        workers.join_all().await;
    }));
    let seconds = shared.started.elapsed().as_secs_f64();
    shared.update(|report| report.seconds = seconds);
}

/// One worker: a request at a time.
async fn work(shared: Arc<Shared>) {
    let mut idle = None;
    while shared.next().await.is_some() {
        let begun = Instant::now();
        let mut retries = shared.options.retries;
        loop {
            shared.update(|report| report.attempts += 1);
            match attempt(&shared, &mut idle).await {
                Ok(backend) => {
                    let seconds = begun.elapsed().as_secs_f64();
                    shared.update(|report| {
                        report.requests += 1;
                        *report.backends.entry(backend).or_default() += 1;
                        report.slowest = report.slowest.max(seconds);
                    });
                    break;
                }
                Err(failure) if failure.received == 0 && retries > 0 => {
                    retries -= 1;
                    shared.update(|report| report.retried.push(failure));
                }
                Err(failure) => {
                    shared.update(|report| {
                        report.requests += 1;
                        report.failed.push(failure);
                    });
                    break;
                }
            }
        }
    }
}

/// A connection between two requests.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    local_port: Option<u16>,
    received: Arc<AtomicU64>,
}

/// One attempt at one request, on the idle connection if there is one; the body of the answer names the backend.
async fn attempt(shared: &Shared, idle: &mut Option<Connection>) -> Result<String, Failure> {
    let options = &shared.options;
    let mut connection = match idle.take() {
        Some(connection) => connection,
        None => connect(shared).await?,
    };
    let received_before = connection.received.load(Ordering::Relaxed);
    let fail = |cause, detail: String, connection: &Connection| Failure {
        local_port: connection.local_port,
        received: connection.received.load(Ordering::Relaxed) - received_before,
        ..Failure::new(cause, detail)
    };
    let answer = timeout(options.timeout, exchange(options, &mut connection.sender)).await;
    let Answer { status, body, is_last } = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(fail(cause_of(&error), chain(&error), &connection)),
        Err(_) => return Err(fail(Cause::TimedOut, "no response in time".to_owned(), &connection)),
    };
    if status != hyper::StatusCode::OK {
        return Err(fail(Cause::BadStatus, format!("{status}: {body}"), &connection));
    }
    if options.keep_alive && !is_last {
        *idle = Some(connection);
    }
    Ok(body)
}

async fn connect(shared: &Shared) -> Result<Connection, Failure> {
    let options = &shared.options;
    shared.update(|report| report.connections += 1);
    let stream = match timeout(options.timeout, dial(shared)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Failure::new(cause_of_io(&error), error.to_string())),
        Err(_) => return Err(Failure::new(Cause::TimedOut, "no connection in time".to_owned())),
    };
    let local_port = stream.local_addr().ok().map(|address| address.port());
    let received = Arc::new(AtomicU64::new(0));
    let counted = Counted { stream, received: Arc::clone(&received) };
    let (sender, connection) = handshake(TokioIo::new(counted))
        .await
        .map_err(|error| Failure { local_port, ..Failure::new(cause_of(&error), chain(&error)) })?;
    // What goes wrong on the connection is reported by the request on it.
    tokio::spawn(connection);
    Ok(Connection { sender, local_port, received })
}

async fn dial(shared: &Shared) -> io::Result<TcpStream> {
    let options = &shared.options;
    let (socket, any): (_, IpAddr) = match options.target {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, Ipv6Addr::UNSPECIFIED.into()),
    };
    let port = options.ports.map(|(first, last)| {
        let taken = shared.ports.fetch_add(1, Ordering::Relaxed);
        first + (taken % u64::from(last - first + 1)) as u16
    });
    if port.is_some() || options.source.is_some() {
        // A connection with another target may have the port.
        socket.set_reuseaddr(port.is_some())?;
        socket.bind(SocketAddr::new(options.source.unwrap_or(any), port.unwrap_or(0)))?;
    }
    let stream = socket.connect(options.target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What a server answers.
struct Answer {
    status: hyper::StatusCode,
    body: String,
    /// Whether the server takes no more requests on this connection.
    is_last: bool,
}

async fn exchange(options: &Options, sender: &mut SendRequest<Empty<Bytes>>) -> Result<Answer, hyper::Error> {
    let connection = if options.keep_alive { "keep-alive" } else { "close" };
    let request = Request::get(&options.path)
        .header(header::HOST, options.target.to_string())
        .header(header::CONNECTION, connection)
        .body(Empty::new())
        .expect("a path from the command line or a test makes a request");
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let is_last = response.headers().get(header::CONNECTION).is_some_and(|value| value == "close");
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned(), is_last })
}

impl Failure {
    fn new(cause: Cause, detail: String) -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self { at, local_port: None, cause, detail, received: 0 }
    }
}

fn by_cause(failures: &[Failure]) -> BTreeMap<Cause, usize> {
    let mut counts = BTreeMap::new();
    for failure in failures {
        *counts.entry(failure.cause).or_default() += 1;
    }
    counts
}

fn cause_of(error: &hyper::Error) -> Cause {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<io::Error>() {
            return cause_of_io(error);
        }
        source = inner.source();
    }
    if error.is_parse() { Cause::Garbled } else { Cause::ClosedEarly }
}

fn cause_of_io(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Cause::Reset,
        io::ErrorKind::TimedOut => Cause::TimedOut,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotConnected => Cause::ClosedEarly,
        _ => Cause::Unreachable,
    }
}

/// The error with what caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// A TCP stream that counts what it receives: hyper does not say whether a response had begun when it failed.
struct Counted {
    stream: TcpStream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.received.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
