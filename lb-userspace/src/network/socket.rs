//! A netlink socket: requests in batches with one answer each, dumps, and events.
//!
//! rtnetlink's own connection sends one message for each turn of its task and waits for ever when an answer is lost or
//! cannot be read; here tens of thousands of requests go out in batches, and an answer that does not come is an error.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, linux::fs::MetadataExt},
    thread,
    time::Duration,
};

use netlink_packet_core::{
    NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkSerializable, Parseable,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::socket::{setsockopt, sockopt},
};
use rtnetlink::{
    MulticastGroup,
    sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_ROUTE},
};
use tokio::{io::unix::AsyncFd, time::timeout};

use super::{
    message::Request,
    object::{Object, RTM_NEWNEXTHOP},
};

/// Most requests that [`Socket::exchange`] takes at once: their answers fit into any receive buffer.
pub(super) const BATCH: usize = 64;

/// What the kernel answered to one request.
#[derive(Debug)]
pub(super) enum Answer {
    /// What was asked for.
    Message(RouteNetlinkMessage),
    /// The next-hop object that was asked for, with its id.
    Object(u32, Object),
    /// Done as asked.
    Done,
    /// Refused.
    Refused(Errno),
    /// Something that this version of naru cannot read.
    Unreadable(String),
}

/// A network namespace, in which sockets are opened whatever thread asks.
#[derive(Debug)]
pub(super) struct Namespace(File);

impl Namespace {
    /// Path of the calling thread's namespace.
    pub const PATH: &str = "/proc/thread-self/ns/net";

    /// That of the calling thread.
    pub fn current() -> io::Result<Self> {
        File::open(Self::PATH).map(Self)
    }

    /// Does `work` in this namespace.
    fn enter<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let (here, there) = (Self::current()?.0.metadata()?, self.0.metadata()?);
        if (here.st_dev(), here.st_ino()) == (there.st_dev(), there.st_ino()) {
            return work();
        }
        let elsewhere = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            work()
        };
        // A thread of its own, because a thread of the runtime that changed its namespace would take its tasks along.
        thread::scope(|scope| scope.spawn(elsewhere).join()).unwrap_or_else(|_| Err(io::Error::other("thread died")))
    }
}

/// A socket to the kernel's routing subsystem.
pub(super) struct Socket {
    inner: AsyncFd<RawSocket>,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in `namespace` that receives the events of `groups`. Must be called within a tokio runtime.
    pub fn open(namespace: &Namespace, groups: &[MulticastGroup]) -> io::Result<Self> {
        Self::open_for(NETLINK_ROUTE, namespace, groups)
    }

