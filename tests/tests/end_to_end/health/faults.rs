//! Every type of probe, and everything that fails clients.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_userspace::api::types::Backend;
use naru_tests::{
    answers,
    lab::{Host, Lab, MTU, VIPS4, VIPS6},
    load::{Load, Options},
    naru::{Naru, attach_decap, naru_binary},
    server::Server,
    site::{Family, Site, Vip},
};

use super::{OUT, UP, health, probe, wait_for};

/// A type of probe: over the path in one family by `l2`, over the path in the other one by `ipip`, and by address.
struct Probe {
    keys: &'static str,
    path: [Vip; 2],
    blind: Vip,
}

const fn l2_4(name: &'static str, address: &'static str) -> Vip {
    Vip { name, address, weights: &[100; FAULTS.len() + 1], ..Vip::L2 }
}

const fn l2_6(name: &'static str, address: &'static str) -> Vip {
    Vip { backends: Family::V6, ..l2_4(name, address) }
}

const fn ipip_4(name: &'static str, address: &'static str) -> Vip {
    Vip { weights: &[100; FAULTS.len() + 1], name, address, ..Vip::IPIP }
}

const fn ipip_6(name: &'static str, address: &'static str) -> Vip {
    Vip { backends: Family::V6, ..ipip_4(name, address) }
}

const PROBES: [Probe; 8] = [
    Probe {
        keys: "type = \"tcp\"",
        path: [l2_4("tcp-l2-4", "203.0.113.21"), ipip_6("tcp-ipip-6", "2001:db8:77::11")],
        blind: ipip_4("tcp-address", "203.0.113.31"),
    },
    Probe {
        keys: "type = \"udp\", send = \"ping\", expect = \"b\"",
        path: [l2_6("udp-l2-6", "2001:db8:77::22"), ipip_4("udp-ipip-4", "203.0.113.12")],
        blind: ipip_6("udp-address", "2001:db8:77::32"),
    },
    Probe {
        keys: "type = \"dns\", name = \"www.example.org\", port = 53",
        path: [l2_4("dns-l2-4", "203.0.113.23"), ipip_6("dns-ipip-6", "2001:db8:77::13")],
        blind: ipip_4("dns-address", "203.0.113.33"),
    },
    Probe {
        keys: "type = \"http\"",
        path: [l2_6("http-l2-6", "2001:db8:77::24"), ipip_4("http-ipip-4", "203.0.113.14")],
        blind: ipip_6("http-address", "2001:db8:77::34"),
    },
    Probe {
        keys: "type = \"http\", version = \"h2c\", port = 8080",
        path: [l2_4("h2c-l2-4", "203.0.113.25"), ipip_6("h2c-ipip-6", "2001:db8:77::15")],
        blind: ipip_4("h2c-address", "203.0.113.35"),
    },
    Probe {
        keys: "type = \"tls\", sni = \"www.example.org\", ca = \"CA\", port = 443",
        path: [l2_6("tls-l2-6", "2001:db8:77::26"), ipip_4("tls-ipip-4", "203.0.113.16")],
        blind: ipip_6("tls-address", "2001:db8:77::36"),
    },
    Probe {
        keys: "type = \"https\", host = \"www.example.org\", ca = \"CA\", port = 443",
        path: [l2_4("https-l2-4", "203.0.113.27"), ipip_6("https-ipip-6", "2001:db8:77::17")],
        blind: ipip_4("https-address", "203.0.113.37"),
    },
    Probe {
        keys: "type = \"grpc\", port = 8080",
        path: [l2_6("grpc-l2-6", "2001:db8:77::28"), ipip_4("grpc-ipip-4", "203.0.113.18")],
        blind: ipip_6("grpc-address", "2001:db8:77::38"),
    },
];

/// What fails clients, and has them served again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Dies,
    Hangs,
    AnswersWrongly,
    LostVip,
    LostRoute,
    LostTunnel,
}

/// Each is that of the backend in its place. The one behind them is well.
const FAULTS: [Fault; 6] =
    [Fault::Dies, Fault::Hangs, Fault::AnswersWrongly, Fault::LostVip, Fault::LostRoute, Fault::LostTunnel];

impl Fault {
    /// Whether probes with these keys, by this VIP, can see it.
    fn is_seen(self, keys: &str, vip: &Vip, is_blind: bool) -> bool {
        match self {
            Self::Dies => true,
            // It is the kernel that takes connections.
            Self::Hangs | Self::AnswersWrongly => !keys.contains("\"tcp\""),
            Self::LostVip | Self::LostRoute => !is_blind,
            Self::LostTunnel => !is_blind && vip.forward == "ipip",
        }
    }

    fn begin(self, site: &mut Site, place: usize) {
        self.switch(site, place, true);
    }

    fn end(self, site: &mut Site, place: usize) {
        self.switch(site, place, false);
    }

