//! Servers that end and are started anew, and a daemon that is away, while clients ask and nobody gives a command.

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use naru_tests::{
    connections::{self, Habit, Population, Tally},
    lab::Lab,
    load::{Load, Options, Report},
    server::Server,
    site::{ECHO, Site, Vip},
    talk,
};
use patience::LIMIT;

use super::{OUT, UP, backends, health, probe, probed, serve_again, wait_for};

const ALL: usize = 10;

/// Of each client to each VIP.
const CONNECTIONS: usize = 100;

const VIPS: [Vip; 2] = [Vip { weights: &[100; ALL], ..Vip::IPIP }, Vip { weights: &[100; ALL], ..Vip::L2 }];

/// Servers that are about to end say so on their page, and finish what they have begun: clients notice nothing.
const HEALTH: &str = "{ type = \"http\", path = \"/healthz\", interval = \"300ms\", fast_interval = \"100ms\", fall = 2, \
                      on_failure = \"drain\" }";

/// Two servers of ten at a time are restarted in good order, under 500 requests a second: connections for one request
/// each, connections that are kept, and answers that take long. The clients of the former come round to their ports
/// within two seconds, and find nobody at a backend that is drained if they are sent there (ADR 16).
#[test]
#[ignore = "needs root"]
fn no_request_fails_where_servers_are_restarted_in_good_order() {
    let mut site = probed(Lab::builder().backends(ALL), &VIPS, HEALTH);
    VIPS.iter().for_each(|vip| wait_for(&site, vip, &[UP; ALL]));
    let mut first_port = 10_000;
    let loads = VIPS.map(|vip| {
        // No load takes a port of another's.
        let mut own_ports = |count| {
            let first = first_port;
            first_port += count;
            Some((first, first_port - 1))
        };
        let short = Options { ports: own_ports(360), ..Options::new(vip.http()) };
        let kept = Options { keep_alive: true, ports: own_ports(5_000), ..Options::new(vip.http()) };
        let slow = Options { path: "/slow?ms=500".to_owned(), ports: own_ports(5_000), ..Options::new(vip.http()) };
        [short.rate(180.0), kept.rate(50.0), slow.rate(20.0).concurrency(16)]
            .map(|options| Load::start(site.lab.client(), options).unwrap())
    });
    for pair in (0..ALL).step_by(2) {
        let from = Instant::now();
        for place in [pair, pair + 1] {
            site.servers[place].terminate().unwrap();
        }
        for place in [pair, pair + 1] {
            site.servers[place].wait_for_end().unwrap();
            println!("{} has ended after {:?}", site.servers[place].name(), from.elapsed());
            serve_again(&mut site, &VIPS, place);
        }
    }
    let from = Instant::now();
    VIPS.iter().for_each(|vip| wait_for(&site, vip, &[UP; ALL]));
    println!("all are back after {:?}", from.elapsed());
    for (vip, loads) in VIPS.iter().zip(loads) {
        for (load, kind) in loads.into_iter().zip(["short", "kept", "slow"]) {
            load.more(50);
            let report = load.stop();
            println!("{} {kind}: {}", vip.name, summary(&report));
            assert!(report.failed.is_empty(), "{} {kind}: {:?}", vip.name, report.failed);
            let is_by_all = kind != "short" || report.backends.len() == ALL;
            assert!(is_by_all, "{}: {:?}", vip.name, report.backends);
        }
        for own in backends(&site, vip) {
            assert_eq!(health(&own).flips, 2, "{} {}: out and back", vip.name, own.address);
        }
    }
}

/// Servers that are killed lose what they have in their hands, and get new connections until the verdict falls. None of
/// it fails a client that asks again.
#[test]
#[ignore = "needs root"]
fn where_servers_are_killed_requests_fail_until_the_verdict_and_none_twice() {
    let mut site = probed(Lab::builder().backends(ALL), &VIPS, &HEALTH.replace("drain", "reset"));
    VIPS.iter().for_each(|vip| wait_for(&site, vip, &[UP; ALL]));
    let loads = VIPS.map(|vip| {
        let options = Options::new(vip.http()).rate(250.0).retries(20);
        Load::start(site.lab.client(), options).unwrap()
    });
    let retried = || loads.iter().map(|load| load.snapshot().retried.len()).sum::<usize>();
    loads.iter().for_each(|load| load.more(100));
    for place in 0..ALL {
        let (before, from) = (retried(), Instant::now());
        site.servers[place].kill().unwrap();
        let mut verdicts = [UP; ALL];
        verdicts[place] = OUT;
        VIPS.iter().for_each(|vip| wait_for(&site, vip, &verdicts));
        let out = from.elapsed();
        // What had begun by then.
        loads.iter().for_each(|load| load.more(20));
        let failed = retried();
        loads.iter().for_each(|load| load.more(50));
        let name = site.servers[place].name().to_owned();
        assert_eq!(retried(), failed, "{name}: requests after the verdict failed");
        println!("{name} was killed: {} attempts failed, and none from {out:?} on", failed - before);
        serve_again(&mut site, &VIPS, place);
        VIPS.iter().for_each(|vip| wait_for(&site, vip, &[UP; ALL]));
    }
    for (vip, load) in VIPS.iter().zip(loads) {
        load.more(50);
        let report = load.stop();
        println!("{}: {}, retried {:?}", vip.name, summary(&report), report.retried_by_cause());
        assert!(report.failed.is_empty(), "{}: {:?}", vip.name, report.failed);
        assert!(!report.retried.is_empty(), "{}: no request met a server that was killed", vip.name);
        assert_eq!(report.backends.len(), ALL, "{}: {:?}", vip.name, report.backends);
    }
}

