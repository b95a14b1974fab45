//! Health: backends that do not work are out by themselves, and back by themselves.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use lb_userspace::api::types::{Backend, BackendHealth};
use naru_tests::{
    lab::{Builder, Lab},
    load::{Load, Options},
    naru::{Naru, attach_decap, naru_binary},
    server::Server,
    site::{Family, HTTP, Site, Vip},
};

/// Quick, so that tests are.
const HEALTH: &str = "{ type = \"http\", interval = \"400ms\", timeout = \"400ms\", fall = 2 }";

/// As [`HEALTH`], at backends' own addresses.
const BY_ADDRESS: &str = "{ type = \"http\", via = \"address\", interval = \"400ms\", timeout = \"400ms\", fall = 2 }";

/// A site whose VIPs have their backends probed.
fn probed(lab: Builder, vips: &[Vip], health: &str) -> Site {
    let each: Vec<_> = vips.iter().map(|vip| (*vip, health)).collect();
    probed_each(lab, &each)
}

/// A site whose VIPs have their backends probed, each in its way.
fn probed_each(lab: Builder, each: &[(Vip, &str)]) -> Site {
    let vips: Vec<_> = each.iter().map(|(vip, _)| *vip).collect();
    let site = Site::start(lab, &vips).unwrap();
    let mut text = site.config().unwrap();
    for (vip, health) in each {
        let name = format!("name = \"{}\"\n", vip.name);
        text = text.replacen(&name, &format!("{name}health = {health}\n"), 1);
    }
    site.write_config(&text).unwrap();
    site.cli(&["apply"]).unwrap();
    site
}

fn backends(site: &Site, vip: &Vip) -> Vec<Backend> {
    site.read(&["backend", "list", vip.name]).unwrap()
}

fn health(backend: &Backend) -> &BackendHealth {
    backend.health.as_ref().expect("it is probed")
}

/// Waits until these are the verdicts, and the states that follow.
fn wait_for(site: &Site, vip: &Vip, expected: &[(&str, &str)]) {
    let is_so = |_: &Naru| {
        let backends = backends(site, vip);
        let found: Vec<_> = backends.iter().map(|own| (health(own).verdict.as_str(), own.state.as_str())).collect();
        anyhow::ensure!(found == expected, "{found:?}");
        Ok(true)
    };
    site.wait_for(&format!("verdicts are {expected:?}"), patience::LIMIT, is_so).unwrap();
}

const UP: (&str, &str) = ("up", "active");
const OUT: (&str, &str) = ("down", "failed");

/// Starts a server again that was killed.
fn serve_again(site: &mut Site, vips: &[Vip], place: usize) {
    let backend = &site.lab.backends()[place];
    let mut http: Vec<SocketAddr> = vips.iter().map(Vip::http).collect();
    http.push(SocketAddr::new(backend.ipv4().into(), HTTP));
    site.servers[place] = Server::start(backend, site.lab.dir(), &http, &[]).unwrap();
}

/// What takes privileges elsewhere does without them, under the unit.
#[test]
#[ignore = "needs root"]
fn echoes_and_programs_probe_with_what_the_unit_leaves() {
    let vips = [Vip::IPIP, Vip::L2];
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("configs/naru.service");
    let site = Site::start_with(Lab::builder(), &vips, |naru| naru.confine(&unit)).unwrap();
    let second = site.lab.backends()[1].ipv4().to_string();
    let script = format!(
        "grep -q CapPrm:.0000000000000000 /proc/self/status || exit 9; [ $NARU_BACKEND != {second} ] || {{ echo stale; \
         exit 3; }}; sleep 3600 & exit 0"
    );
    let common = "via = \"address\", interval = \"400ms\", fast_interval = \"100ms\", fall = 2";
    let config = site.config().unwrap();
    let echo = format!("\nhealth = {{ type = \"icmp\", size = 1400, {common} }}\nforward");
    let program =
        format!("\nhealth = {{ type = \"exec\", command = [\"/bin/sh\", \"-c\", '{script}'], {common} }}\nforward");
    let (first, rest) = config.split_at(config.rfind("[[vip]]").unwrap());
    site.write_config(&(first.replace("\nforward", &echo) + &rest.replace("\nforward", &program))).unwrap();
    let refused = site.cli(&["apply"]).unwrap_err().to_string();
    assert!(refused.contains("net.ipv4.ping_group_range"), "{refused}");
    let mut allow = site.lab.balancer().command("sh");
    allow.args(["-c", "echo 0 0 > /proc/sys/net/ipv4/ping_group_range"]);
    assert!(patience::output(&mut allow).unwrap().status.success());
    site.cli(&["apply"]).unwrap();
    wait_for(&site, &vips[0], &[UP; 3]);
    wait_for(&site, &vips[1], &[UP, OUT, UP]);
    let own = backends(&site, &vips[1]).swap_remove(1);
    assert_eq!(health(&own).failure.as_deref(), Some("exit status 3: stale"));
}

