//! The real program over the packets of flows whose slots change hands: where each goes, and what the flow table learns
//! of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::programs::Xdp;
use etherparse::TcpHeader;
use lb_common::{FlowKey, FlowKind, FlowState, Tick};
use lb_ebpf::rules::tracking;
use lb_userspace::dataplane::Table;
use naru_tests::{
    forwarder::{self, Forwarder, Output, Verdict},
    frames::Packet,
    vip_text::VipText,
};
use patience::LIMIT;

/// A VIP of one family with two backends.
struct Site {
    vip: &'static str,
    backends: [&'static str; 2],
}

const SITE4: Site = Site { vip: "203.0.113.10", backends: ["10.0.1.11", "10.0.1.12"] };
const SITE6: Site = Site { vip: "2001:db8:f::10", backends: ["2001:db8:b::11", "2001:db8:b::12"] };

/// Sequence number at which every client begins.
const ISN: u32 = 0xffff_fff0;

impl Site {
    /// With the states of both backends, and more keys of the VIP.
    fn config(&self, states: [&str; 2], keys: &str) -> String {
        let vip = VipText::new("web", self.vip, ["tcp/80", "udp/80"], "ipip").lines(keys);
        let backends = self.backends.iter().zip(states);
        let with = |vip: VipText, (backend, state)| vip.backend_with(backend, &format!("state = \"{state}\""));
        backends.fold(vip, with).to_string()
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.vip.parse().unwrap(), 80)
    }

    fn client(&self, port: u16) -> SocketAddr {
        let address: IpAddr = if self.address().is_ipv4() { "198.51.100.7" } else { "2001:db8:c::7" }.parse().unwrap();
        SocketAddr::new(address, port)
    }

    /// All slots are given from the first backend to the second.
    fn moved(&self, keys: &str) -> Forwarder {
        let mut forwarder = Forwarder::new(&self.config(["active", "drain"], keys)).unwrap();
        forwarder.apply(&self.config(["drain", "active"], keys)).unwrap();
        forwarder
    }

    fn tcp(&self, port: u16, sequence: u32, flags: &str, data: &[u8]) -> Packet {
        let set = |tcp: &mut TcpHeader| {
            tcp.sequence_number = sequence;
            tcp.syn = flags.contains('S');
            tcp.ack = flags.contains('A');
            tcp.fin = flags.contains('F');
            tcp.rst = flags.contains('R');
        };
        Packet::tcp(self.client(port), self.address(), set, data)
    }

    fn syn(&self, port: u16) -> Packet {
        self.tcp(port, ISN, "S", b"")
    }

    /// A segment `at` so many bytes in the client's stream.
    fn segment(&self, port: u16, at: u32, flags: &str, data: &[u8]) -> Packet {
        self.tcp(port, ISN.wrapping_add(1 + at), flags, data)
    }

    fn ack(&self, port: u16) -> Packet {
        self.segment(port, 0, "A", b"")
    }

    fn datagram(&self, port: u16) -> Packet {
        Packet::udp(self.client(port), self.address(), b"question")
    }

    /// Which backend a frame goes to: 0 or 1.
    fn sent(&self, forwarder: &Forwarder, frame: &[u8]) -> usize {
        let Output { verdict, frame } = forwarder.run(frame).unwrap();
        assert_eq!(verdict, Verdict::Tx);
        let destination = if self.address().is_ipv4() {
            IpAddr::from(<[u8; 4]>::try_from(&frame[14 + 16..14 + 20]).unwrap())
        } else {
            IpAddr::from(<[u8; 16]>::try_from(&frame[14 + 24..14 + 40]).unwrap())
        };
        let is_destination = |address: &&str| address.parse() == Ok(destination);
        self.backends.iter().position(is_destination).unwrap()
    }

    /// Which backends these packets go to.
    fn all<const N: usize>(&self, forwarder: &Forwarder, packets: [Packet; N]) -> [usize; N] {
        packets.map(|packet| self.sent(forwarder, &packet.frame()))
    }
}

