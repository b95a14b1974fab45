//! The packets that programs are measured with: what the lab's entry program and its generator make them of.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::LazyLock,
};

use anyhow::Context as _;
use aya::{EbpfLoader, maps::Array};
use etherparse::{Ethernet2Header, TcpHeader, UdpHeader};
use lb_common::{Address, Be32};
use naru_tests::frames::Packet;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rand_distr::Zipf;

/// A stream of packets without end, from clients to one port of one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// What the packets are.
    pub kind: Kind,
    /// How many flows they belong to.
    pub flows: Flows,
    /// Whether they are IPv6.
    pub ipv6: bool,
}

/// What packets are. All kinds have frames of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// TCP in the middle of connections: three of four are a mere ACK, the others PSH and ACK.
    Ack,
    /// TCP SYNs.
    Syn,
    /// TCP connections of 16 packets: a SYN, 14 as [`Kind::Ack`], a FIN; then the same flow begins anew. At any time
    /// some flows are at each of these points.
    Short,
    /// UDP.
    Udp,
}

/// A number of flows, which take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flows {
    /// 2 to the power of this many.
    Bits(u32),
    /// Every packet is of a flow that never had one before.
    New,
    /// Of [`VIPS`], and of 2^18 flows of each, some are more popular than others: by Zipf's law, the *n*-th has *n* times
    /// fewer packets than the first.
    Zipf,
}

/// So many VIPs are there where flows are chosen by Zipf's law; their addresses follow on [`vip`].
pub const VIPS: u32 = 10_000;

/// The order in which flows take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each flow has four packets in a row, so that even a table of recent flows that cannot hold all of them has
    /// learnt that there is more to it than its first packet.
    Introduction,
    /// Each flow has one packet at a time. In another order than before: no prefetcher finds what is remembered of
    /// flows in the order in which it was first put down.
    Rounds,
}

/// The VIP that packets are for.
pub fn vip(ipv6: bool) -> SocketAddr {
    let text = if ipv6 { "[2001:db8:f::10]:80" } else { "203.0.113.10:80" };
    text.parse().expect("a socket address")
}

impl Traffic {
    /// The frame that they are variants of.
    pub fn frame(self) -> Vec<u8> {
        // No two kinds have a flow in common.
        let hosts = (self.kind as u32) << HOST_BITS;
        let client: IpAddr = if self.ipv6 {
            Ipv6Addr::from_bits((0x2001_0db8_000c << 80) + u128::from(hosts)).into()
        } else {
            Ipv4Addr::from_bits(0x0a00_0000 + hosts).into()
        };
        let client = SocketAddr::new(client, 1024);
        let vip = vip(self.ipv6);
        let packet = match self.kind {
            Kind::Ack => Packet::data(client, vip, &[0x6e; PAYLOAD_LEN]),
            Kind::Syn | Kind::Short => Packet::tcp(client, vip, open, b""),
            Kind::Udp => Packet::udp(client, vip, &[0x6e; TcpHeader::MIN_LEN - UdpHeader::LEN + PAYLOAD_LEN]),
        };
        packet.frame()
    }

    /// Packets in which every flow is introduced. Where all are new, as many as find places beside those of others.
    pub fn introduction(self) -> u32 {
        match self.flows {
            Flows::Bits(bits) => 1 << (bits + ROW_BITS),
            Flows::New => 1 << 19,
            Flows::Zipf => 4 << CHOICE_BITS,
        }
    }

