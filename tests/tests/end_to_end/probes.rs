//! Probes over the path of clients, in the lab: whoever serves clients answers, and what would fail a client fails the
//! probe. The load balancer filters by reverse path, and has the VIPs on `lo` itself.

use std::{
    io::{self, BufRead as _, BufReader},
    net::IpAddr,
    process::Stdio,
    time::Duration,
};

use lb_common::{BackendState, DropReason};
use naru_tests::{
    lab::{Builder, Lab, Legs, Placement},
    load::{Load, Options},
    naru::{Naru, lab_binary, naru_binary},
    pattern,
    probing::Probing,
    site::{ECHO, Family, HTTP, Site, Vip},
    vlan,
};
use patience::LIMIT;

/// In every combination of families.
const VIPS: [Vip; 6] = [
    Vip { name: "l2-4", address: "203.0.113.20", ..Vip::L2 },
    Vip { name: "l2-6", address: "2001:db8:77::20", backends: Family::V6, ..Vip::L2 },
    Vip { name: "ipip-44", address: "203.0.113.10", ..Vip::IPIP },
    Vip { name: "ipip-66", address: "2001:db8:77::10", backends: Family::V6, ..Vip::IPIP },
    Vip { name: "ipip-46", address: "203.0.113.11", backends: Family::V6, ..Vip::IPIP },
    Vip { name: "ipip-64", address: "2001:db8:77::11", ..Vip::IPIP },
];

/// What takes longer has failed: so long a TCP SYN that was lost would take to be sent twice more.
const TIMEOUT: Duration = Duration::from_secs(4);

/// A site whose load balancer makes it as hard as it can, and its prober.
fn start(lab: Builder, vips: &[Vip], is_local: bool, mode: &str) -> (Site, Probing) {
    let generic = |naru: &mut Naru| {
        let text = naru.config().unwrap().replacen("[node]\n", &format!("[node]\nxdp_mode = \"{mode}\"\n"), 1);
        naru.write_config(&text).unwrap();
    };
    let mut site = Site::start_with(lab, vips, generic).unwrap();
    let balancer = site.lab.balancer();
    for scope in ["all", "default"].iter().chain(site.lab.interfaces()) {
        balancer.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "1").unwrap();
    }
    for vip in vips.iter().filter(|_| is_local) {
        let nodad = if vip.ip().is_ipv6() { "/128 dev lo nodad" } else { "/32 dev lo" };
        balancer.ip(&format!("addr add {}{nodad}\n", vip.address)).unwrap();
    }
    let probing = Probing::start(&mut site).unwrap();
    (site, probing)
}

/// Each backend of a VIP, its address and name.
fn backends(site: &Site, vip: &Vip) -> Vec<(IpAddr, String)> {
    site.lab.backends().iter().map(|backend| (vip.address_of(backend), backend.name().to_owned())).collect()
}

/// Every backend of all VIPs is reached, alone, by TCP and UDP, and nothing of it is counted.
fn assert_all_answer(site: &Site, probing: &Probing, vips: &[Vip]) {
    let before = probing.dataplane().counters().unwrap();
    for vip in vips {
        for (address, name) in backends(site, vip) {
            let way = probing.way(vip.name, address).unwrap();
            for _ in 0..5 {
                let found = probing.name(way, HTTP, LIMIT);
                assert_eq!(
                    found.unwrap_or_else(|error| panic!("{} {name}: {error:#}", vip.name)),
                    name,
                    "{}",
                    vip.name
                );
            }
            let echo = probing.datagram(way, ECHO, b"question", LIMIT).unwrap();
            assert!(echo.starts_with(name.as_bytes()) || echo.ends_with(name.as_bytes()), "{}", vip.name);
        }
    }
    assert_eq!(probing.dataplane().counters().unwrap(), before, "probes were counted");
}