    fn switch(self, site: &mut Site, place: usize, is_on: bool) {
        let host = site.lab.backends()[place].clone();
        let server = &mut site.servers[place];
        let verb = |on: &'static str, off: &'static str| if is_on { on } else { off };
        match self {
            Self::Dies if is_on => server.kill().unwrap(),
            Self::Dies => *server = start_answering(&site.lab, &host).unwrap(),
            Self::Hangs if is_on => server.pause().unwrap(),
            Self::Hangs => server.resume().unwrap(),
            Self::AnswersWrongly => server.answer_wrongly(is_on).unwrap(),
            Self::LostVip => {
                let line = |vip: &IpAddr| {
                    let (len, nodad) = if vip.is_ipv6() { (128, verb("", " nodad")) } else { (32, "") };
                    format!("addr {} {vip}/{len} dev lo{nodad}\n", verb("del", "add"))
                };
                host.ip(&site.lab.vips().iter().map(line).collect::<String>()).unwrap();
            }
            Self::LostRoute => {
                for (family, vips) in [("-4", VIPS4), ("-6", VIPS6)] {
                    run(&host, "ip", &[family, "rule", verb("add", "del"), "from", vips, "prohibit"]);
                }
            }
            Self::LostTunnel if is_on => {
                let bpffs = site.lab.bpffs().join(host.name());
                let naru = naru_binary().unwrap().to_str().unwrap();
                run(&host, naru, &["decap", "detach", "eth0", "--bpffs", bpffs.to_str().unwrap()]);
            }
            Self::LostTunnel => attach_decap(&site.lab, &host).unwrap(),
        }
    }
}

