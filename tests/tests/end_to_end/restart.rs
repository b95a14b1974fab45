//! The data plane outlives the daemon: kill -9 and restart under load without a single failed or repeated request.

use lb_userspace::api::types::Stats;
use naru_tests::{
    lab::{Lab, Legs},
    load::{Load, Options, Report},
    maps,
    naru::naru_binary,
    site::{Site, Vip},
};

/// Requests that come in between two things that are done: enough to meet whatever is wrong.
const SOME: u64 = 150;

/// Nothing was lost, or TCP would have sent it again.
fn assert_undisturbed(site: &Site, report: &Report) {
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!(site.lab.retransmitted().unwrap(), 0, "something was lost");
}

#[test]
#[ignore = "needs root"]
fn killing_and_restarting_the_daemon_disturbs_nobody() {
    let vips = [Vip::IPIP, Vip::L2];
    let mut site = Site::start(Lab::builder().legs(Legs::Two), &vips).unwrap();
    let loads = vips.map(|vip| Load::start(site.lab.client(), Options::new(vip.http()).rate(300.0)).unwrap());
    loads.iter().for_each(|load| load.more(SOME));
    let before: Stats = site.read(&["stats"]).unwrap();
    let maps_before = maps::dump(site.bpffs()).unwrap();
    for _ in 0..3 {
        site.kill9().unwrap();
        assert!(site.cli(&["status"]).is_err(), "a dead daemon answers");
        loads.iter().for_each(|load| load.more(SOME));
        site.restart().unwrap();
        site.wait_until_ready().unwrap();
        loads.iter().for_each(|load| load.more(SOME));
    }
    for load in loads {
        assert_undisturbed(&site, &load.stop());
    }
    site.cli(&["diff"]).unwrap();
    assert_eq!(records(&maps_before), records(&maps::dump(site.bpffs()).unwrap()), "ids or tables moved");
    let after: Stats = site.read(&["stats"]).unwrap();
    for (before, after) in before.vips.iter().zip(&after.vips) {
        assert!(after.counts.new_flows > before.counts.new_flows + 6 * SOME - 1, "{}: {after:?}", before.name);
    }
}

/// The maps without the backends' entries, of which next hops may lie elsewhere.
fn records(dump: &maps::Dump) -> maps::Dump {
    let mut dump = dump.clone();
    dump.remove(lb_common::maps::BACKENDS);
    dump
}

#[test]
#[ignore = "needs root"]
fn a_stopped_daemon_leaves_the_data_plane_running() {
    let vip = Vip::IPIP;
    let mut site = Site::start(Lab::builder(), &[vip]).unwrap();
    let load = Load::start(site.lab.client(), Options::new(vip.http()).rate(500.0)).unwrap();
    load.more(SOME);
    site.stop().unwrap();
    load.more(3 * SOME);
    assert_undisturbed(&site, &load.stop());
    assert!(attached(&site));

    // Without a daemon the operator takes it out by hand.
    site.cli(&["interface", "detach", "--all"]).unwrap();
    assert!(!attached(&site));
}

#[test]
#[ignore = "needs root"]
fn a_daemon_takes_the_data_plane_with_it_when_told_so() {
    let mut site = Site::start(Lab::builder(), &[Vip::IPIP]).unwrap();
    site.stop().unwrap();
    site.restart_with(&["--detach-on-exit"]).unwrap();
    site.wait_until_ready().unwrap();
    assert!(attached(&site));
    site.stop().unwrap();
    assert!(!attached(&site));
}

#[test]
#[ignore = "needs root"]
fn changes_made_while_the_daemon_was_away_are_applied_when_it_returns() {
    let vip = Vip::L2;
    let mut site = Site::start(Lab::builder(), &[vip]).unwrap();
    site.stop().unwrap();
    let third = vip.address_of(&site.lab.backends()[2]);
    let text = site.config().unwrap();
    site.write_config(&text.replace(&format!("{third}\", weight = 100"), &format!("{third}\", weight = 0"))).unwrap();
    site.restart().unwrap();
    site.wait_until_ready().unwrap();
    let report = Load::start(site.lab.client(), Options::new(vip.http()).count(200)).unwrap().wait();
    assert_eq!(report.succeeded(), 200);
    assert_eq!(report.backends.into_keys().collect::<Vec<_>>(), ["b1", "b2"]);
}

#[test]
#[ignore = "needs root"]
fn a_second_daemon_is_refused() {
    let vip = Vip::IPIP;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    let load = Load::start(site.lab.client(), Options::new(vip.http()).rate(500.0)).unwrap();
    load.more(SOME);
    let first = site.status().unwrap();
    let second = site.try_cli(&["run"]).unwrap();
    let says = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success());
    assert!(says.contains(&first.pid.to_string()), "it does not say who is in its way: {says}");
    // Nor with another socket: what must not be shared are the maps.
    let config = site.lab.dir().join("second.toml");
    let text = site.config().unwrap().replace("naru.sock", "second.sock").replace("9100", "9101");
    std::fs::write(&config, text).unwrap();
    let mut second = site.lab.balancer().command(naru_binary().unwrap());
    let output = patience::output(second.arg("run").arg("--config").arg(&config)).unwrap();
    assert!(!output.status.success() && !site.lab.dir().join("second.sock").exists());
    let after = site.status().unwrap();
    assert_eq!(after.pid, first.pid);
    load.more(SOME);
    assert_undisturbed(&site, &load.stop());
}

/// Whether an XDP program is on the load balancer's `eth0`.
fn attached(site: &Site) -> bool {
    let output = patience::output(site.lab.balancer().command("ip").args(["link", "show", "dev", "eth0"])).unwrap();
    String::from_utf8(output.stdout).unwrap().contains("prog/xdp")
}
