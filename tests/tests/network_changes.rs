//! What happens around the load balancer: interfaces that go and return, neighbours that change, routes that move.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use lb_userspace::api::types::{Backend, NextHop, Status};
use naru_tests::{
    lab::{Lab, Legs, MTU, Placement},
    load::{Load, Options},
    server::Server,
    site::{ECHO, Site, Vip},
    udp,
};

/// How long the data plane may take to follow what happens around it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a neighbour leaves the first questions for it unanswered; the kernel gives up after three seconds.
const SILENCE: Duration = Duration::from_millis(1500);

/// Requests for which even a second without a way is too long: a lost SYN is repeated only after one.
fn impatient_load(site: &Site, vip: &Vip) -> Load {
    let options = Options { timeout: Duration::from_millis(700), ..Options::new(vip.http()).rate(200.0) };
    Load::start(site.lab.client(), options).unwrap()
}

/// Ends the load; no request may have failed.
fn finish(load: Load) {
    let report = load.stop();
    assert!(report.failed.is_empty(), "{:?}", report.failed_by_cause());
    assert!(report.succeeded() > 200, "only {} requests", report.succeeded());
}

/// Waits until all backends are reached by the MAC address `mac`.
fn until_reached_by(site: &Site, vip: &Vip, mac: &str) {
    site.wait_for("the new MAC address is known", PATIENCE, |naru| {
        let backends: Vec<Backend> = naru.read(&["backend", "list", vip.name])?;
        let new = |backend: &Backend| matches!(&backend.next_hop, NextHop::Known { mac: known, .. } if known == mac);
        Ok(backends.iter().all(new))
    })
    .unwrap();
}

/// Waits until `count` requests in a row succeed; returns how long that took.
fn until_served(site: &Site, vip: &Vip, count: u64) -> Duration {
    let begun = Instant::now();
    loop {
        let options = Options { timeout: Duration::from_millis(300), ..Options::new(vip.http()).count(count) };
        let report = Load::start(site.lab.client(), options).unwrap().wait();
        if report.failed.is_empty() {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "still not served: {:?}", report.failed_by_cause());
    }
}

#[test]
fn an_interface_that_vanishes_is_attached_again_when_it_returns() {
    let vip = Vip::IPIP;
    for (legs, interface) in [(Legs::One, "eth0"), (Legs::Two, "eth0"), (Legs::Two, "eth1")] {
        let mut site = Site::start(Lab::builder().legs(legs), &[vip]).unwrap();
        until_served(&site, &vip, 50);
        site.lab.unplug(interface).unwrap();
        site.wait_for("the loss is noticed", PATIENCE, |naru| {
            let status: Status = naru.read(&["status"])?;
            let gone = status.interfaces.iter().find(|state| state.name == interface);
            Ok(gone.is_some_and(|state| state.link.is_none() && state.attached.is_none() && state.problem.is_some()))
        })
        .unwrap();
        site.lab.plug(interface).unwrap();
        site.wait_until_ready().unwrap();
        until_served(&site, &vip, 200);
    }
}

#[test]
fn an_interface_that_is_missing_at_start_is_attached_when_it_appears() {
    let vip = Vip::L2;
    let mut site = Site::start(Lab::builder().legs(Legs::Two), &[vip]).unwrap();
    site.stop().unwrap();
    site.lab.unplug("eth1").unwrap();
    site.restart().unwrap();
    assert!(site.log().contains("eth1"), "nothing is said about a missing interface");
    site.lab.plug("eth1").unwrap();
    site.wait_until_ready().unwrap();
    until_served(&site, &vip, 200);
}

#[test]
fn a_backend_that_changes_its_mac_address_is_followed() {
    let vip = Vip::L2;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    until_served(&site, &vip, 100);
    let backend = &site.lab.backends()[1];
    let mac = "02:00:00:00:be:ef";
    backend.ip(&format!("link set eth0 address {mac}\n")).unwrap();
    site.wait_for("the new MAC address is known", PATIENCE, |naru| {
        let backends: Vec<Backend> = naru.read(&["backend", "list", vip.name])?;
        let address = vip.address_of(backend);
        let known = backends.iter().find(|backend| backend.address == address).map(|backend| &backend.next_hop);
        Ok(matches!(known, Some(NextHop::Known { mac: known, .. }) if known == mac))
    })
    .unwrap();
    until_served(&site, &vip, 200);
}

