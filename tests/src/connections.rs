//! Long-lived TCP connections that notice when they break: a server that greets and echoes, and a population of clients
//! that talk to it, most for as long as they are let, some coming and going.
//!
//! Lines of text go over a connection. The server begins with its name; from then on the client sends numbers, and the
//! server answers each with its name and the number. A connection that ends otherwise than by its client's wish, or on
//! which something else is heard, is broken: [`Failure`] tells when, how, and which server it was with.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{lab::Host, netns};

/// The first attempts to open are spread over this time, so that no queue on the way overflows.
const RAMP: Duration = Duration::from_secs(2);

/// Between a broken connection and the one that takes its place.
const BREATH: Duration = Duration::from_millis(100);

/// A server hangs up on clients that it has not heard of for this long, as servers do: its half of a connection that
/// broke would otherwise stay.
const SERVER_PATIENCE: Duration = Duration::from_secs(15);

/// A line is a name and a number.
const LINE: usize = 128;

/// How some of the connections behave.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    /// Their share of the population, in proportion to the other habits' parts.
    pub parts: usize,
    /// From an answer to the next message, on average; each pause is up to a quarter shorter or longer. At most 10
    /// seconds: servers hang up on who is silent for 15.
    pub pause: Duration,
    /// Mean of an exponential distribution, after which the client closes and opens another; `None`: as long as the
    /// population lives.
    pub lifetime: Option<Duration>,
}

/// What a population does.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address and port of the server.
    pub target: SocketAddr,
    /// Connections to hold open.
    pub connections: usize,
    /// How they behave.
    pub habits: Vec<Habit>,
    /// For opening, for an answer, and for closing.
    pub timeout: Duration,
}

/// How a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It was reset.
    Reset,
    /// The server's side closed it.
    Closed,
    /// What came is not the answer.
    WrongAnswer,
    /// Nothing came in time.
    TimedOut,
    /// Nobody listens on the port.
    Refused,
    /// No route to the host, or no local port.
    Unreachable,
}

/// A connection that broke, or was never opened.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When the client noticed.
    pub at: Instant,
    /// How.
    pub cause: Cause,
    /// The server that it was with; `None` where the greeting never came.
    pub backend: Option<String>,
    /// When the client began to open or close, or sent the message that was not answered; `None` where it was silent.
    pub sent: Option<Instant>,
}

/// What became of a population so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Connections that were opened and greeted.
    pub opened: u64,
    /// Connections that the client closed in order.
    pub closed: u64,
    /// Those open now, by server.
    pub open: BTreeMap<String, u64>,
    /// Those that broke, in the order in which it was noticed.
    pub failures: Vec<Failure>,
}

impl Tally {
    /// Connections open now.
    pub fn open_now(&self) -> u64 {
        self.open.values().sum()
    }
}

/// Connections of one target, held open by threads on one or more hosts. One that ends is followed by another.
///
/// Each takes the next port of its host. Ports that were in use a moment ago would let a new connection meet what a
/// broken one left behind: a server that still has its half of that ignores the packets of the new one, which it would
/// reset.
pub struct Population {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Population {
    /// Starts to open connections from all of `hosts`, in equal parts.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(hosts: &[Host], options: Options) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(options));
        let start = |(first, host): (usize, &Host)| {
            let (shared, step) = (Arc::clone(&shared), hosts.len());
            let ports = Arc::new(Ports::default());
            host.spawn(move || drive(&shared, &ports, first, step))
        };
        let threads = hosts.iter().enumerate().map(start).collect::<io::Result<_>>()?;
        Ok(Self { shared, threads })
    }

    /// What became of the connections so far.
    pub fn tally(&self) -> Tally {
        self.shared.update(|tally| tally.clone())
    }

    /// How many connections may have broken by something that happened before `moment` without having noticed: those
    /// that have not had an answer to something they sent after it, and were not opened after it.
    pub fn unheard_since(&self, moment: Instant) -> usize {
        let moment = self.shared.micros(moment);
        self.shared.members.iter().filter(|member| member.heard.load(Ordering::Relaxed) < moment).count()
    }

