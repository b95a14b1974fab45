//! A backend's servers: HTTP and UDP echo, with a log of every request, and long-lived connections, without.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{self, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{connections, lab::Host, limits::allow_many_files, naru::lab_binary, pattern};

/// What a server serves, and as whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name that it answers with.
    pub name: String,
    /// Where it serves HTTP/1.1.
    pub http: Vec<SocketAddr>,
    /// Where it echoes UDP.
    pub udp: Vec<SocketAddr>,
    /// Where it serves [`connections`].
    pub talk: Vec<SocketAddr>,
    /// The request log: one [`Entry`] a line, as JSON.
    pub log: Option<PathBuf>,
    /// From SIGTERM until it takes no more connections.
    pub grace: Duration,
}

/// One line of the request log, written before the answer is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// `http` or `udp`.
    pub protocol: Protocol,
    /// Path of an HTTP request; empty for UDP.
    pub path: String,
    /// The address that the client dialled.
    pub local: SocketAddr,
    /// The client.
    pub peer: SocketAddr,
    /// Counts this server's connections from 1; 0 for UDP.
    pub connection: u64,
}

/// What a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP over TCP.
    Http,
    /// UDP echo.
    Udp,
}

/// Serves until the process ends. `ready` runs once every socket listens.
///
/// - `GET /` answers with the server's name;
/// - `GET /healthz` as well, and with status 503 from SIGTERM on;
/// - `GET /bytes/N` answers with N bytes of [`pattern`];
/// - `GET /slow?ms=N` waits for N milliseconds, then answers with the name;
/// - `POST /upload` checks that the body is [`pattern`] and answers with its length in bytes;
/// - a UDP datagram is answered with the name, a space, and its payload.
///
/// At SIGTERM it goes on for as long as `grace` says, but for `/healthz`, and closes connections after the next answer.
/// Then it takes no more connections, finishes what HTTP has under way, and returns.
///
/// # Errors
///
/// When an address cannot be bound or the log cannot be written.
pub async fn serve(options: Options, ready: impl FnOnce()) -> anyhow::Result<()> {
    let log = options.log.as_deref().map(Log::append).transpose()?;
    allow_many_files()?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut tasks = JoinSet::<anyhow::Result<()>>::new();
    for address in options.talk {
        let (listener, name) = (listen(address)?, options.name.as_str().into());
        tasks.spawn(async { match connections::serve(listener, name).await {} });
    }
    let stage = watch::Sender::new(Stage::Serving);
    let shared = Shared { name: options.name, log, connections: AtomicU64::new(0), stage };
    let shared = Arc::new(shared);
    for address in options.http {
        tasks.spawn(serve_http(listen(address)?, address, Arc::clone(&shared)));
    }
    for address in options.udp {
        let socket = UdpSocket::bind(address).await.with_context(|| format!("cannot bind udp {address}"))?;
        tasks.spawn(serve_udp(socket, address, Arc::clone(&shared)));
    }
    ready();
    tokio::select! {
        ended = tasks.join_next() => {
            return ended.context("nothing to serve: give an address and port")?.context("a server panicked")?;
        }
        _ = terminated.recv() => {}
    }
    shared.stage.send_replace(Stage::Leaving);
    tokio::time::sleep(options.grace).await;
    shared.stage.send_replace(Stage::Ending);
    // Whoever takes connections or has one watches it.
    shared.stage.closed().await;
    Ok(())
}

/// A server in a process of its own on a host of the lab; killed when this is dropped.
pub struct Server {
    name: String,
    log: PathBuf,
    process: Child,
}

impl Server {
    /// Starts a server that answers as `host`, with its log in `dir`; returns once it serves.
    ///
    /// # Errors
    ///
    /// When it cannot be started or cannot bind its addresses.
    pub fn start(host: &Host, dir: &Path, http: &[SocketAddr], udp: &[SocketAddr]) -> anyhow::Result<Self> {
        Self::serve(host, dir, &[("--http", http), ("--udp", udp)])
    }

    /// The same for [`connections`], of which there is no log.
    ///
    /// # Errors
    ///
    /// As with [`Server::start`].
    pub fn start_talking(host: &Host, dir: &Path, talk: &[SocketAddr]) -> anyhow::Result<Self> {
        Self::serve(host, dir, &[("--talk", talk)])
    }

