//! Two streams on one flow: a stranger who forges segments of connections, and clients who use a port again. Real
//! kernels at both ends, the real program between them. ADR 16 has the rules.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use etherparse::TcpHeader;
use lb_userspace::api::{flows::Flows, types::Stats};
use naru_tests::{
    delay::raw_socket,
    frames::Packet,
    lab::{Host, Lab},
    naru::{Naru, attach_decap},
    repair::{next_sequence, vanish},
    vip_text::VipText,
};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket,
    sockopt::{KeepAlive, ReuseAddr, TcpKeepIdle, TcpKeepInterval},
};
use patience::LIMIT;
use rand::Rng as _;

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const PORT: u16 = 7;

// What a client asks of a server, in one byte.
/// The server's name.
const NAME: u8 = b'?';
/// To read nothing for a while.
const DEAF: u8 = b'z';
/// To close the connection.
const CLOSE: u8 = b'x';
/// To read as many bytes as the next four say, and to tell its name then.
const BULK: u8 = b'b';

/// How long a server that is to be deaf is.
const DEAFNESS: Duration = Duration::from_secs(3);

/// A VIP with two backends; `A` has been given all slots, and lost them to `B` when `move_all` was called.
struct Bed {
    naru: Naru,
    lab: Lab,
}

const A: u8 = b'A';
const B: u8 = b'B';

impl Bed {
    fn new(keys: &str) -> Self {
        let lab = Lab::builder().clients(2).backends(2).vips([IpAddr::from(VIP)]).build().unwrap();
        for (backend, name) in lab.backends().iter().zip([A, B]) {
            attach_decap(&lab, backend).unwrap();
            serve(backend, name);
        }
        let naru = Naru::start(&lab, &config(&lab, keys, ["active", "drain"])).unwrap();
        naru.wait_until_ready().unwrap();
        Self { naru, lab }
    }

    /// Gives all slots from `A` to `B`.
    fn move_all(&self) {
        let [a, b] = self.lab.backends() else { panic!("two backends") };
        for (verb, backend) in [("restore", b), ("drain", a)] {
            self.naru.cli(&["backend", verb, "web", &backend.ipv4().to_string()]).unwrap();
        }
    }

    /// A connection of the first client, from this port or from any. Where the connection before from that port waits for
    /// the last ACK of its end, it comes after that.
    fn open(&self, port: u16) -> TcpStream {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match self.lab.client().run(|| connect_from(port)) {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                }
                opened => break opened.unwrap(),
            }
        };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn client(&self) -> Ipv4Addr {
        self.lab.client().ipv4()
    }

    /// Entries of the client's flow from that port.
    fn flows(&self, port: u16) -> Flows {
        self.naru.read(&["flows", "--client-port", &port.to_string()]).unwrap()
    }

    /// Packets that were sent to backends so far.
    fn sent(&self) -> u64 {
        let stats: Stats = self.naru.read(&["stats"]).unwrap();
        stats.vips.iter().map(|vip| vip.counts.packets).sum()
    }

    /// Sockets of the VIP on a backend that are in a state, as `ss` names it.
    fn sockets(&self, backend: usize, state: &str) -> usize {
        let filter = ["-Htn", "state", state, "sport", "=", &format!(":{PORT}")].map(str::to_owned);
        let output = self.lab.backends()[backend].netns().command("ss").args(filter).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    }
}

fn config(lab: &Lab, keys: &str, states: [&str; 2]) -> String {
    let vip = VipText::new("web", VIP, [format!("tcp/{PORT}")], "ipip").lines(keys);
    let backends = lab.backends().iter().zip(states);
    let with =
        |vip: VipText, (backend, state): (&Host, _)| vip.backend_with(backend.ipv4(), &format!("state = \"{state}\""));
    backends.fold(vip, with).to_string()
}

/// A server on the VIP that does what each byte asks.
fn serve(backend: &Host, name: u8) {
    let listener = backend.run(|| TcpListener::bind((VIP, PORT))).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(stream, name));
        }
    });
}

fn answer(mut stream: TcpStream, name: u8) -> io::Result<()> {
    let mut asked = [0];
    loop {
        stream.read_exact(&mut asked)?;
        match asked[0] {
            DEAF => thread::sleep(DEAFNESS),
            CLOSE => return Ok(()),
            BULK => {
                let mut len = [0; 4];
                stream.read_exact(&mut len)?;
                io::copy(&mut (&mut stream).take(u32::from_be_bytes(len).into()), &mut io::sink())?;
                stream.write_all(&[name])?;
            }
            _ => stream.write_all(&[name])?,
        }
    }
}