    /// Hands the lab's programs what makes them send these packets. `egress` is the index of the interface that the
    /// generator sends to; the entry program needs none. `lines` is the size of the table that some programs under test
    /// read or write a line of, at least 1.
    pub fn load(self, order: Order, egress: u32, lines: u32) -> anyhow::Result<aya::Ebpf> {
        let frame = self.frame();
        let (words, _) = frame[ETHERNET_LEN..].as_chunks::<4>();
        let mut template = [0; TEMPLATE_WORDS];
        for (word, bytes) in template.iter_mut().zip(words) {
            *word = u32::from_ne_bytes(*bytes);
        }
        let bits = match self.flows {
            Flows::Bits(bits) => bits,
            Flows::New | Flows::Zipf => u32::BITS,
        };
        let choice_bits = if self.flows == Flows::Zipf { CHOICE_BITS } else { 0 };
        let (factor, row_bits): (u32, u32) = match order {
            Order::Introduction => (0x85eb_ca6b, ROW_BITS),
            Order::Rounds => (0x9e37_79b1, 0),
        };
        let mut programs = EbpfLoader::new()
            .map_max_entries("CHOICES", 1 << choice_bits)
            .map_max_entries("LINES", lines)
            .override_global("LINE_COUNT", &lines, true)
            .override_global("CHOICE_BITS", &choice_bits, true)
            .override_global("FRAME_LEN", &(frame.len() as u32), true)
            .override_global("TEMPLATE", &template, true)
            .override_global("IPV6", &u32::from(self.ipv6), true)
            .override_global("TCP", &u32::from(self.kind != Kind::Udp), true)
            .override_global("TCP_FLAGS", &self.kind.tcp_flags(), true)
            .override_global("TCP_STEP", &self.kind.tcp_step(), true)
            .override_global("FLOW_BITS", &bits, true)
            .override_global("FLOW_FACTOR", &factor, true)
            .override_global("ROW_BITS", &row_bits, true)
            .override_global("EGRESS", &egress, true)
            .load(lb_userspace::objects::LAB)?;
        if self.flows == Flows::Zipf {
            let mut choices: Array<_, u32> = programs.map_mut("CHOICES").context("no map CHOICES")?.try_into()?;
            for (index, choice) in (0..).zip(&*CHOICES) {
                choices.set(index, choice, 0)?;
            }
        }
        Ok(programs)
    }
}

/// By [`Flows::Zipf`], the flows of 2 to the power of so many packets, which then come again in the same order.
const CHOICE_BITS: u32 = 20;
/// Of the number of a flow; what is above it is that of the VIP.
const FLOW_BITS: u32 = 18;

static CHOICES: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let law = |number: u32| Zipf::new(f64::from(number), 1.0).expect("a number of things and an exponent of 1");
    let (vips, flows, mut random) = (law(VIPS), law(1 << FLOW_BITS), StdRng::seed_from_u64(1));
    let mut draw = |law: &Zipf<f64>| random.sample(law) as u32 - 1;
    (0..1 << CHOICE_BITS).map(|_| draw(&vips) << FLOW_BITS | draw(&flows)).collect()
});

/// How many flows are among them.
static CHOSEN: LazyLock<u32> = LazyLock::new(|| CHOICES.iter().collect::<HashSet<_>>().len() as u32);

/// The lower bits of a client's address, which are the flow's; behind them are those of the kind.
const HOST_BITS: u32 = 22;
/// The bits that tell the kinds apart.
const KINDS_MASK: u32 = 3;
const ETHERNET_LEN: usize = Ethernet2Header::LEN;
/// Payload of a TCP segment in bytes, and the options of a SYN.
const PAYLOAD_LEN: usize = 12;
/// Of an introduction.
const ROW_BITS: u32 = 2;
/// An IPv6 and a TCP header.
const TEMPLATE_WORDS: usize = 15;

/// What clients' SYNs say.
fn open(tcp: &mut TcpHeader) {
    use etherparse::TcpOptionElement::{MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, WindowScale};
    tcp.syn = true;
    let options = [MaximumSegmentSize(1460), Noop, Noop, SelectiveAcknowledgementPermitted, Noop, WindowScale(7)];
    tcp.set_options(&options).expect("twelve bytes of options");
}

impl Kind {
    /// Whether packets from this client are of this kind.
    pub fn is_of(self, client: Address) -> bool {
        let [.., hosts] = client.0.map(Be32::host);
        hosts >> HOST_BITS & KINDS_MASK == self as u32
    }

    /// Bytes that a flow's stream goes on by from packet to packet. SYNs of one flow are one SYN sent again.
    fn tcp_step(self) -> u32 {
        match self {
            Self::Ack | Self::Short => PAYLOAD_LEN as u32,
            Self::Syn | Self::Udp => 0,
        }
    }

    /// TCP flags of a flow's packets, in turn.
    fn tcp_flags(self) -> [u16; 16] {
        const FIN: u16 = 0x01;
        const SYN: u16 = 0x02;
        const PSH: u16 = 0x08;
        const ACK: u16 = 0x10;
        let middle = std::array::from_fn(|age| if age % 4 == 3 { PSH | ACK } else { ACK });
        match self {
            Self::Ack => middle,
            Self::Syn => [SYN; 16],
            Self::Short => {
                let mut flags = middle;
                flags[0] = SYN;
                flags[15] = FIN | ACK;
                flags
            }
            Self::Udp => [0; 16],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ack => "ACK",
            Self::Syn => "SYN",
            Self::Short => "short connections",
            Self::Udp => "UDP",
        })
    }
}

