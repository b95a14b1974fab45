//! Probes' packets through the real programs: out to the one backend that their key names, and back to the prober. Every
//! byte that comes out is compared.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header};
use lb_common::{Address, Be16, ProbeKey, ProbePath};
use lb_userspace::dataplane::Backend;
use naru_tests::{
    forwarder::{Forwarder, INGRESS, Output, Verdict, next_hop},
    frames::{self, BALANCER_MAC, CLIENT_MAC, NEXT_HOP_MAC, Packet},
    vip_text::VipText,
};

/// The far end of the prober's veth pair, and the end on the load balancer.
const PROBER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];
const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x78];
/// Where probes come from, and what they are for. In each family the address of the node, the VIP, two backends.
const V4: Probed = Probed { node: "10.0.1.2", vip: "203.0.113.10", backends: ["10.0.1.11", "10.0.1.12"] };
const V6: Probed =
    Probed { node: "2001:db8:1::2", vip: "2001:db8:f::10", backends: ["2001:db8:b::11", "2001:db8:b::12"] };
const PORT: u16 = 61_000;
const SERVICE: u16 = 80;

#[derive(Clone, Copy)]
struct Probed {
    node: &'static str,
    vip: &'static str,
    backends: [&'static str; 2],
}

impl Probed {
    fn config(&self, forward: &str) -> String {
        let vip = VipText::new("one", self.vip, [format!("tcp/{SERVICE}"), format!("udp/{SERVICE}")], forward);
        let weight = |vip: VipText, backend: &&str| vip.backend_with(address(backend), "weight = 100");
        self.backends.iter().fold(vip, weight).to_string()
    }

    fn node(&self, port: u16) -> SocketAddr {
        SocketAddr::new(address(self.node), port)
    }

    fn vip(&self) -> SocketAddr {
        SocketAddr::new(address(self.vip), SERVICE)
    }

    /// A forwarder, and its second backend, a probe of which is under way.
    fn start(&self, forward: &str) -> (Forwarder, Backend) {
        let forwarder = Forwarder::with_probes(&self.config(forward), next_hop()).unwrap();
        let mut backends = forwarder.dataplane().backends();
        backends.retain(|backend| backend.target.address == address(self.backends[1]));
        let probes = forwarder.dataplane().probes();
        let nodes = [V4, V6].map(|probed| Address::from(address(probed.node)));
        probes.set_path(ProbePath::new(INGRESS, PROBER_MAC, HOST_MAC, nodes));
        for protocol in [IpNumber::TCP, IpNumber::UDP] {
            probes.enter(self.key(protocol), backends[0].id).unwrap();
        }
        (forwarder, backends.remove(0))
    }

    fn key(&self, IpNumber(protocol): IpNumber) -> ProbeKey {
        ProbeKey::new(address(self.vip).into(), Be16::new(PORT), protocol)
    }

