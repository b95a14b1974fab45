//! Nanoseconds per packet, by BPF_PROG_TEST_RUN.
//!
//! The kernel does not restore a packet between the repetitions of one call, so a small entry program does: it takes
//! off what the last repetition put on, writes the headers of the next packet, and calls the program under test by tail
//! call. The same entry with a target that does nothing is subtracted. Floors are targets that do the least that a
//! forwarder must do to the bytes of the packet: put a constant header in front, or rewrite the Ethernet addresses. Some
//! read or write a line of a large table besides, as whatever looks something up must.

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf,
    maps::ProgramArray,
    programs::{ProgramFd, TestRun, TestRunOptions, Xdp},
};
use clap::Args;
use lb_userspace::model::Vip;
use naru_tests::forwarder::next_hop;
use serde::Serialize;

use crate::{
    against::{self, Run},
    balancer::{Balancer, IPIP_4IN4, Mode, STATES, State},
    floor::{ENCAPSULATE4, ENCAPSULATE6, Floor, NOTHING, REWRITE, WITH_A_LINE, available_memory},
    sample::{Sample, Summary, machine, stay_on_this_cpu},
    table::table,
    traffic::{Flows, Kind, Order, Traffic, family},
};

/// What the bench takes.
#[derive(Args, Debug)]
pub struct Options {
    /// Repetitions in one measurement [default: 1000000, with `--against` 300000]
    #[arg(long)]
    repeat: Option<u32>,
    /// Rounds; in each of them every case is measured once [default: 7, with `--against` 5]
    #[arg(long)]
    rounds: Option<u32>,
    /// Measure only cases whose first six columns contain this, such as "ipip 4in4 adaptive" or "ACK 1 Mi"
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    against: against::Options,
}

const IPIP_6IN6: Mode = Mode { name: "ipip 6in6", ipv6_vip: true, ipv6_backend: true, ..IPIP_4IN4 };
/// Measured in all states and with all packets.
const WHOLE: [Mode; 2] = [IPIP_4IN4, IPIP_6IN6];
/// Measured in the first state, with the packets of `FEW`.
const OTHERS: [Mode; 4] = [
    Mode { name: "ipip 6in4", ipv6_vip: true, ..IPIP_4IN4 },
    Mode { name: "ipip 4in6", ipv6_backend: true, ..IPIP_4IN4 },
    Mode { name: "l2 IPv4", forward: "l2", ..IPIP_4IN4 },
    Mode { name: "l2 IPv6", forward: "l2", ..IPIP_6IN6 },
];
/// Of packets for no VIP. Measured in the first state.
const NONE: [Mode; 2] =
    [Mode { name: "no VIP IPv4", passes: true, ..IPIP_4IN4 }, Mode { name: "no VIP IPv6", passes: true, ..IPIP_6IN6 }];
/// Whose backends are probed: clients' packets may be probes that came back. Measured in the first state, with the packets
/// of one flow; beside each what it is compared with.
const PROBED: [(Mode, Mode); 4] = [
    (Mode { name: "ipip 4in4, probed", probes: true, ..IPIP_4IN4 }, IPIP_4IN4),
    (Mode { name: "ipip 6in6, probed", probes: true, ..IPIP_6IN6 }, IPIP_6IN6),
    (Mode { name: "no VIP IPv4, probed", probes: true, ..NONE[0] }, NONE[0]),
    (Mode { name: "no VIP IPv6, probed", probes: true, ..NONE[1] }, NONE[1]),
];
/// One of [`VIPS`](crate::traffic::VIPS), beside VIPs of all other modes. Measured in two states.
const MANY: [(Mode, Mode); 3] = [
    (Mode { name: "many 4in4", many: Some(Vip::DEFAULT_SLOTS), ..IPIP_4IN4 }, IPIP_4IN4),
    (Mode { name: "many 4in4, 1021 slots", many: Some(1_021), ..IPIP_4IN4 }, IPIP_4IN4),
    (Mode { name: "many 6in6", many: Some(Vip::DEFAULT_SLOTS), ..IPIP_6IN6 }, IPIP_6IN6),
];
const STATES_OF_MANY: [State; 2] = [STATES[0], STATES[2]];
const ZIPF: (Kind, Flows) = (Kind::Ack, Flows::Zipf);

