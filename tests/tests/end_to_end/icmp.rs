//! ICMP over the real program: echo requests, errors about flows, packets that do not fit. Every byte that comes out is
//! compared.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    thread,
    time::Instant,
};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpDscp, IpNumber, Ipv6FlowLabel, TcpHeader,
    icmpv4, icmpv6,
};
use lb_common::{Address, Be32, FlowEntry, FlowKey, NextHop, ProbePath};
use naru_tests::{
    forwarder::{Forwarder, INGRESS, Output, Verdict, next_hop},
    frames::{self, BALANCER_MAC, CLIENT_MAC, NEXT_HOP_MAC, Packet},
    vip_text::VipText,
};

use crate::packet::{CLIENT4, CLIENT6, VIP4, VIP6, WAYS, at, flow_hash, one, outer4, outer6, sent};

/// Routers on the way to clients.
const ROUTER4: &str = "192.0.2.99";
const ROUTER6: &str = "2001:db8:99::1";

#[derive(Clone, Debug)]
enum Message {
    V4(Icmpv4Type),
    V6(Icmpv6Type),
}

/// Errors that routers and hosts send.
const ERRORS4: [Message; 4] = [
    Message::V4(Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
        next_hop_mtu: 1300,
    })),
    Message::V4(Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host)),
    Message::V4(Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)),
    Message::V4(Icmpv4Type::ParameterProblem(icmpv4::ParameterProblemHeader::BadLength)),
];
const ERRORS6: [Message; 4] = [
    Message::V6(Icmpv6Type::PacketTooBig { mtu: 1300 }),
    Message::V6(Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::NoRoute)),
    Message::V6(Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded)),
    Message::V6(Icmpv6Type::ParameterProblem(icmpv6::ParameterProblemHeader {
        code: icmpv6::ParameterProblemCode::UnrecognizedNextHeader,
        pointer: 6,
    })),
];

/// An ICMP message with this behind its header.
fn message(kind: Message, source: IpAddr, destination: IpAddr, payload: &[u8]) -> Packet {
    let (protocol, header) = match (kind, source, destination) {
        (Message::V4(kind), ..) => (IpNumber::ICMP, Icmpv4Header::with_checksum(kind, payload).to_bytes().to_vec()),
        (Message::V6(kind), IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Icmpv6Header::with_checksum(kind, source.octets(), destination.octets(), payload).unwrap();
            (IpNumber::IPV6_ICMP, header.to_bytes().to_vec())
        }
        (kind, ..) => panic!("{kind:?} from {source} to {destination}"),
    };
    Packet::new(source, destination, protocol, [&header, payload].concat())
}

fn router(is_ipv4: bool) -> IpAddr {
    if is_ipv4 { ROUTER4 } else { ROUTER6 }.parse().unwrap()
}

/// A router's error about a packet to a client, of which it quotes the header and so many bytes.
fn error(kind: Message, about: &Packet, from: SocketAddr, bytes: usize) -> Packet {
    let quoted = about.aged().ip_bytes();
    let len = quoted.len() - about.transport.len() + bytes;
    message(kind, router(from.is_ipv4()), from.ip(), &quoted[..len.min(quoted.len())])
}

fn errors(is_ipv4: bool) -> [Message; 4] {
    if is_ipv4 { ERRORS4 } else { ERRORS6 }
}

/// An echo message.
fn echo(is_reply: bool, from: SocketAddr, to: SocketAddr, seq: u16, payload: &[u8]) -> Packet {
    let header = IcmpEchoHeader { id: 0x4711, seq };
    let kind = match (from.is_ipv4(), is_reply) {
        (true, false) => Message::V4(Icmpv4Type::EchoRequest(header)),
        (true, true) => Message::V4(Icmpv4Type::EchoReply(header)),
        (false, false) => Message::V6(Icmpv6Type::EchoRequest(header)),
        (false, true) => Message::V6(Icmpv6Type::EchoReply(header)),
    };
    message(kind, from.ip(), to.ip(), payload)
}