    /// The same for [`answers`](crate::answers) at every port of these addresses, of which there is no log either; the
    /// certificates are in `dir`.
    ///
    /// # Errors
    ///
    /// As with [`Server::start`].
    pub fn start_answering(host: &Host, dir: &Path, addresses: &[IpAddr]) -> anyhow::Result<Self> {
        let mut command = host.command(lab_binary()?);
        command.args(["answer", "--name", host.name(), "--certificates"]).arg(dir);
        for address in addresses {
            command.arg("--address").arg(address.to_string());
        }
        Self::launch(host, dir, command)
    }

    fn serve(host: &Host, dir: &Path, services: &[(&str, &[SocketAddr])]) -> anyhow::Result<Self> {
        let mut command = host.command(lab_binary()?);
        command.args(["serve", "--name", host.name(), "--grace", &GRACE.as_secs().to_string(), "--log"]);
        command.arg(log_of(host, dir));
        for (option, addresses) in services {
            for address in *addresses {
                command.arg(option).arg(address.to_string());
            }
        }
        Self::launch(host, dir, command)
    }

    fn launch(host: &Host, dir: &Path, mut command: Command) -> anyhow::Result<Self> {
        // A process group of its own: a kept server survives the terminal.
        let mut process = command.stdout(Stdio::piped()).process_group(0).spawn().context("cannot start a server")?;
        let stdout = process.stdout.take().expect("stdout is piped");
        let server = Self { name: host.name().to_owned(), log: log_of(host, dir), process };
        let line = patience::within("a server serves", move || {
            let mut line = String::new();
            io::BufReader::new(stdout).read_line(&mut line).map(|_| line)
        })??;
        ensure!(line == READY, "the server on {} ended instead of serving: see its message above", host.name());
        Ok(server)
    }

    /// The name that it answers with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every request so far.
    ///
    /// # Errors
    ///
    /// When the log cannot be read.
    pub fn requests(&self) -> anyhow::Result<Vec<Entry>> {
        let text = fs::read_to_string(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        text.lines().map(|line| serde_json::from_str(line).context("a broken line in a request log")).collect()
    }

    /// Ends it as a crash does: its connections are reset.
    ///
    /// # Errors
    ///
    /// When it cannot be killed.
    pub fn kill(&mut self) -> io::Result<()> {
        self.process.kill()?;
        self.process.wait().map(drop)
    }

    /// Asks it to end in good order (SIGTERM), which [`serve`] describes.
    ///
    /// # Errors
    ///
    /// When there is no such process.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// Waits until it has ended in good order.
    ///
    /// # Errors
    ///
    /// When it does not, or ends with another code than 0.
    pub fn wait_for_end(&mut self) -> anyhow::Result<()> {
        let status = patience::end("a server", &mut self.process)?;
        ensure!(status.success(), "the server {} ended with {status}", self.name);
        Ok(())
    }

    /// Has [`answers`](crate::answers) be wrong from now on, or good again.
    ///
    /// # Errors
    ///
    /// When there is no such process.
    pub fn answer_wrongly(&self, is_wrong: bool) -> io::Result<()> {
        self.signal(if is_wrong { Signal::SIGUSR1 } else { Signal::SIGUSR2 })
    }

    /// Has the process hang: the kernel takes connections for it, and nobody answers.
    ///
    /// # Errors
    ///
    /// When there is no such process.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a process go on that hangs.
    ///
    /// # Errors
    ///
    /// As [`Self::pause`].
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Leaves it running without this handle.
    pub fn keep(self) {
        std::mem::forget(self);
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.process.id().cast_signed()), signal)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed already, by a test or with its lab.
        let _ = self.kill();
    }
}

/// Requests of several servers by server, for comparison with what clients saw.
///
/// # Errors
///
/// When a log cannot be read.
pub fn tally<'a>(servers: impl IntoIterator<Item = &'a Server>) -> anyhow::Result<BTreeMap<String, u64>> {
    servers.into_iter().map(|server| Ok((server.name().to_owned(), server.requests()?.len() as u64))).collect()
}

/// What a server process prints once it serves.
pub const READY: &str = "ready\n";

/// From SIGTERM until a [`Server`] takes no more connections: enough for a prober to notice on a busy machine.
pub const GRACE: Duration = Duration::from_secs(4);

fn log_of(host: &Host, dir: &Path) -> PathBuf {
    dir.join(format!("{}.requests", host.name()))
}

struct Shared {
    name: String,
    log: Option<Log>,
    connections: AtomicU64,
    stage: watch::Sender<Stage>,
}

/// How far a server is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has none in sight.
    Serving,
    /// Its health page says that it is about to end; all else is as before.
    Leaving,
    /// It takes nothing new.
    Ending,
}

impl Shared {
    fn log(&self, entry: &Entry) {
        if let Some(log) = &self.log {
            log.write(entry);
        }
    }
}

