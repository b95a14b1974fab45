//! What happens around the load balancer: interfaces that go and return, neighbours that change, routes that move.

use std::{
    fs,
    time::{Duration, Instant},
};

use lb_userspace::api::types::{Backend, NextHop, Status};
use naru_tests::{
    lab::{Lab, Legs},
    load::{Load, Options},
    server::Server,
    site::{ECHO, Site, Vip},
    udp,
};

/// How long the data plane may take to follow what happens around it.
const PATIENCE: Duration = Duration::from_secs(10);

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