/// What a backend sends to a client.
fn answers(vip: SocketAddr, client: SocketAddr) -> [(IpNumber, Packet); 2] {
    [(IpNumber::TCP, Packet::data(vip, client, &[7; 1000])), (IpNumber::UDP, Packet::udp(vip, client, &[7; 1000]))]
}

#[test]
#[ignore = "needs root"]
fn errors_about_a_flow_go_to_its_backend_in_every_mode() {
    for (client, vip, forward, backend) in WAYS {
        let (client, vip, is_ipv4) = (at(client), at(vip), at(vip).is_ipv4());
        let forwarder = Forwarder::new(&one(&vip.to_string(), forward, backend)).unwrap();
        for (protocol, about) in answers(vip, client) {
            let mut abouts = vec![about.clone()];
            if is_ipv4 {
                abouts.push(about.clone().options(3));
                abouts.push(about.fragment(0, true));
            } else {
                const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];
                abouts.push(about.clone().extension(IpNumber::IPV6_DESTINATION_OPTIONS, &PADDING));
                // The first fragment of several.
                abouts.push(about.extension(IpNumber::IPV6_FRAGMENTATION_HEADER, &[0, 0, 1, 0, 0, 0, 7]));
            }
            for (kind, about) in errors(is_ipv4).iter().flat_map(|kind| abouts.iter().map(move |about| (kind, about))) {
                for bytes in [8, 20, 500] {
                    let error = error(kind.clone(), about, vip, bytes);
                    let inner = error.aged().ip_bytes();
                    let hash = flow_hash(client, vip, protocol);
                    let of = if is_ipv4 { IpNumber::IPV4 } else { IpNumber::IPV6 };
                    let outer = match (forward, backend.contains(':')) {
                        ("l2", _) => vec![],
                        (_, false) => outer4(backend, hash, inner.len(), |outer| outer.protocol = of),
                        (_, true) => outer6(backend, hash, inner.len(), of, 0),
                    };
                    let expected = sent(frames::to_next_hop(&[outer, inner].concat()));
                    for tags in [&[][..], &[(0x8100, 7)]] {
                        let output = forwarder.run(&error.tagged(tags)).unwrap();
                        assert_eq!(output, expected, "{vip} {forward} {backend} {kind:?} {bytes} {tags:?}");
                    }
                }
            }
        }
        assert_eq!(entries(&forwarder), [], "an error enters nothing");
        assert_eq!(forwarder.drops().unwrap(), [].into());
    }
}

