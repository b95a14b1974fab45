//! Health: backends that do not work are out by themselves, and back by themselves.

mod busy;
mod faults;
mod firewall;
mod flapping;
mod overrides;
mod restarts;
mod sharing;
mod slow_start;

use std::{
    fmt::Display,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use lb_common::ABI;
use lb_userspace::{
    api::types::{Backend, BackendHealth},
    model::ProblemKind,
};
use naru_tests::{
    lab::{Builder, Lab, Legs},
    load::{Load, Options},
    naru::Naru,
    server::Server,
    site::{Family, HTTP, Site, Vip},
};

/// Quick, so that tests are.
const HEALTH: &str = "{ type = \"http\", interval = \"400ms\", timeout = \"400ms\", fall = 2 }";

/// A site whose VIPs have their backends probed.
fn probed(lab: Builder, vips: &[Vip], health: &str) -> Site {
    let site = Site::start(lab, vips).unwrap();
    probe(&site, vips.iter().map(|vip| (*vip, health)));
    site
}

/// Has backends of VIPs probed, each in its way.
fn probe<H: Display>(site: &Site, each: impl IntoIterator<Item = (Vip, H)>) {
    let mut text = site.config().unwrap();
    for (vip, health) in each {
        let name = format!("name = \"{}\"\n", vip.name);
        text = text.replacen(&name, &format!("{name}health = {health}\n"), 1);
    }
    site.write_config(&text).unwrap();
    site.cli(&["apply"]).unwrap();
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
fn a_restart_and_an_upgrade_lose_no_verdict_and_invent_none() {
    let vip = Vip::IPIP;
    let mut site = probed(Lab::builder(), &[vip], HEALTH);
    wait_for(&site, &vip, &[UP; 3]);
    let load = Load::start(site.lab.client(), Options::new(vip.http()).rate(100.0).retries(20)).unwrap();
    site.servers[1].kill().unwrap();
    wait_for(&site, &vip, &[UP, OUT, UP]);
    let retried = load.snapshot().retried.len();
    let pins = [ABI, ABI + 1].map(|abi| site.bpffs().join(format!("v{abi}")));
    for is_of_another_version in [false, false, true] {
        site.kill9().unwrap();
        if is_of_another_version {
            let [own, other] = &pins;
            fs::rename(own, other).unwrap();
        }
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

/// In either family and mode.
const WHOLE: [Vip; 4] = [
    Vip { name: "l2-4", address: "203.0.113.20", ..Vip::L2 },
    Vip { name: "l2-6", address: "2001:db8:77::20", backends: Family::V6, ..Vip::L2 },
    Vip { name: "ipip-4", address: "203.0.113.10", ..Vip::IPIP },
    Vip { name: "ipip-6", address: "2001:db8:77::10", backends: Family::V6, ..Vip::IPIP },
];

/// Clients need not wait for a time-out, whether they send segments or datagrams.
#[test]
#[ignore = "needs root"]
fn where_it_fails_closed_connections_are_refused_at_once() {
    let vips = WHOLE;
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
        let address = vip.echo();
        let refused = site.lab.client().run(move || {
            let any: IpAddr =
                if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect(address).unwrap();
            socket.set_read_timeout(Some(patience::LIMIT)).unwrap();
            socket.send(b"?").and_then(|_| socket.recv(&mut [0; 8]))
        });
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{}: a datagram", vip.name);
    }
    // Who sends very many is not told of each.
    let (client, address) = (site.lab.client(), vips[2].echo());
    let (before, from) = (client.told_unreachable().unwrap(), Instant::now());
    const MANY: u64 = 40_000;
    client.run(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        (0..MANY).for_each(|_| drop(socket.send_to(b"?", address)));
    });
    let told = client.told_unreachable().unwrap() - before;
    let cpus = thread::available_parallelism().unwrap().get() as u64;
    println!("told of {told} of {MANY} datagrams within {:?}", from.elapsed());
    assert!((1000..=(from.elapsed().as_secs() + 2) * 1000 * cpus).contains(&told), "{told}");
    serve_again(&mut site, &vips, 1);
    vips.iter().for_each(|vip| wait_for(&site, vip, &[OUT, UP, OUT]));
    for vip in &vips {
        let report = Load::start(site.lab.client(), Options::new(vip.http()).count(50)).unwrap().wait();
        assert_eq!(report.succeeded(), 50, "{}: {:?}", vip.name, report.failed);
    }
}

/// A file that is there for as long as this is.
struct Present(PathBuf);

impl Present {
    fn new(path: PathBuf) -> Self {
        fs::write(&path, "").unwrap();
        Self(path)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// Has the daemon be one that tests disturb, by files in this directory.
fn restart_with_faults(site: &mut Site) -> PathBuf {
    let faults = site.lab.dir().join("faults");
    fs::create_dir(&faults).unwrap();
    site.kill9().unwrap();
    site.restart_in(&[], &[("NARU_FAULTS", &faults)]).unwrap();
    faults
}

/// A change whose maps are written, and whose text the disk does not take, holds no verdict up; and one that is taken back
/// for a save that came in between takes none with it.
#[test]
#[ignore = "needs root"]
fn a_verdict_waits_for_no_disk_and_stays_where_a_change_is_taken_back() {
    if !patience::has_faults("verdicts while the disk hangs") {
        return;
    }
    let vip = Vip::IPIP;
    let mut site = probed(Lab::builder(), &[vip], HEALTH);
    let faults = restart_with_faults(&mut site);
    wait_for(&site, &vip, &[UP; 3]);
    let mut servers = mem::take(&mut site.servers);
    let first = backends(&site, &vip)[0].address.to_string();
    let edit = ["backend", "set", vip.name, &first, "--weight", "50"];
    for is_taken_back in [false, true] {
        let held = Present::new(faults.join("held"));
        let place = usize::from(is_taken_back);
        thread::scope(|scope| {
            let edited = scope.spawn(|| site.try_cli(&edit).unwrap());
            // Dropped before the command is waited for, should something fail.
            let held = held;
            site.wait_for("the disk is waited for", patience::LIMIT, |_| Ok(faults.join("flushing").exists())).unwrap();
            servers[place].kill().unwrap();
            let mut verdicts = [UP; 3];
            verdicts[..=place].fill(OUT);
            wait_for(&site, &vip, &verdicts);
            assert!(!edited.is_finished());
            if is_taken_back {
                site.write_config(&format!("{}# saved\n", site.config().unwrap())).unwrap();
            }
            drop(held);
            fs::remove_file(faults.join("flushing")).unwrap();
            let edited = edited.join().unwrap();
            assert_eq!(edited.status.success(), !is_taken_back, "{}", String::from_utf8_lossy(&edited.stderr));
            let states: Vec<_> = backends(&site, &vip).into_iter().map(|own| own.state).collect();
            assert_eq!(states, verdicts.map(|(_, state)| state));
        });
    }
    // Nor does one that has taken a backend out of all that is probed, for as long as that is in force.
    let edits = [&["backend", "remove", vip.name, &first] as &[&str], &["vip", "set", vip.name, "--health", "none"]];
    for (edit, still_probed) in edits.into_iter().zip([2, 0]) {
        let text = site.config().unwrap();
        let held = Present::new(faults.join("held"));
        thread::scope(|scope| {
            let edited = scope.spawn(|| site.try_cli(edit).unwrap());
            let held = held;
            let is_followed = |_: &Naru| {
                let probed = backends(&site, &vip).iter().filter(|own| own.health.is_some()).count();
                Ok(probed == still_probed)
            };
            site.wait_for("it is probed no more", patience::LIMIT, is_followed).unwrap();
            assert!(!edited.is_finished());
            site.write_config(&format!("{text}# saved\n")).unwrap();
            drop(held);
            assert!(!edited.join().unwrap().status.success());
        });
        let states: Vec<_> = backends(&site, &vip).into_iter().map(|own| own.state).collect();
        assert_eq!(states, ["failed", "failed", "active"], "{edit:?}");
        wait_for(&site, &vip, &[OUT, OUT, UP]);
    }
    site.servers = servers;
    serve_again(&mut site, &[vip], 0);
    wait_for(&site, &vip, &[UP, OUT, UP]);
}

/// Whoever drains waits for the disk, for a while; a verdict that comes in that time does not.
#[test]
#[ignore = "needs root"]
fn a_verdict_waits_for_no_operation_that_is_being_kept() {
    if !patience::has_faults("verdicts while the disk hangs") {
        return;
    }
    let vip = Vip::IPIP;
    let quick = HEALTH.replace("fall = 2", "fall = 1").replace("400ms", "200ms");
    let mut site = probed(Lab::builder(), &[vip], &quick);
    let faults = restart_with_faults(&mut site);
    let [first, third] = [0, 2].map(|place| backends(&site, &vip)[place].address.to_string());
    // On a machine that is busy the verdict may come once the drain is answered: then there is nothing to be seen.
    let is_before = (0..10).any(|_| {
        wait_for(&site, &vip, &[UP; 3]);
        let mut servers = mem::take(&mut site.servers);
        let log = site.log().len();
        let is_before = thread::scope(|scope| {
            let held = Present::new(faults.join("held"));
            let drained = scope.spawn(|| site.try_cli(&["backend", "drain", vip.name, &third]).unwrap());
            site.wait_for("the disk is waited for", patience::LIMIT, |_| Ok(faults.join("flushing").exists())).unwrap();
            servers[0].kill().unwrap();
            wait_for(&site, &vip, &[OUT, UP, ("up", "drain")]);
            assert!(drained.join().unwrap().status.success());
            drop(held);
            let log = site.log().split_off(log);
            let place = |what: &str| log.find(what).unwrap_or_else(|| panic!("`{what}` is not in {log}"));
            place(&format!("backend {first} fails its probes")) < place(&format!("drain of backend {third}"))
        });
        site.servers = servers;
        serve_again(&mut site, &[vip], 0);
        fs::remove_file(faults.join("flushing")).unwrap();
        site.cli(&["backend", "restore", vip.name, &third]).unwrap();
        site.wait_for("all is kept", patience::LIMIT, |naru| Ok(naru.status().unwrap().problems.is_empty())).unwrap();
        is_before
    });
    assert!(is_before, "the verdict was in force after the drain was answered, each time");
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

/// Whoever has not said it all is told which interface the data plane must be on, before and while every probe fails.
#[test]
#[ignore = "needs root"]
fn answers_by_an_interface_that_naru_is_not_attached_to_are_told() {
    const UNSEEN: &str = "come by eth1, where naru is not attached";
    let vips = [Vip::L2, Vip::IPIP];
    let without = |naru: &mut Naru| {
        let text = naru.config().unwrap().replace("[\"eth0\", \"eth1\"]", "[\"eth0\"]");
        naru.write_config(&text).unwrap();
    };
    let site = Site::start_with(Lab::builder().legs(Legs::Two), &vips, without).unwrap();
    probe(&site, vips.map(|vip| (vip, HEALTH)));
    vips.iter().for_each(|vip| wait_for(&site, vip, &[("down", "active"); 3]));
    let told = |naru: &Naru| {
        let problems = naru.status()?.problems;
        Ok(problems.iter().any(|own| own.kind == ProblemKind::Health && own.reason.contains(UNSEEN)))
    };
    site.wait_for("it is told", patience::LIMIT, told).unwrap();
    let check = || String::from_utf8(site.try_cli(&["check"]).unwrap().stderr).unwrap();
    println!("naru check: {}", check().trim());
    assert!(check().contains(UNSEEN), "{}", check());
    site.cli(&["interface", "attach", "eth1"]).unwrap();
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP; 3]));
    site.wait_for("it is mended", patience::LIMIT, |naru| Ok(!told(naru)?)).unwrap();
    assert!(!check().contains(UNSEEN), "{}", check());
}

/// Even where it fails closed: no verdict follows from what is this host's fault, and it is told and mended.
#[test]
#[ignore = "needs root"]
fn a_pair_of_the_prober_that_is_taken_away_takes_no_backend_out() {
    let vips = WHOLE;
    let closed = HEALTH.replace(" }", ", fail = \"closed\" }");
    let site = probed(Lab::builder(), &vips, &closed);
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP; 3]));
    let load = Load::start(site.lab.client(), Options::new(vips[0].http()).rate(50.0)).unwrap();
    for change in ["link set naru-probe down\n", "link del naru-probe\n"] {
        site.lab.balancer().ip(change).unwrap();
        let times = site.log().matches("it is made anew").count();
        site.wait_for("it is seen", patience::LIMIT, |naru| Ok(naru.log().matches("it is made anew").count() > times))
            .unwrap();
        let good = || backends(&site, &vips[0]).iter().map(|own| health(own).good).collect::<Vec<_>>();
        let from = good();
        let more = |_: &Naru| Ok(good().iter().zip(&from).all(|(now, from)| now > from));
        site.wait_for("good answers go on", patience::LIMIT, more).unwrap();
    }
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP; 3]));
    let report = load.stop();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(!site.log().contains("fails its probes"), "{}", site.log());
}
