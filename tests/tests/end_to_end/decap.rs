//! The real decapsulation over built packets: what a load balancer put on comes off to the byte, and nothing else does.

use std::net::IpAddr;

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
    programs::Xdp,
};
use etherparse::{IpDscp, IpEcn, IpNumber};
use lb_common::{Address, DECAP_VIP_BITS, DecapCounters, DecapOutcome, DecapSource};
use lb_userspace::objects;
use naru_tests::{
    forwarder::{Forwarder, Output, Verdict, run},
    frames::{BALANCER_MAC, NEXT_HOP_MAC, Packet, ethernet, to_next_hop},
    netns::Netns,
};

const BACKEND4: &str = "10.0.1.11";
const BACKEND6: &str = "2001:db8:b::11";

#[test]
#[ignore = "needs root"]
fn what_the_forwarder_puts_on_comes_off_to_the_byte() {
    let decap = Decap::new();
    let packets4 = || vec![Packet::syn(at(4), vip(4)), Packet::udp(at(4), vip(4), &[7; 1400])];
    let packets6 = || vec![Packet::syn(at(6), vip(6)), Packet::udp(at(6), vip(6), &[7; 1400])];
    for (packets, family, backend) in
        [(packets4(), 4, BACKEND4), (packets4(), 4, BACKEND6), (packets6(), 6, BACKEND4), (packets6(), 6, BACKEND6)]
    {
        let forwarder = Forwarder::new(&format!(
            "[[vip]]\nname = \"web\"\naddress = \"{}\"\nports = [\"tcp/80\", \"udp/80\"]\nforward = \"ipip\"\n\
             backends = [{{ address = \"{backend}\" }}]",
            vip(family).ip()
        ))
        .unwrap();
        for packet in packets {
            let tunnelled = forwarder.run(&packet.frame()).unwrap().frame;
            assert_eq!(decap.run(&tunnelled), passed(packet.forwarded()), "IPv{family} to {backend}");
        }
    }
    assert_eq!(decap.counts(), [("decapsulated", 8)]);
}

#[test]
#[ignore = "needs root"]
fn tags_and_outer_options_are_kept_apart_from_the_packet() {
    let decap = Decap::new();
    let inner = Packet::syn(at(4), vip(4)).ip_bytes();
    for tags in [&[][..], &[(0x8100, 7)], &[(0x88a8, 100), (0x8100, 7)]] {
        for words in [0, 1, 10] {
            let outer = tunnel("172.16.9.9", BACKEND4, IpNumber::IPV4, &inner).options(words);
            let frame = ethernet(BALANCER_MAC, NEXT_HOP_MAC, tags, &outer.ip_bytes());
            let expected = ethernet(BALANCER_MAC, NEXT_HOP_MAC, tags, &inner);
            assert_eq!(decap.run(&frame), passed(expected), "{tags:?}, {words} words of options");
        }
    }
}

/// RFC 6040 §4.2, figure 4; the DSCP of the inner header stays, and its checksum is right.
#[test]
#[ignore = "needs root"]
fn congestion_marks_of_the_tunnel_reach_the_packet() {
    let marked = |inner: u8, outer: u8| match (inner, outer) {
        (0, 3) => None,
        (1 | 2, 3) => Some(3),
        (2, 1) => Some(1),
        _ => Some(inner),
    };
    let decap = Decap::new();
    for inner_ecn in 0..4 {
        for outer_ecn in 0..4 {
            let with = |ecn: u8| {
                Packet::syn(at(4), vip(4)).v4(|header| {
                    header.dscp = IpDscp::try_new(46).unwrap();
                    header.ecn = IpEcn::try_new(ecn).unwrap();
                })
            };
            let with6 = |ecn: u8| Packet::syn(at(6), vip(6)).v6(|header| header.traffic_class = 46 << 2 | ecn);
            for (inner, expected, number) in [
                (with(inner_ecn), marked(inner_ecn, outer_ecn).map(with), IpNumber::IPV4),
                (with6(inner_ecn), marked(inner_ecn, outer_ecn).map(with6), IpNumber::IPV6),
            ] {
                let outer = tunnel("172.16.9.9", BACKEND4, number, &inner.ip_bytes())
                    .v4(|header| header.ecn = IpEcn::try_new(outer_ecn).unwrap());
                let output = decap.run(&outer.forwarded());
                match expected {
                    Some(expected) => {
                        assert_eq!(output, passed(to_next_hop(&expected.ip_bytes())), "{inner_ecn} in {outer_ecn}")
                    }
                    None => assert_eq!(output.verdict, Verdict::Drop, "{inner_ecn} in {outer_ecn}"),
                }
            }
        }
    }
    assert_eq!(decap.counts(), [("decapsulated", 30), ("ecn_dropped", 2)]);
}