const ALL: [(Kind, Flows); 10] = [
    BASE,
    (Kind::Ack, Flows::Bits(10)),
    (Kind::Ack, Flows::Bits(16)),
    (Kind::Ack, Flows::Bits(20)),
    (Kind::Syn, Flows::Bits(0)),
    (Kind::Syn, Flows::New),
    (Kind::Short, Flows::Bits(16)),
    (Kind::Udp, Flows::Bits(0)),
    (Kind::Udp, Flows::Bits(16)),
    (Kind::Udp, Flows::New),
];
const FEW: [(Kind, Flows); 2] = [BASE, (Kind::Ack, Flows::Bits(20))];
/// Of floors that have a line of a table.
const OF_LINES: (Kind, Flows) = (Kind::Ack, Flows::Bits(20));
/// In the first state: what the other lines of the same mode are compared with.
const BASE: (Kind, Flows) = (Kind::Ack, Flows::Bits(0));

/// What is put beside another build's figures unless something else is asked for.
const PLAIN: &str = "adaptive settled";

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Floor(Floor),
    Balancer(Mode, State),
}

/// A program under test, ready to run.
struct Case {
    subject: Subject,
    traffic: Traffic,
    entry: Ebpf,
    frame: Vec<u8>,
    /// Packets that the program has seen.
    seen: u64,
    sample: Sample,
}

/// A line of the report. Times are nanoseconds per packet without those of the entry program.
#[derive(Debug, Serialize)]
struct Row {
    program: &'static str,
    /// Of a load balancer.
    state: Option<State>,
    family: &'static str,
    packets: String,
    /// Absent where every packet is of a new flow.
    flows: Option<u32>,
    time: Summary,
    /// With those of the entry program, as measured.
    total: Summary,
    floor: Option<&'static str>,
    /// Beyond the floor, on the same packets.
    over_floor: Option<Summary>,
    /// As a multiple of the first line of the same mode, with one VIP.
    against_first: Option<Summary>,
    #[serde(skip)]
    cells: [String; 6],
}

/// Measures and reports.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(other) = &options.against.against {
        let repeat = options.repeat.unwrap_or(300_000);
        let each = || WHOLE.iter().chain(&OTHERS).map(|mode| format!("{} {PLAIN}", mode.name)).collect();
        let only = options.only.clone().map_or_else(each, |only| vec![only]);
        let run = Run { repeat, rounds: options.rounds.unwrap_or(5), only: &only };
        return against::run(other, &options.against, &run, options.json);
    }
    let repeat = options.repeat.unwrap_or(1_000_000);
    let rounds = options.rounds.unwrap_or(7);
    stay_on_this_cpu()?;
    let subjects = subjects(options.only.as_deref());
    ensure!(!subjects.is_empty(), "no case has {:?} in its first six columns", options.only);
    let balancers = balancers(&subjects)?;
    let (mut cases, mut left_out) = (Vec::new(), Vec::new());
    for (subject, traffic) in subjects {
        match subject.shortage()? {
            Some(shortage) => left_out.push(format!("NOT MEASURED: {}: {shortage}", subject.name())),
            None => cases.push(Case::new(subject, traffic, &balancers)?),
        }
    }
    eprintln!("{} cases, {rounds} rounds of {repeat} packets each …", cases.len());
    for case in &mut cases {
        case.introduce_flows(&balancers)?;
    }
    for round in 0..rounds as usize {
        let len = cases.len();
        for index in 0..len {
            // Another case begins each round, so that none is always the one behind a certain other.
            let case = &mut cases[(index + round) % len];
            // The caches are still full of what the case before needed.
            case.measure(repeat / 16)?;
            let nanoseconds = case.measure(repeat)?;
            case.sample.add(nanoseconds);
            case.forget_new_flows(&balancers);
        }
    }
    for balancer in &balancers {
        let mine = cases.iter().filter(|case| case.subject == Subject::Balancer(balancer.mode, balancer.state));
        balancer.check(mine.map(|case| (case.traffic, case.seen)))?;
    }
    let rows: Vec<Row> = cases.iter().map(|case| row(case, &cases)).collect();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print(&rows, rounds, repeat);
    }
    for line in left_out {
        eprintln!("{line}");
    }
    Ok(())
}

