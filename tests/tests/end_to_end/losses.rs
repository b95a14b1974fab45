//! What is lost behind the data plane is counted at the interface that lost it, by the kernel's own word, also while no
//! daemon runs.

use std::time::Duration;

use lb_userspace::api::types::Stats;
use naru_tests::{
    lab::{Lab, Legs},
    load::{Load, Options},
    site::{Site, Vip},
    udp,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Datagrams of which none can be answered.
const DATAGRAMS: u64 = 5;

fn lose(site: &Site, vip: &Vip) {
    let echo = || udp::echo(vip.echo(), DATAGRAMS, 100, Duration::from_millis(200));
    let echoes = site.lab.client().block_on(echo).unwrap();
    assert_eq!(echoes.lost, DATAGRAMS);
}

/// Frames that an interface has lost.
fn lost(site: &Site, interface: &str, cause: &str) -> u64 {
    let stats: Stats = site.read(&["stats"]).unwrap();
    let loss = stats.losses.iter().find(|loss| (loss.interface.as_str(), loss.cause.as_str()) == (interface, cause));
    loss.unwrap_or_else(|| panic!("{interface} {cause} is not among {:?}", stats.losses)).packets
}

/// Packets that came for the VIP.
fn came(site: &Site) -> u64 {
    let stats: Stats = site.read(&["stats"]).unwrap();
    stats.vips[0].counts.packets
}

/// The other end of the cable takes nothing that XDP sends.
#[test]
#[ignore = "needs root"]
fn frames_that_the_driver_does_not_take_are_counted() {
    let vip = Vip::L2;
    let mut site = Site::start(Lab::builder(), &[vip]).unwrap();
    let report = Load::start(site.lab.client(), Options::new(vip.http()).count(20)).unwrap().wait();
    assert!(report.failed.is_empty(), "{:?}", report.failed_by_cause());
    assert_eq!(lost(&site, "eth0", "transmit"), 0);
    let before = came(&site);

    site.lab.close_port("eth0").unwrap();
    lose(&site, &vip);
    let packets = came(&site) - before;
    assert_eq!(packets, DATAGRAMS);
    assert_eq!(lost(&site, "eth0", "transmit"), packets);
    let labels = [("interface", "eth0"), ("cause", "transmit")];
    assert_eq!(site.metric("naru_interface_losses_total", &labels).unwrap(), packets as f64);
    let stats = site.cli(&["stats"]).unwrap();
    assert!(stats.contains("LOST BY") && stats.contains("transmit"), "{stats}");
    site.wait_for("the status tells of it", PATIENCE, |naru| {
        let status = naru.status()?;
        Ok(status.warnings.iter().any(|warning| warning.starts_with("eth0 has lost frames")))
    })
    .unwrap();

    // While no daemon runs, and over its next start.
    site.kill9().unwrap();
    lose(&site, &vip);
    site.restart().unwrap();
    let packets = came(&site) - before;
    assert_eq!(packets, 2 * DATAGRAMS);
    assert_eq!(lost(&site, "eth0", "transmit"), packets);
}

/// An interface that goes down before the daemon can tell the data plane.
#[test]
#[ignore = "needs root"]
fn frames_that_cannot_be_redirected_are_counted_at_the_interface_that_they_were_for() {
    let vip = Vip::L2;
    let mut site = Site::start(Lab::builder().legs(Legs::Two), &[vip]).unwrap();
    assert_eq!(lost(&site, "eth1", "redirect"), 0);
    let before = came(&site);
    site.kill9().unwrap();
    site.lab.balancer().ip("link set eth1 down\n").unwrap();
    lose(&site, &vip);
    site.restart().unwrap();
    let packets = came(&site) - before;
    assert_eq!(packets, DATAGRAMS);
    assert_eq!(lost(&site, "eth1", "redirect"), packets);
    assert_eq!(lost(&site, "eth0", "redirect"), 0);
}