#[test]
#[ignore = "needs root"]
fn only_the_addresses_that_it_was_told_are_accepted() {
    let inner4 = Packet::syn(at(4), vip(4)).ip_bytes();
    let inner6 = Packet::syn(at(6), vip(6)).ip_bytes();
    let refused = [
        tunnel("172.17.0.1", BACKEND4, IpNumber::IPV4, &inner4),
        tunnel("172.15.255.255", BACKEND4, IpNumber::IPV6, &inner6),
        tunnel("172.16.0.1", "10.0.1.12", IpNumber::IPV4, &inner4),
        tunnel("fd6e:6172:75:f::1", BACKEND6, IpNumber::IPV4, &inner4),
        tunnel("fd6e:6172:75:e::1", "2001:db8:b::12", IpNumber::IPV6, &inner6),
    ];
    let decap = Decap::new();
    for packet in &refused {
        assert_eq!(decap.run(&packet.frame()), passed(packet.frame()));
    }
    assert_eq!(decap.counts(), [("refused", 5)]);
}

/// A forged outer source leads to VIPs and to nothing else.
#[test]
#[ignore = "needs root"]
fn only_vips_are_delivered_to() {
    let decap = Decap::new();
    for destination in ["203.0.113.9", "203.0.113.11", "10.0.1.11", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        let inner = Packet::syn(at(4), format!("{destination}:80").parse().unwrap()).ip_bytes();
        for (source, backend) in [("172.16.0.1", BACKEND4), ("fd6e:6172:75:e::1", BACKEND6)] {
            let frame = tunnel(source, backend, IpNumber::IPV4, &inner).frame();
            assert_eq!(decap.run(&frame), Output { verdict: Verdict::Drop, frame }, "{destination}");
        }
    }
    for destination in ["2001:db8:f::11", "2001:db8:b::11", "::1", "ff02::1", "::ffff:203.0.113.10"] {
        let inner = Packet::syn(at(6), format!("[{destination}]:80").parse().unwrap()).ip_bytes();
        let frame = tunnel("172.16.0.1", BACKEND4, IpNumber::IPV6, &inner).frame();
        let verdict = decap.run(&frame).verdict;
        // An IPv4 address in IPv6 form is one address with the VIP here, and none that the stack delivers to.
        let expected = if destination.contains("ffff") { Verdict::Pass } else { Verdict::Drop };
        assert_eq!(verdict, expected, "{destination}");
    }
    assert_eq!(decap.counts(), [("decapsulated", 1), ("inner_refused", 16)]);
}

/// Without a list of VIPs it is the addresses of the host, as they are when a packet comes; what the stack would send
/// on to other hosts is refused.
#[test]
#[ignore = "needs root"]
fn without_vips_what_is_local_is_delivered_to() {
    let name = format!("naru-decap-{}", std::process::id());
    let namespace = Netns::create([name.as_str()]).unwrap().remove(0);
    let outcome = std::panic::catch_unwind(|| local_addresses(&namespace));
    namespace.delete().unwrap();
    outcome.unwrap();
}