/// A backend that takes no probe, and others that do.
fn assert_fails(site: &Site, probing: &Probing, vip: &Vip, failing: usize) {
    for (index, (address, name)) in backends(site, vip).into_iter().enumerate() {
        let way = probing.way(vip.name, address).unwrap();
        if index == failing {
            let found = probing.name(way, HTTP, TIMEOUT);
            assert!(found.is_err(), "{}: {name} answered as {found:?}", vip.name);
        } else {
            assert_eq!(probing.name(way, HTTP, LIMIT).unwrap(), name, "{}", vip.name);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn every_backend_answers_in_every_mode_and_family() {
    for (legs, is_local, mode) in [
        (Legs::One, true, "native"),
        (Legs::Two, true, "native"),
        (Legs::One, true, "generic"),
        (Legs::Two, false, "generic"),
    ] {
        let (site, probing) = start(Lab::builder().legs(legs), &VIPS, is_local, mode);
        assert_all_answer(&site, &probing, &VIPS);
    }
}

#[test]
#[ignore = "needs root"]
fn backends_behind_a_router_answer_too() {
    let vips = &VIPS[2..];
    let (site, probing) = start(Lab::builder().placement(Placement::Routed), vips, true, "native");
    assert_all_answer(&site, &probing, vips);
}

/// The tag comes off before the prober's namespace, whose kernel would take the frame for somebody else's.
#[test]
#[ignore = "needs root"]
fn backends_in_a_vlan_answer_too() {
    const ID: u16 = 100;
    for mode in ["native", "generic"] {
        let (site, mut probing) = start(Lab::builder(), &VIPS, true, mode);
        let balancer = site.lab.balancer();
        // Without a VLAN interface the load balancer's own stack does not answer for its addresses.
        let [a, b, c, d, e, f] = balancer.mac("eth0").unwrap();
        for own in [IpAddr::from(balancer.ipv4()), balancer.ipv6().into()] {
            let neighbour = format!("{own} lladdr {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} dev eth0");
            for backend in site.lab.backends() {
                backend.ip(&format!("neigh replace {neighbour} nud permanent\n")).unwrap();
            }
        }
        vlan::tag(site.lab.router(), &site.lab.port("eth0"), ID).unwrap();
        let (address, _) = backends(&site, &VIPS[0]).swap_remove(0);
        let untagged = probing.name(probing.way(VIPS[0].name, address).unwrap(), HTTP, Duration::from_millis(500));
        assert!(untagged.is_err(), "{mode}: it came through without a tag: {untagged:?}");
        probing.tag(ID).unwrap();
        assert_all_answer(&site, &probing, &VIPS);
    }
}

/// Full segments both ways, through tunnels that make them longer than the network's MTU would allow.
#[test]
#[ignore = "needs root"]
fn large_questions_and_answers_come_through() {
    for mode in ["native", "generic"] {
        let (site, probing) = start(Lab::builder().backends(1), &VIPS, true, mode);
        for vip in &VIPS {
            let way = probing.way(vip.name, vip.address_of(&site.lab.backends()[0])).unwrap();
            let ask = format!("GET /bytes/{LARGE} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n");
            let answer = probing.http(way, HTTP, ask.as_bytes(), LIMIT).unwrap();
            assert_eq!((answer.len(), pattern::first_difference(0, &answer)), (LARGE, None), "{mode} {}", vip.name);
            let answer = probing.http(way, HTTP, &large_question(), LIMIT).unwrap();
            assert_eq!(String::from_utf8(answer).unwrap().trim(), LARGE.to_string(), "{mode} {}", vip.name);
        }
    }
}

/// Bytes of what is large.
const LARGE: usize = 300_000;

/// A request whose answer is [`LARGE`].
fn large_question() -> Vec<u8> {
    let head = "POST /upload HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n";
    let mut question = format!("{head}Content-Length: {LARGE}\r\n\r\n").into_bytes();
    let end = question.len() + LARGE;
    while question.len() < end {
        let left = (end - question.len()) as u64;
        question.extend_from_slice(pattern::chunk(LARGE as u64 - left, left));
    }
    question
}

/// A network that takes less than the next hop's MTU loses full packets and no others: clients' and probes'.
#[test]
#[ignore = "needs root"]
fn a_wrong_mtu_fails_large_questions() {
    let (site, probing) = start(Lab::builder(), &VIPS, true, "native");
    site.lab.router().ip("link set b1 mtu 1400\n").unwrap();
    for vip in &VIPS {
        for (address, name) in backends(&site, vip).into_iter().take(2) {
            let way = probing.way(vip.name, address).unwrap();
            assert_eq!(probing.name(way, HTTP, LIMIT).unwrap(), name, "{}", vip.name);
            let fails = name == "b1";
            let answer = probing.http(way, HTTP, &large_question(), if fails { TIMEOUT } else { LIMIT });
            assert_eq!(answer.is_err(), fails, "{} {name}: {answer:?}", vip.name);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_backend_without_the_vip_or_without_decapsulation_fails() {
    let (mut site, probing) = start(Lab::builder(), &VIPS, true, "native");
    let first = site.lab.backends()[0].clone();
    // Decapsulation goes on `eth0`.
    let mut command = first.command(naru_binary().unwrap());
    command.args(["decap", "detach", "eth0", "--bpffs"]).arg(site.lab.bpffs().join(first.name()));
    assert!(patience::output(&mut command).unwrap().status.success());
    for vip in &VIPS {
        if vip.forward == "ipip" {
            assert_fails(&site, &probing, vip, 0);
        } else {
            let (address, name) = backends(&site, vip).swap_remove(0);
            assert_eq!(probing.name(probing.way(vip.name, address).unwrap(), HTTP, LIMIT).unwrap(), name);
        }
    }
    for vip in &VIPS[..2] {
        let prefix = if vip.ip().is_ipv4() { 32 } else { 128 };
        first.ip(&format!("addr del {}/{prefix} dev lo\n", vip.address)).unwrap();
        assert_fails(&site, &probing, vip, 0);
    }
    assert_eq!(probing.drops(DropReason::ProbeLoop).unwrap(), 0);
    // A server that has died, and nobody behind a port.
    site.servers[1].kill().unwrap();
    for vip in &VIPS {
        let (address, _) = backends(&site, vip).swap_remove(1);
        let refused = probing.name(probing.way(vip.name, address).unwrap(), HTTP, LIMIT).unwrap_err();
        let kind = refused.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
        assert_eq!(kind, Some(io::ErrorKind::ConnectionRefused), "{}: {refused:#}", vip.name);
    }
}

/// It would have another backend answer for the one that lost the VIP.
#[test]
#[ignore = "needs root"]
fn a_backend_that_lost_the_vip_and_forwards_is_not_up() {
    let (site, probing) = start(Lab::builder(), &VIPS, true, "native");
    let first = &site.lab.backends()[0];
    first.sysctl("net/ipv4/ip_forward", "1").unwrap();
    first.sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
    for vip in &VIPS {
        let prefix = if vip.ip().is_ipv4() { 32 } else { 128 };
        first.ip(&format!("addr del {}/{prefix} dev lo\n", vip.address)).unwrap();
        let before = probing.drops(DropReason::ProbeLoop).unwrap();
        let way = probing.way(vip.name, vip.address_of(first)).unwrap();
        for _ in 0..4 {
            let found = probing.name(way, HTTP, Duration::from_millis(1500));
            assert!(found.is_err(), "{}: it answered as {found:?}", vip.name);
        }
        let dropped = probing.drops(DropReason::ProbeLoop).unwrap() - before;
        // The decapsulation lets nothing through that its host would send on.
        assert!(vip.forward != "l2" || dropped >= 4, "{}: only {dropped} came back", vip.name);
        for (address, name) in backends(&site, vip).into_iter().skip(1) {
            assert_eq!(
                probing.name(probing.way(vip.name, address).unwrap(), HTTP, LIMIT).unwrap(),
                name,
                "{}",
                vip.name
            );
        }
    }
}

/// Else nobody would see that they are well again.
#[test]
#[ignore = "needs root"]
fn backends_that_are_drained_or_down_are_probed_too() {
    let states = |naru: &mut Naru| {
        let mut text = naru.config().unwrap();
        for state in ["down", "drain"] {
            text = text.replacen(", weight = 100 }", &format!(", weight = 100, state = \"{state}\" }}"), 1);
        }
        assert!(text.contains("down") && text.contains("drain"), "{text}");
        naru.write_config(&text).unwrap();
    };
    let mut site = Site::start_with(Lab::builder(), &[Vip::IPIP], states).unwrap();
    let probing = Probing::start(&mut site).unwrap();
    let states = probing.dataplane().backends().into_iter().map(|backend| backend.state);
    assert_eq!(states.collect::<Vec<_>>(), [BackendState::Down, BackendState::Drain, BackendState::Active]);
    assert_all_answer(&site, &probing, &[Vip::IPIP]);
}

/// The namespace goes with its process, and takes the pair along; keys that are left are nobody's.
#[test]
#[ignore = "needs root"]
fn a_prober_that_was_killed_is_in_nobodys_way() {
    let mut site = Site::start(Lab::builder(), &[Vip::L2]).unwrap();
    site.stop().unwrap();
    for _ in 0..3 {
        let mut command = site.lab.balancer().command(lab_binary().unwrap());
        command.args(["probe", "--config"]).arg(site.config_path()).args([Vip::L2.name, "10.0.1.12", "--hold"]);
        let mut prober = command.stdout(Stdio::piped()).env("RUST_BACKTRACE", "0").spawn().unwrap();
        let mut line = String::new();
        BufReader::new(prober.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "b2\n");
        prober.kill().unwrap();
        prober.wait().unwrap();
    }
    let probing = site.lab.balancer().run(|| Probing::open(site.config_path())).unwrap();
    assert_eq!(probing.dataplane().probes().count(), 0);
    assert_all_answer(&site, &probing, &[Vip::L2]);
}

/// Probes go on beside clients, and after another prober has begun.
#[test]
#[ignore = "needs root"]
fn clients_are_served_beside_probes_and_a_restart_works() {
    let (site, probing) = start(Lab::builder(), &[Vip::L2, Vip::IPIP], false, "native");
    let loads =
        [Vip::L2, Vip::IPIP].map(|vip| Load::start(site.lab.client(), Options::new(vip.http()).count(300)).unwrap());
    let mut probing = probing;
    for _ in 0..3 {
        for vip in [Vip::L2, Vip::IPIP] {
            for (address, name) in backends(&site, &vip) {
                assert_eq!(probing.name(probing.way(vip.name, address).unwrap(), HTTP, LIMIT).unwrap(), name);
            }
        }
        probing = probing.restart().unwrap();
    }
    for load in loads {
        let report = load.wait();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
    }
}
