//! The real program over built packets: every byte that comes out is compared.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use aya::util::KernelVersion;
use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header,
    TcpHeader, icmpv4, icmpv6,
};
use lb_common::{Address, Be32, Counters, DropReason, HashKey, NextHop};
use lb_ebpf::hash::FlowHash;
use lb_userspace::plan::maglev::{self, WeightedBackend};
use naru_tests::{
    forwarder::{Forwarder, INGRESS, Output, SOURCE6, Verdict, next_hop},
    frames::{self, BALANCER_MAC, CLIENT_MAC, NEXT_HOP_MAC, Packet},
    vip_text::VipText,
};

pub const CLIENT4: &str = "198.51.100.7:40000";
pub const CLIENT6: &str = "[2001:db8:c::7]:40000";
pub const VIP4: &str = "203.0.113.10:80";
pub const VIP6: &str = "[2001:db8:f::10]:80";

/// Client, VIP, forward mode and backend: every mode, in every mix of families.
pub const WAYS: [(&str, &str, &str, &str); 6] = [
    (CLIENT4, VIP4, "l2", "10.0.1.11"),
    (CLIENT6, VIP6, "l2", "2001:db8:b::11"),
    (CLIENT4, VIP4, "ipip", "10.0.1.11"),
    (CLIENT4, VIP4, "ipip", "2001:db8:b::11"),
    (CLIENT6, VIP6, "ipip", "10.0.1.11"),
    (CLIENT6, VIP6, "ipip", "2001:db8:b::11"),
];

/// A destination-options or hop-by-hop header of 8 bytes with one PadN option, without its first byte.
const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];

#[test]
#[ignore = "needs root"]
fn ipip_4in4() {
    let forwarder = Forwarder::new(&one(VIP4, "ipip", "10.0.1.11")).unwrap();
    for (packet, protocol) in [
        (Packet::syn(at(CLIENT4), at(VIP4)), IpNumber::TCP),
        (Packet::data(at(CLIENT4), at(VIP4), &[0xa5; 1400]), IpNumber::TCP),
        (Packet::udp(at(CLIENT4), at(VIP4), b"question"), IpNumber::UDP),
    ] {
        let inner = packet.aged().ip_bytes();
        let outer = outer4("10.0.1.11", flow_hash(at(CLIENT4), at(VIP4), protocol), inner.len(), |outer| {
            outer.protocol = IpNumber::IPV4;
        });
        let expected = frames::to_next_hop(&[outer, inner].concat());
        assert_eq!(forwarder.run(&packet.frame()).unwrap(), sent(expected));
    }
}

#[test]
#[ignore = "needs root"]
fn ipip_6in6() {
    let forwarder = Forwarder::new(&one(VIP6, "ipip", "2001:db8:b::11")).unwrap();
    for (packet, protocol) in [
        (Packet::syn(at(CLIENT6), at(VIP6)), IpNumber::TCP),
        (Packet::udp(at(CLIENT6), at(VIP6), &[0x5a; 1300]), IpNumber::UDP),
    ] {
        let packet = packet.v6(|header| header.traffic_class = 0xb9);
        let inner = packet.aged().ip_bytes();
        let hash = flow_hash(at(CLIENT6), at(VIP6), protocol);
        let outer = outer6("2001:db8:b::11", hash, inner.len(), IpNumber::IPV6, 0xb9);
        assert_eq!(forwarder.run(&packet.frame()).unwrap(), sent(frames::to_next_hop(&[outer, inner].concat())));
    }
}

#[test]
#[ignore = "needs root"]
fn ipip_4in6() {
    let forwarder = Forwarder::new(&one(VIP4, "ipip", "2001:db8:b::11")).unwrap();
    let packet = Packet::syn(at(CLIENT4), at(VIP4)).v4(|header| header.ecn = IpEcn::TWO);
    let inner = packet.aged().ip_bytes();
    let hash = flow_hash(at(CLIENT4), at(VIP4), IpNumber::TCP);
    let outer = outer6("2001:db8:b::11", hash, inner.len(), IpNumber::IPV4, 2);
    assert_eq!(forwarder.run(&packet.frame()).unwrap(), sent(frames::to_next_hop(&[outer, inner].concat())));
}

#[test]
#[ignore = "needs root"]
fn ipip_6in4() {
    let forwarder = Forwarder::new(&one(VIP6, "ipip", "10.0.1.11")).unwrap();
    let packet = Packet::udp(at(CLIENT6), at(VIP6), b"question").v6(|header| header.traffic_class = 0x2b);
    let inner = packet.aged().ip_bytes();
    let hash = flow_hash(at(CLIENT6), at(VIP6), IpNumber::UDP);
    let outer = outer4("10.0.1.11", hash, inner.len(), |outer| {
        outer.protocol = IpNumber::IPV6;
        outer.dscp = IpDscp::try_new(0x2b >> 2).unwrap();
        outer.ecn = IpEcn::THREE;
    });
    assert_eq!(forwarder.run(&packet.frame()).unwrap(), sent(frames::to_next_hop(&[outer, inner].concat())));
}

/// DSCP and ECN are copied. TTL and identification are not, and whatever the inner header says of fragments, nobody may
/// fragment the outer packet.
#[test]
#[ignore = "needs root"]
fn outer_ipv4_headers_follow_the_inner_one() {
    let forwarder = Forwarder::new(&one(VIP4, "ipip", "10.0.1.11")).unwrap();
    let hash = flow_hash(at(CLIENT4), at(VIP4), IpNumber::TCP);
    for class in 0..=255u8 {
        for dont_fragment in [false, true] {
            let set = |header: &mut Ipv4Header| {
                header.dscp = IpDscp::try_new(class >> 2).unwrap();
                header.ecn = IpEcn::try_new(class & 3).unwrap();
            };
            let packet = Packet::data(at(CLIENT4), at(VIP4), &[class; 33]).v4(|header| {
                set(header);
                header.time_to_live = class.max(2);
                header.identification = u16::from(class) << 8 | 0xfe;
                header.dont_fragment = dont_fragment;
            });
            let inner = packet.aged().ip_bytes();
            let outer = outer4("10.0.1.11", hash, inner.len(), |outer| {
                set(outer);
                outer.protocol = IpNumber::IPV4;
            });
            assert_eq!(forwarder.run(&packet.frame()).unwrap(), sent(frames::to_next_hop(&[outer, inner].concat())));
        }
    }
}