/// Who answers.
fn ask(stream: &mut TcpStream) -> io::Result<u8> {
    stream.write_all(&[NAME])?;
    let mut name = [0];
    stream.read_exact(&mut name)?;
    Ok(name[0])
}

fn send_bulk(stream: &mut TcpStream, len: u32) -> io::Result<u8> {
    stream.write_all(&[BULK])?;
    stream.write_all(&len.to_be_bytes())?;
    let chunk = vec![0; 1 << 16];
    let mut left = len as usize;
    while left > 0 {
        left -= stream.write(&chunk[..left.min(chunk.len())])?;
    }
    let mut name = [0];
    stream.read_exact(&mut name)?;
    Ok(name[0])
}

/// To the VIP, on this thread's namespace, from a port that may have been used just now.
fn connect_from(port: u16) -> io::Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, ReuseAddr, &true)?;
    if port != 0 {
        bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
    }
    let [a, b, c, d] = VIP.octets();
    connect(fd.as_raw_fd(), &SockaddrIn::new(a, b, c, d, PORT))?;
    Ok(TcpStream::from(fd))
}

/// Somebody on another host who says that he is the client.
struct Stranger {
    socket: OwnedFd,
    as_client: Ipv4Addr,
}

impl Stranger {
    fn of(bed: &Bed) -> Self {
        let socket = bed.lab.clients()[1].run(raw_socket).unwrap();
        Self { socket, as_client: bed.client() }
    }

    /// Sends a segment as if from the client's port.
    fn send(&self, port: u16, sequence: u32, flags: &str, data: &[u8]) {
        let (client, vip) = (SocketAddr::new(self.as_client.into(), port), SocketAddr::new(VIP.into(), PORT));
        let set = |tcp: &mut TcpHeader| {
            tcp.sequence_number = sequence;
            tcp.acknowledgment_number = 1;
            (tcp.syn, tcp.ack) = (flags.contains('S'), flags.contains('A'));
            (tcp.fin, tcp.rst) = (flags.contains('F'), flags.contains('R'));
            tcp.window_size = 65_535;
        };
        let bytes = Packet::tcp(client, vip, set, data).ip_bytes();
        let [a, b, c, d] = VIP.octets();
        let to = SockaddrIn::new(a, b, c, d, 0);
        nix::sys::socket::sendto(self.socket.as_raw_fd(), &bytes, &to, nix::sys::socket::MsgFlags::empty()).unwrap();
    }
}

/// A sequence number drawn at random, but none that is as good as known: one in 2^15 is, see ADR 16.
fn guess(known: u32) -> u32 {
    let mut random = rand::rng();
    loop {
        let guess: u32 = random.random();
        if guess.wrapping_sub(known).cast_signed().unsigned_abs() > 1 << 20 {
            return guess;
        }
    }
}

fn port_of(stream: &TcpStream) -> u16 {
    stream.local_addr().unwrap().port()
}

/// 2,000 forged SYNs, alone or with the ACK that completes a handshake, on 200 connections that are silent while all
/// slots move.
fn forge(keys: &str, with_ack: bool) {
    const CONNECTIONS: usize = 200;
    const EACH: usize = 10;
    let bed = Bed::new(keys);
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| bed.open(0)).collect();
    for stream in &mut connections {
        assert_eq!(ask(stream).unwrap(), A);
    }
    bed.move_all();
    let (stranger, before) = (Stranger::of(&bed), bed.sent());
    for _ in 0..EACH {
        for stream in &connections {
            let isn = guess(next_sequence(stream).unwrap());
            stranger.send(port_of(stream), isn, "S", b"");
            if with_ack {
                stranger.send(port_of(stream), isn.wrapping_add(1), "A", b"");
            }
        }
    }
    // What the test is about took place: the stranger's segments went to backends, and his streams are remembered, beside
    // the clients' own.
    let forged = (EACH * CONNECTIONS * if with_ack { 2 } else { 1 }) as u64;
    eventually("forged segments arrive", || bed.sent() >= before + forged);
    let lost = connections.iter_mut().map(ask).filter(|answer| !matches!(answer, Ok(A))).count();
    assert_eq!(lost, 0, "of {CONNECTIONS} connections");
    let flows: Flows = bed.naru.read(&["flows", "--backend", &bed.lab.backends()[1].ipv4().to_string()]).unwrap();
    if !keys.contains("always") {
        assert_eq!(flows.matched, CONNECTIONS as u64, "forged streams");
    }
    for stream in &mut connections {
        assert_eq!(ask(stream).unwrap(), A);
    }
}