/// Whatever is not about a flow of a VIP is the stack's, as it came.
#[test]
#[ignore = "needs root"]
fn errors_about_anything_else_pass_untouched() {
    for (client, vip, ..) in [WAYS[2], WAYS[5]] {
        let (client, vip, is_ipv4) = (at(client), at(vip), at(vip).is_ipv4());
        let backend = if is_ipv4 { "10.0.1.11" } else { "2001:db8:b::11" };
        let forwarder = Forwarder::new(&one(&vip.to_string(), "ipip", backend)).unwrap();
        let kind = || errors(is_ipv4)[0].clone();
        let other = |address: SocketAddr, port: u16| SocketAddr::new(address.ip(), port);
        let of = |from, to| Packet::data(from, to, &[7; 100]);
        let own = of(vip, client);
        let host: IpAddr = if is_ipv4 { "203.0.113.99" } else { "2001:db8:f::99" }.parse().unwrap();
        let about_other = of(SocketAddr::new(host, 80), client);
        let quoted = own.ip_bytes();
        let echo = IcmpEchoHeader { id: 1, seq: 1 };
        let [redirect, reply] = if is_ipv4 {
            let redirect = Icmpv4Type::Unknown { type_u8: 5, code_u8: 1, bytes5to8: [10, 0, 1, 9] };
            [redirect, Icmpv4Type::EchoReply(echo)].map(Message::V4)
        } else {
            let redirect = Icmpv6Type::Unknown { type_u8: 137, code_u8: 0, bytes5to8: [0; 4] };
            [redirect, Icmpv6Type::EchoReply(echo)].map(Message::V6)
        };
        let mut packets = vec![
            ("of another port", error(kind(), &of(other(vip, 81), client), vip, 8)),
            ("of another address than it is for", error(kind(), &about_other, vip, 8)),
            ("for no VIP", error(kind(), &about_other, SocketAddr::new(host, 80), 8)),
            ("of the client's own packet", error(kind(), &of(client, vip), vip, 8)),
            ("cut in the ports", error(kind(), &own, vip, 3)),
            ("cut in the header", message(kind(), router(is_ipv4), vip.ip(), &quoted[..19])),
            ("cut behind the ports", error(kind(), &own, vip, 7)),
            ("of nothing", message(kind(), router(is_ipv4), vip.ip(), &[])),
            ("a redirect", message(redirect, router(is_ipv4), vip.ip(), &quoted)),
            ("a reply", message(reply, router(is_ipv4), vip.ip(), &quoted)),
        ];
        if is_ipv4 {
            packets.push(("of a fragment", error(kind(), &own.clone().fragment(3, true), vip, 8)));
            packets.push(("a fragment itself", error(kind(), &own, vip, 8).fragment(0, true)));
        }
        for (what, packet) in packets {
            let frame = packet.frame();
            let passed = Output { verdict: Verdict::Pass, frame: frame.clone() };
            assert_eq!(forwarder.run(&frame).unwrap(), passed, "{vip}: {what}");
        }
        // Of whoever else's frame is.
        let frame = frames::ethernet(CLIENT_MAC, NEXT_HOP_MAC, &[], &error(kind(), &own, vip, 8).ip_bytes());
        assert_eq!(forwarder.run(&frame).unwrap(), Output { verdict: Verdict::Pass, frame });
        assert_eq!(forwarder.drops().unwrap(), [].into());

        for hops in [0, 1] {
            let frame = error(kind(), &own, vip, 8).lifetime(hops).frame();
            assert_eq!(forwarder.run(&frame).unwrap(), Output { verdict: Verdict::Drop, frame });
        }
        assert_eq!(forwarder.drops().unwrap(), [("ttl_exceeded", 2)].into());
    }
}

/// Everything in the flow table.
fn entries(forwarder: &Forwarder) -> Vec<(FlowKey, FlowEntry)> {
    forwarder.dataplane().flow_table().named().collect()
}

/// Clients of many flows, of which a change moves some.
const FLOWS: u16 = 300;

/// Where a frame was sent by `ipip`: its MAC addresses and the outer destination.
fn way(output: &Output) -> Vec<u8> {
    assert_eq!(output.verdict, Verdict::Tx);
    let outer = if output.frame[12..14] == [0x08, 0] { 14 + 16..14 + 20 } else { 14 + 24..14 + 40 };
    [&output.frame[..12], &output.frame[outer]].concat()
}

