//! Changes by CLI while requests come in: no request fails, and none has to be asked again, for no connection breaks.

use std::time::Duration;

use lb_userspace::api::types::Backend;
use naru_tests::{
    lab::Lab,
    load::{Load, Options},
    site::{Site, Vip},
};

/// Requests that tell who serves: enough for the backend with the least weight to get one.
const ASKED: u64 = 300;

fn load(site: &Site, vip: &Vip) -> Load {
    Load::start(site.lab.client(), Options::new(vip.http()).rate(500.0).retries(3)).unwrap()
}

/// Ends the load; no connection may have broken.
fn finish(load: Load) {
    let report = load.stop();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.retried.is_empty(), "{:?}", report.retried);
}

/// Which servers get requests that begin from now on; others come in meanwhile. They are of a client that has asked for
/// nothing yet: on a port that is used again within seconds, a connection may go where the one before did (ADR 16).
fn busy(site: &Site, vip: &Vip, load: &Load, client: usize) -> Vec<bool> {
    let report = Load::start(&site.lab.clients()[client], Options::new(vip.http()).count(ASKED)).unwrap().wait();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    load.more(ASKED);
    site.servers.iter().map(|server| report.backends.contains_key(server.name())).collect()
}

#[test]
#[ignore = "needs root"]
fn backends_come_and_go_under_load() {
    for vip in [Vip::IPIP, Vip::L2] {
        let site = Site::start(Lab::builder().clients(6).backends(4), &[vip]).unwrap();
        let addresses: Vec<_> = site.lab.backends().iter().map(|backend| vip.address_of(backend).to_string()).collect();
        let load = load(&site, &vip);
        assert_eq!(busy(&site, &vip, &load, 1), [true, true, true, false]);

        site.cli(&["backend", "drain", vip.name, &addresses[1]]).unwrap();
        assert_eq!(
            busy(&site, &vip, &load, 2),
            [true, false, true, false],
            "{}: a drained backend got requests",
            vip.name
        );

        site.cli(&["backend", "add", vip.name, &addresses[3], "--weight", "200"]).unwrap();
        site.wait_until_ready().unwrap();
        assert_eq!(busy(&site, &vip, &load, 3), [true, false, true, true], "{}: an added backend got none", vip.name);

        site.cli(&["backend", "remove", vip.name, &addresses[0]]).unwrap();
        assert_eq!(
            busy(&site, &vip, &load, 4),
            [false, false, true, true],
            "{}: a removed backend got requests",
            vip.name
        );

        site.cli(&["backend", "restore", vip.name, &addresses[1]]).unwrap();
        site.cli(&["backend", "set", vip.name, &addresses[1], "--weight", "25"]).unwrap();
        assert_eq!(busy(&site, &vip, &load, 5), [false, true, true, true], "{}: a backend did not come back", vip.name);
        finish(load);
    }
}

#[test]
#[ignore = "needs root"]
fn an_answered_command_is_in_the_file_and_in_force() {
    let vip = Vip::L2;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    let commented = format!("# Kept by hand.\n{}", site.config().unwrap());
    site.write_config(&commented).unwrap();
    site.cli(&["apply"]).unwrap();
    let second = vip.address_of(&site.lab.backends()[1]);
    site.cli(&["backend", "set", vip.name, &second.to_string(), "--weight", "7"]).unwrap();
    let text = site.config().unwrap();
    assert_eq!(text, commented.replace(&format!("{second}\", weight = 100"), &format!("{second}\", weight = 7")));
    site.cli(&["diff"]).unwrap();
    let backends: Vec<Backend> = site.read(&["backend", "list", vip.name]).unwrap();
    let backend = backends.iter().find(|backend| backend.address == second).unwrap();
    assert_eq!(backend.weight, 7);
    assert!((500..600).contains(&backend.slots), "7 of 207 parts are not {} slots", backend.slots);
}

#[test]
#[ignore = "needs root"]
fn vips_come_and_go_under_load() {
    let vip = Vip::IPIP;
    let mut site = Site::start(Lab::builder(), &[vip]).unwrap();
    let new = "203.0.113.99";
    site.lab.add_vip(new.parse().unwrap()).unwrap();
    let target = (new.parse::<std::net::IpAddr>().unwrap(), 80).into();
    let backend = site.lab.backends()[0].ipv4().to_string();
    let servers = site.lab.backends()[0].clone();
    let _server = naru_tests::server::Server::start(&servers, site.lab.dir(), &[target], &[]).unwrap();
    let load = load(&site, &vip);
    let ask = || Load::start(site.lab.client(), Options::new(target).count(10)).unwrap().wait();
    for _ in 0..2 {
        let add =
            ["vip", "add", "late", "--address", new, "--port", "tcp/80", "--forward", "ipip", "--backend", &backend];
        site.cli(&add).unwrap();
        site.wait_until_ready().unwrap();
        assert_eq!(ask().succeeded(), 10);
        site.cli(&["vip", "remove", "late"]).unwrap();
        let report = Load::start(
            site.lab.client(),
            Options { timeout: Duration::from_millis(500), ..Options::new(target).count(1) },
        );
        assert_eq!(report.unwrap().wait().failed.len(), 1, "a removed VIP answers");
    }
    let report = load.stop();
    assert!(report.failed.is_empty() && report.retried.is_empty(), "another VIP was disturbed: {report:?}");
}