#[test]
#[ignore = "needs root"]
fn forged_syns_take_no_silent_connection_away() {
    forge("", false);
}

#[test]
#[ignore = "needs root"]
fn forged_handshakes_take_no_silent_connection_away() {
    forge("", true);
}

#[test]
#[ignore = "needs root"]
fn forged_syns_take_no_silent_connection_away_where_every_flow_is_tracked() {
    forge("tracking = \"always\"", false);
    forge("tracking = \"always\"", true);
}

/// What the tests above would show, were a SYN believed: whoever knows the number takes the connection away.
#[test]
#[ignore = "needs root"]
fn who_knows_the_number_takes_the_connection_away() {
    let bed = Bed::new("");
    let mut stream = bed.open(0);
    assert_eq!(ask(&mut stream).unwrap(), A);
    bed.move_all();
    let known = next_sequence(&stream).unwrap();
    Stranger::of(&bed).send(port_of(&stream), known, "S", b"");
    let error = ask(&mut stream).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
#[ignore = "needs root"]
fn after_a_forged_syn_the_client_ends_its_own_connection_and_no_other() {
    let bed = Bed::new("");
    let stranger = Stranger::of(&bed);
    let mut streams = [0; 2].map(|_| bed.open(0));
    streams.iter_mut().for_each(|stream| assert_eq!(ask(stream).unwrap(), A));
    bed.move_all();
    let [reset, closed] = streams;
    for stream in [&reset, &closed] {
        stranger.send(port_of(stream), guess(next_sequence(stream).unwrap()), "S", b"");
    }
    assert_eq!(bed.sockets(0, "established"), 2);
    // With a RST, as data that came was not read; and with a FIN.
    (&reset).write_all(&[NAME]).unwrap();
    thread::sleep(Duration::from_millis(200));
    drop(reset);
    drop(closed);
    eventually("A has no connection any more", || bed.sockets(0, "established") + bed.sockets(0, "close-wait") == 0);
}

#[test]
#[ignore = "needs root"]
fn the_rst_that_answers_a_forged_handshake_ends_what_the_syn_opened() {
    let bed = Bed::new("");
    bed.move_all();
    // No connection of the client: its kernel answers B's SYN+ACK with RST.
    Stranger::of(&bed).send(40_000, 0x1234_5678, "S", b"");
    eventually("the stream has ended", || {
        let Flows { flows, .. } = bed.flows(40_000);
        flows.len() == 1 && flows[0].state == lb_userspace::api::flows::FlowState::Rst
    });
    eventually("B has nothing half open", || bed.sockets(1, "syn-recv") == 0);
}

#[test]
#[ignore = "needs root"]
fn guesses_do_not_touch_an_honest_stream() {
    for keys in ["", "tracking = \"always\""] {
        let bed = Bed::new(keys);
        bed.move_all();
        let stranger = Stranger::of(&bed);
        let mut streams: Vec<_> = (0..20).map(|_| bed.open(0)).collect();
        streams.iter_mut().for_each(|stream| assert_eq!(ask(stream).unwrap(), B));
        let before = bed.sent();
        for _ in 0..10 {
            for stream in &streams {
                let (port, known) = (port_of(stream), next_sequence(stream).unwrap());
                for (flags, data) in [("A", &[7; 500][..]), ("A", b""), ("FA", b""), ("R", b""), ("S", b"")] {
                    stranger.send(port, guess(known), flags, data);
                }
            }
            streams.iter_mut().for_each(|stream| assert_eq!(ask(stream).unwrap(), B));
        }
        // Each stream had five guesses ten times, and its client asked as often.
        let sent = 10 * 20 * (5 + 1);
        assert!(bed.sent() >= before + sent, "{} of {sent} segments arrived", bed.sent() - before);
    }
}

/// More than all sequence numbers, past whatever a stranger has put down.
#[test]
#[ignore = "needs root"]
fn an_upload_comes_past_a_strangers_streams() {
    const LEN: u32 = 300 << 20;
    let bed = Bed::new("");
    let mut kept = bed.open(0);
    assert_eq!(ask(&mut kept).unwrap(), A);
    bed.move_all();
    let mut opened = bed.open(0);
    assert_eq!(ask(&mut opened).unwrap(), B);
    let stranger = Stranger::of(&bed);
    // All in the way of what is to be sent.
    for (stream, flags) in [(&kept, "S"), (&opened, "A")] {
        let next = next_sequence(stream).unwrap();
        stranger.send(port_of(stream), next.wrapping_add(LEN / 2), flags, b"");
        stranger.send(port_of(stream), next.wrapping_add(LEN / 2 + u32::from(flags == "S")), "A", &[7; 1000]);
    }
    assert_eq!(send_bulk(&mut kept, LEN).unwrap(), A);
    assert_eq!(send_bulk(&mut opened, LEN).unwrap(), B);
}

#[test]
#[ignore = "needs root"]
fn data_in_a_syn_keepalives_and_zero_window_probes_are_of_their_stream() {
    // Fast Open without cookies (RFC 7413; Documentation/networking/ip-sysctl.rst): the client sends data, B takes it.
    const CLIENT: &str = "5";
    const SERVER: &str = "1538";
    for server in [SERVER, "0"] {
        let bed = Bed::new("tcp_idle = \"4s\"");
        bed.move_all();
        bed.lab.client().netns().sysctl("net/ipv4/tcp_fastopen", CLIENT).unwrap();
        bed.lab.backends()[1].netns().sysctl("net/ipv4/tcp_fastopen", server).unwrap();
        let mut stream = bed.lab.client().run(open_fast).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut name = [0];
        stream.read_exact(&mut name).unwrap();
        assert_eq!((name[0], ask(&mut stream).unwrap()), (B, B));

        // Before any data, for longer than a flow may be silent.
        let quiet = bed.open(0);
        setsockopt(&quiet, KeepAlive, &true).unwrap();
        setsockopt(&quiet, TcpKeepIdle, &1).unwrap();
        setsockopt(&quiet, TcpKeepInterval, &1).unwrap();
        // Of one that does not read for as long: what it has no room for is probed.
        let mut deaf = bed.open(0);
        deaf.write_all(&[DEAF, DEAF]).unwrap();
        let begun = Instant::now();
        assert_eq!(send_bulk(&mut deaf, 8 << 20).unwrap(), B);
        assert!(begun.elapsed() > DEAFNESS, "it was to be deaf");
        let mut quiet = quiet;
        assert_eq!(ask(&mut quiet).unwrap(), B);
    }
}

/// To the VIP, with the first request in the SYN.
fn open_fast() -> io::Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let [a, b, c, d] = VIP.octets();
    let flags = nix::sys::socket::MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
    nix::sys::socket::sendto(fd.as_raw_fd(), &[NAME], &SockaddrIn::new(a, b, c, d, PORT), flags)?;
    Ok(TcpStream::from(fd))
}

