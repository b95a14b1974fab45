//! What happens around the load balancer: interfaces that go and return, neighbours that change, routes that move.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddrV4},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use aya::{
    maps::MapInfo,
    programs::{ProgramInfo, loaded_programs},
};
use etherparse::{Icmpv4Header, Icmpv4Type, IpNumber, Ipv4Header, icmpv4::DestUnreachableHeader};
use lb_userspace::api::types::{Backend, Interface, NextHop, Stats};
use naru_tests::{
    lab::{Host, Lab, Legs, MTU, Placement},
    load::{Load, Options},
    server::Server,
    site::{ECHO, Site, Vip},
    transfer, udp,
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
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
        let says = || ["status", "stats"].map(|what| site.cli(&[what]).unwrap_or_default()).concat();
        assert!(begun.elapsed() < LIMIT, "still not served: {:?}\n{}", report.failed_by_cause(), says());
    }
}

/// What the daemon says of the one interface of the config.
fn interface(site: &Site) -> Interface {
    let status = site.status().unwrap();
    status.interfaces.into_iter().find(|interface| interface.configured).unwrap()
}

/// The inode of the pin of the link to `name`: another one after it was attached anew.
fn pinned_link(site: &Site, name: &str) -> Option<u64> {
    let versions = fs::read_dir(site.bpffs()).unwrap().flatten();
    let mut pins = versions.map(|version| version.path().join("links").join(name));
    pins.find_map(|pin: PathBuf| fs::metadata(pin).ok()).map(|pin| pin.ino())
}

/// Makes the config name its interface otherwise, and applies that.
fn call_interface(site: &Site, from: &str, to: &str) {
    let line = |name: &str| format!("interfaces = [\"{name}\"]");
    let config = site.config().unwrap();
    assert!(config.contains(&line(from)), "{config}");
    site.write_config(&config.replace(&line(from), &line(to))).unwrap();
    site.cli(&["apply"]).unwrap();
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_is_renamed_serves_on_and_no_packet_misses_the_data_plane() {
    let vip = Vip::L2;
    let mut site = Site::start(Lab::builder(), &[vip]).unwrap();
    until_served(&site, &vip, 50);
    let load = load(&site, &vip);
    let link = pinned_link(&site, "eth0").unwrap();
    site.lab.balancer().ip("link set eth0 name wan0\n").unwrap();
    site.wait_for("the new name is told", LIMIT, |_| {
        let eth0 = interface(&site);
        Ok(eth0.attached.is_some() && eth0.problem.is_some_and(|problem| problem.contains("eth0 is called wan0 now")))
    })
    .unwrap();
    assert_eq!(pinned_link(&site, "eth0"), Some(link));
    // Over a restart, which finds the interface under a name that the config does not have.
    site.stop().unwrap();
    site.restart().unwrap();
    let eth0 = interface(&site);
    assert!(eth0.attached.is_some() && eth0.problem.is_some(), "{eth0:?}");
    assert_eq!(pinned_link(&site, "eth0"), Some(link));
    // The operator follows.
    call_interface(&site, "eth0", "wan0");
    let wan0 = interface(&site);
    assert!(wan0.attached.is_some() && wan0.problem.is_none(), "{wan0:?}");
    assert_eq!((pinned_link(&site, "wan0"), pinned_link(&site, "eth0")), (Some(link), None), "it is the same link");
    until_served(&site, &vip, 100);
    finish(&site, load);
}

#[test]
#[ignore = "needs root"]
fn two_interfaces_that_swap_their_names_serve_on() {
    let vip = Vip::IPIP;
    let site = Site::start(Lab::builder().legs(Legs::Two), &[vip]).unwrap();
    until_served(&site, &vip, 50);
    let load = load(&site, &vip);
    let links = || [pinned_link(&site, "eth0"), pinned_link(&site, "eth1")];
    let [front, back] = links();
    assert!(front.is_some() && back.is_some());
    for (from, to) in [("eth0", "tmp0"), ("eth1", "eth0"), ("tmp0", "eth1")] {
        site.lab.balancer().ip(&format!("link set {from} name {to}\n")).unwrap();
        // As udev does it: one after the other, and each is heard of.
        site.wait_for("the daemon has heard of it", LIMIT, |naru| {
            let status = naru.status()?;
            let is_reported = |said: &Interface| {
                said.problem.as_ref().is_some_and(|problem| problem.contains(&format!("called {to} now")))
            };
            let is_right = |said: &Interface| said.name == to && said.attached.is_some() && said.problem.is_none();
            Ok(status.interfaces.iter().any(|said| is_reported(said) || is_right(said)))
        })
        .unwrap();
    }
    site.wait_for("both are attached as the config calls them", LIMIT, |naru| {
        let status = naru.status()?;
        let is_well = |said: &Interface| said.attached.is_some() && said.problem.is_none() && said.configured;
        Ok(status.interfaces.len() == 2 && status.interfaces.iter().all(is_well))
    })
    .unwrap();
    assert_eq!(links(), [back, front], "each link went with its interface");
    until_served(&site, &vip, 100);
    finish(&site, load);
}

#[test]
#[ignore = "needs root"]
fn an_interface_by_another_of_its_names_is_attached_again_when_it_returns() {
    let vip = Vip::L2;
    let mut site = Site::start(Lab::builder(), &[vip]).unwrap();
    // Longer than a first name can be, as those of ports behind PCI domains are.
    let name = "enP65536p1s0f0np0";
    let give = |site: &Site| site.lab.balancer().ip(&format!("link property add dev eth0 altname {name}\n")).unwrap();
    give(&site);
    until_served(&site, &vip, 50);
    let load = load(&site, &vip);
    let link = pinned_link(&site, "eth0");
    call_interface(&site, "eth0", name);
    assert_eq!((pinned_link(&site, name), pinned_link(&site, "eth0")), (link, None), "it is the same link");
    let stats: Stats = site.read(&["stats"]).unwrap();
    assert!(stats.losses.iter().all(|loss| loss.interface == name), "as the config calls it: {:?}", stats.losses);
    assert!(!stats.losses.is_empty());
    until_served(&site, &vip, 200);
    finish(&site, load);

    site.lab.unplug("eth0").unwrap();
    site.wait_for("the loss is noticed", LIMIT, |_| {
        let gone = interface(&site);
        Ok(gone.link.is_none() && gone.attached.is_none() && gone.problem.is_some())
    })
    .unwrap();
    site.lab.plug("eth0").unwrap();
    give(&site);
    site.wait_until_ready().unwrap();
    let back = interface(&site);
    assert_eq!((back.name.as_str(), back.problem), (name, None));
    until_served(&site, &vip, 200);
}

/// Sends the load balancer an ICMP error from `host`: that a packet of its own to `backend` was too large for a link
/// with an MTU of 68.
fn forge_fragmentation_needed(host: &Host, balancer: Ipv4Addr, backend: Ipv4Addr) {
    let quoted = Ipv4Header::new(1400, 64, IpNumber::ICMP, balancer.octets(), backend.octets()).unwrap();
    let echo_reply = [0; 8];
    let mut body = Vec::new();
    quoted.write(&mut body).unwrap();
    body.extend(echo_reply);
    let kind = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 68 };
    let message = Icmpv4Header::with_checksum(Icmpv4Type::DestinationUnreachable(kind), &body);
    let message = [message.to_bytes().as_slice(), &body].concat();
    host.run(|| {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp).unwrap();
        let to = SockaddrIn::from(SocketAddrV4::new(balancer, 0));
        sendto(raw.as_raw_fd(), &message, &to, MsgFlags::empty()).unwrap();
    });
}