fn run(host: &Host, program: &str, arguments: &[&str]) {
    let output = patience::output(host.command(program).args(arguments)).unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

fn start_answering(lab: &Lab, host: &Host) -> anyhow::Result<Server> {
    let own = [IpAddr::from(host.ipv4()), host.ipv6().into()];
    Server::start_answering(host, lab.dir(), &[lab.vips(), &own].concat())
}

/// Each type meets each fault over the path, once in `l2` and once in `ipip`, one of them in IPv4 and one in IPv6; so
/// each mode with each family meets each fault by four types. (`l2` has no tunnel to lose; `tcp` asks the kernel of a
/// backend, and sees neither that a server hangs nor what it answers.) By `via = "address"` each type sees the former
/// three and none of the rest. All faults are there at once, each on a backend of its own, so that none can be taken for
/// another one, and clients are served by those that are left.
#[test]
#[ignore = "needs root"]
fn every_type_of_probe_finds_every_fault_over_the_path() {
    let each: Vec<_> = PROBES
        .iter()
        .flat_map(|probe| probe.path.map(|vip| (probe, vip, false)).into_iter().chain([(probe, probe.blind, true)]))
        .collect();
    let vips: Vec<_> = each.iter().map(|(_, vip, _)| *vip).collect();
    let serve = |lab: &Lab, host: &Host| {
        let dir = lab.dir();
        if !dir.join("server.key").exists() {
            answers::certify(dir)?;
        }
        start_answering(lab, host)
    };
    let mut site = Site::start_by(Lab::builder().backends(FAULTS.len() + 1), &vips, serve, |_| {}).unwrap();
    let ca = site.lab.dir().join("ca.pem");
    let keys = |keys: &str, is_blind: bool| {
        let via = if is_blind { "address" } else { "path" };
        let times = "interval = \"1s\", fast_interval = \"200ms\", rise = 1, fall = 2";
        format!("{{ {}, via = \"{via}\", {times} }}", keys.replace("CA", ca.to_str().unwrap()))
    };
    probe(&site, each.iter().map(|(probe, vip, is_blind)| (*vip, keys(probe.keys, *is_blind))));
    let well = each.iter().map(|(_, vip, _)| (vip.name, vec![UP; FAULTS.len() + 1])).collect();
    let ill = each.iter().map(|(probe, vip, is_blind)| {
        let verdict = |fault: &Fault| if fault.is_seen(probe.keys, vip, *is_blind) { OUT } else { UP };
        (vip.name, FAULTS.iter().map(verdict).chain([UP]).collect())
    });
    let ill = ill.collect();
    wait_for_all(&site, &well, "at first");

    for (place, fault) in FAULTS.into_iter().enumerate() {
        fault.begin(&mut site, place);
    }
    wait_for_all(&site, &ill, "out");
    for (probe, vip, _) in each.iter().filter(|(_, _, is_blind)| !is_blind) {
        if probe.keys.contains("\"tcp\"") {
            continue;
        }
        let report = Load::start(site.lab.client(), Options::new(vip.http()).count(20)).unwrap().wait();
        assert_eq!(report.succeeded(), 20, "{}: {:?}", vip.name, report.failed);
    }
    // Nothing was taken for a fault that is none, meanwhile.
    wait_for_all(&site, &ill, "out still");
    for own in site.read::<Vec<Backend>>(&["backend", "list"]).unwrap() {
        let reason = health(&own).failure.as_deref();
        if own.vip.ends_with("l2-4") {
            println!("{} {}: {}", own.vip, own.address, reason.unwrap_or("good"));
        }
    }

    for (place, fault) in FAULTS.into_iter().enumerate() {
        fault.end(&mut site, place);
    }
    wait_for_all(&site, &well, "back");
}

type Verdicts = BTreeMap<&'static str, Vec<(&'static str, &'static str)>>;

/// Waits until these are the verdicts, by VIP, and prints when those of each fault came about.
fn wait_for_all(site: &Site, expected: &Verdicts, what: &str) {
    let from = Instant::now();
    let mut since = BTreeMap::<(&str, usize), Duration>::new();
    let is_so = |naru: &Naru| {
        let found: Vec<Backend> = naru.read(&["backend", "list"])?;
        let mut different = Vec::new();
        for (vip, expected) in expected {
            for (place, (own, expected)) in found.iter().filter(|own| own.vip == *vip).zip(expected).enumerate() {
                if (health(own).verdict.as_str(), own.state.as_str()) == *expected {
                    since.entry((vip, place)).or_insert_with(|| from.elapsed());
                } else {
                    different.push(format!("{vip} b{} is {} ({:?})", place + 1, own.state, health(own).failure));
                }
            }
        }
        anyhow::ensure!(different.is_empty(), "{different:?}");
        Ok(true)
    };
    site.wait_for(&format!("verdicts are as they are {what}"), patience::LIMIT, is_so).unwrap();
    for (place, fault) in FAULTS.iter().enumerate() {
        let times = || since.iter().filter(|((_, other), _)| *other == place).map(|(_, time)| time);
        let [first, last] = [times().min(), times().max()].map(|time| time.copied().unwrap_or_default());
        println!(
            "{what}, {fault:?}: as expected for all {} VIPs after {last:.1?}, the first {first:.1?}",
            times().count()
        );
    }
}

/// Where the way to a backend takes no full packets, probes that are as long fail, and short ones do not.
#[test]
#[ignore = "needs root"]
fn long_probes_find_a_wrong_mtu_and_short_ones_do_not() {
    const LONG: &str = "type = \"http\", size = 4000";
    const SHORT: &str = "type = \"http\"";
    const ECHO: &str = "type = \"icmp\", via = \"address\", size = 1472";
    const SHORT_ECHO: &str = "type = \"icmp\", via = \"address\"";
    // Whether it is found.
    let each = [
        (l2_4("l2-4", "203.0.113.20"), LONG, true),
        (ipip_4("ipip-4", "203.0.113.10"), LONG, true),
        (ipip_6("ipip-6", "2001:db8:77::10"), LONG, true),
        (l2_6("l2-6", "2001:db8:77::20"), LONG, true),
        (l2_4("l2-4-short", "203.0.113.21"), SHORT, false),
        (ipip_6("ipip-6-short", "2001:db8:77::11"), SHORT, false),
        (ipip_4("echo", "203.0.113.12"), ECHO, true),
        (ipip_4("echo-short", "203.0.113.13"), SHORT_ECHO, false),
    ];
    let each = each.map(|(vip, keys, is_found)| (Vip { weights: &[100; 2], ..vip }, keys, is_found));
    let vips = each.map(|(vip, ..)| vip);
    let site = Site::start(Lab::builder().backends(2), &vips).unwrap();
    site.lab.balancer().sysctl("net/ipv4/ping_group_range", "0 0").unwrap();
    let times = "interval = \"500ms\", fast_interval = \"200ms\", fall = 2";
    probe(&site, each.map(|(vip, keys, _)| (vip, format!("{{ {keys}, {times} }}"))));
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP; 2]));
    let (found, not_found): (Vec<_>, Vec<_>) = each.into_iter().partition(|(.., is_found)| *is_found);
    site.lab.router().ip("link set b1 mtu 1400\n").unwrap();
    let from = Instant::now();
    for (vip, ..) in &found {
        wait_for(&site, vip, &[OUT, UP]);
        println!("{}: a wrong MTU is found after {:.1?}", vip.name, from.elapsed());
    }
    for (vip, ..) in &not_found {
        wait_for(&site, vip, &[UP, UP]);
    }
    for own in site.read::<Vec<Backend>>(&["backend", "list"]).unwrap() {
        println!("{} {}: {}", own.vip, own.address, health(&own).failure.as_deref().unwrap_or("good"));
    }
    site.lab.router().ip(&format!("link set b1 mtu {MTU}\n")).unwrap();
    let from = Instant::now();
    vips.iter().for_each(|vip| wait_for(&site, vip, &[UP; 2]));
    println!("all are back {:.1?} after it is right again", from.elapsed());
}