fn summary(report: &Report) -> String {
    let rate = report.requests as f64 / report.seconds;
    let slowest = Duration::from_secs_f64(report.slowest);
    format!("{} requests, {rate:.0} a second, {} failed, slowest {slowest:?}", report.requests, report.failed.len())
}

/// How long the daemon is away.
const AWAY: Duration = Duration::from_secs(60);

/// A daemon that is away for a minute leaves the data plane to the verdicts that it had. What changes meanwhile it finds
/// out once it is back, and nothing else. No connection breaks, of those that are open throughout and of those that come
/// and go: a backend whose page fails is drained.
#[test]
#[ignore = "needs root"]
fn a_daemon_that_is_killed_loses_no_verdict_and_invents_none_and_no_connection_breaks() {
    let vips = [Vip::IPIP, Vip::L2].map(|vip| Vip { weights: &[100; 4], ..vip });
    let mut site = Site::start(Lab::builder().backends(4).clients(5), &vips).unwrap();
    let talk = vips.map(|vip| SocketAddr::new(vip.ip(), talk::PORT));
    let _servers: Vec<_> =
        site.lab.backends().iter().map(|host| Server::start_talking(host, site.lab.dir(), &talk).unwrap()).collect();
    let ports = format!("\"udp/{ECHO}\", \"tcp/{}\"", talk::PORT);
    site.write_config(&site.config().unwrap().replace(&format!("\"udp/{ECHO}\""), &ports)).unwrap();
    probe(&site, vips.map(|vip| (vip, HEALTH)));
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP; 4]));

    let stays = Habit { parts: 1, pause: Duration::from_millis(200), lifetime: None };
    let comes_and_goes = Habit { lifetime: Some(Duration::from_secs(1)), ..stays };
    let clients = site.lab.clients().to_vec();
    let start = |client: usize, habits: &[Habit]| {
        let populations = talk.map(|target| {
            let options =
                connections::Options { target, connections: CONNECTIONS, habits: habits.to_vec(), timeout: LIMIT };
            Population::start(&clients[client..=client], options).unwrap()
        });
        for population in &populations {
            patience::until("all connections are open", || population.tally().open_now() == CONNECTIONS as u64);
        }
        populations
    };
    // Of a client that has had none yet.
    let check_serving = |client: usize, expected: &[&str]| {
        for population in start(client, &[stays]) {
            let Tally { open, failures, .. } = population.tally();
            println!("new connections: {open:?}");
            assert_eq!(open.into_keys().collect::<Vec<_>>(), expected);
            assert!(failures.is_empty(), "{failures:?}");
            population.close();
        }
    };
    let populations = start(0, &[stays, comes_and_goes]);
    site.servers[1].kill().unwrap();
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP, OUT, UP, UP]));
    check_serving(1, &["b1", "b3", "b4"]);

    let from = Instant::now();
    site.kill9().unwrap();
    site.servers[2].kill().unwrap();
    serve_again(&mut site, &vips, 1);
    check_serving(2, &["b1", "b3", "b4"]);
    let opened = populations.each_ref().map(|population| population.tally().opened);
    sleep(AWAY.saturating_sub(from.elapsed()));
    for (population, opened) in populations.iter().zip(opened) {
        patience::until("connections come and go", || population.tally().opened >= opened + 10 * CONNECTIONS as u64);
        println!("{} connections were opened meanwhile", population.tally().opened - opened);
    }
    check_serving(3, &["b1", "b3", "b4"]);
    println!("the daemon was away for {:.1?}", from.elapsed());
    site.restart().unwrap();
    let from = Instant::now();
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP, UP, OUT, UP]));
    println!("what has changed meanwhile is known after {:.1?}", from.elapsed());
    check_serving(4, &["b1", "b2", "b4"]);

    for population in populations {
        population.wait_until_heard(Instant::now(), LIMIT).unwrap();
        let Tally { opened, failures, .. } = population.end();
        println!("{opened} connections, {} broke", failures.len());
        assert!(failures.is_empty(), "{failures:?}");
    }
    for vip in &vips {
        let flips: Vec<_> = backends(&site, vip).iter().map(|own| health(own).flips).collect();
        assert_eq!(flips, [0, 1, 1, 0], "{}: since the daemon is back", vip.name);
        let log = site.log();
        let count = |what: &str| {
            log.lines().filter(|line| line.contains(&format!("vip {}: ", vip.name)) && line.contains(what)).count()
        };
        assert_eq!((count("fails its probes"), count("works again")), (2, 1), "{}: {log}", vip.name);
    }
}