#[test]
#[ignore = "needs root"]
fn a_forged_icmp_error_from_anywhere_makes_no_packet_too_large() {
    let vip = Vip::IPIP;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    let (balancer, client) = (site.lab.balancer(), site.lab.client());
    let [backends @ .., marker] = site.lab.backends() else { panic!("there are backends") };
    for backend in backends {
        let begun = Instant::now();
        let believed = || {
            let output = balancer.command("ip").args(["route", "get", &backend.ipv4().to_string()]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).contains("mtu lock 552")
        };
        while !believed() {
            assert!(begun.elapsed() < LIMIT, "the kernel did not believe the forged error");
            forge_fragmentation_needed(client, balancer.ipv4(), backend.ipv4());
            sleep(Duration::from_millis(20));
        }
    }
    // An address of its own that is new has the daemon ask for every route; the marker tells that it has.
    let mtu = MTU - 4;
    balancer
        .ip(&format!("addr add 192.0.2.250/32 dev lo\nroute add {}/32 dev eth0 mtu {mtu}\n", marker.ipv4()))
        .unwrap();
    let mtus = || -> Vec<(std::net::IpAddr, u32)> {
        let listed: Vec<Backend> = site.read(&["backend", "list", vip.name]).unwrap();
        let mtu = |backend: Backend| match backend.next_hop {
            NextHop::Known { mtu, .. } => (backend.address, mtu),
            NextHop::Unknown { reason } => panic!("{}: {reason}", backend.address),
        };
        listed.into_iter().map(mtu).collect()
    };
    site.wait_for("the routes are asked for anew", LIMIT, |_| Ok(mtus().contains(&(marker.ipv4().into(), mtu))))
        .unwrap();
    for backend in backends {
        assert!(mtus().contains(&(backend.ipv4().into(), MTU)), "{:?}", mtus());
    }
    for _ in 0..8 {
        client.block_on(|| transfer::upload(vip.http(), 2_000_000, Duration::from_secs(20))).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn a_backend_that_comes_back_begins_with_the_mac_address_that_it_has_now() {
    let vip = Vip::L2;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    let (backend, mac) = (&site.lab.backends()[1], "02:00:00:00:be:ef");
    let address = backend.ipv4().to_string();
    // So that nothing keeps it once it is removed.
    site.cli(&["vip", "set", vip.name, "--tracking", "never"]).unwrap();
    site.cli(&["backend", "remove", vip.name, &address]).unwrap();
    let listed = || -> Vec<Backend> { site.read(&["backend", "list", vip.name]).unwrap() };
    site.wait_for("nothing is left of it", LIMIT, |_| Ok(listed().len() == 2)).unwrap();
    backend.ip(&format!("link set eth0 address {mac}\n")).unwrap();
    site.wait_for("the kernel knows", LIMIT, |_| {
        let output = site.lab.balancer().command("ip").args(["neigh", "show", "to", &address]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).contains(mac))
    })
    .unwrap();
    site.cli(&["backend", "add", vip.name, &address]).unwrap();
    let back = listed().into_iter().find(|listed| listed.address.to_string() == address).unwrap();
    assert!(matches!(&back.next_hop, NextHop::Known { mac: known, .. } if known == mac), "{back:?}");
    until_served(&site, &vip, 200);
}

#[test]
#[ignore = "needs root"]
fn a_pinned_mac_address_is_believed_before_the_segment() {
    let vip = Vip::L2;
    let mut site = Site::start(Lab::builder(), &[vip]).unwrap();
    let address = site.lab.backends()[0].ipv4().to_string();
    let backend = |site: &Site| -> Backend {
        let listed: Vec<Backend> = site.read(&["backend", "list", vip.name]).unwrap();
        listed.into_iter().find(|listed| listed.address.to_string() == address).unwrap()
    };
    let known = |backend: &Backend| match &backend.next_hop {
        NextHop::Known { mac, .. } => mac.clone(),
        NextHop::Unknown { reason } => reason.clone(),
    };
    let (own, other) = (known(&backend(&site)), "02:00:00:00:00:66");
    let set = |site: &Site, mac: &str| site.cli(&["backend", "set", vip.name, &address, "--mac", mac]).unwrap();
    assert_eq!(set(&site, &own), format!("vip direct: backend {address} mac none → {own}\n"));
    assert!(site.cli(&["backend", "list", vip.name]).unwrap().contains("MAC address pinned"));
    let load = load(&site, &vip);
    // The segment says otherwise, and the kernel believes it.
    site.lab.balancer().ip(&format!("neigh replace {address} lladdr {other} dev eth0 nud permanent\n")).unwrap();
    site.stop().unwrap();
    site.restart().unwrap();
    assert_eq!((backend(&site).mac.as_deref(), known(&backend(&site))), (Some(own.as_str()), own.clone()));
    until_served(&site, &vip, 100);
    finish(&site, load);
    set(&site, "none");
    site.wait_for("the segment is believed again", LIMIT, |_| Ok(known(&backend(&site)) == other)).unwrap();
    set(&site, &own);
    assert_eq!(known(&backend(&site)), own, "at once");
    until_served(&site, &vip, 100);
}

#[test]
#[ignore = "needs root"]
fn backends_are_reached_by_the_mark_of_their_vip() {
    // The same backends, by two VIPs; the way that the mark leads has another MTU to tell it by.
    let plain = Vip::IPIP;
    let vip = Vip { name: "marked", address: "203.0.113.11", ..Vip::IPIP };
    let site = Site::start(Lab::builder(), &[plain, vip]).unwrap();
    let mtu = MTU - 8;
    let table = format!("route add 10.0.1.0/24 dev eth0 mtu {mtu} table 77\nrule add fwmark 0x10 lookup 77\n");
    site.lab.balancer().ip(&table).unwrap();
    let mtus = |vip: &Vip| -> Vec<u32> {
        let listed: Vec<Backend> = site.read(&["backend", "list", vip.name]).unwrap();
        let mtu = |backend: &Backend| if let NextHop::Known { mtu, .. } = backend.next_hop { mtu } else { 0 };
        listed.iter().map(mtu).collect()
    };
    let said = site.cli(&["vip", "set", vip.name, "--mark", "0x10"]).unwrap();
    assert_eq!(said, "vip marked: mark 0x0 → 0x10\n");
    assert!(site.config().unwrap().contains("mark = 0x10"));
    assert_eq!((mtus(&plain), mtus(&vip)), (vec![MTU; 3], vec![mtu; 3]), "as soon as the command returns");
    until_served(&site, &vip, 50);
    until_served(&site, &plain, 50);
    // A rule that changes is followed, and a VRF that there is not is told.
    site.lab.balancer().ip("rule del fwmark 0x10 lookup 77\n").unwrap();
    site.wait_for("the rule is gone", LIMIT, |_| Ok(mtus(&vip) == [MTU; 3])).unwrap();
    site.cli(&["vip", "set", vip.name, "--vrf", "blue"]).unwrap();
    site.wait_for("the VRF is missed", LIMIT, |naru| {
        let status = naru.status()?;
        let misses = |reason: &str| reason.starts_with("VRF blue does not exist here");
        Ok(status.unreachable.len() == 3 && status.unreachable.iter().all(|backend| misses(&backend.reason)))
    })
    .unwrap();
    until_served(&site, &plain, 50);
    site.cli(&["vip", "set", vip.name, "--vrf", "default", "--mark", "0"]).unwrap();
    until_served(&site, &vip, 50);
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_vanishes_is_attached_again_when_it_returns() {
    let vip = Vip::IPIP;
    for (legs, interface) in [(Legs::One, "eth0"), (Legs::Two, "eth0"), (Legs::Two, "eth1")] {
        let mut site = Site::start(Lab::builder().legs(legs), &[vip]).unwrap();
        until_served(&site, &vip, 50);
        site.lab.unplug(interface).unwrap();
        site.wait_for("the loss is noticed", LIMIT, |naru| {
            let status = naru.status()?;
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
#[ignore = "needs root"]
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
#[ignore = "needs root"]
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
#[ignore = "needs root"]
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
#[ignore = "needs root"]
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
#[ignore = "needs root"]
fn a_backend_that_cannot_be_reached_is_named() {
    let vip = Vip::L2;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    site.cli(&["backend", "add", vip.name, "10.0.1.99"]).unwrap();
    site.wait_for("the missing neighbour is named", LIMIT, |naru| {
        let status = naru.status()?;
        Ok(matches!(&status.unreachable[..], [backend] if backend.reason.contains("10.0.1.99")))
    })
    .unwrap();
    site.cli(&["backend", "remove", vip.name, "10.0.1.99"]).unwrap();
    until_served(&site, &vip, 200);
}

#[test]
#[ignore = "needs root"]
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
#[ignore = "needs root"]
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

/// Frames are for naru that are addressed to the interface, also after its address has changed, or to a macvlan on it
/// (keepalived's `use_vmac`); those for others, which a promiscuous port sees, are not.
#[test]
#[ignore = "needs root"]
fn frames_are_taken_for_the_mac_addresses_that_this_host_has() {
    let vip = Vip::L2;
    let site = Site::start(Lab::builder(), &[vip]).unwrap();
    let (balancer, router) = (site.lab.balancer(), site.lab.router());
    until_served(&site, &vip, 50);
    let [vmac, changed, other] = ["00:00:5e:00:01:07", "02:00:00:00:ab:cd", "02:00:00:00:0f:0f"];
    let address = |mac: &str| {
        let neighbour = format!("neigh replace {} lladdr {mac} nud permanent dev br0\n", balancer.ipv4());
        router.ip(&neighbour).unwrap();
    };
    balancer.ip("link set eth0 promisc on\n").unwrap();
    address(vmac);
    let unserved = || {
        let before = site.metric("naru_vip_packets_total", &[("vip", vip.name)]).unwrap();
        let options = Options { timeout: Duration::from_millis(300), ..Options::new(vip.http()).count(5) };
        let report = Load::start(site.lab.client(), options).unwrap().wait();
        assert_eq!(report.succeeded(), 0, "frames for somebody else were taken");
        assert_eq!(site.metric("naru_vip_packets_total", &[("vip", vip.name)]).unwrap(), before);
    };
    unserved();
    balancer
        .ip(&format!("link add vrrp address {vmac} link eth0 type macvlan mode private\nlink set vrrp up\n"))
        .unwrap();
    until_served(&site, &vip, 50);
    balancer.ip("link del vrrp\n").unwrap();
    site.wait_for("the macvlan is forgotten", LIMIT, |naru| {
        let maps = naru.status()?;
        Ok(maps.maps.iter().any(|map| map.name == "OWN_MACS" && map.entries == 1))
    })
    .unwrap();
    unserved();
    balancer.ip(&format!("link set eth0 address {changed}\n")).unwrap();
    address(changed);
    until_served(&site, &vip, 50);
    address(other);
    unserved();
}