    /// As [`Self::open`], to the subsystem `protocol`.
    pub(super) fn open_for(protocol: isize, namespace: &Namespace, groups: &[MulticastGroup]) -> io::Result<Self> {
        let raw = namespace.enter(|| {
            let mut raw = RawSocket::new(protocol)?;
            raw.bind_auto()?;
            raw.set_non_blocking(true)?;
            // Without the right to exceed the limit, the limit it is; then more events get lost, which is noticed.
            if setsockopt(&raw, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
                setsockopt(&raw, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
            }
            for group in groups {
                raw.add_membership(*group as u32)?;
            }
            Ok(raw)
        })?;
        // SAFETY: the raw socket owns its descriptor, names the same one at every call and closes it when dropped,
        // which the `AsyncFd` that it moves into does; nobody here reaches for the descriptor itself.
        let inner = unsafe { AsyncFd::register(raw) }?;
        Ok(Self { inner, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Waits for the next datagram and hands each message in it to `each`. Cancelling it loses nothing.
    ///
    /// # Errors
    ///
    /// `ENOBUFS` where messages were lost because they came faster than they were read; anything else means that the
    /// socket is of no further use.
    pub async fn receive(&mut self, mut each: impl FnMut(&NetlinkHeader, &[u8])) -> io::Result<()> {
        let Self { inner, buffer, .. } = self;
        let (length, sender) = loop {
            let mut ready = inner.readable().await?;
            buffer.clear();
            match ready.try_io(|socket| socket.get_ref().recv_from(buffer, libc::MSG_TRUNC)) {
                Ok(received) => break received?,
                Err(_would_block) => {}
            }
        };
        hand_out(buffer, length, &sender, &mut each)
    }

    /// As [`Self::receive`], where a datagram is there already; `None` where none is.
    pub fn receive_now(&mut self, mut each: impl FnMut(&NetlinkHeader, &[u8])) -> Option<io::Result<()>> {
        let Self { inner, buffer, .. } = self;
        buffer.clear();
        match inner.get_ref().recv_from(buffer, libc::MSG_TRUNC) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(error)),
            Ok((length, sender)) => Some(hand_out(buffer, length, &sender, &mut each)),
        }
    }

    /// Sends at most [`BATCH`] requests in one datagram; returns the answers in their order.
    ///
    /// # Errors
    ///
    /// That the kernel was not reached, or did not answer every request within five seconds. The socket is of no
    /// further use then.
    pub async fn exchange<I: NetlinkSerializable>(
        &mut self,
        requests: Vec<NetlinkMessage<I>>,
    ) -> io::Result<Vec<Answer>> {
        debug_assert!(requests.len() <= BATCH);
        let count = requests.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let first = self.send(requests).await?;
        let mut answers: Vec<Option<Answer>> = Vec::new();
        answers.resize_with(count, || None);
        let mut missing = count;
        let collect = async {
            while missing > 0 {
                self.receive(|header, payload| {
                    let index = header.sequence_number.wrapping_sub(first) as usize;
                    if let Some(answer @ None) = answers.get_mut(index) {
                        *answer = Some(read_answer(header, payload));
                        missing -= 1;
                    }
                })
                .await?;
            }
            io::Result::Ok(())
        };
        timeout(PATIENCE, collect).await.map_err(|_| unanswered())??;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Sends a request for a table, again where the table changes while it is read.
    ///
    /// # Errors
    ///
    /// As [`Self::exchange`], that a part of the answer was lost (`ENOBUFS`), and the kernel's refusal.
    pub async fn dump(&mut self, request: Request) -> io::Result<Reading> {
        self.dump_with(request, || {}).await
    }

    /// As [`Self::dump`]; after each part of an answer there is a `pause`.
    async fn dump_with(&mut self, request: Request, mut pause: impl FnMut()) -> io::Result<Reading> {
        let mut dump = Dump::default();
        for _ in 0..DUMP_TRIES {
            let sequence = self.send(vec![request.clone()]).await?;
            dump = Dump::default();
            while !dump.done {
                let step = self.receive(|header, payload| dump.take(header, payload, sequence));
                timeout(PATIENCE, step).await.map_err(|_| unanswered())??;
                pause();
            }
            if !dump.reading.interrupted {
                break;
            }
        }
        dump.result()
    }

    /// Sends requests in one datagram; returns the sequence number of the first, of which the others count up.
    async fn send<I: NetlinkSerializable>(&mut self, requests: Vec<NetlinkMessage<I>>) -> io::Result<u32> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            append(&mut datagram, request, self.sequence);
        }
        loop {
            let mut ready = self.inner.writable().await?;
            let kernel = SocketAddr::new(0, 0);
            match ready.try_io(|socket| socket.get_ref().send_to(&datagram, &kernel, 0)) {
                Ok(sent) => return sent.map(|_| first),
                Err(_would_block) => {}
            }
        }
    }
}

/// A dump without a runtime, for the time before there is a task: at most a few milliseconds.
///
/// # Errors
///
/// As [`Socket::dump`].
pub(super) fn dump_blocking(namespace: &Namespace, request: Request) -> io::Result<Reading> {
    let raw = namespace.enter(|| {
        let mut raw = RawSocket::new(NETLINK_ROUTE)?;
        raw.bind_auto()?;
        Ok(raw)
    })?;
    let patience = nix::sys::time::TimeVal::new(PATIENCE.as_secs() as libc::time_t, 0);
    setsockopt(&raw, sockopt::ReceiveTimeout, &patience)?;
    let (mut dump, mut buffer) = (Dump::default(), Vec::with_capacity(DATAGRAM));
    for sequence in 1..=DUMP_TRIES {
        let mut datagram = Vec::new();
        append(&mut datagram, request.clone(), sequence);
        raw.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
        dump = Dump::default();
        while !dump.done {
            buffer.clear();
            if raw.recv(&mut buffer, libc::MSG_TRUNC)? > buffer.len() {
                return Err(Errno::ENOBUFS.into());
            }
            for_each_message(&buffer, &mut |header, payload| dump.take(header, payload, sequence));
        }
        if !dump.reading.interrupted {
            break;
        }
    }
    dump.result()
}

/// Whether an error of [`Socket::receive`] says that events were lost, and the socket lives on.
pub(super) fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Room for the events of some ten thousand neighbours that come up at once.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The kernel sends datagrams of at most 32 KiB.
const DATAGRAM: usize = 64 << 10;
/// The kernel answers within the call that asks; an answer that takes this long is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a dump is begun anew when the table changed under it.
const DUMP_TRIES: u32 = 3;

fn unanswered() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer a netlink request")
}

/// A table as it was read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Its entries.
    pub entries: Vec<RouteNetlinkMessage>,
    /// It changed each time that it was read: entries may be missing that were there all the while.
    pub interrupted: bool,
    /// Entries that this version of naru cannot read.
    pub unreadable: usize,
}

