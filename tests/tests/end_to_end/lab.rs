//! The lab by itself, without naru: what the other tests take for granted.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use naru_tests::{
    lab::{Host, Lab, Legs, Placement},
    load::{Load, Options},
    netns::Netns,
    server::{Entry, Protocol, Server, tally},
    transfer, udp,
};
use patience::LIMIT;

const VIP4: &str = "203.0.113.10";
const VIP6: &str = "2001:db8:77::10";

fn vips() -> [IpAddr; 2] {
    [VIP4, VIP6].map(|vip| vip.parse().unwrap())
}

/// Where `host` serves HTTP under its own addresses.
fn own(host: &Host) -> [SocketAddr; 2] {
    [(host.ipv4(), 80).into(), (host.ipv6(), 80).into()]
}

#[test]
#[ignore = "needs root"]
fn clients_reach_backends_through_the_router() {
    for placement in [Placement::Segment, Placement::Routed] {
        let lab = Lab::builder().clients(2).backends(2).placement(placement).build().unwrap();
        for backend in lab.backends() {
            let server = Server::start(backend, lab.dir(), &own(backend), &own(backend)).unwrap();
            for (client, target) in lab.clients().iter().flat_map(|client| own(backend).map(|target| (client, target)))
            {
                let report = Load::start(client, Options::new(target).count(10)).unwrap().wait();
                assert!(report.failed.is_empty(), "{:?}", report.failed);
                assert_eq!(report.backends[backend.name()], 10);
                let echoes = client.block_on(|| udp::echo(target, 5, 1400, LIMIT)).unwrap();
                assert_eq!((echoes.lost, echoes.backends[backend.name()]), (0, 5));
            }
            let requests = server.requests().unwrap();
            assert_eq!(requests.iter().filter(|request| request.protocol == Protocol::Http).count(), 40);
            assert_eq!(requests.iter().filter(|request| request.protocol == Protocol::Udp).count(), 20);
            assert!(requests.iter().any(|request| request.peer.ip() == lab.clients()[1].ipv4()));
        }
    }
}

#[test]
#[ignore = "needs root"]
fn large_transfers_arrive_as_sent() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let backend = &lab.backends()[0];
    let _server = Server::start(backend, lab.dir(), &own(backend), &[]).unwrap();
    for target in own(backend) {
        let limit = LIMIT;
        lab.client().block_on(|| transfer::download(target, 100_000_000, limit)).unwrap();
        lab.client().block_on(|| transfer::upload(target, 100_000_000, limit)).unwrap();
    }
}

/// The load balancer's own kernel forwards the VIPs to a backend here: the packets go where an `l2` backend's would.
#[test]
#[ignore = "needs root"]
fn backends_answer_for_vips_directly() {
    for legs in [Legs::One, Legs::Two] {
        let lab = Lab::builder().backends(2).legs(legs).vips(vips()).build().unwrap();
        let balancer = lab.balancer();
        balancer.sysctl("net/ipv4/ip_forward", "1").unwrap();
        balancer.sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
        balancer.sysctl("net/ipv4/conf/all/send_redirects", "0").unwrap();
        let backend = &lab.backends()[1];
        let routes = format!("route add {VIP4} via {}\nroute add {VIP6} via {}\n", backend.ipv4(), backend.ipv6());
        balancer.ip(&routes).unwrap();
        let targets = vips().map(|vip| SocketAddr::new(vip, 80));
        let servers = [0, 1].map(|n| Server::start(&lab.backends()[n], lab.dir(), &targets, &targets).unwrap());
        for target in targets {
            let report = Load::start(lab.client(), Options::new(target).count(50)).unwrap().wait();
            assert!(report.failed.is_empty(), "{:?}", report.failed);
            assert_eq!(report.backends, [("b2".to_owned(), 50)].into());
            let echoes = lab.client().block_on(|| udp::echo(target, 5, 64, LIMIT)).unwrap();
            assert_eq!(echoes.backends, [("b2".to_owned(), 5)].into());
        }
        assert_eq!(tally(&servers).unwrap(), [("b1".to_owned(), 0), ("b2".to_owned(), 110)].into());
        // Answers of 10 MB each would show here if they went back through the load balancer.
        let before = received_bytes(balancer);
        for target in targets {
            lab.client().block_on(|| transfer::download(target, 10_000_000, LIMIT)).unwrap();
        }
        let through = received_bytes(balancer) - before;
        // Requests and acknowledgements do, however few of them coalescing leaves.
        assert!((500..5_000_000).contains(&through), "{through} bytes came through the load balancer");
    }
}