/// Packets that the flow table was asked for, by outcome.
fn outcomes(forwarder: &Forwarder) -> BTreeMap<&'static str, u64> {
    let counts = forwarder.dataplane().counters().unwrap().flow_packets.into_iter();
    counts.filter(|(_, count)| *count > 0).map(|(outcome, count)| (outcome.name(), count)).collect()
}

/// The established and the embryonic flows by the port of the client: id of the backend and state; of a flow with two
/// entries, those of the stream that a SYN opened.
fn tables(forwarder: &Forwarder) -> [BTreeMap<u16, (u32, FlowState)>; 2] {
    let mut entries: Vec<_> = forwarder.dataplane().flow_table().named().collect();
    entries.sort_by_key(|(_, entry)| entry.kind() == FlowKind::Opened);
    let mut tables = [BTreeMap::new(), BTreeMap::new()];
    for (key, entry) in entries {
        tables.iter_mut().for_each(|table| {
            table.remove(&key.source_port());
        });
        tables[Table::of(entry) as usize].insert(key.source_port(), (entry.backend(), entry.state()));
    }
    tables
}

/// Sweeps until the program does `what`.
fn sweep_until(forwarder: &mut Forwarder, what: impl Fn(&Forwarder) -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !what(forwarder) {
        assert!(Instant::now() < deadline, "not after a minute of sweeps");
        thread::sleep(Duration::from_millis(100));
        forwarder.sweep().unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn new_flows_go_to_the_current_owner_and_others_stay_with_the_settled_one() {
    use FlowState::{Open, Syn};
    for site in [SITE4, SITE6] {
        let forwarder = site.moved("");
        let (syn, ack) = (site.syn(1).frame(), site.ack(1).frame());
        assert_eq!([&syn, &syn].map(|frame| site.sent(&forwarder, frame)), [1, 1]);
        assert_eq!(tables(&forwarder), [BTreeMap::new(), [(1, (2, Syn))].into()]);
        assert_eq!([&ack, &ack].map(|frame| site.sent(&forwarder, frame)), [1, 1]);
        assert_eq!(tables(&forwarder), [[(1, (2, Open))].into(), BTreeMap::new()]);

        let tagged = |packet: Packet| packet.tagged(&[(0x88a8, 7), (0x8100, 9)]);
        let (ack, data) = (tagged(site.ack(2)), tagged(site.segment(2, 0, "A", &[1; 600])));
        assert_eq!([&ack, &data].map(|frame| site.sent(&forwarder, frame)), [0, 0]);
        assert_eq!(tables(&forwarder), [[(1, (2, Open)), (2, (1, Open))].into(), BTreeMap::new()]);
        // The end of a flow of which nothing is known needs no entry.
        assert_eq!(site.all(&forwarder, [site.segment(3, 0, "R", b"")]), [0]);
        let expected = [("opened", 1), ("repeated", 1), ("promoted", 2), ("known", 1), ("kept", 1), ("passed", 1)];
        assert_eq!(outcomes(&forwarder), expected.into());
    }
}

#[test]
#[ignore = "needs root"]
fn a_settled_slot_asks_no_flow_table() {
    let forwarder = Forwarder::new(&SITE4.config(["drain", "active"], "")).unwrap();
    let packets = [SITE4.syn(1), SITE4.ack(1), SITE4.datagram(2), SITE4.segment(3, 0, "FA", b"")];
    assert_eq!(SITE4.all(&forwarder, packets), [1; 4]);
    assert_eq!((outcomes(&forwarder).len(), tables(&forwarder)), (0, Default::default()));
}

#[test]
#[ignore = "needs root"]
fn flows_keep_their_backends_through_change_after_change() {
    let site = SITE4;
    let mut forwarder = site.moved("");
    assert_eq!(site.all(&forwarder, [site.syn(1), site.ack(1), site.ack(2)]), [1, 1, 0]);
    for (states, new) in [(["active", "drain"], 0), (["drain", "active"], 1), (["active", "drain"], 0)] {
        forwarder.apply(&site.config(states, "")).unwrap();
        assert_eq!(site.all(&forwarder, [site.ack(1), site.ack(2), site.syn(3 + new as u16)]), [1, 0, new]);
    }
    // Nobody takes new flows: those that there are go on.
    forwarder.apply(&site.config(["drain", "drain"], "")).unwrap();
    assert_eq!(site.all(&forwarder, [site.ack(1), site.ack(2)]), [1, 0]);
    assert_eq!(forwarder.run(&site.syn(9).frame()).unwrap().verdict, Verdict::Drop);
    assert_eq!(tables(&forwarder)[1].get(&9), None);
}

/// Only who sees the stream knows where it has come to.
#[test]
#[ignore = "needs root"]
fn a_flow_is_opened_anew_only_after_its_own_end() {
    let site = SITE4;
    let end = |port: u16, last: &[Packet], is_drained: bool| -> (FlowState, usize) {
        let mut forwarder = site.moved("");
        let open = [site.syn(port), site.ack(port), site.segment(port, 0, "A", &[1; 1400])];
        assert_eq!(site.all(&forwarder, open), [1, 1, 1]);
        for packet in last {
            assert_eq!(site.sent(&forwarder, &packet.frame()), 1);
        }
        let state = tables(&forwarder)[0][&port].1;
        let syn = || site.tcp(port, ISN.wrapping_add(1 << 30), "S", b"").frame();
        let sent = |forwarder: &Forwarder| (site.sent(forwarder, &syn()), tables(forwarder)[1].contains_key(&port));
        if is_drained && state != FlowState::Open {
            // The slot's old owner takes no flows: it may be gone.
            assert_eq!(sent(&forwarder), (1, true));
            return (state, 1);
        }
        if !is_drained {
            forwarder.apply(&site.config(["active", "active"], "")).unwrap();
        }
        // A SYN of another stream: it goes where flows without an entry belong, to the first backend, and opens nothing.
        assert_eq!(sent(&forwarder), (0, false));
        if state == FlowState::Open {
            return (state, 0);
        }
        // Once the end was not contradicted for a while it does.
        thread::sleep(Duration::from_nanos((u64::from(tracking::REUSED_AFTER) + 1) * Tick::NANOSECONDS));
        assert_eq!(sent(&forwarder), (0, true));
        (state, 1)
    };
    let (fin, rst) = (site.segment(1, 1400, "FA", b""), site.segment(1, 1400, "R", b""));
    let last = [vec![fin.clone(), site.segment(1, 1401, "A", b"")], vec![rst]];
    for is_drained in [true, false] {
        let ends = thread::scope(|scope| {
            let ends = last.each_ref().map(|last| scope.spawn(|| end(1, last, is_drained)));
            ends.map(|end| end.join().unwrap())
        });
        assert_eq!(ends, [(FlowState::Fin, 1), (FlowState::Rst, 1)]);
    }
    for forged in [1 << 16, 1 << 31, 0xffff_0000 - (1 << 16)] {
        for flags in ["R", "FA"] {
            let mut forwarder = site.moved("");
            site.all(&forwarder, [site.syn(1), site.ack(1), site.segment(1, 0, "A", &[1; 1400])]);
            site.all(&forwarder, [site.segment(1, 1400 + forged, flags, b"")]);
            assert_eq!(tables(&forwarder)[0][&1].1, FlowState::Open, "{flags} at {forged}");
            forwarder.apply(&site.config(["active", "drain"], "")).unwrap();
            assert_eq!(site.all(&forwarder, [site.segment(1, 1400, "A", b"")]), [1]);
        }
    }
    // It goes on after all.
    for is_drained in [true, false] {
        assert_eq!(end(1, &[fin.clone(), site.segment(1, 1400, "A", &[1; 1400])], is_drained), (FlowState::Open, 0));
    }
}

/// SYN with FIN or RST opens no connection: it goes where an unknown packet goes, is entered nowhere, moves nothing,
/// and is no new flow.
#[test]
#[ignore = "needs root"]
fn a_syn_that_contradicts_itself_is_no_new_flow() {
    for site in [SITE4, SITE6] {
        for keys in ["", "tracking = \"always\""] {
            let forwarder = site.moved(keys);
            let forged = ["SF", "SR", "SFR", "SFA"].map(|flags| site.tcp(1, ISN, flags, b""));
            assert_eq!(site.all(&forwarder, forged.clone()), [0; 4]);
            assert_eq!(tables(&forwarder), [BTreeMap::new(), BTreeMap::new()]);
            assert_eq!(outcomes(&forwarder), [("passed", 4)].into());

            let known = [site.syn(1), site.ack(1), site.segment(1, 0, "FA", b"")];
            assert_eq!(site.all(&forwarder, known), [1; 3]);
            let before = tables(&forwarder);
            assert_eq!(site.all(&forwarder, forged), [1; 4]);
            assert_eq!(tables(&forwarder), before);
            let counters = forwarder.dataplane().counters().unwrap();
            assert_eq!((counters.vips[0].counters.packets, counters.vips[0].counters.new_flows), (11, 1));
        }
    }
}

#[test]
#[ignore = "needs root"]
fn udp_flows_stay_until_the_idle_time_and_known_ones_for_good() {
    let site = SITE4;
    let mut forwarder = site.moved("udp_idle = \"1s\"");
    assert_eq!(site.all(&forwarder, [site.datagram(1), site.datagram(1)]), [0, 0]);
    let mut ports = 2..;
    let mut unknown = || site.datagram(ports.next().unwrap());
    assert_eq!(site.all(&forwarder, [unknown(), unknown()]), [0, 0]);
    let probes = AtomicUsize::new(1000);
    sweep_until(&mut forwarder, |forwarder| {
        assert_eq!(site.all(forwarder, [site.datagram(1)]), [0], "a flow that goes on");
        let probe = probes.fetch_add(1, Ordering::Relaxed) as u16;
        site.all(forwarder, [site.datagram(probe)]) == [1]
    });
    assert_eq!(site.all(&forwarder, [site.ack(1), site.ack(2)]), [0, 0], "TCP waits for its own idle time");
    // Once all of it has ended nothing is asked any more.
    let mut forwarder = site.moved("udp_idle = \"1s\"\ntcp_idle = \"1s\"");
    assert_eq!(site.all(&forwarder, [site.datagram(1), site.ack(2), site.syn(3)]), [0, 0, 1]);
    sweep_until(&mut forwarder, |forwarder| forwarder.usage().moving_slots == 0);
    assert_eq!(site.all(&forwarder, [site.datagram(1), site.ack(2)]), [1, 1]);
}

#[test]
#[ignore = "needs root"]
fn flows_of_a_backend_that_is_down_go_to_the_current_owner_at_once() {
    let site = SITE4;
    let mut forwarder = site.moved("");
    assert_eq!(site.all(&forwarder, [site.ack(1), site.ack(1), site.datagram(2)]), [0, 0, 0]);
    forwarder.apply(&site.config(["down", "active"], "")).unwrap();
    assert_eq!(site.all(&forwarder, [site.ack(1), site.datagram(2), site.ack(3), site.datagram(4)]), [1, 1, 1, 1]);
    // Who was silent meanwhile has lost nothing; who was not has been told.
    forwarder.apply(&site.config(["active", "drain"], "")).unwrap();
    assert_eq!(site.all(&forwarder, [site.ack(1), site.ack(5)]), [1, 0]);
    let expected = [("kept", 2), ("promoted", 1), ("rerouted", 3), ("opened", 1), ("known", 1), ("passed", 1)];
    assert_eq!(outcomes(&forwarder), expected.into());
}

#[test]
#[ignore = "needs root"]
fn a_vip_that_tracks_always_remembers_flows_of_settled_slots_and_one_that_never_does_none() {
    let site = SITE4;
    let keys = "tracking = \"always\"";
    let mut forwarder = Forwarder::new(&site.config(["active", "drain"], keys)).unwrap();
    assert_eq!(site.all(&forwarder, [site.syn(1), site.ack(1), site.ack(2), site.datagram(3)]), [0; 4]);
    assert_eq!(outcomes(&forwarder), [("opened", 2), ("promoted", 1), ("kept", 1)].into());
    // Even where every flow comes to another slot.
    forwarder.apply(&site.config(["drain", "active"], &format!("{keys}\nslots = 1021"))).unwrap();
    assert_eq!(site.all(&forwarder, [site.ack(1), site.ack(2), site.datagram(3), site.ack(4)]), [0, 0, 0, 1]);

    let forwarder = site.moved("tracking = \"never\"");
    assert_eq!(site.all(&forwarder, [site.syn(1), site.ack(2), site.datagram(3)]), [1; 3]);
    assert_eq!((outcomes(&forwarder).len(), tables(&forwarder)), (0, Default::default()));
}

/// What one CPU promotes is never in neither table to another: the packet would go to the settled owner.
#[test]
#[ignore = "needs root"]
fn two_cpus_may_have_packets_of_one_flow() {
    const ROUND: u16 = 5_000;
    /// Flows of which two packets were in the program at once, as far as the times of the calls tell.
    const MET: usize = 2_000;
    let site = SITE4;
    let deadline = Instant::now() + LIMIT;
    let mut met = 0;
    while met < MET {
        assert!(Instant::now() < deadline, "of {MET} pairs of packets {met} met: this machine shows nothing");
        let forwarder = site.moved("");
        for port in 1..=ROUND {
            forwarder.run(&site.syn(port).frame()).unwrap();
        }
        let acks: Vec<_> = (1..=ROUND).map(|port| site.ack(port).frame()).collect();
        let [one, other] = at_once(&acks, |ack| site.sent(&forwarder, ack));
        for (port, ((a, during_a), (b, during_b))) in (1..=ROUND).zip(one.into_iter().zip(other)) {
            assert_eq!((a, b), (1, 1), "port {port}: a packet was taken for one of an unknown flow");
            met += usize::from(during_a.start < during_b.end && during_b.start < during_a.end);
        }
        let flows = u64::from(ROUND);
        assert_eq!(outcomes(&forwarder), [("opened", flows), ("promoted", flows), ("known", flows)].into());
    }
}

/// As many flows as the table is made for, of clients as they come: hardly one finds its group full.
#[test]
#[ignore = "needs root"]
fn a_table_with_all_the_flows_that_it_is_made_for_refuses_less_than_one_in_ten_thousand() {
    const FLOWS: u32 = 1 << 18;
    let config = SITE4.config(["active", "drain"], "tracking = \"always\"");
    let node = format!("[node]\ninterfaces = []\nmax_flows = {FLOWS}\n\n");
    let forwarder = Forwarder::new(&(node + &config)).unwrap();
    let mut frame = SITE4.syn(1).frame();
    for flow in 0..FLOWS {
        // Address and port of the client: nothing else of the packet is looked at that its checksums are of.
        let (address, port) = (0x0a00_0000 + flow / 64, 1024 + (flow % 64) as u16);
        frame[14 + 12..14 + 16].copy_from_slice(&address.to_be_bytes());
        frame[14 + 20..14 + 22].copy_from_slice(&port.to_be_bytes());
        forwarder.run(&frame).unwrap();
    }
    let outcomes = outcomes(&forwarder);
    let refused = outcomes.get("table_full").copied().unwrap_or(0);
    eprintln!("of {FLOWS} flows {refused} found no room");
    assert_eq!(outcomes["opened"] + refused, u64::from(FLOWS), "{outcomes:?}");
    assert!(refused * 10_000 < u64::from(FLOWS), "{refused} of {FLOWS}");
    assert_eq!(forwarder.dataplane().flow_table().entries().count() as u64, outcomes["opened"]);
}

/// For a minute, packets of more flows than one group of places has room for, on two CPUs, beside sweeps that take out
/// what has ended: no flow ever follows another one's entry.
#[test]
#[ignore = "needs root"]
fn flows_of_one_group_keep_apart_on_two_cpus() {
    const FLOWS: usize = 60;
    const TIME: Duration = Duration::from_secs(60);
    let site = SITE4;
    let mut forwarder = site.moved("tcp_idle = \"1s\"");
    let table = forwarder.dataplane().flow_table();
    // Those of even numbers begin with a SYN, and may be with either backend: what finds no room is with the first. The
    // others are from before the change, and with the first one whatever happens.
    let mut flows = Vec::new();
    'found: for client in (0..).map(|host| IpAddr::from(Ipv4Addr::from_bits(0xc612_0000 + host))) {
        for port in 1024..=u16::MAX {
            let ports = u32::from_be_bytes([(port >> 8) as u8, port as u8, 0, 80]).to_be();
            if table.home(&FlowKey::new(client.into(), ports, 1, 6)).0 == 0 {
                flows.push(SocketAddr::new(client, port));
                if flows.len() == FLOWS {
                    break 'found;
                }
            }
        }
    }
    let packets: Vec<[Vec<u8>; 4]> = flows
        .iter()
        .map(|client| {
            let segment = |sequence: u32, syn: bool, fin: bool| {
                let set = |tcp: &mut TcpHeader| {
                    (tcp.sequence_number, tcp.syn, tcp.ack, tcp.fin) = (sequence, syn, !syn, fin);
                };
                Packet::tcp(*client, site.address(), set, b"").frame()
            };
            [(ISN, true, false), (ISN + 1, false, false), (ISN + 1, false, false), (ISN + 1, false, true)]
                .map(|(sequence, syn, fin)| segment(sequence, syn, fin))
        })
        .collect();
    let ends = Instant::now() + TIME;
    let run = |program: Xdp, seed: usize| {
        let (mut random, mut counts) = (seed, [0u64; 2]);
        while Instant::now() < ends {
            for _ in 0..1000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let flow = (random >> 33) % FLOWS;
                let what = (random >> 50) % 4;
                // Of the others no SYN.
                let frame = &packets[flow][if flow.is_multiple_of(2) { what } else { what.max(1) }];
                let Output { verdict, frame } = forwarder::run(&program, frame).unwrap();
                assert_eq!(verdict, Verdict::Tx);
                let backend = usize::from(frame[14 + 19] - 11);
                assert!(flow.is_multiple_of(2) || backend == 0, "flow {flow} is from before the change");
                counts[backend] += 1;
            }
        }
        counts
    };
    let programs = [(); 2].map(|()| forwarder.another().unwrap());
    let counts = thread::scope(|scope| {
        let mut seed = 0;
        let threads = programs.map(|program| {
            seed += 1;
            scope.spawn(move || run(program, seed))
        });
        let mut sweeps = 0;
        while Instant::now() < ends {
            forwarder.admit_all();
            forwarder.sweep().unwrap();
            sweeps += 1;
            for (key, entry) in table.named() {
                let client = SocketAddr::new(key.source.into(), key.source_port());
                let flow = flows.iter().position(|flow| *flow == client).expect("one of them");
                let is_opened = entry.kind() == FlowKind::Opened;
                assert!(!is_opened || flow.is_multiple_of(2), "flow {flow} has {entry:?}");
                assert_eq!(entry.backend(), if is_opened { 2 } else { 1 }, "flow {flow} has {entry:?}");
            }
        }
        (threads.map(|thread| thread.join().unwrap()), sweeps)
    });
    eprintln!("packets to either backend on two CPUs, and sweeps: {counts:?}");
    let outcomes = outcomes(&forwarder);
    assert!(outcomes["table_full"] > 0 && outcomes["opened"] > 0 && outcomes["kept"] > 0, "{outcomes:?}");
}

/// What `work` makes of each frame, and when, on two threads that wait for each other before each.
fn at_once<R: Send>(frames: &[Vec<u8>], work: impl Fn(&[u8]) -> R + Sync) -> [Vec<(R, Range<Instant>)>; 2] {
    let arrived = AtomicUsize::new(0);
    let each = || {
        let mut results = Vec::new();
        for (number, frame) in frames.iter().enumerate() {
            arrived.fetch_add(1, Ordering::SeqCst);
            meet(|| arrived.load(Ordering::SeqCst) >= 2 * (number + 1));
            let began = Instant::now();
            let result = work(frame);
            results.push((result, began..Instant::now()));
        }
        results
    };
    thread::scope(|scope| [0, 1].map(|_| scope.spawn(each)).map(|thread| thread.join().unwrap()))
}

/// Waits as closely as can be, since what is to meet takes a microsecond; lets others run where there is only one CPU;
/// gives up where the other side has ended.
fn meet(is_there: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    for turn in 0_u64.. {
        if is_there() {
            return;
        }
        if turn % 10_000 == 9_999 {
            assert!(Instant::now() < deadline, "the other side has ended");
            thread::yield_now();
        }
        std::hint::spin_loop();
    }
}
