//! Path MTU with the kernel's own stacks on both ends: packets that are too long for the way to the backend, and answers that
//! are for the way to the client. No host has any setting for it.

use lb_userspace::api::types::{Backend, NextHop};
use naru_tests::{
    lab::{Host, Lab, Legs},
    site::{Family, Site, Vip},
    transfer,
};
use patience::LIMIT;

/// Of the load balancer's own way to the backends.
const TO_BACKENDS: u32 = 1400;
/// Of a hop before the client.
const TO_CLIENT: u32 = 1300;
const LEN: u64 = 100_000_000;

const IPV6: &str = "2001:db8:77::10";
const WAYS: [Vip; 6] = [
    Vip::L2,
    Vip { address: IPV6, backends: Family::V6, ..Vip::L2 },
    Vip::IPIP,
    Vip { backends: Family::V6, ..Vip::IPIP },
    Vip { address: IPV6, ..Vip::IPIP },
    Vip { address: IPV6, backends: Family::V6, ..Vip::IPIP },
];

/// What the kernel of a host has learnt of the way to an address, or nothing.
fn learnt(host: &Host, to: &str) -> String {
    let output = host.command("ip").args(["route", "get", to]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn carries_by(vip: Vip, legs: Legs) {
    let site = Site::start(Lab::builder().legs(legs).backends(1), &[vip]).unwrap();
    let (lab, client) = (&site.lab, site.lab.client());
    let backend = &lab.backends()[0];
    match legs {
        Legs::Two => lab.balancer().ip(&format!("link set eth1 mtu {TO_BACKENDS}\n")).unwrap(),
        Legs::One => {
            let [v4, v6] = [backend.ipv4().to_string(), backend.ipv6().to_string()];
            let route = |to: &str, len| format!("route add {to}/{len} dev eth0 mtu {TO_BACKENDS}\n");
            lab.balancer().ip(&(route(&v4, 32) + &route(&v6, 128))).unwrap();
        }
    }
    site.wait_for("the smaller MTU counts", LIMIT, |naru| {
        let listed: Vec<Backend> = naru.read(&["backend", "list"])?;
        Ok(listed.iter().all(|own| matches!(own.next_hop, NextHop::Known { mtu: TO_BACKENDS, .. })))
    })
    .unwrap();
    let to_client = if vip.ip().is_ipv4() { client.ipv4().to_string() } else { client.ipv6().to_string() };
    let len = if vip.ip().is_ipv4() { 32 } else { 128 };
    lab.router().ip(&format!("route add {to_client}/{len} dev {} mtu {TO_CLIENT}\n", client.name())).unwrap();

    // In this order: what a backend has learnt of the way to a client, it asks him for by its MSS.
    client.block_on(|| transfer::upload(vip.http(), LEN, LIMIT)).unwrap();
    client.block_on(|| transfer::download(vip.http(), LEN, LIMIT)).unwrap();

    let fits = match (vip.forward, vip.backends) {
        ("l2", _) => TO_BACKENDS,
        (_, Family::V4) => TO_BACKENDS - 20,
        (_, Family::V6) => TO_BACKENDS - 40,
    };
    // The client by the load balancer itself, the backend by a router's error that came to the VIP.
    let [by_client, by_backend] = [learnt(client, vip.address), learnt(backend, &to_client)];
    assert!(by_client.contains(&format!("mtu {fits} ")), "{vip:?} {legs:?}: {by_client}");
    assert!(by_backend.contains(&format!("mtu {TO_CLIENT} ")), "{vip:?} {legs:?}: {by_backend}");
}

#[test]
#[ignore = "needs root"]
fn large_transfers_arrive_where_the_way_to_the_backends_and_that_to_the_client_are_narrow() {
    for vip in WAYS {
        for legs in [Legs::One, Legs::Two] {
            carries_by(vip, legs);
        }
    }
}

/// A hop behind the first one says nothing to the client: it is a switch here, a router there would tell the load balancer.
/// With `mtu` in the config, the client is told by the load balancer.
#[test]
#[ignore = "needs root"]
fn large_transfers_arrive_where_a_hop_behind_the_first_is_narrow_and_the_config_says_so() {
    let vips = WAYS.map(|vip| Vip { weights: &[100], ..vip });
    for vip in vips {
        let site = Site::start(Lab::builder().backends(1), &[vip]).unwrap();
        let (lab, client) = (&site.lab, site.lab.client());
        lab.router().ip(&format!("link set {} mtu {TO_BACKENDS}\n", lab.backends()[0].name())).unwrap();
        site.cli(&["vip", "set", vip.name, "--mtu", &TO_BACKENDS.to_string()]).unwrap();
        client.block_on(|| transfer::upload(vip.http(), LEN, LIMIT)).unwrap();
        client.block_on(|| transfer::download(vip.http(), LEN, LIMIT)).unwrap();
    }
}