#[test]
#[ignore = "needs root"]
fn an_interface_can_go_and_come_back() {
    let mut lab = Lab::builder().backends(1).legs(Legs::Two).build().unwrap();
    let names = |lab: &Lab| lab.balancer().run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    for interface in ["eth0", "eth1"] {
        lab.unplug(interface).unwrap();
        assert!(!names(&lab).contains(interface));
        lab.plug(interface).unwrap();
        assert!(names(&lab).contains(interface));
    }
    let pings = |from: &Host, to: &Host| from.block_on(|| udp::echo((to.ipv4(), 9).into(), 1, 8, LIMIT));
    let _server = Server::start(lab.balancer(), lab.dir(), &[], &[(lab.balancer().ipv4(), 9).into()]).unwrap();
    assert_eq!(pings(lab.client(), lab.balancer()).unwrap().lost, 0);
}

#[test]
#[ignore = "needs root"]
fn nothing_is_left_of_a_lab() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let (id, dir) = (lab.id().to_owned(), lab.dir().to_owned());
    let bpffs = lab.bpffs().to_owned();
    let backend = &lab.backends()[0];
    let mut sleeper = backend.command("sleep").arg("1000").spawn().unwrap();
    assert_eq!(Netns::names(&format!("naru-{id}-")).len(), 4);
    drop(lab);
    assert!(!patience::end("what ran in the lab", &mut sleeper).unwrap().success());
    assert_eq!(Netns::names(&format!("naru-{id}-")), Vec::<String>::new());
    assert!(!dir.exists() && !bpffs.exists());
}

#[test]
#[ignore = "needs root"]
fn a_crashed_lab_is_removed_by_the_next() {
    // A lab whose process has ended without removing it: nobody holds its lock.
    let id = format!("{}-crashed", std::process::id());
    let name = format!("naru-{id}-b1");
    let dir = Path::new("/run/naru-lab").join(&id);
    let netns = Netns::create([name.as_str()]).unwrap().remove(0);
    let mut sleeper = netns.command("sleep").arg("1000").spawn().unwrap();
    fs::create_dir_all(&dir).unwrap();
    let _lab = Lab::builder().backends(0).build().unwrap();
    assert!(!patience::end("what ran in the crashed lab", &mut sleeper).unwrap().success());
    assert!(Netns::names(&name).is_empty() && !dir.exists());
}

#[test]
#[ignore = "needs root"]
fn failures_are_told_apart() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let backend = &lab.backends()[0];
    let target = own(backend)[0];
    let failed_within = |timeout, options: Options| {
        let report = Load::start(lab.client(), Options { timeout, ..options }).unwrap().wait();
        assert_eq!(report.failed.len(), 1, "{report:?}");
        serde_json::to_value(report.failed[0].cause).unwrap()
    };
    let failed = |options| failed_within(LIMIT, options);
    let a_moment = Duration::from_millis(300);
    assert_eq!(failed(Options::new(target).count(1)), "refused");
    let mut server = Server::start(backend, lab.dir(), &[target], &[]).unwrap();
    let path = |path: &str| Options { path: path.to_owned(), ..Options::new(target).count(1) };
    assert_eq!(failed(path("/nothing")), "bad_status");
    assert_eq!(failed_within(a_moment, path("/slow?ms=10000")), "timed_out");
    let nobody = SocketAddr::new("10.0.1.99".parse().unwrap(), 80);
    assert_eq!(failed_within(a_moment, Options::new(nobody).count(1)), "timed_out");
    let is_slow = |entry: &Entry| entry.path == "/slow";
    let asked = |server: &Server| server.requests().unwrap().into_iter().filter(is_slow).count();
    let before = asked(&server);
    let load = Load::start(lab.client(), Options { timeout: LIMIT, ..path("/slow?ms=60000") }).unwrap();
    patience::until("the server has the request", || asked(&server) > before);
    server.kill().unwrap();
    let report = load.wait();
    assert_eq!(report.failed.len(), 1, "{report:?}");
    assert!(
        ["reset", "closed_early"].contains(&serde_json::to_value(report.failed[0].cause).unwrap().as_str().unwrap())
    );
    assert!(report.failed[0].local_port.is_some());
}

#[test]
#[ignore = "needs root"]
fn retries_are_told_apart_from_failures() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let backend = &lab.backends()[0];
    let target = own(backend)[0];
    let options = Options::new(target).count(40).concurrency(1).rate(100.0).retries(100_000);
    let load = Load::start(lab.client(), options).unwrap();
    patience::until("a request is tried again", || !load.snapshot().retried.is_empty());
    let server = Server::start(backend, lab.dir(), &[target], &[]).unwrap();
    let report = load.wait();
    assert_eq!((report.requests, report.succeeded(), report.failed.len()), (40, 40, 0));
    assert!(!report.retried.is_empty());
    assert_eq!(report.attempts, 40 + report.retried.len() as u64);
    assert_eq!(server.requests().unwrap().len(), 40);
}

fn received_bytes(host: &Host) -> u64 {
    let text = host.run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("eth")?.split_once(':'));
    lines.map(|(_, counts)| counts.split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum()
}