#[test]
#[ignore = "needs root"]
fn a_server_that_dies_is_out_by_itself_and_comes_back_when_it_does() {
    let vips = [Vip::IPIP, Vip::L2];
    let mut site = probed(Lab::builder(), &vips, HEALTH);
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP; 3]));
    let slots: Vec<u32> = backends(&site, &vips[0]).iter().map(|own| own.slots).collect();
    // A request whose connection fails is asked again, until the verdict has fallen.
    let loads = vips.map(|vip| {
        let options = Options { timeout: Duration::from_secs(1), ..Options::new(vip.http()) };
        Load::start(site.lab.client(), options.rate(200.0).retries(20)).unwrap()
    });
    site.servers[1].kill().unwrap();
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP, OUT, UP]));
    let own = backends(&site, &vips[0]).swap_remove(1);
    assert_eq!((own.slots, health(&own).flips, health(&own).failure.as_deref()), (0, 1, Some("connection refused")));
    // From now on nothing has to be asked again.
    for load in &loads {
        load.more(10);
        let retried = load.snapshot().retried.len();
        load.more(200);
        assert_eq!(load.snapshot().retried.len(), retried, "a dead server gets connections");
    }
    let listed = site.cli(&["health", vips[0].name]).unwrap();
    assert!(listed.contains("connection refused"), "{listed}");
    let listed = site.cli(&["backend", "list", vips[0].name]).unwrap();
    assert!(listed.contains("fails its probes: connection refused"), "{listed}");
    assert_eq!(site.metric("naru_backend_up", &[("vip", "web"), ("backend", &own.address.to_string())]).unwrap(), 0.0);

    serve_again(&mut site, &vips, 1);
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP; 3]));
    assert_eq!(
        backends(&site, &vips[0]).iter().map(|own| own.slots).collect::<Vec<_>>(),
        slots,
        "its slots are its own"
    );
    for load in loads {
        load.more(100);
        let report = load.stop();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert!(report.backends.contains_key(site.servers[1].name()));
    }
}

#[test]
#[ignore = "needs root"]
fn a_restart_loses_no_verdict_and_invents_none() {
    let vip = Vip::IPIP;
    let mut site = probed(Lab::builder(), &[vip], HEALTH);
    wait_for(&site, &vip, &[UP; 3]);
    let load = Load::start(site.lab.client(), Options::new(vip.http()).rate(100.0).retries(20)).unwrap();
    site.servers[1].kill().unwrap();
    wait_for(&site, &vip, &[UP, OUT, UP]);
    let retried = load.snapshot().retried.len();
    for _ in 0..2 {
        site.kill9().unwrap();
        site.restart().unwrap();
        // Before a probe can have come back as often as it takes.
        let states: Vec<_> = backends(&site, &vip).into_iter().map(|own| own.state).collect();
        assert_eq!(states, ["active", "failed", "active"]);
        load.more(50);
    }
    let report = load.stop();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!(report.retried.len(), retried, "a dead server got connections after a restart");
    let log = site.log();
    assert_eq!(log.matches("fails its probes").count(), 1, "a verdict was made anew: {log}");
}

#[test]
#[ignore = "needs root"]
fn where_all_fail_all_serve_and_what_operators_want_goes_first() {
    let vip = Vip::L2;
    let mut site = probed(Lab::builder(), &[vip], HEALTH);
    wait_for(&site, &vip, &[UP; 3]);
    let third = backends(&site, &vip)[2].address.to_string();
    site.cli(&["backend", "drain", vip.name, &third]).unwrap();
    wait_for(&site, &vip, &[UP, UP, ("up", "drain")]);
    site.servers.iter_mut().for_each(|server| server.kill().unwrap());
    // The one that is drained stays so; the others are all that there are.
    wait_for(&site, &vip, &[("down", "active"), ("down", "active"), ("down", "drain")]);
    let is_told =
        |naru: &Naru| Ok(naru.log().contains("vip direct: too few backends work: those that fail serve as well"));
    site.wait_for("it is told", patience::LIMIT, is_told).unwrap();
    let not_ready = site.try_cli(&["vip", "show", vip.name, "--ready"]).unwrap();
    assert_eq!(not_ready.status.code(), Some(1));
    let said = String::from_utf8_lossy(&not_ready.stdout);
    assert_eq!(said, "direct cannot serve: all backends that take flows fail their probes\n");
    assert!(site.cli(&["health"]).unwrap().contains("serves all the same: too few work"));
    serve_again(&mut site, &[vip], 0);
    wait_for(&site, &vip, &[UP, OUT, ("down", "drain")]);
    assert_eq!(site.cli(&["vip", "show", vip.name, "--ready"]).unwrap(), "direct can serve\n");
    let report = Load::start(site.lab.client(), Options::new(vip.http()).count(50)).unwrap().wait();
    assert_eq!(report.succeeded(), 50, "{:?}", report.failed);
    // Taken back, it fails as the other does.
    site.cli(&["backend", "restore", vip.name, &third]).unwrap();
    wait_for(&site, &vip, &[UP, OUT, OUT]);
    // Without probes all work.
    let text = site.config().unwrap();
    let without: Vec<_> = text.lines().filter(|line| !line.starts_with("health")).collect();
    site.write_config(&(without.join("\n") + "\n")).unwrap();
    let applied = site.cli(&["apply"]).unwrap();
    assert!(applied.contains("vip direct: health http /, "), "{applied}");
    let states: Vec<_> = backends(&site, &vip).into_iter().map(|own| (own.state, own.health)).collect();
    assert_eq!(states, vec![("active".to_owned(), None); 3]);
}