/// Every way of forwarding takes one off the TTL or hop limit, whose checksum stays right, and sends nothing that came
/// with one hop or none left.
#[test]
#[ignore = "needs root"]
fn a_packet_lives_a_hop_less_long_in_every_mode() {
    for (client, vip, forward, backend) in WAYS {
        let forwarder = Forwarder::new(&one(vip, forward, backend)).unwrap();
        let packet = Packet::data(at(client), at(vip), b"payload");
        for tags in [&[][..], &[(0x8100, 7)], &[(0x88a8, 100), (0x8100, 7)]] {
            for hops in 2..=255 {
                let packet = packet.clone().lifetime(hops);
                let output = forwarder.run(&packet.tagged(tags)).unwrap();
                let inner = packet.aged().ip_bytes();
                assert_eq!(output.verdict, Verdict::Tx);
                assert_eq!(output.frame[output.frame.len() - inner.len()..], inner, "{forward} {tags:?} {hops}");
            }
            for hops in [0, 1] {
                let frame = packet.clone().lifetime(hops).tagged(tags);
                assert_eq!(forwarder.run(&frame).unwrap(), Output { verdict: Verdict::Drop, frame });
            }
        }
        assert_eq!(forwarder.drops().unwrap(), [("ttl_exceeded", 6)].into());
    }
}

/// The header checksum of a packet with one hop less is to the bit what adding up its header gives.
#[test]
#[ignore = "needs root"]
fn checksums_of_aged_packets_are_those_of_their_headers() {
    let forwarder = Forwarder::new(&one(VIP4, "l2", "10.0.1.11")).unwrap();
    let mut carried = 0;
    for identification in (0..=u16::MAX).step_by(7).chain(0xfe00..=0xff00) {
        let packet = Packet::syn(at(CLIENT4), at(VIP4)).v4(|header| header.identification = identification);
        carried += usize::from(packet.ip_bytes()[10] >= 0xfe);
        assert_eq!(forwarder.run(&packet.frame()).unwrap(), sent(packet.forwarded()), "{identification:#x}");
    }
    assert!(carried > 10, "{carried} of these checksums carry");
}

#[test]
#[ignore = "needs root"]
fn l2_changes_the_ethernet_addresses_and_the_lifetime_alone() {
    for (client, vip, backend) in [(CLIENT4, VIP4, "10.0.1.11"), (CLIENT6, VIP6, "2001:db8:b::11")] {
        let forwarder = Forwarder::new(&one(vip, "l2", backend)).unwrap();
        for packet in [
            Packet::syn(at(client), at(vip)),
            Packet::data(at(client), at(vip), &[7; 1460]),
            Packet::udp(at(client), at(vip), b""),
        ] {
            assert_eq!(forwarder.run(&packet.frame()).unwrap(), sent(packet.forwarded()));
        }
    }
}

/// Frames for others, which a port in promiscuous mode sees, and frames for groups are not this host's.
#[test]
#[ignore = "needs root"]
fn frames_for_other_mac_addresses_pass_untouched_and_uncounted() {
    const VRRP_MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 7];
    const OTHER: u32 = INGRESS + 1;
    let packet = Packet::syn(at(CLIENT4), at(VIP4)).ip_bytes();
    let to = |mac| frames::ethernet(CLIENT_MAC, mac, &[], &packet);
    for (forward, backend) in [("l2", "10.0.1.11"), ("ipip", "10.0.1.11")] {
        let mut forwarder = Forwarder::new(&one(VIP4, forward, backend)).unwrap();
        let verdict = |forwarder: &Forwarder, mac| {
            let output = forwarder.run(&to(mac)).unwrap();
            assert!(output.verdict == Verdict::Tx || output.frame == to(mac));
            output.verdict
        };
        // A frame on its way to the backend, which another load balancer sent or a switch flooded, is one of them.
        for mac in [NEXT_HOP_MAC, VRRP_MAC, [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [3; 6]] {
            assert_eq!(verdict(&forwarder, mac), Verdict::Pass, "{mac:02x?}");
        }
        for index in 0..6 {
            let mut near = BALANCER_MAC;
            near[index] ^= 0x80;
            assert_eq!(verdict(&forwarder, near), Verdict::Pass, "{near:02x?}");
        }
        let malformed = changed(to(NEXT_HOP_MAC), &[(14, 0x43)]);
        assert_eq!(forwarder.run(&malformed).unwrap(), Output { verdict: Verdict::Pass, frame: malformed });
        assert_eq!(forwarder.drops().unwrap(), [].into());
        assert_eq!(forwarder.dataplane().counters().unwrap().vips[0].counters, Counters::default());

        forwarder.set_own_macs(&[(INGRESS, &[BALANCER_MAC, VRRP_MAC])]);
        assert_eq!(
            [BALANCER_MAC, VRRP_MAC, NEXT_HOP_MAC].map(|mac| verdict(&forwarder, mac)),
            [Verdict::Tx, Verdict::Tx, Verdict::Pass]
        );
        // The address of another interface is not this one's, and one whose address changes has the new one.
        forwarder.set_own_macs(&[(INGRESS, &[VRRP_MAC]), (OTHER, &[BALANCER_MAC])]);
        assert_eq!([BALANCER_MAC, VRRP_MAC].map(|mac| verdict(&forwarder, mac)), [Verdict::Pass, Verdict::Tx]);
        // What a change carries over to larger maps.
        let larger = one(VIP4, forward, backend) + "slots = 1048573\n";
        forwarder.apply(&larger).unwrap();
        assert_eq!([BALANCER_MAC, VRRP_MAC].map(|mac| verdict(&forwarder, mac)), [Verdict::Pass, Verdict::Tx]);
        // Of an interface that nothing is known of, everything is taken but what is for groups.
        forwarder.set_own_macs(&[(OTHER, &[BALANCER_MAC])]);
        assert_eq!(
            [VRRP_MAC, NEXT_HOP_MAC, [0xff; 6]].map(|mac| verdict(&forwarder, mac)),
            [Verdict::Tx, Verdict::Tx, Verdict::Pass]
        );
    }
}

/// Two load balancers that are each other's `l2` backend do not play ping-pong.
#[test]
#[ignore = "needs root"]
fn a_packet_does_not_go_back_to_the_backend_that_sent_it() {
    for (client, vip, backend) in [(CLIENT4, VIP4, "10.0.1.11"), (CLIENT6, VIP6, "2001:db8:b::11")] {
        let packet = Packet::syn(at(client), at(vip)).ip_bytes();
        let from = |mac, tags: &[(u16, u16)]| frames::ethernet(mac, BALANCER_MAC, tags, &packet);
        let forwarder = Forwarder::new(&one(vip, "l2", backend)).unwrap();
        for tags in [&[][..], &[(0x8100, 7)]] {
            let frame = from(NEXT_HOP_MAC, tags);
            assert_eq!(forwarder.run(&frame).unwrap(), Output { verdict: Verdict::Drop, frame });
        }
        assert_eq!(forwarder.drops().unwrap(), [("loop", 2)].into());
        for index in 0..6 {
            let mut near = NEXT_HOP_MAC;
            near[index] ^= 2;
            assert_eq!(forwarder.run(&from(near, &[])).unwrap().verdict, Verdict::Tx, "{near:02x?}");
        }
        // What is encapsulated goes back to the router that it came from.
        let forwarder = Forwarder::new(&one(vip, "ipip", backend)).unwrap();
        assert_eq!(forwarder.run(&from(NEXT_HOP_MAC, &[])).unwrap().verdict, Verdict::Tx);
    }
}