fn local_addresses(namespace: &Netns) {
    let forward = |on: &str| {
        for key in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
            namespace.sysctl(key, on).unwrap();
        }
    };
    let to = |destination: &str| {
        let destination: IpAddr = destination.parse().unwrap();
        let (client, number) = if destination.is_ipv4() { (at(4), IpNumber::IPV4) } else { (at(6), IpNumber::IPV6) };
        let inner = Packet::syn(client, (destination, 80).into()).ip_bytes();
        let frame = tunnel("172.16.0.1", BACKEND4, number, &inner).frame();
        // The interface that frames come in by is the loopback of the namespace.
        namespace.run(|| Decap::load(true).run(&frame).verdict)
    };
    let local = ["203.0.113.10", "2001:db8:f::10"];
    let elsewhere = ["192.0.2.9", "2001:db8:e::9"];
    let group = ["224.0.0.5", "255.255.255.255", "ff02::5"];
    namespace.ip("link set lo up\nroute add 192.0.2.0/24 dev lo\nroute add 2001:db8:e::/64 dev lo\n").unwrap();
    namespace.ip("addr add 203.0.113.10/32 dev lo\naddr add 2001:db8:f::10/128 dev lo nodad\n").unwrap();
    forward("1");
    assert_eq!(local.map(to), [Verdict::Pass; 2]);
    assert_eq!(elsewhere.map(to), [Verdict::Drop; 2]);
    assert_eq!(group.map(to), [Verdict::Drop; 3]);
    // Another VIP, later.
    namespace.ip("addr add 192.0.2.9/32 dev lo\naddr add 2001:db8:e::9/128 dev lo nodad\n").unwrap();
    assert_eq!(elsewhere.map(to), [Verdict::Pass; 2]);
    namespace.ip("addr del 192.0.2.9/32 dev lo\naddr del 2001:db8:e::9/128 dev lo\n").unwrap();
    assert_eq!(elsewhere.map(to), [Verdict::Drop; 2]);
    // A host that forwards nothing decides by itself what it delivers.
    forward("0");
    assert_eq!(local.map(to), [Verdict::Pass; 2]);
    assert_eq!(elsewhere.map(to), [Verdict::Pass; 2]);
    assert_eq!(group.map(to), [Verdict::Drop; 3]);
}

#[test]
#[ignore = "needs root"]
fn what_is_no_tunnel_passes_untouched_and_uncounted() {
    let decap = Decap::new();
    for packet in [
        Packet::syn(at(4), vip(4)),
        Packet::syn(at(6), vip(6)),
        Packet::new("172.16.0.1".parse().unwrap(), BACKEND4.parse().unwrap(), IpNumber::GRE, vec![0; 40]),
        Packet::new("172.16.0.1".parse().unwrap(), BACKEND4.parse().unwrap(), IpNumber::ICMP, vec![8; 40]),
    ] {
        assert_eq!(decap.run(&packet.frame()), passed(packet.frame()));
    }
    for len in [14, 20, 33] {
        let frame = &tunnel("172.16.0.1", BACKEND4, IpNumber::IPV4, &[]).frame()[..len];
        assert_eq!(decap.run(frame), passed(frame.to_vec()), "{len} bytes");
    }
    assert_eq!(decap.counts(), []);
}

#[test]
#[ignore = "needs root"]
fn malformed_and_fragmented_tunnels_do_not_reach_the_stack_as_packets() {
    let inner4 = Packet::syn(at(4), vip(4)).ip_bytes();
    let to_backend = |number, inner: &[u8]| tunnel("172.16.0.1", BACKEND4, number, inner);
    let mut too_long = inner4.clone();
    too_long[3] += 1;
    let decap = Decap::new();
    for packet in [
        to_backend(IpNumber::IPV4, &[]),
        to_backend(IpNumber::IPV4, &inner4[..19]),
        to_backend(IpNumber::IPV4, &too_long),
        to_backend(IpNumber::IPV6, &inner4),
        to_backend(IpNumber::IPV6, &Packet::syn(at(6), vip(6)).ip_bytes()[..39]),
    ] {
        assert_eq!(decap.run(&packet.frame()), Output { verdict: Verdict::Drop, frame: packet.frame() });
    }
    // The stack puts fragments together, and a tunnel module may then take the packet.
    for (offset, more) in [(0, true), (185, false)] {
        let fragment = to_backend(IpNumber::IPV4, &inner4).fragment(offset, more);
        assert_eq!(decap.run(&fragment.frame()), passed(fragment.frame()));
    }
    assert_eq!(decap.counts(), [("fragment", 2), ("malformed", 5)]);
}

