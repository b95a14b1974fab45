//! What `naru flows` shows of real connections, and drains that wait for the last of them.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use lb_userspace::api::{
    flows::{FlowCount, FlowState, FlowTable, Flows},
    types::{Backend, Stats},
};
use naru_tests::{
    lab::Lab,
    naru::Naru,
    site::{Site, Vip},
};
use patience::LIMIT;

/// Connections that are opened: enough for every backend to have some.
const CONNECTIONS: usize = 24;

/// A connection that stays open.
struct Connection {
    stream: BufReader<TcpStream>,
    port: u16,
    /// Name of the server that it is with.
    server: String,
}

impl Connection {
    fn open(site: &Site, target: SocketAddr) -> Self {
        let stream = site.lab.client().run(|| TcpStream::connect(target)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let port = stream.local_addr().unwrap().port();
        let mut connection = Self { stream: BufReader::new(stream), port, server: String::new() };
        connection.server = connection.ask();
        connection
    }

    /// A request; who answers it.
    fn ask(&mut self) -> String {
        self.try_ask().unwrap()
    }

    fn try_ask(&mut self) -> io::Result<String> {
        self.stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert!(self.stream.read_line(&mut line)? > 0, "the connection was closed");
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(String::from_utf8(body).unwrap().trim().to_owned())
    }
}

/// A site whose flows count as ended when they are silent for `idle`, with open connections.
fn site(idle: &str) -> (Site, Vip, Vec<Connection>) {
    let vip = Vip::IPIP;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    site.cli(&["vip", "set", vip.name, "--tcp-idle", idle, "--udp-idle", "1s"]).unwrap();
    let connections = (0..CONNECTIONS).map(|_| Connection::open(&site, vip.http())).collect();
    (site, vip, connections)
}

/// Asks on every connection; each must still be with its server.
fn ask_all(connections: &mut [Connection]) {
    for connection in connections {
        assert_eq!(connection.ask(), connection.server, "port {}", connection.port);
    }
}

fn flows(site: &Site, filter: &[&str]) -> Flows {
    site.read(&[&["flows"], filter].concat()).unwrap()
}

/// Starts a command whose output [`end`] reads.
fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Keeps the connections alive, by asking on them every half a second, until the command ends: its exit code, and what
/// it said on stderr.
fn end(mut command: Child, connections: &mut [Connection]) -> (Option<i32>, String) {
    let deadline = Instant::now() + 2 * LIMIT;
    while command.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the command does not end");
        ask_all(connections);
        sleep(Duration::from_millis(500));
    }
    let output = command.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
#[ignore = "needs root"]
fn connections_on_moving_slots_are_listed_with_their_backend() {
    let (site, vip, mut connections) = site("1m");
    assert_eq!(flows(&site, &[]), Flows::default(), "nothing is remembered while nothing changes");
    let drained = &site.lab.backends()[1];
    let address = IpAddr::from(drained.ipv4());
    site.cli(&["backend", "drain", vip.name, &address.to_string()]).unwrap();
    ask_all(&mut connections);

    let mut expected: Vec<_> =
        connections.iter().filter(|of| of.server == drained.name()).map(|connection| connection.port).collect();
    expected.sort();
    assert!(!expected.is_empty() && expected.len() < CONNECTIONS, "{expected:?}");
    let Flows { flows: listed, matched } = flows(&site, &["--backend", &address.to_string()]);
    assert_eq!(matched, listed.len() as u64);
    let client = IpAddr::from(site.lab.client().ipv4());
    for flow in &listed {
        assert_eq!((flow.client, flow.backend, flow.vip.as_str()), (client, address, vip.name), "{flow:?}");
        assert_eq!((flow.port.as_str(), flow.state), ("tcp/80", FlowState::Open), "{flow:?}");
        assert!(flow.idle_seconds <= 30, "{flow:?}");
    }
    assert_eq!(listed.iter().map(|flow| flow.client_port).collect::<Vec<_>>(), expected);

    // A second packet establishes a flow.
    ask_all(&mut connections);
    let port = expected[0].to_string();
    let [one] = &flows(&site, &["--client-port", &port]).flows[..] else { panic!("it is one flow") };
    assert_eq!((one.client_port, one.table), (expected[0], FlowTable::Established));
    let count = |filter: &[&str]| flows(&site, filter).matched;
    let (client, drained) = (client.to_string(), address.to_string());
    let filter = ["--backend", &drained, "--client", &client, "--state", "open", "--table", "established"];
    assert_eq!(count(&filter), expected.len() as u64);
    // Maglev moves a few slots between the other backends too.
    let all = count(&[]);
    assert!((expected.len() as u64..CONNECTIONS as u64).contains(&all), "{all} flows");
    assert_eq!(count(&["--client", "192.0.2.0/24"]) + count(&["--table", "embryonic", "--client-port", &port]), 0);
    let counts: Vec<FlowCount> = site.read(&["flows", "--count", "--vip", vip.name]).unwrap();
    let of_drained = counts.iter().find(|count| count.backend == address).unwrap();
    assert_eq!(of_drained.established, expected.len() as u64);

    let limited = site.try_cli(&["flows", "--limit", "1"]).unwrap();
    let says = String::from_utf8(limited.stderr).unwrap();
    assert!(limited.status.success() && says.starts_with(&format!("1 of {all} flows")), "{says}");
    let stats: Stats = site.read(&["stats"]).unwrap();
    let kept = stats.tracked.iter().find(|tracked| tracked.outcome == "kept").unwrap();
    assert_eq!(kept.packets, all);
    for tracked in stats.tracked {
        let value = site.metric("naru_flow_packets_total", &[("outcome", &tracked.outcome)]).unwrap();
        assert_eq!(value, tracked.packets as f64, "{}", tracked.outcome);
    }
}

#[test]
#[ignore = "needs root"]
fn a_drain_waits_for_the_last_connection() {
    let (mut site, vip, mut connections) = site("8s");
    let drained = &site.lab.backends()[1];
    let address = drained.ipv4().to_string();
    let drain = |site: &Site, timeout: &str| {
        start(site.command(&["backend", "drain", vip.name, &address, "--wait", "--timeout", timeout]).unwrap())
    };
    let (code, says) = end(drain(&site, "10s"), &mut connections);
    assert_eq!(code, Some(4), "{says}");
    let open = connections.iter().filter(|connection| connection.server == drained.name()).count();
    assert!(says.contains(&format!("is left with {open} flow")) && says.contains("after 10s"), "{says}");

    // The other backends' connections stay open, and nobody's breaks. A daemon that is restarted goes on with the
    // drain.
    connections.retain(|connection| connection.server != drained.name());
    let waiting = drain(&site, "100s");
    sleep(Duration::from_secs(1));
    site.kill9().unwrap();
    sleep(Duration::from_secs(1));
    site.restart().unwrap();
    let (code, says) = end(waiting, &mut connections);
    assert_eq!(code, Some(0), "{says}");
    let backends: Vec<Backend> = site.read(&["backend", "list", vip.name]).unwrap();
    let backend = backends.iter().find(|backend| backend.address.to_string() == address).unwrap();
    assert_eq!((backend.state.as_str(), backend.flows, backend.held_slots, backend.drained), ("drain", 0, 0, true));
    assert_eq!(flows(&site, &["--backend", &address]).matched, 0);
}

/// Connections that go on for ever do not hold a drain up for longer than its deadline, over a restart of the daemon
/// too; nobody else's breaks.
#[test]
#[ignore = "needs root"]
fn a_drain_ends_at_its_deadline() {
    const DEADLINE: Duration = Duration::from_secs(15);
    let (mut site, vip, mut connections) = site("1h");
    let drained = site.lab.backends()[1].clone();
    let address = drained.ipv4().to_string();
    let is_left = |connection: &Connection| connection.server == drained.name();
    let begun = Instant::now();
    site.cli(&["backend", "drain", vip.name, &address, "--deadline", "15s"]).unwrap();
    ask_all(&mut connections);
    let backend = |naru: &Naru| {
        let backends: Vec<Backend> = naru.read(&["backend", "list", vip.name]).unwrap();
        backends.into_iter().find(|backend| backend.address.to_string() == address).unwrap()
    };
    let left = connections.iter().filter(|connection| is_left(connection)).count() as u64;
    site.wait_for("its clients are named", LIMIT, |site| {
        ask_all(&mut connections);
        let clients = backend(site).clients;
        Ok(clients.iter().map(|clients| clients.flows).collect::<Vec<_>>() == [left])
    })
    .unwrap();
    let client = IpAddr::from(site.lab.client().ipv4());
    assert!(backend(&site).clients[0].prefix.contains(&client) && backend(&site).cut_seconds.is_some());
    site.kill9().unwrap();
    sleep(Duration::from_secs(1));
    site.restart().unwrap();
    while begun.elapsed() < DEADLINE {
        ask_all(&mut connections);
        sleep(Duration::from_millis(100));
    }
    let (mut cut, mut others): (Vec<_>, Vec<_>) = connections.into_iter().partition(is_left);
    // However busy they are.
    while !cut.is_empty() {
        assert!(begun.elapsed() < DEADLINE + LIMIT, "{} go on after {:?}", cut.len(), begun.elapsed());
        cut.retain_mut(|connection| connection.try_ask().is_ok());
    }
    site.wait_for("it is drained", LIMIT, |site| {
        ask_all(&mut others);
        Ok(backend(site).drained)
    })
    .unwrap();
    assert_eq!(site.metric("naru_flow_cuts_total", &[]).unwrap(), left as f64);
    ask_all(&mut others);
}

#[test]
#[ignore = "needs root"]
fn a_removed_backend_serves_its_connections_and_then_is_gone() {
    let (site, vip, mut connections) = site("8s");
    let removed = &site.lab.backends()[2];
    let address = removed.ipv4().to_string();
    let remove = ["backend", "remove", vip.name, &address, "--wait", "--timeout", "10s"];
    let (code, says) = end(start(site.command(&remove).unwrap()), &mut connections);
    assert_eq!(code, Some(4), "{says}");
    let backend = || {
        let backends: Vec<Backend> = site.read(&["backend", "list", vip.name]).unwrap();
        backends.into_iter().find(|backend| backend.address.to_string() == address)
    };
    let open = connections.iter().filter(|connection| connection.server == removed.name()).count() as u64;
    let listed = backend().expect("it has connections");
    assert_eq!((listed.state.as_str(), listed.slots, listed.flows), (Backend::REMOVED, 0, open));
    assert!(site.cli(&["stats"]).unwrap().contains(&format!("{address} (removed)")));
    let labels = [("vip", vip.name), ("backend", &address)];
    assert_eq!(site.metric("naru_backend_flows", &labels).unwrap(), open as f64);

    connections.retain(|connection| connection.server != removed.name());
    site.wait_for("it is gone", LIMIT, |_| {
        ask_all(&mut connections);
        sleep(Duration::from_millis(200));
        Ok(backend().is_none())
    })
    .unwrap();
}