    fn answer(&self) -> Packet {
        Packet::tcp(self.vip(), self.node(PORT), |tcp| (tcp.syn, tcp.ack) = (true, true), b"")
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The frame in which an answer reaches the prober.
fn to_prober(packet: &Packet) -> Output {
    Output { verdict: Verdict::Redirect, frame: frames::ethernet(HOST_MAC, PROBER_MAC, &[], &packet.ip_bytes()) }
}

/// The frame in which the prober sends.
fn from_prober(packet: &Packet) -> Vec<u8> {
    frames::ethernet(PROBER_MAC, HOST_MAC, &[], &packet.ip_bytes())
}

fn passed(frame: Vec<u8>) -> Output {
    Output { verdict: Verdict::Pass, frame }
}

/// Nothing was counted for a VIP or a backend.
fn assert_uncounted(forwarder: &Forwarder) {
    let counts = forwarder.dataplane().counters().unwrap();
    assert!(counts.vips.iter().all(|vip| vip.counters == Default::default() && vip.drops == Default::default()));
    assert!(counts.backends.iter().all(|backend| backend.counters == Default::default()));
    assert!(counts.flow_packets.iter().all(|(_, count)| *count == 0));
    assert_eq!(forwarder.drops().unwrap(), [].into());
}

#[test]
#[ignore = "needs root"]
fn a_probe_goes_to_its_backend_as_a_clients_packet_would() {
    for (probed, forward) in [(V4, "l2"), (V4, "ipip"), (V6, "l2"), (V6, "ipip")] {
        let (forwarder, backend) = probed.start(forward);
        for packet in [
            Packet::syn(probed.node(PORT), probed.vip()),
            Packet::data(probed.node(PORT), probed.vip(), &[0x5a; 1400]),
            Packet::udp(probed.node(PORT), probed.vip(), b"question"),
        ] {
            // Test runs come in by the interface that the next hop has, where a probe comes by another: it is a redirect.
            let output = forwarder.run_probe(&from_prober(&packet)).unwrap();
            assert_eq!(output.verdict, Verdict::Tx, "{forward}");
            let inner = packet.aged().ip_bytes();
            assert!(output.frame.ends_with(&inner), "{forward}");
            assert_eq!(output.frame[..12], [NEXT_HOP_MAC, BALANCER_MAC].concat());
            let outer = &output.frame[14..output.frame.len() - inner.len()];
            match (forward, probed.vip().is_ipv4()) {
                ("l2", _) => assert!(outer.is_empty()),
                (_, true) => {
                    let (outer, _) = Ipv4Header::from_slice(outer).unwrap();
                    assert_eq!(IpAddr::from(outer.destination), backend.target.address);
                }
                (_, false) => {
                    let (outer, _) = Ipv6Header::from_slice(outer).unwrap();
                    assert_eq!(IpAddr::from(outer.destination), backend.target.address);
                }
            }
        }
        assert_uncounted(&forwarder);
    }
}

/// Whatever else comes out of the prober's namespace is for nobody.
#[test]
#[ignore = "needs root"]
fn what_has_no_key_goes_nowhere() {
    for probed in [V4, V6] {
        let (forwarder, _) = probed.start("l2");
        let mut other = probed.vip();
        other.set_ip(address(probed.backends[0]));
        for packet in [
            Packet::syn(probed.node(PORT + 1), probed.vip()),
            Packet::syn(probed.node(PORT), other),
            Packet::new(address(probed.node), address(probed.vip), IpNumber(132), vec![0; 20]),
            Packet::syn(probed.node(PORT), probed.vip()).lifetime(1),
        ] {
            let frame = from_prober(&packet);
            assert_eq!(forwarder.run_probe(&frame).unwrap(), Output { verdict: Verdict::Drop, frame });
        }
        let arp = frames::ethernet(PROBER_MAC, [0xff; 6], &[], &[0; 28]);
        assert_eq!(forwarder.run_probe(&arp).unwrap().verdict, Verdict::Drop);
        forwarder.dataplane().probes().remove(&probed.key(IpNumber::TCP)).unwrap();
        let late = from_prober(&Packet::syn(probed.node(PORT), probed.vip()));
        assert_eq!(forwarder.run_probe(&late).unwrap().verdict, Verdict::Drop);
        assert_uncounted(&forwarder);
    }
}

#[test]
#[ignore = "needs root"]
fn answers_go_to_the_prober_with_its_mac_address_and_without_tags() {
    for probed in [V4, V6] {
        let (forwarder, _) = probed.start("ipip");
        let long = Packet::data(probed.vip(), probed.node(PORT), &[0x5a; 1400]);
        for packet in [probed.answer(), long, Packet::udp(probed.vip(), probed.node(PORT), b"answer")] {
            for tags in [&[][..], &[(0x8100, 7)], &[(0x88a8, 100), (0x8100, 7)]] {
                assert_eq!(forwarder.run(&packet.tagged(tags)).unwrap(), to_prober(&packet));
            }
        }
        // An answer may come from another port than the one that was asked: a check chooses its own.
        let other = Packet::syn(SocketAddr::new(address(probed.vip), 8080), probed.node(PORT));
        assert_eq!(forwarder.run(&other.frame()).unwrap(), to_prober(&other));
        assert_uncounted(&forwarder);
    }
}

#[test]
#[ignore = "needs root"]
fn what_is_no_answer_passes_untouched() {
    for probed in [V4, V6] {
        let (mut forwarder, _) = probed.start("ipip");
        let from = |ip: &str| SocketAddr::new(address(ip), SERVICE);
        let other_node = SocketAddr::new(address(probed.backends[0]), PORT);
        for packet in [
            Packet::syn(probed.vip(), probed.node(PORT + 1)),
            Packet::syn(from(probed.backends[1]), probed.node(PORT)),
            Packet::syn(probed.vip(), other_node),
            Packet::new(address(probed.vip), address(probed.node), IpNumber(132), vec![0; 20]),
        ] {
            assert_eq!(forwarder.run(&packet.frame()).unwrap(), passed(packet.frame()));
        }
        let answer = probed.answer();
        let to_others = frames::ethernet(CLIENT_MAC, NEXT_HOP_MAC, &[], &answer.ip_bytes());
        assert_eq!(forwarder.run(&to_others).unwrap(), passed(to_others));
        // A socket that has closed, a prober that has gone, a config without probes.
        forwarder.dataplane().probes().remove(&probed.key(IpNumber::TCP)).unwrap();
        assert_eq!(forwarder.run(&answer.frame()).unwrap(), passed(answer.frame()));
        let udp = Packet::udp(probed.vip(), probed.node(PORT), b"answer");
        assert_eq!(forwarder.run(&udp.frame()).unwrap(), to_prober(&udp));
        forwarder.dataplane().probes().reset().unwrap();
        assert_eq!(forwarder.run(&udp.frame()).unwrap(), passed(udp.frame()));
        assert_uncounted(&forwarder);
        forwarder.apply(&probed.config("ipip")).unwrap();
        assert_eq!(forwarder.dataplane().probes().count(), 0);
    }
}

/// An error that quotes a probe goes to the prober: that a port is closed, that a packet is too large.
#[test]
#[ignore = "needs root"]
fn icmp_errors_go_to_who_sent_what_they_quote() {
    for (probed, number, kinds, others) in
        [(V4, IpNumber::ICMP, &[3, 11, 12][..], [0u8, 5, 8]), (V6, IpNumber::IPV6_ICMP, &[1, 2, 3, 4], [128, 129, 137])]
    {
        let (forwarder, _) = probed.start("l2");
        let error = |kind: u8, quoted: &Packet| {
            let icmp = [&[kind, 3, 0, 0, 0, 0, 0, 0], &quoted.ip_bytes()[..]].concat();
            let router = if probed.vip().is_ipv4() { "10.9.9.9" } else { "2001:db8:9::9" };
            Packet::new(address(router), address(probed.node), number, icmp)
        };
        let probe = Packet::syn(probed.node(PORT), probed.vip());
        for kind in kinds {
            let error = error(*kind, &probe);
            assert_eq!(forwarder.run(&error.frame()).unwrap(), to_prober(&error), "{kind}");
        }
        let elsewhere = SocketAddr::new(address(probed.backends[0]), PORT);
        let is_other = [
            error(kinds[0], &Packet::syn(probed.node(PORT + 1), probed.vip())),
            error(kinds[0], &Packet::syn(elsewhere, probed.vip())),
            error(kinds[0], &Packet::syn(probed.node(PORT), elsewhere)),
        ];
        for error in others.map(|kind| error(kind, &probe)).into_iter().chain(is_other) {
            assert_eq!(forwarder.run(&error.frame()).unwrap(), passed(error.frame()));
        }
        assert_uncounted(&forwarder);
    }
}

/// A backend that lost the VIP and forwards packets would have another one answer.
#[test]
#[ignore = "needs root"]
fn a_probe_that_comes_back_from_the_network_is_dropped() {
    for (probed, forward) in [(V4, "l2"), (V4, "ipip"), (V6, "l2"), (V6, "ipip")] {
        let (forwarder, _) = probed.start(forward);
        for packet in [
            Packet::syn(probed.node(PORT), probed.vip()).lifetime(62),
            Packet::data(probed.node(PORT), probed.vip(), b"GET"),
            Packet::udp(probed.node(PORT), probed.vip(), b"question"),
        ] {
            let frame = packet.frame();
            assert_eq!(forwarder.run(&frame).unwrap(), Output { verdict: Verdict::Drop, frame });
        }
        assert_eq!(forwarder.drops().unwrap(), [("probe_loop", 3)].into());
        // What the host itself sends to the VIP, from other ports, is no probe.
        let own = Packet::syn(probed.node(PORT + 1), probed.vip());
        assert_eq!(forwarder.run(&own.frame()).unwrap().verdict, Verdict::Tx);
        let client = SocketAddr::new(address(probed.backends[0]), PORT);
        assert_eq!(forwarder.run(&Packet::syn(client, probed.vip()).frame()).unwrap().verdict, Verdict::Tx);
    }
}

/// Maps that grow are others, but not those of probes.
#[test]
#[ignore = "needs root"]
fn a_probe_goes_on_while_maps_grow() {
    let mut forwarder = Forwarder::with_probes(&V4.config("l2"), next_hop()).unwrap();
    let before = forwarder.dataplane().generation();
    let probes = forwarder.dataplane().probes();
    probes.set_path(ProbePath::new(INGRESS, PROBER_MAC, HOST_MAC, [address(V4.node).into()]));
    let backend = forwarder.dataplane().backends().remove(1);
    probes.enter(V4.key(IpNumber::TCP), backend.id).unwrap();
    let more = (0..200).map(|n| {
        let vip = VipText::new(format!("more-{n}"), format!("198.18.0.{n}"), ["tcp/80"], "l2");
        vip.backend_with(address("10.0.1.11"), "weight = 100").to_string()
    });
    forwarder.apply_with_probes(&(V4.config("l2") + &more.collect::<String>())).unwrap();
    assert_ne!(forwarder.dataplane().generation(), before, "the maps did not grow");
    assert_eq!(forwarder.run(&V4.answer().frame()).unwrap(), to_prober(&V4.answer()));
    let packet = Packet::syn(V4.node(PORT), V4.vip());
    assert_eq!(forwarder.run_probe(&from_prober(&packet)).unwrap().frame, packet.forwarded());
}
