//! Threads that find, claim, follow and close entries of one group of places, and one that sweeps it, in whichever order
//! they come to run: no flow ever follows another one's entry, and no place is lost.
//!
//! This is the code that the program and the daemon run, over memory whose every access is a point at which the scheduler
//! may go on with another thread (shuttle; Burckhardt et al., "A randomized scheduler with probabilistic guarantees of
//! finding bugs", ASPLOS 2010). It tries orders at random for as long as is said below. Every access is sequentially
//! consistent here; that the order of accesses which `Line` asks for suffices elsewhere, `lb_common::flow_table` says.

use std::{
    env,
    time::{Duration, Instant},
};

use lb_common::{FlowEntry, FlowKind, FlowLine, FlowParts, FlowPlace, Position, Progress, Tick};
use lb_ebpf::rules::flow_table::{At, Found, Group, Line, Placed, Swept, claim, find, free, remove, unpassed};
use shuttle::{
    rand::{Rng as _, thread_rng},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

/// For how long, unless `NARU_INTERLEAVE_SECONDS` says otherwise.
const LIMIT: Duration = Duration::from_secs(60);
/// Threads that do what packets do, beside the one that sweeps.
const CPUS: usize = 7;
/// Packets of each in one run.
const PACKETS: usize = 16;
/// Flows: more than places, and most of one line.
const FLOWS: u32 = 50;

#[derive(Default)]
struct Cells {
    tags: [AtomicU32; FlowLine::PLACES],
    spilled: AtomicU32,
    entries: [AtomicU64; FlowLine::PLACES],
    /// Whose entry is there: the flow's number.
    names: [AtomicU32; FlowLine::PLACES],
}

/// A group, and who is on his way through it.
#[derive(Default)]
struct Table {
    lines: [Cells; FlowLine::A_GROUP],
    /// By CPU: odd while a packet is under way.
    packets: [AtomicU64; CPUS],
    has_ended: AtomicBool,
}

/// Now and then a CPU is held up, for about as long as a few sweeps take: by an interrupt, or by the host of a virtual
/// machine. Orders of single steps drawn at random have no such pauses.
fn pause() {
    pause_once_in(200);
}

fn pause_once_in(times: u32) {
    if thread_rng().gen_range(0..times) == 0 {
        (0..thread_rng().gen_range(0..400u32)).for_each(|_| thread::yield_now());
    }
}

impl Line for &Cells {
    fn tag(&self, number: u32) -> u32 {
        pause();
        self.tags[number as usize].load(SeqCst)
    }

    fn entry(&self, number: u32) -> FlowEntry {
        pause();
        FlowEntry::from_bits(self.entries[number as usize].load(SeqCst))
    }

    fn swap(&self, number: u32, from: FlowEntry, to: FlowEntry) -> bool {
        pause();
        self.entries[number as usize].compare_exchange(from.to_bits(), to.to_bits(), SeqCst, SeqCst).is_ok()
    }

    fn publish(&self, number: u32, tag: u32) {
        pause();
        self.tags[number as usize].store(tag, SeqCst);
    }

    fn spilled(&self) -> u32 {
        pause();
        self.spilled.load(SeqCst)
    }

    fn spill(&self) {
        self.spilled.fetch_add(1, SeqCst);
        // Few packets come here: each is to show what it can.
        pause_once_in(3);
    }
}

impl Swept for &Cells {
    fn clear_spilled(&self, count: u32) {
        let _ = self.spilled.compare_exchange(count, 0, SeqCst, SeqCst);
    }
}

impl<'a> Group for &'a Table {
    type Line = &'a Cells;

    fn line(&self, number: u32) -> &'a Cells {
        &self.lines[number as usize]
    }
}

/// The tag of a flow, and its home line.
const fn of(flow: u32) -> (u32, u32) {
    // Two of three share one line, which is full soon.
    (flow + 1, if flow.is_multiple_of(3) { flow / 3 % FlowLine::A_GROUP as u32 } else { 6 })
}

/// An entry of that flow: its backend has the flow's number, one more, for an entry always has a backend.
fn entry_of(flow: u32, kind: FlowKind) -> FlowEntry {
    let (progress, seen, next) = (Progress::Once, Tick(0), Position::of(0));
    FlowParts { backend: flow + 1, kind, progress, seen, next, level: 0, jumped: false }.pack()
}