/// An error goes where the next segment of the flow goes: on settled slots, on moving ones and to drained backends, before
/// that segment has come and after it, and it enters nothing.
#[test]
#[ignore = "needs root"]
fn errors_go_to_the_owner_of_the_flow_on_slots_that_move_too() {
    for (first_client, vip) in [(CLIENT4, VIP4), (CLIENT6, VIP6)] {
        for tracking in ["adaptive", "always"] {
            let (vip, is_ipv4) = (at(vip), at(vip).is_ipv4());
            let backends =
                ["10.0.1.11", "10.0.1.12", "2001:db8:b::13"].map(|address| address.parse::<IpAddr>().unwrap());
            let config = |states: [&str; 3]| {
                let text =
                    VipText::new("web", vip.ip(), ["tcp/80"], "ipip").lines(&format!("tracking = \"{tracking}\"\n"));
                let backend = |text: VipText, (address, state): (&IpAddr, &str)| {
                    if state == "none" { text } else { text.backend_with(*address, &format!("state = \"{state}\"")) }
                };
                backends.iter().zip(states).fold(text, backend).to_string()
            };
            let mut forwarder = Forwarder::new(&config(["active", "active", "none"])).unwrap();
            let client = |flow: u16| SocketAddr::new(at(first_client).ip(), 10_000 + flow);
            let segment = |flow| Packet::data(client(flow), vip, b"more").frame();
            let about =
                |flow| error(errors(is_ipv4)[0].clone(), &Packet::data(vip, client(flow), &[7; 100]), vip, 8).frame();
            let to = |forwarder: &Forwarder, frame: &[u8]| way(&forwarder.run(frame).unwrap());
            let old: Vec<_> = (0..FLOWS).map(|flow| to(&forwarder, &segment(flow))).collect();

            forwarder.apply(&config(["drain", "active", "active"])).unwrap();
            // What was there before, and what is new.
            let new = FLOWS..2 * FLOWS;
            new.clone().for_each(|flow| drop(to(&forwarder, &Packet::syn(client(flow), vip).frame())));
            let told_of_all = |forwarder: &Forwarder| {
                let before = entries(forwarder);
                let told: Vec<_> = (0..new.end).map(|flow| to(forwarder, &about(flow))).collect();
                assert_eq!(entries(forwarder), before, "an error enters and refreshes nothing");
                told
            };
            let told = told_of_all(&forwarder);
            assert_eq!(told[..old.len()], old, "{vip} {tracking}: a drained backend's, or a moving slot's old owner's");
            let sent: Vec<_> = (0..new.end).map(|flow| to(&forwarder, &segment(flow))).collect();
            assert_eq!(sent, told, "{vip} {tracking}");
            assert_eq!(told_of_all(&forwarder), told, "{vip} {tracking}");
            let ways: BTreeSet<_> = told.iter().collect();
            assert_eq!(ways.len(), 3, "{vip} {tracking}: all backends have some");
            assert_eq!(forwarder.drops().unwrap(), [].into());
        }
    }
}

/// What does not fit is answered with what does, from the VIP, and with as much of it as may be quoted.
#[test]
#[ignore = "needs root"]
fn a_packet_that_does_not_fit_is_answered_with_the_mtu() {
    for (client, vip, forward, backend) in WAYS {
        let (client, vip) = (at(client), at(vip));
        let narrow = NextHop::new(NEXT_HOP_MAC, BALANCER_MAC, INGRESS, 1400, 0);
        let forwarder = Forwarder::with_next_hop(&one(&vip.to_string(), forward, backend), Some(narrow)).unwrap();
        let mtu = match (forward, backend.contains(':')) {
            ("l2", _) => 1400,
            (_, false) => 1380,
            (_, true) => 1360,
        };
        let headers = if client.is_ipv4() { 20 } else { 40 };
        for len in [mtu + 1, 1500, 1599] {
            for packet in [
                Packet::data(client, vip, &vec![0xa5; len - headers - 20]),
                Packet::udp(client, vip, &vec![0x5a; len - headers - 8]),
                Packet::tcp(client, vip, |tcp: &mut TcpHeader| tcp.syn = true, &vec![0; len - headers - 20]),
            ] {
                let bytes = packet.ip_bytes();
                let (kind, quoted) = match client {
                    SocketAddr::V4(_) => {
                        let too_big = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu as u16 };
                        (Message::V4(Icmpv4Type::DestinationUnreachable(too_big)), 576 - 28)
                    }
                    SocketAddr::V6(_) => (Message::V6(Icmpv6Type::PacketTooBig { mtu: mtu as u32 }), 1280 - 48),
                };
                let answer = message(kind, vip.ip(), client.ip(), &bytes[..quoted]);
                let answer = match vip {
                    SocketAddr::V4(_) => answer.v4(|header| (header.identification, header.time_to_live) = (0, 64)),
                    SocketAddr::V6(_) => {
                        answer.v6(|header| (header.flow_label, header.hop_limit) = (Ipv6FlowLabel::ZERO, 64))
                    }
                };
                for tags in [&[][..], &[(0x8100, 7)], &[(0x88a8, 0x2003), (0x8100, 7)]] {
                    let expected = sent(frames::ethernet(BALANCER_MAC, CLIENT_MAC, tags, &answer.ip_bytes()));
                    let output = forwarder.run(&packet.tagged(tags)).unwrap();
                    assert_eq!(output, expected, "{vip} {forward} {backend} {len} {tags:?}");
                }
            }
        }
        let fits = Packet::data(client, vip, &vec![1; mtu - headers - 20]);
        assert_eq!(forwarder.run(&fits.frame()).unwrap().verdict, Verdict::Tx);
        assert_eq!(forwarder.drops().unwrap(), [("too_big", 27)].into());
    }
}