#[test]
#[ignore = "needs root"]
fn vlan_tags_come_off_and_go_on_as_the_next_hop_asks() {
    let tagged = NextHop::new(NEXT_HOP_MAC, BALANCER_MAC, INGRESS, 1600, 42);
    for (forward, next_hop, out) in [
        ("l2", next_hop(), &[][..]),
        ("ipip", next_hop(), &[]),
        ("l2", tagged, &[(0x8100, 42)]),
        ("ipip", tagged, &[(0x8100, 42)]),
    ] {
        let forwarder = Forwarder::with_next_hop(&one(VIP4, forward, "10.0.1.11"), Some(next_hop)).unwrap();
        for tags in [&[][..], &[(0x8100, 7)], &[(0x88a8, 100), (0x8100, 7)]] {
            let packet = Packet::data(at(CLIENT4), at(VIP4), b"payload");
            let inner = packet.aged().ip_bytes();
            let hash = flow_hash(at(CLIENT4), at(VIP4), IpNumber::TCP);
            let outer = outer4("10.0.1.11", hash, inner.len(), |outer| {
                outer.protocol = IpNumber::IPV4;
            });
            let packet_out = if forward == "ipip" { [outer, inner].concat() } else { inner };
            let expected = frames::ethernet(BALANCER_MAC, NEXT_HOP_MAC, out, &packet_out);
            assert_eq!(forwarder.run(&packet.tagged(tags)).unwrap(), sent(expected), "{forward} {tags:?} to {out:?}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn ipv4_options_travel_along() {
    let forwarder = Forwarder::new(&one(VIP4, "ipip", "10.0.1.11")).unwrap();
    for words in 1..=10 {
        let packet = Packet::data(at(CLIENT4), at(VIP4), b"payload").options(words);
        let output = forwarder.run(&packet.frame()).unwrap();
        assert_eq!(output.verdict, Verdict::Tx);
        assert_eq!(output.frame[34..], packet.aged().ip_bytes());
    }
    let l2 = Forwarder::new(&one(VIP4, "l2", "10.0.1.11")).unwrap();
    let packet = Packet::syn(at(CLIENT4), at(VIP4)).options(10);
    assert_eq!(l2.run(&packet.frame()).unwrap(), sent(packet.forwarded()));
}

#[test]
#[ignore = "needs root"]
fn ipv6_extension_headers_are_walked_up_to_a_bound() {
    let forwarder = Forwarder::new(&one(VIP6, "l2", "2001:db8:b::11")).unwrap();
    let mut packet = Packet::syn(at(CLIENT6), at(VIP6));
    for walked in 1..=6 {
        packet = packet.extension(IpNumber::IPV6_DESTINATION_OPTIONS, &PADDING);
        assert_eq!(forwarder.run(&packet.frame()).unwrap(), sent(packet.forwarded()), "{walked} headers");
    }
    let output = forwarder.run(&packet.extension(IpNumber::IPV6_DESTINATION_OPTIONS, &PADDING).frame()).unwrap();
    assert_eq!(output.verdict, Verdict::Drop);
    assert_eq!(forwarder.drops().unwrap(), [("too_many_extensions", 1)].into());

    // Every kind at once: hop-by-hop, routing, an authentication header (in words of four bytes), an atomic fragment.
    let authentication = [&[4][..], &[0; 22]].concat();
    let packet = Packet::udp(at(CLIENT6), at(VIP6), b"x")
        .extension(IpNumber::AUTHENTICATION_HEADER, &authentication)
        .extension(IpNumber::IPV6_FRAGMENTATION_HEADER, &[0, 0, 0, 0, 0, 0, 1])
        .extension(IpNumber::IPV6_ROUTE_HEADER, &[0; 7])
        .extension(IpNumber::IPV6_HEADER_HOP_BY_HOP, &PADDING);
    assert_eq!(forwarder.run(&packet.frame()).unwrap(), sent(packet.forwarded()));
}

#[test]
#[ignore = "needs root"]
fn what_is_not_for_a_vip_leaves_exactly_as_it_came() {
    let forwarder = Forwarder::new(&both_families()).unwrap();
    for (what, frame) in strangers() {
        let output = forwarder.run(&frame).unwrap();
        assert_eq!(output, Output { verdict: Verdict::Pass, frame }, "{what}");
    }
    assert_eq!(forwarder.drops().unwrap(), [].into());
    let counters = forwarder.dataplane().counters().unwrap();
    assert!(counters.vips.iter().all(|vip| vip.counters.packets == 0), "{counters:?}");
}

#[test]
#[ignore = "needs root"]
fn what_is_malformed_and_for_a_vip_is_dropped_and_counted_once() {
    for (reason, what, frame) in malformed() {
        let forwarder = Forwarder::new(&both_families()).unwrap();
        let output = forwarder.run(&frame).unwrap();
        assert_eq!(output, Output { verdict: Verdict::Drop, frame }, "{what}");
        assert_eq!(forwarder.drops().unwrap(), [(reason, 1)].into(), "{what}");
    }
}

/// A protocol that no VIP serves on the address is not naru's, whatever its packets look like.
#[test]
#[ignore = "needs root"]
fn fragments_of_another_protocol_on_the_same_address_pass() {
    let only_tcp = both_families().replace(", \"udp/80\"", "");
    let forwarder = Forwarder::new(&only_tcp).unwrap();
    let fragment6 = |packet: Packet| packet.extension(IpNumber::IPV6_FRAGMENTATION_HEADER, &[0, 5, 0x38, 0, 0, 0, 1]);
    for frame in [
        Packet::udp(at(CLIENT4), at(VIP4), &[1; 64]).fragment(185, false).frame(),
        fragment6(Packet::udp(at(CLIENT6), at(VIP6), &[1; 64])).frame(),
    ] {
        assert_eq!(forwarder.run(&frame).unwrap(), Output { verdict: Verdict::Pass, frame });
    }
    assert_eq!(forwarder.drops().unwrap(), [].into());
    for packet in
        [Packet::syn(at(CLIENT4), at(VIP4)).fragment(185, false), fragment6(Packet::syn(at(CLIENT6), at(VIP6)))]
    {
        assert_eq!(forwarder.run(&packet.frame()).unwrap().verdict, Verdict::Drop);
    }
    assert_eq!(forwarder.drops().unwrap(), [("fragment", 2)].into());
}

#[test]
#[ignore = "needs root"]
fn drops_behind_the_vip_have_their_reasons() {
    let packet = Packet::data(at(CLIENT4), at(VIP4), &[1; 1000]);
    let drops = |forwarder: &Forwarder| {
        let output = forwarder.run(&packet.frame()).unwrap();
        assert_eq!(output, Output { verdict: Verdict::Drop, frame: packet.frame() });
        forwarder.drops().unwrap()
    };
    let config = one(VIP4, "ipip", "10.0.1.11");
    let no_backends = config.replace("{ address = \"10.0.1.11\" }", "");
    assert_eq!(drops(&Forwarder::new(&no_backends).unwrap()), [("no_backend", 1)].into());
    let all_drained = config.replace("\" }", "\", state = \"drain\" }");
    assert_eq!(drops(&Forwarder::new(&all_drained).unwrap()), [("no_backend", 1)].into());
    assert_eq!(drops(&Forwarder::with_next_hop(&config, None).unwrap()), [("no_next_hop", 1)].into());
}

/// Where a VIP fails closed, what no backend takes is answered: a segment with RST, a datagram with an ICMP error that
/// quotes it.
#[test]
#[ignore = "needs root"]
fn what_no_backend_takes_is_refused_where_the_vip_fails_closed() {
    let closed = both_families()
        .replace("\" }", "\", state = \"drain\" }")
        .replace("forward =", "health = { type = \"tcp\", fail = \"closed\" }\nforward =");
    let forwarder = Forwarder::new(&closed).unwrap();
    for (client, vip) in [(at(CLIENT4), at(VIP4)), (at(CLIENT6), at(VIP6))] {
        let back = |packet: Packet| match vip {
            SocketAddr::V4(_) => packet.v4(|header| (header.identification, header.time_to_live) = (0, 64)),
            SocketAddr::V6(_) => packet.v6(|header| (header.flow_label, header.hop_limit) = (Ipv6FlowLabel::ZERO, 64)),
        };
        let answered = |packet: Packet| sent(frames::ethernet(BALANCER_MAC, CLIENT_MAC, &[], &back(packet).ip_bytes()));
        let reset = |answer: fn(&mut TcpHeader)| {
            let rst = |header: &mut TcpHeader| {
                (header.rst, header.window_size, header.sequence_number) = (true, 0, 0);
                answer(header);
            };
            answered(Packet::tcp(vip, client, rst, b""))
        };
        let syn = Packet::syn(client, vip).frame();
        let opened = |header: &mut TcpHeader| (header.ack, header.acknowledgment_number) = (true, 2);
        assert_eq!(forwarder.run(&syn).unwrap(), reset(opened));
        let acknowledging = |header: &mut TcpHeader| (header.ack, header.acknowledgment_number) = (true, 77);
        let data = Packet::tcp(client, vip, acknowledging, &[1; 1000]).frame();
        assert_eq!(forwarder.run(&data).unwrap(), reset(|header| header.sequence_number = 77));

        // As long as that quotes of it, shorter, and longer.
        for len in [20, 0, 1, 1400] {
            let datagram = Packet::udp(client, vip, &vec![0xa5; len]);
            let header_len = if client.is_ipv4() { 20 } else { 40 };
            let quoted = &datagram.ip_bytes()[..header_len + 8];
            let (protocol, error) = match (client.ip(), vip.ip()) {
                (IpAddr::V6(client), IpAddr::V6(vip)) => {
                    let port = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
                    let header = Icmpv6Header::with_checksum(port, vip.octets(), client.octets(), quoted).unwrap();
                    (IpNumber::IPV6_ICMP, header.to_bytes().to_vec())
                }
                _ => {
                    let port = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
                    (IpNumber::ICMP, Icmpv4Header::with_checksum(port, quoted).to_bytes().to_vec())
                }
            };
            let expected = answered(Packet::new(vip.ip(), client.ip(), protocol, [&error, quoted].concat()));
            assert_eq!(forwarder.run(&datagram.frame()).unwrap(), expected, "{len}");
            for tags in [&[(0x8100, 7)][..], &[(0x88a8, 0x2003), (0x8100, 7)]] {
                let expected = frames::ethernet(BALANCER_MAC, CLIENT_MAC, tags, &expected.frame[14..]);
                assert_eq!(forwarder.run(&datagram.tagged(tags)).unwrap(), sent(expected), "{len} {tags:?}");
            }
        }
    }
    // What is not answered: RST, what comes from no host, and options, behind which the ports are not quoted.
    let from = |source: &str| Packet::udp(at(source), at(VIP4), b"?");
    let from6 = |source: &str| Packet::udp(at(source), at(VIP6), b"?");
    for packet in [
        Packet::tcp(at(CLIENT4), at(VIP4), |header| header.rst = true, b""),
        from("0.0.0.0:5"),
        from("127.0.0.1:5"),
        from("224.0.0.1:5"),
        from("255.255.255.255:5"),
        from(CLIENT4).options(1),
        from6("[::]:5"),
        from6("[ff02::1]:5"),
        from6(CLIENT6).extension(IpNumber::IPV6_DESTINATION_OPTIONS, &PADDING),
    ] {
        let frame = packet.frame();
        assert_eq!(forwarder.run(&frame).unwrap(), Output { verdict: Verdict::Drop, frame });
    }
    assert_eq!(forwarder.drops().unwrap(), [("no_backend", 37)].into());
}

/// By VIP, where that is known; what was counted for a VIP is not forgotten with it, only for whom it was.
#[test]
#[ignore = "needs root"]
fn drops_are_counted_by_vip() {
    let mut served = VipText::new("served", at(VIP4).ip(), ["tcp/80"], "ipip").backend("10.0.1.11").to_string();
    let empty = VipText::new("empty", "203.0.113.99", ["tcp/80"], "ipip").to_string();
    let mut forwarder = Forwarder::new(&format!("{served}{empty}")).unwrap();
    let counts = |forwarder: &Forwarder| {
        let counts = forwarder.dataplane().counters().unwrap();
        let of_vips = counts.vips.iter().map(|vip| {
            let drops: Vec<_> = vip.drops.by_reason().filter(|(_, count)| *count > 0).collect();
            (vip.vip.clone(), vip.counters.packets, drops)
        });
        (of_vips.collect::<Vec<_>>(), forwarder.drops().unwrap())
    };
    let send = |forwarder: &Forwarder, to: &str, times: usize| {
        for _ in 0..times {
            forwarder.run(&Packet::syn(at(CLIENT4), at(to)).frame()).unwrap();
        }
    };
    send(&forwarder, VIP4, 3);
    send(&forwarder, "203.0.113.99:80", 2);
    forwarder.run(&Packet::syn(at(CLIENT4), at(VIP4)).lifetime(1).frame()).unwrap();
    forwarder.run(&Packet::udp(at(CLIENT4), at(VIP4), &[1; 64]).fragment(185, false).frame()).unwrap();
    forwarder.run(&Packet::syn(at(CLIENT4), at(VIP4)).fragment(185, false).frame()).unwrap();
    let (mut of_vips, drops) = counts(&forwarder);
    of_vips.sort_by_key(|(vip, ..)| vip.clone());
    assert_eq!(
        of_vips,
        [
            ("empty".to_owned(), 0, vec![(DropReason::NoBackend, 2)]),
            ("served".to_owned(), 3, vec![(DropReason::TtlExceeded, 1)])
        ]
    );
    let all = [("fragment", 1), ("no_backend", 2), ("ttl_exceeded", 1)];
    assert_eq!(drops, all.into(), "those of a fragment are of a VIP that is not known");

    // Without the VIP, and in larger maps.
    forwarder.apply(&served).unwrap();
    forwarder.sweep().unwrap();
    let (of_vips, drops) = counts(&forwarder);
    assert_eq!((of_vips.len(), drops), (1, all.into()), "{of_vips:?}");
    for vip in 0..100 {
        let address = format!("203.0.114.{vip}");
        served += &VipText::new(format!("vip{vip}"), address, ["tcp/80"], "ipip").backend("10.0.1.11").to_string();
    }
    forwarder.apply(&served).unwrap();
    let (of_vips, drops) = counts(&forwarder);
    assert_eq!((of_vips[0].1, drops), (3, all.into()));
    assert_eq!(of_vips[0].2, [(DropReason::TtlExceeded, 1)]);
}

/// What a backend counted that the VIP has no more stays with the VIP.
#[test]
#[ignore = "needs root"]
fn a_vip_keeps_what_its_backends_counted() {
    let vip = |backends: &[&str]| {
        let vip = VipText::new("web", at(VIP4).ip(), ["tcp/80"], "ipip").text("tracking", "never");
        backends.iter().fold(vip, |vip, backend| vip.backend(*backend)).to_string()
    };
    let mut forwarder = Forwarder::new(&vip(&["10.0.1.11"])).unwrap();
    let mut seen = 0;
    let mut counted = |forwarder: &Forwarder| {
        forwarder.run(&Packet::syn(at(CLIENT4), at(VIP4)).frame()).unwrap();
        seen += 1;
        let counts = forwarder.dataplane().counters().unwrap();
        let counters = counts.vips[0].counters;
        assert_eq!((counters.packets, counters.new_flows), (seen, seen));
        counts.backends.iter().map(|backend| backend.counters.packets).sum::<u64>()
    };
    assert_eq!(counted(&forwarder), 1);
    for backends in [&["10.0.1.12"][..], &["10.0.1.13"], &["10.0.1.12", "10.0.1.14"], &["10.0.1.12"]] {
        forwarder.apply(&vip(backends)).unwrap();
        forwarder.sweep().unwrap();
        counted(&forwarder);
    }
    assert!(counted(&forwarder) < 6, "nothing is left of backends that are no more");
}

/// The largest packet that fits goes, one byte more does not: without encapsulation, and with it. (What its sender is told
/// is tested with ICMP.)
#[test]
#[ignore = "needs root"]
fn the_mtu_of_the_next_hop_holds_to_the_byte() {
    for (forward, backend, overhead) in [("l2", "10.0.1.11", 0), ("ipip", "10.0.1.11", 20), ("ipip", "2001:db8::b", 40)]
    {
        let narrow = NextHop::new(NEXT_HOP_MAC, BALANCER_MAC, INGRESS, 1500, 0);
        let forwarder = Forwarder::with_next_hop(&one(VIP4, forward, backend), Some(narrow)).unwrap();
        let fits = Packet::udp(at(CLIENT4), at(VIP4), &vec![1; 1500 - 28 - overhead]);
        assert_eq!(forwarder.run(&fits.frame()).unwrap().verdict, Verdict::Tx);
        let too_big = Packet::udp(at(CLIENT4), at(VIP4), &vec![1; 1500 - 28 - overhead + 1]);
        let may_be_cut = too_big.v4(|header| header.dont_fragment = false);
        assert_eq!(forwarder.run(&may_be_cut.frame()).unwrap().verdict, Verdict::Drop);
        assert_eq!(forwarder.drops().unwrap(), [("too_big", 1)].into());
    }
}

/// Frames of several buffers: the IP length is beyond the linear part and within the frame.
#[test]
#[ignore = "needs root"]
fn jumbo_frames_are_forwarded_whole() {
    if !takes_several_buffers("jumbo frames") {
        return;
    }
    let wide = NextHop::new(NEXT_HOP_MAC, BALANCER_MAC, INGRESS, 9000, 0);
    let forwarder = Forwarder::with_next_hop(&one(VIP4, "ipip", "10.0.1.11"), Some(wide)).unwrap();
    let packet = Packet::data(at(CLIENT4), at(VIP4), &[0x77; 8900]);
    let output = forwarder.run(&packet.frame()).unwrap();
    assert_eq!(output.verdict, Verdict::Tx);
    assert_eq!(output.frame[34..], packet.aged().ip_bytes());

    let mut cut = packet.frame();
    cut.truncate(8000);
    assert_eq!(forwarder.run(&cut).unwrap().verdict, Verdict::Drop);
    assert_eq!(forwarder.drops().unwrap(), [("bad_length", 1)].into());
}

/// Whether the kernel runs programs over frames of several buffers; tells what is not tested otherwise.
fn takes_several_buffers(what: &str) -> bool {
    let takes_them = KernelVersion::current().unwrap() >= KernelVersion::new(5, 18, 0);
    if !takes_them {
        patience::not_tested(what, "this kernel, before 5.18, does not know frames of several buffers");
    }
    takes_them
}

/// What lies behind the packet in a long frame is cut off: the next driver would refuse the frame for its length.
#[test]
#[ignore = "needs root"]
fn frames_that_are_longer_than_their_packets_are_cut() {
    let takes_several = takes_several_buffers("long frames with short packets");
    let narrow = NextHop::new(NEXT_HOP_MAC, BALANCER_MAC, INGRESS, 1500, 0);
    for (client, vip, forward, backend) in [
        (CLIENT4, VIP4, "l2", "10.0.1.11"),
        (CLIENT6, VIP6, "l2", "2001:db8:b::11"),
        (CLIENT4, VIP4, "ipip", "10.0.1.11"),
    ] {
        let forwarder = Forwarder::with_next_hop(&one(vip, forward, backend), Some(narrow)).unwrap();
        for packet in [Packet::syn(at(client), at(vip)), Packet::data(at(client), at(vip), &[9; 1000])] {
            for tags in [&[][..], &[(0x8100, 7)]] {
                // The last is of several buffers.
                for excess in [257, 1400, 2000, 9000].into_iter().take(if takes_several { 4 } else { 3 }) {
                    let whole = forwarder.run(&packet.tagged(tags)).unwrap();
                    let longer = [&packet.tagged(tags)[..], &vec![0xee; excess]].concat();
                    assert_eq!(forwarder.run(&longer).unwrap(), whole, "{forward} {tags:?} {excess}");
                }
            }
        }
    }
    if !takes_several {
        return;
    }
    // The packet itself is of several buffers, and more follows it.
    let wide = NextHop::new(NEXT_HOP_MAC, BALANCER_MAC, INGRESS, 9000, 0);
    let forwarder = Forwarder::with_next_hop(&one(VIP4, "ipip", "10.0.1.11"), Some(wide)).unwrap();
    let packet = Packet::data(at(CLIENT4), at(VIP4), &[0x77; 5000]);
    let longer = [&packet.frame()[..], &[0xee; 4000]].concat();
    assert_eq!(forwarder.run(&longer).unwrap(), forwarder.run(&packet.frame()).unwrap());
}

#[test]
#[ignore = "needs root"]
fn short_frames_padded_by_the_sender_keep_their_padding() {
    let forwarder = Forwarder::new(&one(VIP4, "l2", "10.0.1.11")).unwrap();
    let packet = Packet::udp(at(CLIENT4), at(VIP4), b"");
    let padding = [0u8; 18];
    let frame = [&packet.frame()[..], &padding].concat();
    assert_eq!(forwarder.run(&frame).unwrap(), sent([&packet.forwarded()[..], &padding].concat()));
    let counters = forwarder.dataplane().counters().unwrap();
    assert_eq!(counters.vips[0].counters.bytes, 28, "bytes are those of the IP packet");
}

#[test]
#[ignore = "needs root"]
fn counters_tell_packets_bytes_and_new_flows() {
    let forwarder = Forwarder::new(&one(VIP4, "ipip", "10.0.1.11")).unwrap();
    for packet in [
        Packet::syn(at(CLIENT4), at(VIP4)),
        Packet::tcp(at(CLIENT4), at(VIP4), |tcp| (tcp.syn, tcp.ack) = (true, true), b""),
        Packet::data(at(CLIENT4), at(VIP4), &[1; 100]),
        Packet::tcp(at(CLIENT4), at(VIP4), |tcp| tcp.fin = true, b""),
        Packet::udp(at(CLIENT4), at(VIP4), &[1; 10]),
    ] {
        assert_eq!(forwarder.run(&packet.frame()).unwrap().verdict, Verdict::Tx);
    }
    let counters = forwarder.dataplane().counters().unwrap();
    let expected = Counters { packets: 5, bytes: 40 + 40 + 140 + 40 + 38, new_flows: 1 };
    assert_eq!(counters.vips[0].counters, expected);
    assert_eq!(counters.backends[0].counters, expected);
}

#[test]
#[ignore = "needs root"]
fn a_specific_port_wins_over_any_port() {
    let config = "
        [[vip]]
        name = \"any\"
        address = \"203.0.113.10\"
        ports = [\"tcp/any\"]
        forward = \"ipip\"
        backends = [{ address = \"10.0.1.1\" }]
        [[vip]]
        name = \"web\"
        address = \"203.0.113.10\"
        ports = [\"tcp/80\"]
        forward = \"ipip\"
        backends = [{ address = \"10.0.1.2\" }]";
    let forwarder = Forwarder::new(config).unwrap();
    let backend_of = |packet: Packet| {
        let output = forwarder.run(&packet.frame()).unwrap();
        (output.verdict == Verdict::Tx).then(|| output.frame[33])
    };
    let syn = |vip| Packet::syn(at(CLIENT4), at(vip));
    assert_eq!(backend_of(syn("203.0.113.10:80")), Some(2));
    assert_eq!(backend_of(syn("203.0.113.10:443")), Some(1));
    assert_eq!(backend_of(syn("203.0.113.10:65535")), Some(1));
    assert_eq!(backend_of(Packet::udp(at(CLIENT4), at(VIP4), b"")), None);
}

/// The program's slot for a flow, and the table's backend for the slot, both computed here as well.
#[test]
#[ignore = "needs root"]
fn flows_go_where_the_maglev_table_says() {
    let weights = [("10.0.1.11", 100), ("10.0.1.12", 100), ("10.0.2.13", 50)];
    let backends: Vec<String> =
        weights.iter().map(|(address, weight)| format!("{{ address = \"{address}\", weight = {weight} }}")).collect();
    let config = one(VIP4, "ipip", "x").replace("{ address = \"x\" }", &backends.join(", "));
    let forwarder = Forwarder::new(&config).unwrap();
    let weighted: Vec<WeightedBackend> = weights
        .iter()
        .map(|(address, weight)| WeightedBackend { key: address.parse::<IpAddr>().unwrap().into(), weight: *weight })
        .collect();
    let table = maglev::table(&weighted, 16_381);
    for port in 1..2_000 {
        let client = SocketAddr::new(at(CLIENT4).ip(), port);
        let slot = flow_hash(client, at(VIP4), IpNumber::TCP).slot(16_381);
        let expected: Ipv4Addr = weights[table[slot as usize] as usize].0.parse().unwrap();
        let output = forwarder.run(&Packet::syn(client, at(VIP4)).frame()).unwrap();
        assert_eq!(output.frame[30..34], expected.octets(), "port {port}");
    }
}

/// Four load balancers with one config but for what backends do: all serve, one is away, another one is, both are.
#[test]
#[ignore = "needs root"]
fn load_balancers_that_differ_about_a_backend_agree_about_all_others() {
    const AWAY: [&[u8]; 4] = [&[], &[2], &[7], &[2, 7]];
    let forwarders = AWAY.map(|away| {
        let backend = |host: u8| {
            let state = match (away.contains(&host), host) {
                (false, _) => "active",
                (true, 2) => "drain",
                (true, _) => "down",
            };
            format!("{{ address = \"10.0.1.{host}\", state = \"{state}\" }}")
        };
        let backends: Vec<String> = (1..=10).map(backend).collect();
        Forwarder::new(&one(VIP4, "ipip", "x").replace("{ address = \"x\" }", &backends.join(", "))).unwrap()
    });
    let mut taken_over = BTreeSet::new();
    for port in 1..4_000 {
        let client = SocketAddr::new(at(CLIENT4).ip(), port);
        let frame = Packet::syn(client, at(VIP4)).frame();
        let [all, without_2, without_7, without_both] =
            forwarders.each_ref().map(|forwarder| forwarder.run(&frame).unwrap().frame[33]);
        assert_eq!(all != without_2, all == 2, "port {port}: what another backend has stays there");
        assert_eq!(all != without_7, all == 7, "port {port}: what another backend has stays there");
        let expected = if without_2 == 7 { without_7 } else { without_2 };
        // What went from 2 to 7, or from 7 to 2, goes on to a third.
        if ![2, 7].contains(&expected) {
            assert_eq!(without_both, expected, "port {port}");
        }
        assert!(![2, 7].contains(&without_both), "port {port}");
        if all == 2 {
            taken_over.insert(without_2);
        }
    }
    assert_eq!(taken_over.len(), 9, "all others take over");
}

#[test]
#[ignore = "needs root"]
fn hash_by_source_address_keeps_a_client_with_its_backend() {
    let backends: Vec<String> = (1..=20).map(|host| format!("{{ address = \"10.0.1.{host}\" }}")).collect();
    let config = one(VIP4, "ipip", "x")
        .replace("{ address = \"x\" }", &backends.join(", "))
        .replace("forward", "hash = \"source-ip\"\nforward");
    let forwarder = Forwarder::new(&config).unwrap();
    let backend_of = |packet: Packet| forwarder.run(&packet.frame()).unwrap().frame[33];
    let mut seen = BTreeSet::new();
    for host in 1..=100 {
        let client = |port| SocketAddr::new(format!("198.51.100.{host}").parse().unwrap(), port);
        let backend = backend_of(Packet::syn(client(1), at(VIP4)));
        for port in [2, 1024, 65_535] {
            assert_eq!(backend_of(Packet::syn(client(port), at(VIP4))), backend);
            assert_eq!(backend_of(Packet::udp(client(port), at(VIP4), b"")), backend);
        }
        seen.insert(backend);
    }
    assert!(seen.len() > 15, "100 clients reach {} of 20 backends", seen.len());
}

/// Whatever the bytes: a frame that passes is untouched, and nothing ends without a reason.
#[test]
#[ignore = "needs root"]
fn damaged_frames_pass_untouched_or_drop_with_a_reason() {
    let forwarder = Forwarder::new(&both_families()).unwrap();
    let seeds = [
        Packet::syn(at(CLIENT4), at(VIP4)).frame(),
        Packet::udp(at(CLIENT4), at(VIP4), b"xyz").tagged(&[(0x8100, 5)]),
        Packet::syn(at(CLIENT6), at(VIP6)).extension(IpNumber::IPV6_DESTINATION_OPTIONS, &PADDING).frame(),
        Packet::syn(at(CLIENT4), at(VIP4)).options(2).frame(),
    ];
    // A linear congruential generator (Knuth's MMIX): the same damage in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut dropped, mut sent) = (0, 0);
    for round in 0..12_000 {
        let mut frame = seeds[round % seeds.len()].clone();
        for _ in 0..=random(3) {
            let index = 12 + random(frame.len() - 12);
            frame[index] ^= 1 << random(8);
        }
        if random(3) == 0 {
            frame.truncate(14 + random(frame.len() - 13));
        }
        let output = forwarder.run(&frame).unwrap();
        match output.verdict {
            Verdict::Pass => assert_eq!(output.frame, frame),
            Verdict::Drop => {
                dropped += 1;
                assert_eq!(output.frame, frame);
            }
            Verdict::Tx => {
                sent += 1;
                assert_eq!(output.frame, encapsulated(&frame, &output.frame), "for {frame:02x?}");
            }
            Verdict::Aborted | Verdict::Redirect => panic!("{:?} for {frame:02x?}", output.verdict),
        }
    }
    assert_eq!(forwarder.drops().unwrap().values().sum::<u64>(), dropped);
    assert!(dropped > 500 && sent > 500, "{dropped} dropped, {sent} sent: the damage is not what it should be");
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A config of one VIP with one backend.
pub fn one(vip: &str, forward: &str, backend: &str) -> String {
    let address = at(vip).ip();
    format!(
        "[[vip]]\nname = \"web\"\naddress = \"{address}\"\nports = [\"tcp/80\", \"udp/80\"]\nforward = \"{forward}\"\n\
         backends = [{{ address = \"{backend}\" }}]\n"
    )
}

/// An IPv4 and an IPv6 VIP.
fn both_families() -> String {
    let ipv6 = one(VIP6, "ipip", "2001:db8:b::11").replace("\"web\"", "\"web6\"");
    one(VIP4, "ipip", "10.0.1.11") + &ipv6
}

/// The frame in which a frame for a VIP of [`both_families`] must leave, whatever is wrong with it that nobody has to
/// mind. What follows from the flow's hash, in the outer source and in the flow label, is taken from `out`.
fn encapsulated(frame: &[u8], out: &[u8]) -> Vec<u8> {
    let mut start = 12;
    while matches!(frame[start..start + 2], [0x81, 0] | [0x88, 0xa8]) {
        start += 4;
    }
    let (packet, is_ipv4) = (&frame[start + 2..], frame[start..start + 2] == [0x08, 0]);
    let outer = if is_ipv4 { around4(packet, out) } else { around6(packet, out) };
    frames::to_next_hop(&[outer, aged(packet, is_ipv4)].concat())
}

/// The outer header of an IPv4 packet; see [`encapsulated`].
fn around4(packet: &[u8], out: &[u8]) -> Vec<u8> {
    let mut outer = Ipv4Header {
        total_len: 20 + u16::from_be_bytes([packet[2], packet[3]]),
        dscp: IpDscp::try_new(packet[1] >> 2).unwrap(),
        ecn: IpEcn::try_new(packet[1] & 3).unwrap(),
        dont_fragment: true,
        time_to_live: 64,
        protocol: IpNumber::IPV4,
        source: [172, 16, out[28], out[29]],
        destination: [10, 0, 1, 11],
        ..Default::default()
    };
    outer.header_checksum = outer.calc_header_checksum();
    outer.to_bytes().to_vec()
}

/// The outer header of an IPv6 packet; see [`encapsulated`].
fn around6(packet: &[u8], out: &[u8]) -> Vec<u8> {
    let mut source = prefix6();
    source[12..].copy_from_slice(&out[14 + 20..14 + 24]);
    let outer = Ipv6Header {
        traffic_class: packet[0] << 4 | packet[1] >> 4,
        flow_label: Ipv6FlowLabel::try_new(u32::from_be_bytes([0, out[15] & 0xf, out[16], out[17]])).unwrap(),
        payload_length: 40 + u16::from_be_bytes([packet[4], packet[5]]),
        next_header: IpNumber::IPV6,
        hop_limit: 64,
        source,
        destination: "2001:db8:b::11".parse::<Ipv6Addr>().unwrap().octets(),
    };
    outer.to_bytes().to_vec()
}

/// The packet with one less of lifetime, and whatever else is in it.
fn aged(packet: &[u8], is_ipv4: bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if is_ipv4 {
        packet[8] -= 1;
        // RFC 1624: one less in the upper half of a word is that much more in the complement of the sum.
        let sum = (u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x100) % 0xffff;
        packet[10..12].copy_from_slice(&(sum as u16).to_be_bytes());
    } else {
        packet[7] -= 1;
    }
    packet
}

pub fn sent(frame: Vec<u8>) -> Output {
    Output { verdict: Verdict::Tx, frame }
}

/// The hash of the flow that a packet between these two belongs to.
pub fn flow_hash(source: SocketAddr, destination: SocketAddr, protocol: IpNumber) -> FlowHash {
    let [a, b] = source.port().to_be_bytes();
    let [c, d] = destination.port().to_be_bytes();
    let ports = u32::from_ne_bytes([a, b, c, d]);
    let (from, to) = (Address::from(source.ip()), Address::from(destination.ip()));
    match (from.v4(), to.v4()) {
        (Some(from), Some(to)) => FlowHash::v4(&HashKey::PUBLIC, from, to, ports, protocol.0),
        _ => FlowHash::v6(&HashKey::PUBLIC, from, to, ports, protocol.0),
    }
}

/// The outer IPv4 header that a packet of `inner_len` bytes must get.
pub fn outer4(backend: &str, hash: FlowHash, inner_len: usize, change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let source = u32::from_ne_bytes([172, 16, 0, 0]) | hash.entropy() & Be32::new(0xffff).wire();
    let mut header = Ipv4Header {
        total_len: 20 + inner_len as u16,
        dont_fragment: true,
        time_to_live: 64,
        source: source.to_ne_bytes(),
        destination: backend.parse::<Ipv4Addr>().unwrap().octets(),
        ..Default::default()
    };
    change(&mut header);
    header.header_checksum = header.calc_header_checksum();
    header.to_bytes().to_vec()
}

/// The outer IPv6 header that a packet of `inner_len` bytes must get.
pub fn outer6(backend: &str, hash: FlowHash, inner_len: usize, next_header: IpNumber, traffic_class: u8) -> Vec<u8> {
    let mut source = prefix6();
    source[12..].copy_from_slice(&hash.entropy().to_ne_bytes());
    let header = Ipv6Header {
        traffic_class,
        flow_label: Ipv6FlowLabel::try_new(hash.entropy() & 0xf_ffff).unwrap(),
        payload_length: inner_len as u16,
        next_header,
        hop_limit: 64,
        source,
        destination: backend.parse::<Ipv6Addr>().unwrap().octets(),
    };
    header.to_bytes().to_vec()
}

/// What outer IPv6 sources begin with.
fn prefix6() -> [u8; 16] {
    SOURCE6.split_once('/').unwrap().0.parse::<Ipv6Addr>().unwrap().octets()
}

/// Frames that are not for a VIP of [`both_families`], well-formed or not.
fn strangers() -> Vec<(&'static str, Vec<u8>)> {
    let other4 = Packet::syn(at(CLIENT4), at("203.0.113.11:80"));
    let other6 = Packet::syn(at(CLIENT6), at("[2001:db8:f::11]:80"));
    let other_port = Packet::syn(at(CLIENT4), at("203.0.113.10:81"));
    let to_vip4 = |protocol| Packet::new(at(CLIENT4).ip(), at(VIP4).ip(), protocol, vec![13; 64]);
    let arp = [&[0xff; 6][..], &CLIENT_MAC, &[0x08, 0x06], &[0; 46]].concat();
    let many = (0..9).fold(other6.clone(), |packet, _| packet.extension(IpNumber::IPV6_DESTINATION_OPTIONS, &PADDING));
    vec![
        ("ARP", arp),
        ("LLDP", [&[1; 12][..], &[0x88, 0xcc], &[2; 46]].concat()),
        ("another address", other4.frame()),
        ("another IPv6 address", other6.frame()),
        ("another port", other_port.frame()),
        ("another IPv6 port", Packet::syn(at(CLIENT6), at("[2001:db8:f::10]:443")).frame()),
        ("ICMP to the VIP", to_vip4(IpNumber::ICMP).frame()),
        ("a fragment of ICMP to the VIP", to_vip4(IpNumber::ICMP).fragment(185, false).frame()),
        ("GRE to the VIP", to_vip4(IpNumber::GRE).frame()),
        ("ICMPv6 to the VIP", Packet::new(at(CLIENT6).ip(), at(VIP6).ip(), IpNumber::IPV6_ICMP, vec![1; 64]).frame()),
        ("a first fragment elsewhere", other4.clone().fragment(0, true).frame()),
        ("a later fragment elsewhere", other4.clone().fragment(185, false).frame()),
        ("a first fragment to another port", other_port.fragment(0, true).frame()),
        ("an IHL of 3 elsewhere", changed(other4.frame(), &[(14, 0x43)])),
        ("a version of 7", changed(other4.frame(), &[(14, 0x75)])),
        ("a length beyond the frame elsewhere", changed(other4.frame(), &[(16, 0x40)])),
        ("options elsewhere", other4.clone().options(10).frame()),
        ("nine extension headers elsewhere", many.frame()),
        ("three VLAN tags", Packet::syn(at(CLIENT4), at(VIP4)).tagged(&[(0x88a8, 1), (0x8100, 2), (0x8100, 3)])),
        ("no more than Ethernet", other4.frame()[..14].to_vec()),
        ("half an IPv4 header", other4.frame()[..30].to_vec()),
        ("a TCP header cut short elsewhere", other4.frame()[..40].to_vec()),
    ]
}

/// Malformed frames for a VIP of [`both_families`], and why each is dropped.
fn malformed() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let syn4 = Packet::syn(at(CLIENT4), at(VIP4));
    let syn6 = Packet::syn(at(CLIENT6), at(VIP6));
    let udp4 = Packet::udp(at(CLIENT4), at(VIP4), b"");
    let fragment6 = |rest: &[u8]| syn6.clone().extension(IpNumber::IPV6_FRAGMENTATION_HEADER, rest).frame();
    let options6 = syn6.clone().extension(IpNumber::IPV6_DESTINATION_OPTIONS, &PADDING).frame();
    vec![
        ("fragment", "a first fragment", syn4.clone().fragment(0, true).frame()),
        ("fragment", "a later fragment", syn4.clone().fragment(185, false).frame()),
        ("fragment", "an IPv6 first fragment", fragment6(&[0, 0, 1, 0, 0, 0, 1])),
        ("fragment", "an IPv6 later fragment", fragment6(&[0, 5, 0x38, 0, 0, 0, 1])),
        ("bad_length", "an IHL of 3", changed(syn4.frame(), &[(14, 0x43)])),
        ("bad_length", "an IPv4 length below the header's", changed(syn4.frame(), &[(16, 0), (17, 19)])),
        ("bad_length", "an IPv4 length beyond the frame", changed(syn4.frame(), &[(16, 0), (17, 60)])),
        ("bad_length", "an IPv6 length beyond the frame", changed(syn6.frame(), &[(18, 0), (19, 60)])),
        ("bad_length", "a TCP header cut off by the frame", syn4.frame()[..50].to_vec()),
        ("truncated", "an IPv4 packet that ends within TCP", changed(syn4.frame(), &[(16, 0), (17, 39)])),
        ("truncated", "an IPv4 packet that ends within UDP", changed(udp4.frame(), &[(16, 0), (17, 27)])),
        ("truncated", "an IPv6 packet that ends within TCP", changed(syn6.frame(), &[(18, 0), (19, 19)])),
        ("truncated", "an extension header cut off by the frame", options6[..55].to_vec()),
    ]
}

fn changed(mut frame: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for (index, byte) in changes {
        frame[*index] = *byte;
    }
    frame
}
