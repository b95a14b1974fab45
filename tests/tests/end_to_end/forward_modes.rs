//! Every forward mode and combination of families carries HTTP, large transfers both ways and UDP, through native XDP:
//! transmitted back on one leg, redirected from one leg to the other, and over a route where the mode allows it.

use std::collections::BTreeSet;

use naru_tests::{
    lab::{Builder, Lab, Legs, Placement},
    load::{Load, Options},
    site::{Family, Site, Vip},
    transfer, udp,
};
use patience::LIMIT;

#[test]
#[ignore = "needs root"]
fn l2_ipv4() {
    on_the_segment(&Vip::L2);
}

#[test]
#[ignore = "needs root"]
fn l2_ipv6() {
    on_the_segment(&Vip { address: "2001:db8:77::20", backends: Family::V6, ..Vip::L2 });
}

#[test]
#[ignore = "needs root"]
fn ipip_4in4() {
    anywhere(&Vip::IPIP);
}

#[test]
#[ignore = "needs root"]
fn ipip_6in6() {
    anywhere(&Vip { address: "2001:db8:77::10", backends: Family::V6, ..Vip::IPIP });
}

#[test]
#[ignore = "needs root"]
fn ipip_4in6() {
    anywhere(&Vip { backends: Family::V6, ..Vip::IPIP });
}

#[test]
#[ignore = "needs root"]
fn ipip_6in4() {
    anywhere(&Vip { address: "2001:db8:77::10", ..Vip::IPIP });
}

fn anywhere(vip: &Vip) {
    on_the_segment(vip);
    carries(Lab::builder().placement(Placement::Routed), vip);
}

fn on_the_segment(vip: &Vip) {
    for legs in [Legs::One, Legs::Two] {
        carries(Lab::builder().legs(legs), vip);
    }
}

fn carries(lab: Builder, vip: &Vip) {
    let site = Site::start(lab.clone(), &[*vip]).unwrap();
    let status = site.status().unwrap();
    for interface in status.interfaces {
        assert_eq!(interface.attached.map(|attached| attached.mode).as_deref(), Some("native"), "{}", interface.name);
    }
    let client = site.lab.client();
    let everyone: BTreeSet<_> = site.servers.iter().map(|server| server.name().to_owned()).collect();

    let report = Load::start(client, Options::new(vip.http()).count(100)).unwrap().wait();
    assert!(report.failed.is_empty(), "{lab:?}: {:?}", report.failed);
    assert_eq!(report.backends.into_keys().collect::<BTreeSet<_>>(), everyone, "{lab:?}");

    // The answers are longer by the name of the backend, and still fit the client's MTU with an IPv6 header.
    let echoes = client.block_on(|| udp::echo(vip.echo(), 60, 1400, LIMIT)).unwrap();
    assert_eq!(echoes.lost, 0, "{lab:?}");
    assert_eq!(echoes.backends.into_keys().collect::<BTreeSet<_>>(), everyone, "{lab:?}");

    client.block_on(|| transfer::download(vip.http(), 100_000_000, LIMIT)).unwrap();
    client.block_on(|| transfer::upload(vip.http(), 100_000_000, LIMIT)).unwrap();
}