    /// Waits until each connection has had an answer to something sent after `moment`, has broken or has been replaced.
    ///
    /// # Errors
    ///
    /// When some were not heard of within `patience`: the machine is too slow for so many.
    pub fn wait_until_heard(&self, moment: Instant, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let unheard = self.unheard_since(moment);
            if unheard == 0 {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{unheard} connections were not heard of within {} s: this machine is too slow for so many",
                patience.as_secs()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The time of the last exchange on each connection, from sending to the answer.
    pub fn round_trips(&self) -> Vec<Duration> {
        let of = |member: &Member| Duration::from_micros(member.round_trip.load(Ordering::Relaxed));
        self.shared.members.iter().map(of).filter(|time| !time.is_zero()).collect()
    }

    /// Begins to close all connections in order, each once its pause is over.
    pub fn close(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Closes all connections in order, and tells what became of them.
    pub fn end(self) -> Tally {
        self.close();
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        self.shared.update(|tally| tally.clone())
    }
}

/// Serves connections as `name`, until the process ends.
pub async fn serve(listener: TcpListener, name: Arc<str>) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let name = Arc::clone(&name);
                // A client that goes away is its own business; it reports what it saw.
                tokio::spawn(async move { answer(stream, &name).await });
            }
            // The client gave up while it was in the backlog, or descriptors ran out for a moment.
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

/// The server's side of a connection.
async fn answer(stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(LINE, stream);
    stream.write_all(format!("{name}\n").as_bytes()).await?;
    let mut line = String::new();
    while timeout(SERVER_PATIENCE, stream.read_line(&mut line)).await?? > 0 {
        stream.write_all(format!("{name} {line}").as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

/// What the threads of a population have in common.
struct Shared {
    options: Options,
    started: Instant,
    stop: AtomicBool,
    members: Vec<Member>,
    tally: Mutex<Tally>,
}

/// A place in the population, with one connection after another.
#[derive(Default)]
struct Member {
    /// When the last message that was answered had been sent, or the connection began to be opened; in microseconds
    /// since the start of the population.
    heard: AtomicU64,
    /// Microseconds from the last message to its answer.
    round_trip: AtomicU64,
}

impl Shared {
    fn new(options: Options) -> Self {
        let members = (0..options.connections).map(|_| Member::default()).collect();
        let (stop, tally) = (AtomicBool::new(false), Mutex::default());
        Self { options, started: Instant::now(), stop, members, tally }
    }

    fn update<R>(&self, change: impl FnOnce(&mut Tally) -> R) -> R {
        change(&mut self.tally.lock().expect("nothing panics while it holds the tally"))
    }

    fn micros(&self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.started).as_micros() as u64
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Habits alternate, so that those of one kind are spread over all hosts.
    fn habit(&self, number: usize) -> Habit {
        let habits = &self.options.habits;
        let mut place = number * 37 % habits.iter().map(|habit| habit.parts).sum::<usize>();
        let found = habits.iter().find(|habit| {
            let here = place < habit.parts;
            place = place.saturating_sub(habit.parts);
            here
        });
        *found.expect("the place is below the sum of all parts")
    }
}

/// Ports of one host, one after the other.
#[derive(Default)]
struct Ports(AtomicU16);

impl Ports {
    const FIRST: u16 = 1024;

    fn next(&self) -> u16 {
        Self::FIRST + self.0.fetch_add(1, Ordering::Relaxed) % (u16::MAX - Self::FIRST)
    }
}

/// Holds every `step`th connection open from this thread, beginning with `first`.
fn drive(shared: &Arc<Shared>, ports: &Arc<Ports>, first: usize, step: usize) {
    netns::runtime().block_on(async {
        let mut members = JoinSet::new();
        for number in (first..shared.options.connections).step_by(step) {
            members.spawn(live(Arc::clone(shared), Arc::clone(ports), number));
        }
        members.join_all().await;
    });
}

/// One connection after another in one place of the population.
async fn live(shared: Arc<Shared>, ports: Arc<Ports>, number: usize) {
    let habit = shared.habit(number);
    sleep(RAMP.mul_f64(rand::random())).await;
    while !shared.stopped() {
        let member = &shared.members[number];
        let began = Instant::now();
        member.heard.store(shared.micros(began), Ordering::Relaxed);
        let limit = shared.options.timeout;
        let mut talk = match within(limit, Talk::open(shared.options.target, ports.next())).await {
            Ok(talk) => talk,
            Err(cause) => {
                let failure = Failure { at: Instant::now(), cause, backend: None, sent: Some(began) };
                shared.update(|tally| tally.failures.push(failure));
                sleep(BREATH).await;
                continue;
            }
        };
        shared.update(|tally| {
            tally.opened += 1;
            *tally.open.entry(talk.backend.clone()).or_default() += 1;
        });
        let ended = converse(&shared, member, habit, &mut talk).await;
        shared.update(|tally| {
            *tally.open.entry(talk.backend.clone()).or_default() -= 1;
            match ended {
                Ok(()) => tally.closed += 1,
                Err(cause) => {
                    let Talk { backend, sent, .. } = talk;
                    let failure = Failure { at: Instant::now(), cause, backend: Some(backend), sent };
                    tally.failures.push(failure);
                }
            }
        });
        if ended.is_err() {
            sleep(BREATH).await;
        }
    }
}

/// Talks for a connection's lifetime, then closes it.
async fn converse(shared: &Shared, member: &Member, habit: Habit, talk: &mut Talk) -> Result<(), Cause> {
    let limit = shared.options.timeout;
    // The inverse of the exponential distribution; 1 - [0, 1) is never zero.
    let end = habit.lifetime.map(|mean| Instant::now() + mean.mul_f64(-(1.0 - rand::random::<f64>()).ln()));
    loop {
        talk.silence(habit.pause.mul_f64(rand::random_range(0.75..1.25))).await?;
        if shared.stopped() || end.is_some_and(|end| Instant::now() >= end) {
            return within(limit, talk.close()).await;
        }
        let sent = within(limit, talk.exchange()).await?;
        member.round_trip.store(sent.elapsed().as_micros() as u64, Ordering::Relaxed);
        member.heard.store(shared.micros(sent), Ordering::Relaxed);
    }
}

/// The client's side of a connection.
struct Talk {
    stream: BufReader<TcpStream>,
    backend: String,
    count: u64,
    /// Since when it waits for the server.
    sent: Option<Instant>,
}

impl Talk {
    /// Connects from `port` (0: any) and waits for the greeting.
    async fn open(target: SocketAddr, port: u16) -> Result<Self, Cause> {
        let sent = Some(Instant::now());
        let (socket, any): (_, IpAddr) = match target {
            SocketAddr::V4(_) => (TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (TcpSocket::new_v6()?, Ipv6Addr::UNSPECIFIED.into()),
        };
        // A connection with another target may have the port.
        socket.set_reuseaddr(true)?;
        socket.bind((any, port).into())?;
        let stream = socket.connect(target).await?;
        stream.set_nodelay(true)?;
        let mut talk = Self { stream: BufReader::with_capacity(LINE, stream), backend: String::new(), count: 0, sent };
        talk.backend = talk.line().await?;
        Ok(talk)
    }

    /// Says nothing for `pause`, and hears nothing.
    async fn silence(&mut self, pause: Duration) -> Result<(), Cause> {
        self.sent = None;
        match timeout(pause, self.stream.fill_buf()).await {
            Err(_) => Ok(()),
            Ok(Ok([])) => Err(Cause::Closed),
            Ok(Ok(_)) => Err(Cause::WrongAnswer),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// Sends the next number and waits for the answer; returns when it was sent.
    async fn exchange(&mut self) -> Result<Instant, Cause> {
        self.count += 1;
        let sent = Instant::now();
        self.sent = Some(sent);
        self.stream.write_all(format!("{}\n", self.count).as_bytes()).await?;
        let answer = self.line().await?;
        if answer == format!("{} {}", self.backend, self.count) { Ok(sent) } else { Err(Cause::WrongAnswer) }
    }

    /// Closes this side and waits until the server closes its own.
    async fn close(&mut self) -> Result<(), Cause> {
        self.sent = Some(Instant::now());
        self.stream.shutdown().await?;
        match self.stream.read(&mut [0]).await? {
            0 => Ok(()),
            _ => Err(Cause::WrongAnswer),
        }
    }

    async fn line(&mut self) -> Result<String, Cause> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => Err(Cause::Closed),
        }
    }
}

async fn within<R>(limit: Duration, work: impl Future<Output = Result<R, Cause>>) -> Result<R, Cause> {
    timeout(limit, work).await.unwrap_or(Err(Cause::TimedOut))
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::NotConnected => Self::Closed,
            io::ErrorKind::InvalidData => Self::WrongAnswer,
            _ => Self::Unreachable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// How a connection ends with a server that greets, reads a message, and then does what `end` does.
    async fn end_with<F: Future<Output = ()> + Send>(end: impl FnOnce(TcpStream) -> F + Send + 'static) -> Cause {
        let (listener, address) = listener().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"b1\n").await.unwrap();
            stream.read_u8().await.unwrap();
            end(stream).await;
        });
        let mut talk = Talk::open(address, 0).await.unwrap();
        within(LIMIT, talk.exchange()).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_sound_connection_is_greeted_answered_and_closed() {
        let (listener, address) = listener().await;
        tokio::spawn(serve(listener, "b1".into()));
        let mut talk = Talk::open(address, 0).await.unwrap();
        assert_eq!(talk.backend, "b1");
        for _ in 0..3 {
            talk.exchange().await.unwrap();
            talk.silence(Duration::from_millis(1)).await.unwrap();
        }
        talk.close().await.unwrap();
    }

    #[tokio::test]
    async fn every_way_to_break_has_its_name() {
        let say = |text: &'static str| {
            move |mut stream: TcpStream| async move {
                stream.write_all(text.as_bytes()).await.unwrap();
                sleep(LIMIT * 2).await;
            }
        };
        assert_eq!(end_with(say("b2 1\n")).await, Cause::WrongAnswer, "another server's answer");
        assert_eq!(end_with(say("b1 2\n")).await, Cause::WrongAnswer, "the answer to another message");
        assert_eq!(end_with(say("")).await, Cause::TimedOut);
        // The second byte of the message is never read: the kernel resets what is closed with data left in it.
        assert_eq!(end_with(|stream| async { drop(stream) }).await, Cause::Reset);
        let read_and_close = |mut stream: TcpStream| async move {
            stream.read_u8().await.unwrap();
        };
        assert_eq!(end_with(read_and_close).await, Cause::Closed);
        let (listener, address) = listener().await;
        drop(listener);
        assert_eq!(Talk::open(address, 0).await.err(), Some(Cause::Refused));
    }

    #[tokio::test]
    async fn a_close_is_noticed_while_nothing_is_said() {
        let (listener, address) = listener().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"b1\n").await.unwrap();
        });
        let mut talk = Talk::open(address, 0).await.unwrap();
        assert_eq!(talk.silence(Duration::from_secs(60)).await, Err(Cause::Closed));
    }

    #[test]
    fn habits_are_shared_out_by_their_parts() {
        let habit = |parts, seconds| Habit { parts, pause: Duration::from_secs(seconds), lifetime: None };
        let target = (Ipv4Addr::LOCALHOST, 9).into();
        let habits = vec![habit(1, 1), habit(70, 2), habit(29, 3)];
        let shared = Shared::new(Options { target, connections: 1000, habits, timeout: LIMIT });
        let count = |seconds| (0..1000).filter(|number| shared.habit(*number).pause.as_secs() == seconds).count();
        assert_eq!([1, 2, 3].map(count), [10, 700, 290]);
    }
}