/// What is to be measured: load balancers and floors with a line of a table as asked for, what their lines are compared
/// with, and the other floors, which come first.
fn subjects(only: Option<&str>) -> Vec<(Subject, Traffic)> {
    let whole = WHOLE.into_iter().flat_map(|mode| STATES.map(|state| (mode, state, &ALL[..])));
    let others = OTHERS.into_iter().map(|mode| (mode, STATES[0], &FEW[..]));
    let probed = PROBED.into_iter().map(|(mode, _)| (mode, STATES[0], &[BASE][..]));
    let none = NONE.into_iter().map(|mode| (mode, STATES[0], &[BASE][..]));
    let many = MANY.into_iter().flat_map(|(mode, _)| STATES_OF_MANY.map(|state| (mode, state, &[ZIPF][..])));
    let (kind, flows) = OF_LINES;
    let lines = WITH_A_LINE.map(|floor| (Subject::Floor(floor), Traffic { kind, flows, ipv6: false }));
    let balancers = whole.chain(others).chain(none).chain(probed).chain(many).flat_map(|(mode, state, packets)| {
        let traffic = move |(kind, flows): &(Kind, Flows)| Traffic { kind: *kind, flows: *flows, ipv6: mode.ipv6_vip };
        packets.iter().map(move |packets| (Subject::Balancer(mode, state), traffic(packets)))
    });
    let all: Vec<_> = lines.into_iter().chain(balancers).collect();
    let is_asked_for = |(subject, traffic): &(Subject, Traffic)| {
        only.is_none_or(|only| cells(*subject, *traffic).join(" ").contains(only))
    };
    let modes: Vec<_> = all.iter().filter(|case| is_asked_for(case)).map(|(subject, _)| subject.first()).collect();
    let is_first = |(subject, Traffic { kind, flows, .. }): &(Subject, Traffic)| {
        (*kind, *flows) == BASE && subject.first() == Some(*subject) && modes.contains(&Some(*subject))
    };
    let wanted: Vec<_> = all.into_iter().filter(|case| is_asked_for(case) || is_first(case)).collect();
    let mut subjects = Vec::new();
    for floor in [NOTHING, ENCAPSULATE4, ENCAPSULATE6, REWRITE] {
        for (subject, traffic) in &wanted {
            let case = (Subject::Floor(floor), *traffic);
            if (floor == NOTHING || subject.floor() == Some(floor)) && !subjects.contains(&case) {
                subjects.push(case);
            }
        }
    }
    subjects.extend(wanted);
    subjects
}

/// The load balancers among the subjects.
fn balancers(subjects: &[(Subject, Traffic)]) -> anyhow::Result<Vec<Balancer>> {
    let mut balancers: Vec<Balancer> = Vec::new();
    for (subject, _) in subjects {
        if let Subject::Balancer(mode, state) = *subject
            && !balancers.iter().any(|balancer| balancer.is(mode, state))
        {
            balancers.push(Balancer::new(mode, state, next_hop())?);
        }
    }
    Ok(balancers)
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Floor(floor) => floor.name,
            Self::Balancer(mode, _) => mode.name,
        }
    }

    fn state(self) -> Option<State> {
        match self {
            Self::Floor(_) => None,
            Self::Balancer(_, state) => Some(state),
        }
    }

    /// What becomes of packets.
    fn verdict(self) -> u32 {
        if matches!(self, Self::Balancer(Mode { passes: true, .. }, _)) { XDP_PASS } else { XDP_TX }
    }

    /// Why there is no room for its table, where there is none.
    fn shortage(self) -> anyhow::Result<Option<String>> {
        match self {
            Self::Floor(floor) => Ok(floor.shortage(available_memory()?)),
            Self::Balancer(..) => Ok(None),
        }
    }

    /// The least that the forward mode must do; none where nothing is forwarded. Of a floor with a line of a table, the
    /// one without.
    fn floor(self) -> Option<Floor> {
        let mode = match self {
            Self::Floor(floor) => return floor.lines.map(|_| ENCAPSULATE4),
            Self::Balancer(mode, _) => mode,
        };
        if mode.passes {
            return None;
        }
        Some(match mode {
            Mode { forward: "l2", .. } => REWRITE,
            Mode { ipv6_backend: true, .. } => ENCAPSULATE6,
            _ => ENCAPSULATE4,
        })
    }

    /// What its lines are compared with: the mode's first line, with one VIP.
    fn first(self) -> Option<Self> {
        match self {
            Self::Floor(_) => None,
            Self::Balancer(mode, _) => {
                let one = MANY.into_iter().chain(PROBED).find(|(other, _)| *other == mode).map_or(mode, |(_, one)| one);
                Some(Self::Balancer(one, STATES[0]))
            }
        }
    }
}