/// The request log. Each line is one write, so that readers never see half of one.
struct Log(File);

impl Log {
    fn append(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.map(Self).with_context(|| format!("cannot write the request log {}", path.display()))
    }

    fn write(&self, entry: &Entry) {
        let mut line = serde_json::to_string(entry).expect("a log entry is plain data");
        line.push('\n');
        if let Err(error) = (&self.0).write_all(line.as_bytes()) {
            eprintln!("the request log is incomplete: {error}");
        }
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A server that was killed is started again while its old connections are in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(4096)
    };
    listen().with_context(|| format!("cannot listen on tcp {address}"))
}

async fn serve_http(listener: TcpListener, local: SocketAddr, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut stage = shared.stage.subscribe();
    loop {
        let accepted = tokio::select! {
            // Whoever is connected already is served.
            biased;
            accepted = listener.accept() => accepted,
            _ = stage.wait_for(|stage| *stage == Stage::Ending) => return Ok(()),
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            // The client gave up while it was in the backlog, or descriptors ran out for a moment.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        tokio::spawn(serve_connection(stream, local, peer, Arc::clone(&shared)));
    }
}

async fn serve_connection(stream: TcpStream, local: SocketAddr, peer: SocketAddr, shared: Arc<Shared>) {
    let connection = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
    // Waiting for more data to send would only add Nagle's delay to every answer.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(|request: Request<Incoming>| {
        let path = request.uri().path().to_owned();
        shared.log(&Entry { protocol: Protocol::Http, path, local, peer, connection });
        answer(request, &shared)
    });
    let mut stage = shared.stage.subscribe();
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    tokio::select! {
        // A client that goes away is its own business; it reports what it saw.
        _ = connection.as_mut() => return,
        _ = stage.wait_for(|stage| *stage == Stage::Ending) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(
    request: Request<Incoming>,
    shared: &Shared,
) -> Result<Response<Either<Full<Bytes>, Pattern>>, hyper::Error> {
    let mut response = serve_request(request, shared).await?;
    // Clients that stay connected come off it while it serves: a request on a connection that is closed is lost.
    if *shared.stage.borrow() != Stage::Serving {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn serve_request(
    request: Request<Incoming>,
    shared: &Shared,
) -> Result<Response<Either<Full<Bytes>, Pattern>>, hyper::Error> {
    let name = shared.name.as_str();
    let (path, query) = (request.uri().path(), request.uri().query());
    if let Some(len) = path.strip_prefix("/bytes/").and_then(|len| len.parse().ok()) {
        return Ok(Response::new(Either::Right(Pattern { offset: 0, len })));
    }
    let (status, text) = match path {
        "/" => (StatusCode::OK, name.to_owned()),
        "/healthz" if *shared.stage.borrow() != Stage::Serving => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{name} is about to end"))
        }
        "/healthz" => (StatusCode::OK, name.to_owned()),
        "/slow" => {
            let millis = query.and_then(|query| query.strip_prefix("ms=")?.parse().ok()).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(millis)).await;
            (StatusCode::OK, name.to_owned())
        }
        "/upload" if request.method() == Method::POST => received(request.into_body()).await?,
        _ => (StatusCode::NOT_FOUND, format!("{name} serves no {path}")),
    };
    let mut response = Response::new(Either::Left(Full::from(text)));
    *response.status_mut() = status;
    Ok(response)
}

/// Reads an upload to its end.
async fn received(mut body: Incoming) -> Result<(StatusCode, String), hyper::Error> {
    let mut offset = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if let Some(at) = pattern::first_difference(offset, &data) {
            return Ok((StatusCode::BAD_REQUEST, format!("byte {at} is not what was sent")));
        }
        offset += data.len() as u64;
    }
    Ok((StatusCode::OK, offset.to_string()))
}

async fn serve_udp(socket: UdpSocket, local: SocketAddr, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        // An error here is one that an ICMP message reported about an earlier answer.
        let Ok((len, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        shared.log(&Entry { protocol: Protocol::Udp, path: String::new(), local, peer, connection: 0 });
        let answer = [shared.name.as_bytes(), b" ", &buffer[..len]].concat();
        let _ = socket.send_to(&answer, peer).await;
    }
}

/// A body of [`pattern`] bytes.
pub(crate) struct Pattern {
    /// Bytes sent.
    pub(crate) offset: u64,
    /// Bytes in total.
    pub(crate) len: u64,
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.offset == self.len {
            return Poll::Ready(None);
        }
        let chunk = pattern::chunk(self.offset, self.len - self.offset);
        self.offset += chunk.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(chunk)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len - self.offset)
    }
}