/// In either mode and family, and each beside one that is asked at backends' own addresses.
const PATHS: [[Vip; 2]; 4] = [
    [
        Vip { name: "l2-4", address: "203.0.113.20", ..Vip::L2 },
        Vip { name: "l2-4-address", address: "203.0.113.21", ..Vip::L2 },
    ],
    [
        Vip { name: "l2-6", address: "2001:db8:77::20", backends: Family::V6, ..Vip::L2 },
        Vip { name: "l2-6-address", address: "2001:db8:77::21", backends: Family::V6, ..Vip::L2 },
    ],
    [
        Vip { name: "ipip-4", address: "203.0.113.10", ..Vip::IPIP },
        Vip { name: "ipip-4-address", address: "203.0.113.11", ..Vip::IPIP },
    ],
    [
        Vip { name: "ipip-6", address: "2001:db8:77::10", backends: Family::V6, ..Vip::IPIP },
        Vip { name: "ipip-6-address", address: "2001:db8:77::11", backends: Family::V6, ..Vip::IPIP },
    ],
];

/// What is lost, how it is lost and had again, and by which VIPs that is seen.
type Fault<'a> = (&'a str, &'a dyn Fn(bool), &'a [Vip]);

/// What fails clients and leaves the server well is seen over the path of clients, and not otherwise.
#[test]
#[ignore = "needs root"]
fn a_backend_that_lost_the_vip_the_tunnel_or_the_route_is_out_where_probes_go_the_way_of_clients() {
    let vips = PATHS.as_flattened();
    let each = PATHS.map(|[path, blind]| [(path, HEALTH), (blind, BY_ADDRESS)]);
    let site = probed_each(Lab::builder(), each.as_flattened());
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP; 3]));
    let first = site.lab.backends()[0].clone();
    let paths = PATHS.map(|[vip, _]| vip);
    let tunnels = paths.into_iter().filter(|vip| vip.forward == "ipip").collect::<Vec<_>>();
    let lose_vip = |is_lost: bool| {
        let verb = if is_lost { "del" } else { "add" };
        for vip in vips {
            let options = if vip.ip().is_ipv6() { "/128 dev lo nodad" } else { "/32 dev lo" };
            let options = if is_lost { options.trim_end_matches(" nodad") } else { options };
            first.ip(&format!("addr {verb} {}{options}\n", vip.address)).unwrap();
        }
    };
    let lose_route = |is_lost: bool| {
        let verb = if is_lost { "add" } else { "del" };
        for vip in vips {
            let family = if vip.ip().is_ipv6() { "-6" } else { "-4" };
            let mut command = first.command("ip");
            command.args([family, "rule", verb, "from", vip.address, "prohibit"]);
            assert!(patience::output(&mut command).unwrap().status.success());
        }
    };
    let lose_tunnel = |is_lost: bool| {
        if !is_lost {
            return attach_decap(&site.lab, &first).unwrap();
        }
        let mut command = first.command(naru_binary().unwrap());
        command.args(["decap", "detach", "eth0", "--bpffs"]).arg(site.lab.bpffs().join(first.name()));
        assert!(patience::output(&mut command).unwrap().status.success());
    };
    let faults: [Fault<'_>; 3] =
        [("VIP", &lose_vip, &paths), ("route", &lose_route, &paths), ("tunnel", &lose_tunnel, &tunnels)];
    for (fault, lose, hit) in faults {
        let from = Instant::now();
        lose(true);
        for vip in hit {
            wait_for(&site, vip, &[OUT, UP, UP]);
            println!("{} without its {fault}: out after {:?}", vip.name, from.elapsed());
        }
        // Clients are served by the others, and probes at backends' own addresses see nothing.
        for vip in hit {
            let report = Load::start(site.lab.client(), Options::new(vip.http()).count(50)).unwrap().wait();
            assert_eq!(report.succeeded(), 50, "{} without its {fault}: {:?}", vip.name, report.failed);
        }
        PATHS.iter().for_each(|[_, blind]| wait_for(&site, blind, &[UP; 3]));
        let from = Instant::now();
        lose(false);
        for vip in hit {
            wait_for(&site, vip, &[UP; 3]);
            println!("{} with its {fault} again: back after {:?}", vip.name, from.elapsed());
        }
    }
    // A server that hangs is seen either way, and one that is well again.
    let from = Instant::now();
    site.servers[0].pause().unwrap();
    for vip in vips {
        wait_for(&site, vip, &[OUT, UP, UP]);
        println!("{} with a server that hangs: out after {:?}", vip.name, from.elapsed());
    }
    site.servers[0].resume().unwrap();
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP; 3]));
}