impl Flows {
    /// The number, where there is one.
    pub fn number(self) -> Option<u32> {
        match self {
            Self::Bits(bits) => Some(1 << bits),
            Self::New => None,
            Self::Zipf => Some(*CHOSEN),
        }
    }
}

impl fmt::Display for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bits(bits @ 20..) => f.pad(&format!("{} Mi", 1u64 << (bits - 20))),
            Self::Bits(bits @ 10..) => f.pad(&format!("{} Ki", 1u64 << (bits - 10))),
            Self::Bits(bits) => f.pad(&(1u64 << bits).to_string()),
            Self::New => f.pad("new"),
            Self::Zipf => f.pad("Zipf"),
        }
    }
}

/// The family's name.
pub fn family(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use aya::{
        maps::ProgramArray,
        programs::{TestRun, TestRunOptions, Xdp},
    };
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;
    use crate::sample::stay_on_this_cpu;

    #[test]
    fn frames_of_a_family_have_one_length_and_hold_the_template() {
        for ipv6 in [false, true] {
            let len = |kind| Traffic { kind, flows: Flows::New, ipv6 }.frame().len();
            let headers = ETHERNET_LEN + if ipv6 { 60 } else { 40 };
            assert!(len(Kind::Ack) >= headers);
            assert_eq!([Kind::Syn, Kind::Short, Kind::Udp].map(len), [len(Kind::Ack); 3]);
        }
    }

    #[test]
    fn flows_are_told_in_powers_of_two() {
        let flows = [Flows::Bits(0), Flows::Bits(10), Flows::Bits(16), Flows::Bits(20), Flows::New];
        assert_eq!(flows.map(|flows| flows.to_string()), ["1", "1 Ki", "64 Ki", "1 Mi", "new"]);
    }

    /// A packet that the entry program made.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Sent {
        source: SocketAddr,
        /// By how much the VIP's address exceeds the first one's.
        vip: u32,
        /// Of TCP.
        segment: Option<Segment>,
    }

    /// What is set of SYN, FIN and ACK, the sequence number, and bytes of data.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Segment {
        flags: [bool; 3],
        sequence: u32,
        data_len: usize,
    }

    const SYN: [bool; 3] = [true, false, false];
    const FIN: [bool; 3] = [false, true, true];
    const MIDDLE: [bool; 3] = [false, false, true];

    /// Packets that the entry program makes one of another.
    fn sent(traffic: Traffic, order: Order, packets: usize) -> Vec<Sent> {
        let mut entry = traffic.load(order, 0, 1).unwrap();
        let nothing: &mut Xdp = entry.program_mut("bench_nothing").unwrap().try_into().unwrap();
        nothing.load().unwrap();
        let nothing = nothing.fd().unwrap().try_clone().unwrap();
        ProgramArray::try_from(entry.map_mut("TARGET").unwrap()).unwrap().set(0, &nothing, 0).unwrap();
        let program: &mut Xdp = entry.program_mut("bench_entry").unwrap().try_into().unwrap();
        program.load().unwrap();
        stay_on_this_cpu().unwrap();
        let mut frame = traffic.frame();
        let next = |_| {
            let mut out = vec![0; frame.len()];
            let options = TestRunOptions { data_in: Some(&frame), data_out: Some(&mut out), ..TestRunOptions::new() };
            assert_eq!(program.test_run(options).unwrap().return_value, 3);
            frame = out;
            parse(&frame, traffic.ipv6)
        };
        (0..packets).map(next).collect()
    }

    fn parse(frame: &[u8], ipv6: bool) -> Sent {
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let (source, destination): (IpAddr, IpAddr) = match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Arp(_) => panic!("no IP packet"),
        };
        let (from, to, segment) = match sliced.transport.unwrap() {
            TransportSlice::Tcp(tcp) => {
                let flags = [tcp.syn(), tcp.fin(), tcp.ack()];
                let segment = Segment { flags, sequence: tcp.sequence_number(), data_len: tcp.payload().len() };
                (tcp.source_port(), tcp.destination_port(), Some(segment))
            }
            TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port(), None),
            _ => panic!("neither TCP nor UDP"),
        };
        let past = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        assert_eq!(to, vip(ipv6).port());
        let vip = u32::try_from(past(destination) - past(vip(ipv6).ip())).unwrap();
        Sent { source: SocketAddr::new(source, from), vip, segment }
    }

    fn flows(packets: &[Sent]) -> HashSet<SocketAddr> {
        packets.iter().map(|packet| packet.source).collect()
    }

    #[test]
    #[ignore = "needs root"]
    fn packets_are_what_they_are_called() {
        for ipv6 in [false, true] {
            let sent = |kind, flows| sent(Traffic { kind, flows, ipv6 }, Order::Rounds, 1024);
            let all = |packets: &[Sent], flags, data_len| {
                let is_so = |segment: Segment| (segment.flags, segment.data_len) == (flags, data_len);
                packets.iter().all(|packet| packet.segment.is_some_and(is_so))
            };
            let acks = sent(Kind::Ack, Flows::Bits(8));
            assert!(all(&acks, MIDDLE, PAYLOAD_LEN));
            assert_eq!(flows(&acks).len(), 256);
            assert!(acks.iter().all(|packet| packet.vip == 0));
            let syns = sent(Kind::Syn, Flows::New);
            assert!(all(&syns, SYN, 0));
            assert_eq!(flows(&syns).len(), 1024);
            assert!(flows(&syns).is_disjoint(&flows(&acks)), "kinds of packets share flows");
            let repeated = sent(Kind::Syn, Flows::Bits(0));
            assert!(repeated.iter().all(|packet| *packet == repeated[0]));
            let datagrams = sent(Kind::Udp, Flows::Bits(0));
            assert!(datagrams.iter().all(|packet| packet.segment.is_none()));
            assert_eq!(flows(&datagrams).len(), 1);
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn some_vips_and_flows_are_more_popular_than_others() {
        for ipv6 in [false, true] {
            let traffic = Traffic { kind: Kind::Ack, flows: Flows::Zipf, ipv6 };
            let sent = sent(traffic, Order::Rounds, 2048);
            let count = |vip| sent.iter().filter(|packet| packet.vip == vip).count();
            // The sum of 1/n up to 10,000 is 9.8.
            assert!((150..270).contains(&count(0)) && (70..150).contains(&count(1)), "{} {}", count(0), count(1));
            assert!(sent.iter().all(|packet| packet.vip < VIPS) && sent.iter().any(|packet| packet.vip > VIPS / 2));
            let of_first = sent.iter().filter(|packet| packet.vip == 0).map(|packet| packet.source);
            let flows = of_first.clone().collect::<HashSet<_>>().len();
            assert!((50..200).contains(&flows) && flows < of_first.count(), "{flows}");
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn short_connections_open_go_on_and_close() {
        for ipv6 in [false, true] {
            let mut packets = sent(Traffic { kind: Kind::Short, flows: Flows::Bits(5), ipv6 }, Order::Rounds, 1024);
            packets.sort_by_key(|packet| packet.source);
            for flow in packets.chunks(32) {
                let segments: Vec<_> = flow.iter().filter_map(|packet| packet.segment).collect();
                let count = |wanted| segments.iter().filter(|segment| segment.flags == wanted).count();
                assert_eq!([SYN, MIDDLE, FIN].map(count), [2, 28, 2]);
                let goes_on = |[a, b]: &[Segment; 2]| a.sequence + PAYLOAD_LEN as u32 == b.sequence;
                assert!(segments.array_windows().all(goes_on), "{segments:?}");
            }
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn an_introduction_shows_all_flows_in_an_order_of_its_own() {
        let traffic = Traffic { kind: Kind::Ack, flows: Flows::Bits(8), ipv6: false };
        let introduction = sent(traffic, Order::Introduction, traffic.introduction() as usize);
        let rows: Vec<_> = introduction.chunk_by(|a, b| a.source == b.source).collect();
        assert!(rows.len() == 256 && rows.iter().all(|row| row.len() == 4));
        let first_of_rows: Vec<_> = rows.iter().map(|row| row[0].source).collect();
        let rounds: Vec<_> = sent(traffic, Order::Rounds, 256).iter().map(|packet| packet.source).collect();
        assert_eq!(flows(&introduction), rounds.iter().copied().collect());
        assert_ne!(first_of_rows, rounds);
    }
}