/// The loaded decapsulation; accepts 172.16.0.0/16 and `SOURCE6` as sources, the two backends as destinations, and
/// delivers to the VIPs.
struct Decap(Ebpf);

impl Decap {
    fn new() -> Self {
        Self::load(false)
    }

    /// `local`: to what is local instead.
    fn load(local: bool) -> Self {
        let mut ebpf =
            EbpfLoader::new().override_global("LOCAL", &u32::from(local), true).load(objects::DECAP).unwrap();
        let ip = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        let mut sources: Array<_, DecapSource> = ebpf.map_mut("SOURCES").unwrap().try_into().unwrap();
        let mask4 = ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0");
        sources.set(0, DecapSource { network: ip("172.16.0.0"), mask: mask4 }, 0).unwrap();
        let mask6 = ip("ffff:ffff:ffff:ffff::");
        sources.set(1, DecapSource { network: ip("fd6e:6172:75:e::"), mask: mask6 }, 0).unwrap();
        let mut destinations: HashMap<_, Address, u32> = ebpf.map_mut("DESTINATIONS").unwrap().try_into().unwrap();
        for backend in [BACKEND4, BACKEND6] {
            destinations.insert(ip(backend), 1, 0).unwrap();
        }
        let mut vips: LpmTrie<_, Address, u32> = ebpf.map_mut("VIPS").unwrap().try_into().unwrap();
        for family in [4, 6] {
            vips.insert(&Key::new(DECAP_VIP_BITS, vip(family).ip().into()), 1, 0).unwrap();
        }
        let program: &mut Xdp = ebpf.program_mut("decap").unwrap().try_into().unwrap();
        program.load().unwrap();
        Self(ebpf)
    }

    fn run(&self, frame: &[u8]) -> Output {
        run(self.0.program("decap").unwrap().try_into().unwrap(), frame).unwrap()
    }

    /// Packets by outcome, of the outcomes that there were.
    fn counts(&self) -> Vec<(&'static str, u64)> {
        let outcomes: PerCpuArray<_, DecapCounters> = self.0.map("OUTCOMES").unwrap().try_into().unwrap();
        let count = |outcome: DecapOutcome| {
            let per_cpu = outcomes.get(&(outcome as u32), 0).unwrap();
            (outcome.name(), per_cpu.iter().map(|cpu| cpu.packets).sum())
        };
        let mut counts: Vec<_> = DecapOutcome::ALL.into_iter().map(count).filter(|(_, packets)| *packets > 0).collect();
        counts.sort();
        counts
    }
}

fn at(family: u8) -> std::net::SocketAddr {
    if family == 4 { "198.51.100.7:40000" } else { "[2001:db8:c::7]:40000" }.parse().unwrap()
}

fn vip(family: u8) -> std::net::SocketAddr {
    if family == 4 { "203.0.113.10:80" } else { "[2001:db8:f::10]:80" }.parse().unwrap()
}

/// A tunnel packet with this inside.
fn tunnel(source: &str, destination: &str, number: IpNumber, inner: &[u8]) -> Packet {
    let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    let packet = Packet::new(source, destination, number, inner.to_vec());
    if source.is_ipv4() { packet.v4(|header| header.ecn = IpEcn::ZERO) } else { packet }
}

fn passed(frame: Vec<u8>) -> Output {
    Output { verdict: Verdict::Pass, frame }
}