/// Whom nobody makes packets smaller for, or who is no host, is not told.
#[test]
#[ignore = "needs root"]
fn what_nobody_makes_smaller_is_dropped() {
    let narrow = |mtu| Some(NextHop::new(NEXT_HOP_MAC, BALANCER_MAC, INGRESS, mtu, 0));
    let forwarder = Forwarder::with_next_hop(&one(VIP4, "ipip", "10.0.1.11"), narrow(1400)).unwrap();
    let long = |client: &str| Packet::data(at(client), at(VIP4), &[1; 1400]);
    let cut = long(CLIENT4).v4(|header| header.dont_fragment = false);
    for packet in [cut, long("0.0.0.0:9"), long("127.0.0.1:9"), long("224.0.0.1:9"), long("255.255.255.255:9")] {
        let frame = packet.frame();
        assert_eq!(forwarder.run(&frame).unwrap(), Output { verdict: Verdict::Drop, frame });
    }
    assert_eq!(forwarder.drops().unwrap(), [("too_big", 5)].into());

    let forwarder = Forwarder::with_next_hop(&one(VIP6, "ipip", "2001:db8:b::11"), narrow(1300)).unwrap();
    let of = |client: &str, len: usize| Packet::data(at(client), at(VIP6), &vec![1; len - 60]);
    for packet in [of(CLIENT6, 1280), of("[::]:9", 1400), of("[ff02::1]:9", 1400)] {
        let frame = packet.frame();
        assert_eq!(forwarder.run(&frame).unwrap(), Output { verdict: Verdict::Drop, frame });
    }
    assert_eq!(forwarder.run(&of(CLIENT6, 1281).frame()).unwrap().verdict, Verdict::Tx, "told 1,280");
    assert_eq!(forwarder.drops().unwrap(), [("too_big", 4)].into());
}

fn passed(frame: Vec<u8>) -> Output {
    Output { verdict: Verdict::Pass, frame }
}