impl Reading {
    /// Whether what is not among the entries is not in the table. What is among them is there in any case.
    pub fn is_complete(&self) -> bool {
        !self.interrupted && self.unreadable == 0
    }
}

/// What has come of a dump so far.
#[derive(Default)]
struct Dump {
    reading: Reading,
    done: bool,
    refused: Option<Errno>,
}

impl Dump {
    fn take(&mut self, header: &NetlinkHeader, payload: &[u8], sequence: u32) {
        if header.sequence_number != sequence || self.done {
            return;
        }
        self.reading.interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
        match header.message_type {
            NLMSG_NOOP => {}
            NLMSG_OVERRUN => self.reading.interrupted = true,
            NLMSG_DONE | NLMSG_ERROR => {
                self.done = true;
                self.refused = error_code(payload);
            }
            _ => match RouteNetlinkMessage::deserialize(header, payload) {
                Ok(entry) => self.reading.entries.push(entry),
                Err(error) => {
                    log::debug!("netlink entry of type {} cannot be read: {error}", header.message_type);
                    self.reading.unreadable += 1;
                }
            },
        }
    }

    fn result(self) -> io::Result<Reading> {
        match self.refused {
            Some(errno) => Err(errno.into()),
            None => Ok(self.reading),
        }
    }
}

/// Hands out the messages of a datagram that had `length` bytes.
fn hand_out(
    datagram: &[u8],
    length: usize,
    sender: &SocketAddr,
    each: &mut impl FnMut(&NetlinkHeader, &[u8]),
) -> io::Result<()> {
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if length > datagram.len() {
        return Err(Errno::ENOBUFS.into());
    }
    // Only the kernel is to be believed.
    if sender.port_number() == 0 {
        for_each_message(datagram, each);
    }
    Ok(())
}

fn append<I: NetlinkSerializable>(datagram: &mut Vec<u8>, mut request: NetlinkMessage<I>, sequence: u32) {
    request.header.sequence_number = sequence;
    request.finalize();
    let start = datagram.len();
    datagram.resize(start + request.buffer_len().next_multiple_of(ALIGNMENT), 0);
    request.serialize(&mut datagram[start..]);
}

/// Messages in a datagram begin at multiples of this.
const ALIGNMENT: usize = 4;