impl Case {
    fn new(subject: Subject, traffic: Traffic, balancers: &[Balancer]) -> anyhow::Result<Self> {
        let entry = entry(subject, traffic, Order::Rounds, balancers)?;
        Ok(Self { subject, traffic, entry, frame: traffic.frame(), seen: 0, sample: Sample::default() })
    }

    /// Lets the load balancer see every flow, so that what it remembers of flows it remembers when the measurement
    /// begins.
    fn introduce_flows(&mut self, balancers: &[Balancer]) -> anyhow::Result<()> {
        if let Subject::Floor(_) = self.subject {
            // It remembers none.
            return Ok(());
        }
        let packets = self.traffic.introduction();
        if self.traffic.flows == Flows::New {
            self.measure(packets)?;
            self.forget_new_flows(balancers);
            return Ok(());
        }
        let introduction = entry(self.subject, self.traffic, Order::Introduction, balancers)?;
        let rounds = std::mem::replace(&mut self.entry, introduction);
        self.measure(packets)?;
        self.entry = rounds;
        Ok(())
    }

    /// Lets the load balancer forget flows that came anew.
    fn forget_new_flows(&self, balancers: &[Balancer]) {
        if let (Flows::New, Subject::Balancer(mode, state)) = (self.traffic.flows, self.subject)
            && let Some(balancer) = balancers.iter().find(|balancer| balancer.is(mode, state))
        {
            balancer.forget_embryos(self.traffic);
        }
    }

    /// Nanoseconds per repetition, those of the entry program included; the kernel tells whole ones.
    fn measure(&mut self, repeat: u32) -> anyhow::Result<f64> {
        let program: &mut Xdp = self.entry.program_mut("bench_entry").context("no bench_entry")?.try_into()?;
        let mut out = vec![0; self.frame.len() + 256];
        let result = program.test_run(TestRunOptions {
            data_in: Some(&self.frame),
            data_out: Some(&mut out),
            repeat,
            ..TestRunOptions::new()
        })?;
        let verdict = result.return_value;
        ensure!(
            verdict == self.subject.verdict(),
            "{}: the last packet's verdict was {verdict}",
            self.cells().join(" ")
        );
        self.seen += u64::from(repeat);
        Ok(result.duration.as_nanos() as f64)
    }

    fn cells(&self) -> [String; 6] {
        cells(self.subject, self.traffic)
    }
}

/// The first columns of a case's line.
fn cells(subject: Subject, Traffic { kind, flows, ipv6 }: Traffic) -> [String; 6] {
    let (tracking, slots) =
        subject.state().map_or_else(Default::default, |state| (state.tracking.to_string(), state.slots().to_owned()));
    [subject.name().to_owned(), tracking, slots, family(ipv6).to_owned(), kind.to_string(), flows.to_string()]
}

/// The entry program for this traffic, calling the subject.
fn entry(subject: Subject, traffic: Traffic, order: Order, balancers: &[Balancer]) -> anyhow::Result<Ebpf> {
    let lines = if let Subject::Floor(Floor { lines, .. }) = subject { lines } else { None };
    let mut entry = traffic.load(order, 0, lines.unwrap_or(1))?;
    load(&mut entry, "bench_entry")?;
    let target = match subject {
        Subject::Floor(floor) => load(&mut entry, floor.program)?.try_clone()?,
        Subject::Balancer(mode, state) => {
            let balancer = balancers.iter().find(|balancer| balancer.is(mode, state));
            balancer.expect("every load balancer was made").forwarder.program()?.try_clone()?
        }
    };
    let mut targets: ProgramArray<_> = entry.map_mut("TARGET").context("no map TARGET")?.try_into()?;
    targets.set(0, &target, 0)?;
    Ok(entry)
}

fn load<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a ProgramFd> {
    let program: &mut Xdp = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    program.load().with_context(|| format!("{name} does not load"))?;
    Ok(program.fd()?)
}

fn row(case: &Case, cases: &[Case]) -> Row {
    let find = |subject, traffic| cases.iter().find(|case| (case.subject, case.traffic) == (subject, traffic));
    let net = |case: &Case| {
        let nothing = find(Subject::Floor(NOTHING), case.traffic).expect("every packet is sent to nothing, too");
        case.sample.less(&nothing.sample)
    };
    let floor = case.subject.floor();
    let over_floor = floor.map(|floor| {
        let floor = find(Subject::Floor(floor), case.traffic).expect("every case has its floor");
        case.sample.less(&floor.sample).summary()
    });
    let (kind, flows) = BASE;
    let first = case.subject.first().and_then(|first| find(first, Traffic { kind, flows, ..case.traffic }));
    Row {
        program: case.subject.name(),
        state: case.subject.state(),
        family: family(case.traffic.ipv6),
        packets: case.traffic.kind.to_string(),
        flows: case.traffic.flows.number(),
        time: net(case).summary(),
        total: case.sample.summary(),
        floor: floor.map(|floor| floor.name),
        over_floor,
        against_first: first.map(|first| net(case).times(&net(first)).summary()),
        cells: case.cells(),
    }
}