/// In either family and mode: clients need not wait for a time-out.
#[test]
#[ignore = "needs root"]
fn where_it_fails_closed_connections_are_refused_at_once() {
    let vips = PATHS.map(|[path, _]| path);
    let closed = HEALTH.replace(" }", ", fail = \"closed\" }");
    let mut site = probed(Lab::builder(), &vips, &closed);
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP; 3]));
    let connect = |site: &Site, vip: &Vip| {
        let address = vip.http();
        site.lab.client().run(move || TcpStream::connect_timeout(&address, patience::LIMIT))
    };
    let mut open: Vec<_> = vips.iter().map(|vip| connect(&site, vip).unwrap()).collect();
    site.servers.iter_mut().for_each(|server| server.kill().unwrap());
    vips.iter().for_each(|vip| wait_for(&site, vip, &[OUT; 3]));
    for (vip, open) in vips.iter().zip(&mut open) {
        let from = Instant::now();
        let refused = connect(&site, vip).unwrap_err();
        println!("{}: {refused} after {:?}", vip.name, from.elapsed());
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{}", vip.name);
        // What was open is over.
        open.set_read_timeout(Some(patience::LIMIT)).unwrap();
        let ended = open.write_all(b"GET / HTTP/1.1\r\n\r\n").and_then(|()| open.read(&mut [0; 1]));
        assert!(!ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{}: {ended:?}", vip.name);
        let not_ready = site.try_cli(&["vip", "show", vip.name, "--ready"]).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&not_ready.stdout),
            format!("{} cannot serve: no backend takes flows\n", vip.name)
        );
    }
    serve_again(&mut site, &vips, 1);
    vips.iter().for_each(|vip| wait_for(&site, vip, &[OUT, UP, OUT]));
    for vip in &vips {
        let report = Load::start(site.lab.client(), Options::new(vip.http()).count(50)).unwrap().wait();
        assert_eq!(report.succeeded(), 50, "{}: {:?}", vip.name, report.failed);
    }
}

/// Two that serve and one that stands by.
#[test]
#[ignore = "needs root"]
fn a_backend_that_stands_by_serves_while_too_few_work() {
    let vip = Vip::IPIP;
    let mut site = probed(Lab::builder(), &[vip], HEALTH);
    let text = site.config().unwrap();
    let third = text.match_indices("{ address = \"").nth(2).unwrap().0;
    let text = format!("{}{{ tier = 1, {}", &text[..third], &text[third + 2..]);
    site.write_config(&text).unwrap();
    site.cli(&["apply"]).unwrap();
    const STANDBY: (&str, &str) = ("up", "standby");
    // How many requests of fifty each server has answered.
    let served = |site: &Site| {
        let report = Load::start(site.lab.client(), Options::new(vip.http()).count(50)).unwrap().wait();
        assert_eq!(report.succeeded(), 50, "{:?}", report.failed);
        let by = |server: &Server| report.backends.get(server.name()).copied().unwrap_or(0);
        site.servers.iter().map(by).collect::<Vec<_>>()
    };
    wait_for(&site, &vip, &[UP, UP, STANDBY]);
    assert!(matches!(served(&site)[..], [1..=49, 1..=49, 0]));
    site.servers[0].kill().unwrap();
    wait_for(&site, &vip, &[OUT, UP, STANDBY]);
    assert_eq!(served(&site), [0, 50, 0]);
    site.servers[1].kill().unwrap();
    wait_for(&site, &vip, &[OUT, OUT, UP]);
    assert_eq!(served(&site), [0, 0, 50]);
    serve_again(&mut site, &[vip], 0);
    wait_for(&site, &vip, &[UP, OUT, STANDBY]);
    assert_eq!(served(&site), [50, 0, 0]);
}