impl Table {
    /// One packet of a flow: it follows its entry, closes it, or enters the flow.
    fn packet(&self, cpu: usize) {
        self.packets[cpu].fetch_add(1, SeqCst);
        let flow = thread_rng().gen_range(0..FLOWS);
        let kind = if thread_rng().gen_range(0..2u32) == 0 { FlowKind::Opened } else { FlowKind::Kept };
        let (tag, home) = of(flow);
        let Found { opened, kept } = find(&self, home, tag, |_| true);
        for At { place, entry } in [opened, kept] {
            assert!(!place.is_some() || entry.backend() == flow + 1, "flow {flow} follows {entry:?}");
        }
        let At { place, entry } = if kind == FlowKind::Opened { opened } else { kept };
        if place.is_some() {
            let parts = entry.parts();
            let progress = if thread_rng().gen_range(0..3u32) == 0 { Progress::Fin } else { Progress::Open };
            let followed = FlowParts { progress, seen: Tick(parts.seen.0.wrapping_add(1)), ..parts }.pack();
            let _ = self.line_at(place).swap(place.number(), entry, followed);
        } else {
            let place = claim(&self, home, entry_of(flow, kind));
            if place.is_some() {
                self.lines[place.line() as usize].names[place.number() as usize].store(flow, SeqCst);
                self.line_at(place).publish(place.number(), tag);
            }
        }
        self.packets[cpu].fetch_add(1, SeqCst);
    }

    fn line_at(&self, place: FlowPlace) -> &Cells {
        &self.lines[place.line() as usize]
    }

    fn name(&self, place: FlowPlace) -> u32 {
        self.line_at(place).names[place.number() as usize].load(SeqCst)
    }

    /// Every packet that is under way leaves.
    fn grace(&self) {
        for packet in &self.packets {
            let now = packet.load(SeqCst);
            while now % 2 == 1 && packet.load(SeqCst) == now {
                thread::yield_now();
            }
        }
    }

    /// A sweep as the daemon makes it: what has ended goes, or all; `spilled` is what the one before found.
    fn sweep(&self, all: bool, spilled: &mut [u32; FlowLine::A_GROUP]) {
        self.grace();
        for place in FlowPlace::all() {
            let (line, number) = (self.line_at(place), place.number());
            match Placed::at(&line, number) {
                Some(Placed::Gone) => free(&line, number),
                Some(Placed::Entry(entry)) => {
                    assert_eq!(self.name(place) + 1, entry.backend(), "an entry has another flow's name");
                    if all || entry.progress() == Progress::Fin {
                        let _ = remove(&line, number, entry);
                    }
                }
                Some(Placed::Claimed(_)) | None => {}
            }
        }
        let found = unpassed(&self, |place| of(self.name(place)).1);
        for ((number, count), before) in (0..).zip(found).zip(spilled.iter_mut()) {
            let is_unpassed = count > 0 && *before == count;
            if is_unpassed {
                self.line(number).clear_spilled(count);
            }
            // What is counted from now on is new, as many as it may be.
            *before = if is_unpassed { 0 } else { count };
        }
    }

    /// Every entry that is there is found.
    fn assert_whole(&self) {
        for place in FlowPlace::all() {
            if let Some(Placed::Entry(entry)) = Placed::at(&self.line_at(place), place.number()) {
                let (tag, home) = of(self.name(place));
                let Found { opened, kept } = find(&self, home, tag, |_| true);
                let at = if entry.kind() == FlowKind::Opened { opened } else { kept };
                assert!(at.place.is_some(), "{entry:?} is at {place:?} and is not found");
            }
        }
    }
}

fn interleave() {
    let table = Arc::new(Table::default());
    let packets: Vec<_> = (0..CPUS)
        .map(|cpu| {
            let table = Arc::clone(&table);
            thread::spawn(move || (0..PACKETS).for_each(|_| table.packet(cpu)))
        })
        .collect();
    let sweeper = {
        let table = Arc::clone(&table);
        thread::spawn(move || {
            let mut spilled = [0; FlowLine::A_GROUP];
            while !table.has_ended.load(SeqCst) {
                table.sweep(false, &mut spilled);
                thread::yield_now();
            }
            spilled
        })
    };
    packets.into_iter().for_each(|thread| thread.join().unwrap());
    table.has_ended.store(true, SeqCst);
    let mut spilled = sweeper.join().unwrap();
    table.assert_whole();
    // Once all has ended there is nothing left of it.
    for _ in 0..4 {
        table.sweep(true, &mut spilled);
    }
    for place in FlowPlace::all() {
        assert_eq!(Placed::at(&table.line_at(place), place.number()), None, "{place:?}");
    }
    assert!(table.lines.iter().all(|line| line.spilled.load(SeqCst) == 0));
}

#[test]
fn no_flow_ever_follows_another_ones_entry() {
    let limit = env::var("NARU_INTERLEAVE_SECONDS").ok().and_then(|text| text.parse().ok());
    let limit = limit.map_or(LIMIT, Duration::from_secs);
    let begun = Instant::now();
    let mut runs = 0;
    while begun.elapsed() < limit {
        shuttle::check_random(interleave, 20);
        shuttle::check_pct(interleave, 20, 3);
        runs += 40;
    }
    eprintln!("{runs} runs of {CPUS} CPUs and a sweeper");
    assert!(runs > 0);
}