#[test]
#[ignore = "needs root"]
fn a_port_is_used_again_after_an_end_that_nobody_saw() {
    let bed = Bed::new("");
    let mut stream = bed.open(0);
    let port = port_of(&stream);
    assert_eq!(ask(&mut stream).unwrap(), A);
    bed.move_all();
    assert_eq!(ask(&mut stream).unwrap(), A);
    vanish(stream).unwrap();
    // The one on A: another one at B, beside what A still believes in.
    let mut stream = bed.open(port);
    assert_eq!([ask(&mut stream).unwrap(), ask(&mut stream).unwrap()], [B; 2]);
    assert_eq!(bed.flows(port).matched, 2);
    vanish(stream).unwrap();
    // The one on B: as any SYN with another number, it goes to A, and stays there. A has a connection of that name, and
    // the client's RST to its challenge ACK makes room for the next attempt (RFC 5961 §4.2).
    let mut stream = bed.open(port);
    let owner = ask(&mut stream).unwrap();
    for _ in 0..10 {
        assert_eq!(ask(&mut stream).unwrap(), owner);
    }
    assert_eq!(send_bulk(&mut stream, 4 << 20).unwrap(), owner);
}

/// As clients do that open one connection after the other, where servers close first: nothing keeps the port then.
#[test]
#[ignore = "needs root"]
fn a_port_that_is_used_again_at_once_is_served() {
    let one_after_another = |bed: &Bed| {
        let mut port = 0;
        let owners = (0..20).map(|round| {
            let mut stream = bed.open(port);
            port = port_of(&stream);
            let owner = ask(&mut stream).unwrap();
            assert_eq!(send_bulk(&mut stream, 100_000).unwrap(), owner, "round {round}");
            stream.write_all(&[CLOSE]).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "round {round}");
            owner
        });
        (owners.collect::<Vec<_>>(), port)
    };
    let settled = Bed::new("tracking = \"always\"");
    let (owners, port) = one_after_another(&settled);
    assert_eq!((owners, settled.flows(port).matched), (vec![A; 20], 1));
    // Where everything that is unknown is another backend's, it may be either's, and is whole.
    let moved = Bed::new("");
    moved.move_all();
    assert_eq!(one_after_another(&moved).0[0], B);
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}
