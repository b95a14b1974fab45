//! What happens around the load balancer: interfaces that go and return, neighbours that change, routes that move.

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use aya::{
    maps::MapInfo,
    programs::{ProgramInfo, loaded_programs},
};
use lb_userspace::api::types::{Backend, NextHop, Status};
use naru_tests::{
    lab::{Lab, Legs, MTU, Placement},
    load::{Load, Options},
    server::Server,
    site::{ECHO, Site, Vip},
    udp,
};
use patience::LIMIT;

/// How long a neighbour leaves the first questions for it unanswered; the kernel gives up after three seconds.
const SILENCE: Duration = Duration::from_millis(1500);

/// Requests of which a second without a way would lose some.
fn load(site: &Site, vip: &Vip) -> Load {
    Load::start(site.lab.client(), Options::new(vip.http()).rate(200.0)).unwrap()
}

/// Ends the load, once requests have come in for a while after what was done; nothing may have been lost.
fn finish(site: &Site, load: Load) {
    load.more(200);
    let report = load.stop();
    assert!(report.failed.is_empty(), "{:?}", report.failed_by_cause());
    assert_eq!(site.lab.retransmitted().unwrap(), 0, "something was lost");
}

/// Waits until all backends are reached by the MAC address `mac`.
fn until_reached_by(site: &Site, vip: &Vip, mac: &str) {
    site.wait_for("the new MAC address is known", LIMIT, |naru| {
        let backends: Vec<Backend> = naru.read(&["backend", "list", vip.name])?;
        let new = |backend: &Backend| matches!(&backend.next_hop, NextHop::Known { mac: known, .. } if known == mac);
        Ok(backends.iter().all(new))
    })
    .unwrap();
}

/// Waits until `count` requests in a row succeed.
fn until_served(site: &Site, vip: &Vip, count: u64) {
    let begun = Instant::now();
    loop {
        let options = Options { timeout: Duration::from_secs(2), ..Options::new(vip.http()).count(count) };
        let report = Load::start(site.lab.client(), options).unwrap().wait();
        if report.failed.is_empty() {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "still not served: {:?}", report.failed_by_cause());
    }
}

#[test]
fn an_interface_that_vanishes_is_attached_again_when_it_returns() {
    let vip = Vip::IPIP;
    for (legs, interface) in [(Legs::One, "eth0"), (Legs::Two, "eth0"), (Legs::Two, "eth1")] {
        let mut site = Site::start(Lab::builder().legs(legs), &[vip]).unwrap();
        until_served(&site, &vip, 50);
        site.lab.unplug(interface).unwrap();
        site.wait_for("the loss is noticed", LIMIT, |naru| {
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
    site.wait_for("the new MAC address is known", LIMIT, |naru| {
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
    let load = load(&site, &vip);
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
    finish(&site, load);
}

#[test]
fn a_restart_keeps_the_way_by_a_gateway_that_is_slow_to_answer() {
    let vip = Vip::IPIP;
    let mut site = Site::start(Lab::builder().placement(Placement::Routed), &[vip]).unwrap();
    let load = load(&site, &vip);
    let router = site.lab.router().clone();
    let answers = |yes| router.sysctl("net/ipv4/conf/br0/arp_ignore", if yes { "1" } else { "8" });
    answers(false).unwrap();
    site.stop().unwrap();
    site.lab.balancer().ip("neigh flush dev eth0\n").unwrap();
    site.restart().unwrap();
    sleep(SILENCE);
    answers(true).unwrap();
    site.wait_until_ready().unwrap();
    finish(&site, load);
}

#[test]
fn a_backend_that_cannot_be_reached_is_named() {
    let vip = Vip::L2;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    site.cli(&["backend", "add", vip.name, "10.0.1.99"]).unwrap();
    site.wait_for("the missing neighbour is named", LIMIT, |naru| {
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
            let echoes = client.block_on(|| udp::echo(address, 20, size, LIMIT)).unwrap();
            assert_eq!((echoes.lost, echoes.backends["lb"]), (0, 20), "{size} bytes to {address}");
        }
    }
}

#[test]
fn the_data_plane_leaves_no_trace_after_detach() {
    let mut site = Site::start(Lab::builder().legs(Legs::Two), &[Vip::L2]).unwrap();
    let loaded = loaded(&site);
    let pinned = pinned(site.bpffs());
    assert!(pinned.iter().any(|name| name == "eth1") && pinned.iter().any(|name| name == "program"), "{pinned:?}");
    assert!(attached(&site, "eth0") && attached(&site, "eth1"));
    site.stop().unwrap();
    assert!(exist(&loaded) && attached(&site, "eth1"), "it is the detaching that is to be looked at");

    site.cli(&["interface", "detach", "--all"]).unwrap();
    assert!(!attached(&site, "eth0") && !attached(&site, "eth1"));
    assert_eq!(self::pinned(site.bpffs()), Vec::<String>::new());
    // The kernel takes its time over it.
    patience::until("program and maps are gone from the kernel", || !exist(&loaded));
}

/// Ids of the program that is pinned and of its maps.
fn loaded(site: &Site) -> (u32, Vec<u32>) {
    let place = site.bpffs().join(format!("v{}", lb_common::ABI));
    let generation = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    let pin = generation.map(|path| path.join("program")).find(|pin| pin.exists()).unwrap();
    let info = ProgramInfo::from_pin(pin).unwrap();
    (info.id(), info.map_ids().unwrap().unwrap())
}

/// Whether the program or one of the maps is in the kernel.
fn exist((program, maps): &(u32, Vec<u32>)) -> bool {
    assert!(!maps.is_empty());
    loaded_programs().any(|info| info.unwrap().id() == *program) || maps.iter().any(|id| MapInfo::from_id(*id).is_ok())
}

/// Names of what is left below a directory, other directories included; none where it is gone.
fn pinned(directory: &Path) -> Vec<String> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => panic!("{}: {error}", directory.display()),
    };
    let below = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        let inside = if entry.file_type().unwrap().is_dir() { pinned(&entry.path()) } else { Vec::new() };
        [vec![name], inside].concat()
    };
    entries.flat_map(|entry| below(entry.unwrap())).collect()
}

/// Whether an XDP program is on one of the load balancer's interfaces.
fn attached(site: &Site, interface: &str) -> bool {
    let mut ip = site.lab.balancer().command("ip");
    let output = patience::output(ip.args(["link", "show", "dev", interface])).unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().contains("prog/xdp")
}