fn for_each_message(mut datagram: &[u8], each: &mut impl FnMut(&NetlinkHeader, &[u8])) {
    while let Ok(message) = NetlinkBuffer::new_checked(&datagram) {
        let length = message.length() as usize;
        if let Ok(header) = NetlinkHeader::parse(&message) {
            each(&header, message.payload());
        }
        datagram = datagram.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
}

fn read_answer(header: &NetlinkHeader, payload: &[u8]) -> Answer {
    if header.message_type == NLMSG_ERROR {
        return error_code(payload).map_or(Answer::Done, Answer::Refused);
    }
    if header.message_type == RTM_NEWNEXTHOP {
        let unreadable = || Answer::Unreadable("a next-hop object".into());
        return Object::read(payload).map_or_else(unreadable, |(id, object)| Answer::Object(id, object));
    }
    match RouteNetlinkMessage::deserialize(header, payload) {
        Ok(message) => Answer::Message(message),
        Err(error) => Answer::Unreadable(error.to_string()),
    }
}

/// The error in the payload of an error or of the end of a dump; `None` for success.
fn error_code(payload: &[u8]) -> Option<Errno> {
    let code = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?);
    (code != 0).then(|| Errno::from_raw(code.wrapping_neg()))
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("fd", &self.inner.as_raw_fd()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::IpAddr};

    use netlink_packet_core::NetlinkPayload;
    use netlink_packet_route::route::RouteFlags;

    use super::*;
    use crate::network::message::{interfaces_request, route_request};

    fn loopback(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    /// For the route of a packet, which names the address, and not for the entry of its network.
    fn exact_route_request(address: IpAddr) -> Request {
        let mut request = route_request(address, None, 0);
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::GetRoute(route)) = &mut request.payload else {
            panic!("it asks for a route")
        };
        route.header.flags = RouteFlags::empty();
        request
    }

    /// A namespace with so many interfaces that their list comes in several parts, and a socket in it.
    fn crowded() -> (patience::Namespace, Socket) {
        let namespace = patience::Namespace::new();
        let bridges: String = (0..100).map(|number| format!("link add b{number} type bridge\n")).collect();
        namespace.ip_batch(&bridges).unwrap();
        let own = namespace.run(|| Namespace::current().unwrap());
        (namespace, Socket::open(&own, &[]).unwrap())
    }

    fn names(reading: &Reading) -> BTreeSet<String> {
        let interfaces = reading.entries.iter().filter_map(|entry| match entry {
            RouteNetlinkMessage::NewLink(link) => crate::network::message::interface(link),
            _ => None,
        });
        interfaces.map(|interface| interface.name).collect()
    }

    #[tokio::test]
    #[ignore = "needs root"]
    async fn a_dump_that_a_change_interrupts_is_repeated() {
        let (namespace, mut socket) = crowded();
        let mut parts = 0;
        let change_once = || {
            parts += 1;
            if parts == 1 {
                namespace.ip_batch("link del b99\nlink add late type bridge\n").unwrap();
            }
        };
        let reading = socket.dump_with(interfaces_request(), change_once).await.unwrap();
        assert!(reading.is_complete());
        let names = names(&reading);
        assert!(names.contains("late") && !names.contains("b99") && names.len() == 101, "{names:?}");
        let whole = parts / 2;
        assert!(parts > 3, "it came in {whole} parts, so that nothing was interrupted");
    }

    #[tokio::test]
    #[ignore = "needs root"]
    async fn a_dump_that_is_interrupted_each_time_says_so() {
        let (namespace, mut socket) = crowded();
        let mut parts = 0;
        let change = || {
            parts += 1;
            namespace.ip(&format!("link add c{parts} type bridge"));
        };
        let reading = socket.dump_with(interfaces_request(), change).await.unwrap();
        assert!(reading.interrupted && !reading.is_complete());
        let quiet = socket.dump(interfaces_request()).await.unwrap();
        assert!(quiet.is_complete(), "the socket goes on");
        assert!(names(&quiet).is_superset(&names(&reading)));
    }

    #[test]
    fn a_dump_with_an_entry_that_cannot_be_read_is_not_complete() {
        let mut dump = Dump::default();
        let mut header = NetlinkHeader::default();
        (header.message_type, header.sequence_number) = (libc::RTM_NEWLINK, 7);
        dump.take(&header, &[0xff; 3], 7);
        dump.take(&header, &[0xff; 3], 6);
        header.message_type = NLMSG_DONE;
        dump.take(&header, &[0; 4], 7);
        assert!(dump.done);
        let reading = dump.result().unwrap();
        assert_eq!((reading.entries.len(), reading.unreadable, reading.is_complete()), (0, 1, false));
    }

    #[tokio::test]
    async fn every_request_of_a_batch_has_its_own_answer() {
        let mut socket = Socket::open(&Namespace::current().unwrap(), &[]).unwrap();
        let unroutable = netlink_packet_core::NetlinkMessage::from(RouteNetlinkMessage::GetRoute(Default::default()));
        for _ in 0..2 {
            let mut requests: Vec<_> = (1..BATCH as u8).map(|last| exact_route_request(loopback(last))).collect();
            let mut refused = unroutable.clone();
            refused.header.flags = netlink_packet_core::NLM_F_REQUEST;
            requests.insert(7, refused);
            let answers = socket.exchange(requests).await.unwrap();
            assert_eq!(answers.len(), BATCH);
            for (index, answer) in answers.iter().enumerate() {
                match answer {
                    Answer::Message(RouteNetlinkMessage::NewRoute(route)) if index != 7 => {
                        let last = if index < 7 { index + 1 } else { index };
                        let expected = netlink_packet_route::route::RouteAttribute::Destination(
                            loopback(u8::try_from(last).unwrap()).into(),
                        );
                        assert!(route.attributes.contains(&expected), "{index}: {route:?}");
                    }
                    Answer::Refused(_) if index == 7 => {}
                    other => panic!("{index}: {other:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_dump_is_the_same_with_and_without_a_runtime() {
        let namespace = Namespace::current().unwrap();
        let waiting = names(&Socket::open(&namespace, &[]).unwrap().dump(interfaces_request()).await.unwrap());
        let blocking = names(&dump_blocking(&namespace, interfaces_request()).unwrap());
        assert!(waiting.contains("lo"), "{waiting:?}");
        assert_eq!(waiting, blocking);
    }

    #[test]
    fn messages_cut_short_end_the_walk_without_a_panic() {
        let mut datagram = Vec::new();
        append(&mut datagram, route_request(loopback(1), None, 0), 1);
        append(&mut datagram, route_request(loopback(2), None, 0), 2);
        for length in 0..=datagram.len() {
            let mut seen = 0;
            for_each_message(&datagram[..length], &mut |_, _| seen += 1);
            assert_eq!(seen, 2 * length / datagram.len());
        }
        let mut seen = 0;
        for_each_message(&[0; 64], &mut |_, _| seen += 1);
        assert_eq!(seen, 0, "a length of zero must not go round for ever");
    }

    #[test]
    fn errors_are_told_from_acknowledgements() {
        assert_eq!(error_code(&0i32.to_ne_bytes()), None);
        assert_eq!(error_code(&(-libc::ENETUNREACH).to_ne_bytes()), Some(Errno::ENETUNREACH));
        assert_eq!(error_code(&[]), None);
    }
}