fn print(rows: &[Row], rounds: u32, repeat: u32) {
    let mut table = table(
        [
            "PROGRAM",
            "TRACKING",
            "SLOTS",
            "PACKETS",
            "",
            "FLOWS",
            "TOTAL",
            "NS/PACKET",
            "QUARTILES",
            "OVER FLOOR",
            "TIMES",
        ],
        5,
    );
    for row in rows.iter().filter(|row| row.program != NOTHING.name) {
        let Row { cells, time, total, over_floor, against_first, .. } = row;
        table.add_row(cells.iter().cloned().chain([
            format!("{:.0}", total.median),
            format!("{:.0}", time.median),
            format!("{:.0}–{:.0}", time.low, time.high),
            over_floor.map_or_else(String::new, |over| format!("+{:.0}", over.median)),
            against_first.map_or_else(String::new, |times| format!("{:.2}", times.median)),
        ]));
    }
    println!("{table}");
    println!(
        "\nMedians of {rounds} interleaved rounds of {repeat} packets on one core.\n\
         NS/PACKET: TOTAL without the entry program, which is what it takes when nothing is done to the packet.\n\
         OVER FLOOR: beyond the bare encapsulation or rewrite that the program contains, on the same packets.\n\
         A LINE: besides the encapsulation, one cache line, chosen by flow, of a table of so many MiB.\n\
         TIMES: NS/PACKET as a multiple of the mode's {}, {}, {} flow.\n\
         Machine: {}",
        STATES[0],
        BASE.0,
        BASE.1,
        machine()
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aya::maps::Array;

    use super::*;

    const LINES: u32 = 1 << 12;
    const TRAFFIC: Traffic = Traffic { kind: Kind::Ack, flows: Flows::Bits(10), ipv6: false };

    fn case(program: &str) -> Case {
        let floor = WITH_A_LINE.into_iter().find(|floor| floor.program == program).unwrap();
        let floor = Floor { lines: Some(LINES), ..floor };
        Case::new(Subject::Floor(floor), TRAFFIC, &[]).unwrap()
    }

    fn lines(case: &mut Case) -> Array<&mut aya::maps::MapData, [u32; 16]> {
        case.entry.map_mut("LINES").unwrap().try_into().unwrap()
    }

    /// The lines that a packet of each flow writes to.
    fn written() -> BTreeSet<u32> {
        let mut case = case("bench_encapsulate4_writing");
        case.measure(1 << 10).unwrap();
        let lines = lines(&mut case);
        (0..LINES).filter(|index| lines.get(index, 0).unwrap() != [0; 16]).collect()
    }

    /// The lines whose numbers, which they hold, come out in the outer destinations of a packet of each flow.
    fn read() -> BTreeSet<u32> {
        let mut case = case("bench_encapsulate4_reading");
        for index in 0..LINES {
            lines(&mut case).set(index, [index; 16], 0).unwrap();
        }
        let program: &mut Xdp = case.entry.program_mut("bench_entry").unwrap().try_into().unwrap();
        let line = || {
            let mut out = vec![0; case.frame.len() + 20];
            let frames = TestRunOptions { data_in: Some(&case.frame), data_out: Some(&mut out), ..Default::default() };
            assert_eq!(program.test_run(frames).unwrap().return_value, XDP_TX);
            let words = [26, 30].map(|offset| u32::from_ne_bytes(out[offset..offset + 4].try_into().unwrap()));
            words[0] ^ words[1]
        };
        (0..1 << 10).map(|_| line()).collect()
    }

    #[test]
    #[ignore = "needs root"]
    fn floors_read_and_write_a_line_of_each_flow() {
        stay_on_this_cpu().unwrap();
        let written = written();
        // By chance, 906 lines of 4096 have one of 1024 flows or more.
        assert!((850..960).contains(&written.len()), "{} lines", written.len());
        assert_eq!(read(), written);
    }
}