#[test]
fn a_route_that_moves_to_a_gateway_not_yet_known_loses_nothing() {
    let vip = Vip::IPIP;
    let site = Site::start(Lab::builder().placement(Placement::Routed), &[vip]).unwrap();
    let load = impatient_load(&site, &vip);
    let (mac, gateway) = ("02:00:00:00:02:54", "10.0.1.254");
    site.lab.balancer().ip(&format!("route add 10.0.100.0/22 via {gateway}\n")).unwrap();
    sleep(SILENCE);
    // Only now there is a router at that address: the same one, by another port of its own switch.
    let router = format!(
        "link add gw address {mac} mtu {MTU} type veth peer name gw-port mtu {MTU}\n\
         link set gw-port master br0 up\nlink set gw up\naddr add {gateway}/32 dev gw\n"
    );
    site.lab.router().ip(&router).unwrap();
    until_reached_by(&site, &vip, mac);
    until_served(&site, &vip, 100);
    finish(load);
}

#[test]
fn a_restart_keeps_the_way_by_a_gateway_that_is_slow_to_answer() {
    let vip = Vip::IPIP;
    let mut site = Site::start(Lab::builder().placement(Placement::Routed), &[vip]).unwrap();
    let load = impatient_load(&site, &vip);
    let router = site.lab.router().clone();
    let answers = |yes| router.sysctl("net/ipv4/conf/br0/arp_ignore", if yes { "1" } else { "8" });
    answers(false).unwrap();
    site.stop().unwrap();
    site.lab.balancer().ip("neigh flush dev eth0\n").unwrap();
    site.restart().unwrap();
    sleep(SILENCE);
    answers(true).unwrap();
    site.wait_until_ready().unwrap();
    finish(load);
}

#[test]
fn a_backend_that_cannot_be_reached_is_named() {
    let vip = Vip::L2;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    site.cli(&["backend", "add", vip.name, "10.0.1.99"]).unwrap();
    site.wait_for("the missing neighbour is named", PATIENCE, |naru| {
        let status: Status = naru.read(&["status"])?;
        Ok(matches!(&status.unreachable[..], [backend] if backend.reason.contains("10.0.1.99")))
    })
    .unwrap();
    site.cli(&["backend", "remove", vip.name, "10.0.1.99"]).unwrap();
    until_served(&site, &vip, 200);
}

#[test]
fn what_is_not_for_a_vip_passes_untouched() {
    let site = Site::start(Lab::builder(), &[Vip::L2]).unwrap();
    let (client, balancer) = (site.lab.client(), site.lab.balancer());
    let addresses = [(balancer.ipv4(), ECHO).into(), (balancer.ipv6(), ECHO).into()];
    let _server = Server::start(balancer, site.lab.dir(), &[], &addresses).unwrap();
    for address in addresses {
        // The larger ones are larger than any MTU on the way: fragments, both ways.
        for size in [0, 1000, 4000, 20_000] {
            // The first large answer over IPv6 may get lost: from it the server learns the path's MTU.
            client.block_on(|| udp::echo(address, 1, size, Duration::from_millis(300))).unwrap();
            let echoes = client.block_on(|| udp::echo(address, 20, size, Duration::from_secs(1))).unwrap();
            assert_eq!((echoes.lost, echoes.backends["lb"]), (0, 20), "{size} bytes to {address}");
        }
    }
}

#[test]
fn the_data_plane_leaves_no_trace_after_detach() {
    let mut site = Site::start(Lab::builder(), &[Vip::L2]).unwrap();
    site.stop().unwrap();
    site.cli(&["interface", "detach", "--all"]).unwrap();
    let left: Vec<_> = match fs::read_dir(site.bpffs()) {
        Ok(entries) => entries.flatten().flat_map(|entry| fs::read_dir(entry.path()).into_iter().flatten()).collect(),
        Err(_) => Vec::new(),
    };
    assert!(left.is_empty(), "{left:?}");
}
