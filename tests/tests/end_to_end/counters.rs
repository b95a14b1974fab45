//! Ten thousand requests for each forward mode: none fails, shares follow the weights, and `naru stats`, `/metrics`,
//! the servers' logs and the client agree exactly.

use std::{collections::BTreeMap, net::IpAddr};

use lb_userspace::api::types::{Counts, Stats, Vip as VipState};
use naru_tests::{
    lab::{Lab, Legs},
    load::{Load, Options, Report},
    server::Protocol,
    site::{Site, Vip},
};

const REQUESTS: u64 = 10_000;

#[test]
#[ignore = "needs root"]
fn all_books_agree() {
    let vips = [Vip::IPIP, Vip::L2];
    let site = Site::start(Lab::builder().legs(Legs::Two), &vips).unwrap();
    let reports = vips.map(|vip| {
        let report = Load::start(site.lab.client(), Options::new(vip.http()).count(REQUESTS)).unwrap().wait();
        assert!(report.failed.is_empty(), "{}: {:?}", vip.name, report.failed);
        assert_eq!(report.succeeded(), REQUESTS);
        report
    });
    // A SYN that was sent again would be counted twice.
    assert_eq!(site.lab.retransmitted().unwrap(), 0, "something was lost");
    let stats: Stats = site.read(&["stats"]).unwrap();
    for (vip, report) in vips.iter().zip(&reports) {
        let of_vip = stats.vips.iter().find(|of_vip| of_vip.name == vip.name).unwrap();
        assert_eq!(of_vip.counts.new_flows, REQUESTS, "{}", vip.name);
        // SYN, ACK, request, FIN or ACK of it: each connection takes at least four packets towards the backend.
        assert!(of_vip.counts.packets >= 4 * REQUESTS);
        let sum = of_vip.backends.iter().map(|backend| backend.counts).fold(Counts::default(), plus);
        assert_eq!(sum, of_vip.counts, "{}", vip.name);
        assert_metrics(&site, "naru_vip", &[("vip", vip.name)], of_vip.counts);

        for (backend, server) in site.lab.backends().iter().zip(&site.servers) {
            let address = vip.address_of(backend);
            let counts = of_vip.backends.iter().find(|counted| counted.address == address).unwrap().counts;
            assert_eq!(counts.new_flows, report.backends[backend.name()], "{} of {}", backend.name(), vip.name);
            let logged = server.requests().unwrap();
            let logged = logged.iter().filter(|entry| entry.protocol == Protocol::Http && entry.local == vip.http());
            assert_eq!(logged.count() as u64, counts.new_flows, "{} of {}", backend.name(), vip.name);
            let labels = [("vip", vip.name), ("backend", &address.to_string())];
            assert_metrics(&site, "naru_backend", &labels, counts);
            let share = report.share(backend.name());
            assert!((share * 3.0 - 1.0).abs() <= 0.05, "{} of {} got {share}", backend.name(), vip.name);
        }
    }
    for drop in stats.drops {
        assert_eq!(drop.packets, 0, "dropped as {}", drop.reason);
        assert_eq!(site.metric("naru_drops_total", &[("reason", &drop.reason)]).unwrap(), 0.0);
    }
}

#[test]
#[ignore = "needs root"]
fn weights_are_honoured() {
    const WEIGHTS: &[u32] = &[100, 50, 300, 0];
    let vip = Vip { weights: WEIGHTS, ..Vip::L2 };
    let site = Site::start(Lab::builder().backends(4), &[vip]).unwrap();
    let report = Load::start(site.lab.client(), Options::new(vip.http()).count(REQUESTS)).unwrap().wait();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    let state: VipState = site.read(&["vip", "show", vip.name]).unwrap();
    let slots: BTreeMap<IpAddr, u32> = state.backends.iter().map(|backend| (backend.address, backend.slots)).collect();
    assert_eq!(slots.values().sum::<u32>(), state.settings.slots.get());
    let total: u32 = WEIGHTS.iter().sum();
    for (backend, weight) in site.lab.backends().iter().zip(WEIGHTS) {
        let (weight, slots) = (f64::from(*weight), slots[&vip.address_of(backend)]);
        let ideal = weight / f64::from(total);
        let in_table = f64::from(slots) / f64::from(state.settings.slots.get());
        assert!(
            (in_table - ideal).abs() <= 0.01 * ideal,
            "{}: {slots} slots of {}",
            backend.name(),
            state.settings.slots.get()
        );
        assert_share(&report, backend.name(), in_table);
    }
}

#[test]
#[ignore = "needs root"]
fn a_client_keeps_its_backend_when_the_source_address_is_the_hash() {
    let vip = Vip::IPIP;
    let site = Site::start(Lab::builder().clients(8), &[vip]).unwrap();
    site.cli(&["vip", "set", vip.name, "--hash", "source-ip"]).unwrap();
    let owners = site.lab.clients().iter().map(|client| {
        let report = Load::start(client, Options::new(vip.http()).count(100)).unwrap().wait();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert_eq!(report.backends.len(), 1, "{} was sent to {:?}", client.name(), report.backends);
        report.backends.into_keys().next()
    });
    // One backend for all eight would happen to a fair hash in 1 of 2187 runs, but the addresses are the same each run.
    assert!(owners.collect::<std::collections::BTreeSet<_>>().len() > 1);
}

/// The share is that of the table, but for the chance in which ports the client took: within four standard deviations.
fn assert_share(report: &Report, backend: &str, expected: f64) {
    let deviation = (expected * (1.0 - expected) / report.succeeded() as f64).sqrt();
    let share = report.share(backend);
    assert!((share - expected).abs() <= 4.0 * deviation, "{backend} got {share} instead of {expected}");
}

/// `/metrics` says `counts` of the VIP or backend with `labels`.
fn assert_metrics(site: &Site, prefix: &str, labels: &[(&str, &str)], counts: Counts) {
    let Counts { packets, bytes, new_flows } = counts;
    for (what, count) in [("packets", packets), ("bytes", bytes), ("new_flows", new_flows)] {
        let value = site.metric(&format!("{prefix}_{what}_total"), labels).unwrap();
        assert_eq!(value, count as f64, "{prefix}_{what}_total {labels:?}");
    }
}

fn plus(a: Counts, b: Counts) -> Counts {
    Counts { packets: a.packets + b.packets, bytes: a.bytes + b.bytes, new_flows: a.new_flows + b.new_flows }
}