/// A VIP answers pings of any size that fits a frame, itself: no backend counts them.
#[test]
#[ignore = "needs root"]
fn echo_requests_to_vips_are_answered() {
    for (client, vip) in [(CLIENT4, VIP4), (CLIENT6, VIP6)] {
        let (client, vip) = (at(client), at(vip));
        let forwarder = Forwarder::new(&one(&vip.to_string(), "l2", backend_of(vip))).unwrap();
        for len in [0, 1, 2, 7, 56, 1400, 3000] {
            let payload: Vec<_> = (0..len).map(|byte| byte as u8).collect();
            let request = match client {
                SocketAddr::V4(_) => echo(false, client, vip, 7, &payload).v4(|ip| ip.dscp = IpDscp::ZERO),
                SocketAddr::V6(_) => echo(false, client, vip, 7, &payload),
            };
            let reply = echo(true, vip, client, 7, &payload);
            let reply = match client {
                SocketAddr::V4(_) => reply.v4(|ip| (ip.identification, ip.time_to_live) = (0, 64)),
                SocketAddr::V6(_) => reply.v6(|ip| (ip.flow_label, ip.hop_limit) = (Ipv6FlowLabel::ZERO, 64)),
            };
            for tags in [&[][..], &[(0x8100, 7)], &[(0x88a8, 0x2003), (0x8100, 7)]] {
                let expected = sent(frames::ethernet(BALANCER_MAC, CLIENT_MAC, tags, &reply.ip_bytes()));
                assert_eq!(forwarder.run(&request.tagged(tags)).unwrap(), expected, "{vip} {len} {tags:?}");
            }
        }
        // Every sum that a checksum may have.
        for seq in (0..=u16::MAX).step_by(5) {
            assert_sound(&forwarder.run(&echo(false, client, vip, seq, b"").frame()).unwrap(), client);
        }
        let counters = forwarder.dataplane().counters().unwrap();
        assert_eq!(counters.vips[0].counters.packets, 0);
        // Those beyond the rate, and nothing else.
        assert!(forwarder.drops().unwrap().keys().all(|reason| *reason == "rate_limited"));
    }
}

fn backend_of(vip: SocketAddr) -> &'static str {
    if vip.is_ipv4() { "10.0.1.11" } else { "2001:db8:b::11" }
}

/// A reply has checksums that a receiver takes. It may have been beyond the rate.
fn assert_sound(Output { verdict, frame }: &Output, client: SocketAddr) {
    if *verdict == Verdict::Drop {
        return;
    }
    assert_eq!(*verdict, Verdict::Tx);
    let sum = |bytes: &[u8]| {
        let halves = bytes.chunks(2).map(|half| u32::from(u16::from_be_bytes([half[0], half[1]])));
        let sum: u32 = halves.sum();
        (sum & 0xffff) + (sum >> 16)
    };
    if client.is_ipv4() {
        assert_eq!((sum(&frame[14..34]), sum(&frame[34..])), (0xffff, 0xffff), "{frame:x?}");
    } else {
        let rest = 58 + (frame.len() - 54) as u32;
        let all = sum(&frame[22..]) + rest;
        assert_eq!((all & 0xffff) + (all >> 16), 0xffff, "{frame:x?}");
    }
}

/// Whom nobody answers: the stack may.
#[test]
#[ignore = "needs root"]
fn other_echo_requests_pass_untouched() {
    for (client, vip, bad) in [
        (CLIENT4, VIP4, &["0.0.0.0:0", "127.0.0.1:0", "224.0.0.1:0", "255.255.255.255:0"][..]),
        (CLIENT6, VIP6, &["[::]:0", "[ff02::1]:0"]),
    ] {
        let (client, vip) = (at(client), at(vip));
        let config = one(&vip.to_string(), "l2", backend_of(vip));
        let forwarder = Forwarder::new(&config).unwrap();
        let request = || echo(false, client, vip, 1, b"abcdefgh");
        let host = SocketAddr::new(if vip.is_ipv4() { "203.0.113.99" } else { "2001:db8:f::99" }.parse().unwrap(), 0);
        let mut packets =
            vec![("no VIP", echo(false, client, host, 1, b"abcdefgh")), ("a reply", echo(true, client, vip, 1, b""))];
        packets.extend(bad.iter().map(|source| ("from no host", echo(false, at(source), vip, 1, b"abcdefgh"))));
        if vip.is_ipv4() {
            packets.push(("options", request().options(2)));
            packets.push(("a fragment", request().fragment(0, true)));
            packets.push(("a later fragment", request().fragment(3, false)));
        } else {
            packets
                .push(("extensions", request().extension(IpNumber::IPV6_DESTINATION_OPTIONS, &[0, 1, 4, 0, 0, 0, 0])));
        }
        for (what, packet) in packets {
            let frame = packet.frame();
            assert_eq!(forwarder.run(&frame).unwrap(), passed(frame), "{vip}: {what}");
        }
        let frame = frames::ethernet(CLIENT_MAC, NEXT_HOP_MAC, &[], &request().ip_bytes());
        assert_eq!(forwarder.run(&frame).unwrap(), passed(frame), "another host's");
        let mut frame = request().frame();
        frame.truncate(frame.len() - 3);
        assert_eq!(forwarder.run(&frame).unwrap(), passed(frame), "cut short");
        assert_eq!(forwarder.drops().unwrap(), [].into());

        // Nor does the stack answer, where it has the address as well.
        let never = config.replace("forward =", "echo = \"never\"\nforward =");
        let no_rate = format!("[node]\ninterfaces = []\nicmp_rate = 0\n{config}");
        for (config, reason) in [(never, "no_echo"), (no_rate, "rate_limited")] {
            let (forwarder, frame) = (Forwarder::new(&config).unwrap(), request().frame());
            assert_eq!(forwarder.run(&frame).unwrap(), Output { verdict: Verdict::Drop, frame }, "{config}");
            assert_eq!(forwarder.drops().unwrap(), [(reason, 1)].into());
        }
    }
}

/// Each kind of answer has a rate of its own, on each CPU.
#[test]
#[ignore = "needs root"]
fn answers_keep_to_their_rate() {
    const RATE: usize = 5;
    const SENT: usize = 200;
    let config = format!("[node]\ninterfaces = []\nicmp_rate = {RATE}\n{}", one(VIP4, "ipip", "10.0.1.11"));
    let narrow = NextHop::new(NEXT_HOP_MAC, BALANCER_MAC, INGRESS, 1400, 0);
    let forwarder = Forwarder::with_next_hop(&config, Some(narrow)).unwrap();
    let (client, vip) = (at(CLIENT4), at(VIP4));
    let cpus = thread::available_parallelism().unwrap().get();
    for packet in [echo(false, client, vip, 1, b""), Packet::data(client, vip, &[1; 1400])] {
        let from = Instant::now();
        let answered = (0..SENT).filter(|_| forwarder.run(&packet.frame()).unwrap().verdict == Verdict::Tx).count();
        let ticks = 2 + from.elapsed().as_secs() as usize;
        assert!((RATE..=RATE * cpus * ticks).contains(&answered), "{answered}");
    }
    let drops = forwarder.drops().unwrap();
    assert!(drops["rate_limited"] > 0 && drops["too_big"] == SENT as u64, "{drops:?}");
}

/// Where backends are probed, the addresses that probes come from are looked for in a filter that takes others for them.
#[test]
#[ignore = "needs root"]
fn probes_take_no_vip_its_icmp() {
    for (client, vip) in [(CLIENT4, VIP4), (CLIENT6, VIP6)] {
        let (client, vip) = (at(client), at(vip));
        let forwarder = Forwarder::with_probes(&one(&vip.to_string(), "l2", backend_of(vip)), next_hop()).unwrap();
        let own: Address = vip.ip().into();
        let node = |last: u32| {
            let [a, b, c, _] = own.0;
            let node = if vip.is_ipv4() { [a, b, c] } else { [Be32::new(0x2001_0db8), b, c] };
            Address([node[0], node[1], node[2], Be32::new(last)])
        };
        let path = |last| ProbePath::new(INGRESS, CLIENT_MAC, BALANCER_MAC, [node(last)]);
        let taken = (0x0a00_0000..).find(|last| node(*last) != own && path(*last).may_have(own)).unwrap();
        forwarder.dataplane().probes().set_path(path(taken));
        let request = echo(false, client, vip, 1, b"abcdefgh").frame();
        assert_eq!(forwarder.run(&request).unwrap().verdict, Verdict::Tx, "{vip}");
        let error = error(errors(vip.is_ipv4())[0].clone(), &Packet::data(vip, client, &[7; 100]), vip, 8).frame();
        assert_eq!(forwarder.run(&error).unwrap().verdict, Verdict::Tx, "{vip}");
    }
}
