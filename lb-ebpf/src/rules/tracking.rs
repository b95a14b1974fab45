//! The rules of flow tracking: which backend a packet goes to on a slot that moves, and what the flow table learns from
//! it.
//!
//! After Mendelson et al., "Load Balancing with JET: Just Enough Tracking for Connection Consistency" (CoNEXT 2021),
//! which tracks only what a change can put at risk, and the second chance of GitHub's GLB director. Pure: the `flow`
//! stage looks entries up and writes them, tests and models run the same rules on the host.
//!
//! **A SYN binds only its own stream.** naru sees one direction, so it cannot know which of two streams on one four-tuple
//! is real; it keeps them apart. A TCP flow may have two entries: *opened*, by a SYN, for the current owner of its slot,
//! and *kept*, for the settled owner. A segment that the opened stream may have ([`FlowEntry::holds`]) goes to its
//! backend, unless the kept one has the better claim ([`is_kept`]); a SYN counts by its own sequence number. Everything
//! else goes where what is kept goes, and without that to the settled owner, and is kept there from then on, unless it is
//! a SYN or a RST. A SYN opens a stream only where none is open. So a stranger's SYN makes a stream of its own beside the
//! real one, and to take the real one's segments he must guess where it is, to one part in 2^15.
//!
//! **FIN and RST** are believed only where the stream has come to (as RFC 5961 §3.2 has receivers do), and never once a
//! segment was far ahead of that: whoever does not see the stream can neither make its entry go by trying all places,
//! nor lead it to where he knows it. A SYN opens another stream where one has ended; but the client of that may still be
//! there, to acknowledge what it gets. So it must have been silent for [`REUSED_AFTER`], or its next segments go to its
//! backend without an entry too. Nor does a SYN wait for that where it would go to a backend that takes no flows.
//!
//! A SYN with FIN or RST opens nothing and ends nothing: no client sends it, every receiver discards it or answers with
//! RST. It goes where any other packet of its flow would, so that the backend answers as it would without a load
//! balancer, and the table learns nothing from it.

use lb_common::{FlowEntry, FlowKind, FlowOutcome, FlowParts, NO_ID, Position, Progress, Slot, Tick};

use crate::wire::{TCP, TcpFlags, Transport};

/// Ticks of silence after which a stream that has ended is over: four seconds, for a forged end shows by then that it
/// was none, as the client sends on.
pub const REUSED_AFTER: u16 = 4;

/// Steps of 32 KiB that a segment may be ahead of where its stream goes on without a jump: what is on its way at once
/// before the window is scaled.
const NO_JUMP: i32 = 2;

/// Steps of 32 KiB, either way, beyond which a segment is on no account one of a stream: 16 MiB.
const FAR: u32 = (16 << 20) >> 15;

/// What the table has of a packet's flow; entries of no backend where it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of the stream that a SYN opened.
    pub opened: FlowEntry,
    /// Of what is kept for a settled owner, or of datagrams.
    pub kept: FlowEntry,
}

/// What becomes of a packet and of its flow's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The packet goes to the backend of this entry.
    pub entry: FlowEntry,
    /// What becomes of the entry.
    pub write: Write,
    /// What this was.
    pub outcome: FlowOutcome,
}

/// What becomes of a decision's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Nothing.
    Nothing,
    /// It takes the place of the flow's entry of its kind.
    Replace,
    /// It gets a place. Where there is none, the packet goes to the settled owner, or if that is down to the current.
    Enter,
}

/// Whose a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The stream's that a SYN opened.
    Opened,
    /// That of what is kept, or of datagrams.
    Kept,
    /// Of no entry; it opens no stream.
    Nobody,
    /// Of no entry; it is a SYN that opens a stream.
    New,
    /// The same, in the place of one that has ended.
    Again,
}

/// What is to be known of backends.
pub trait Backends {
    /// Whether the flows of one are lost.
    fn is_down(&self, id: u32) -> bool;

    /// Whether one is to have new flows: it is neither drained nor down.
    fn takes_flows(&self, id: u32) -> bool;
}

/// Of a packet on this slot. `always`: the VIP tracks every flow; `backends` are asked of those that entries name, and of
/// the slot's settled owner.
#[inline(always)]
pub fn decide(
    seen: &Seen,
    slot: Slot,
    transport: &Transport,
    now: Tick,
    always: bool,
    backends: &impl Backends,
) -> Decision {
    match claim(seen, slot, transport, now, backends) {
        Claim::Opened => follow(seen.opened, slot, transport, now, backends),
        Claim::Kept => follow(seen.kept, slot, transport, now, backends),
        claim => begin(claim, seen, slot, transport, now, always, backends),
    }
}

/// Whose a packet is: the first part of [`decide`], which [`follow`] or [`begin`] goes on with.
#[inline(always)]
pub fn claim(seen: &Seen, slot: Slot, transport: &Transport, now: Tick, backends: &impl Backends) -> Claim {
    let at = Position::of(transport.sequence());
    let Seen { opened, kept } = *seen;
    if opened.is_some() && transport.opens() && gives_way(opened, kept, at, slot, now, backends) {
        Claim::Again
    } else if opened.is_some() && opened.holds(at) && !is_kept(opened, kept, at, transport) {
        Claim::Opened
    } else if transport.opens() && !opened.is_some() {
        Claim::New
    } else if kept.is_some() {
        Claim::Kept
    } else {
        Claim::Nobody
    }
}

/// Whether a packet changes nothing in its flow's only entry, whose backend is not down, and goes there: so it is with
/// most. What [`decide`] says too, but for less.
#[inline(always)]
pub fn changes_nothing(entry: FlowEntry, transport: &Transport, now: Tick) -> bool {
    let parts = entry.parts();
    let TcpFlags(flags) = transport.flags();
    let marks = TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0;
    let begin = Position::of(transport.sequence());
    let end = Position::of(transport.sequence().wrapping_add(transport.data_len()));
    let is_first_data = parts.level == 0 && transport.data_len() > 0;
    matches!(parts.progress, Progress::Open)
        && parts.seen.0 == now.0
        && (transport.protocol != TCP
            || flags & marks == 0 && begin.from(parts.next) == 0 && end.from(parts.next) == 0 && !is_first_data)
}

/// Whether a segment at `at`, which the opened stream may have, is the kept one's.
///
/// Neither is real because it came first: a stranger's SYN may have come before a silent client's next segment, and his
/// guess after an honest SYN. What tells them apart is what they have carried. A real stream comes past every sequence
/// number sooner or later, so also past a place where a stranger has put another one: there the one that has carried
/// more keeps its segments, retransmissions included; between two that have carried as much, the nearer does. Where what
/// is kept has ended, the opened one is most likely another of the same client, whose sequence numbers go on close by (RFC
/// 6528 §3): then only what comes where it has ended is its own, and nothing that has data.
#[inline(always)]
fn is_kept(opened: FlowEntry, kept: FlowEntry, at: Position, transport: &Transport) -> bool {
    if !kept.is_some() || !kept.holds(at) {
        return false;
    }
    let (from_opened, from_kept) = (opened.distance(at), kept.distance(at));
    // What follows on a stream that has carried something is its own, unless it follows on both.
    if kept.has_ended() || kept.level() < opened.level() {
        let is_over = kept.has_ended() && transport.data_len() > 0;
        from_kept == 0 && from_opened > 0 && kept.level() > 0 && !is_over
    } else if kept.level() > opened.level() {
        from_opened > 0 || from_kept == 0
    } else {
        from_kept < from_opened
    }
}

/// Where a packet goes whose flow was to get an entry and found no place: where the next of its flow will go, which will
/// find as little.
#[inline(always)]
pub fn refused(seen: &Seen, slot: Slot, transport: &Transport, backends: &impl Backends) -> u32 {
    let kept = seen.kept.backend();
    let is_new_udp = transport.protocol != TCP && !slot.keeps_udp();
    if kept != NO_ID && !backends.is_down(kept) {
        kept
    } else if is_new_udp || backends.is_down(slot.settled_owner()) {
        slot.current()
    } else {
        slot.settled_owner()
    }
}

/// Where a message goes that is about a flow and not of it, such as an ICMP error: it changes no entry. Where it may be of
/// two streams, to what is kept: of that more is at stake.
#[inline(always)]
pub fn told(seen: &Seen, slot: Slot, transport: &Transport, backends: &impl Backends) -> u32 {
    let Seen { opened, kept } = *seen;
    let is_kept = kept.is_some() && !backends.is_down(kept.backend());
    if !is_kept && opened.is_some() && !backends.is_down(opened.backend()) {
        opened.backend()
    } else {
        refused(seen, slot, transport, backends)
    }
}

/// Whether a SYN opens another stream in the place of the opened one: it has ended, and its client is gone, or finds its
/// way without it; or else the SYN would go to a backend that takes no flows, which may have failed or be about to end:
/// the ended stream's own, for a SYN at `at` that this may have, as Linux's is that uses a port in TIME-WAIT again
/// (65,537 beyond the last, since 2.4).
#[inline(always)]
fn gives_way(
    opened: FlowEntry,
    kept: FlowEntry,
    at: Position,
    slot: Slot,
    now: Tick,
    backends: &impl Backends,
) -> bool {
    if !opened.has_ended() {
        return false;
    }
    // Seen by another CPU since this one read the clock, it seems to be of a round before.
    let age = now.since(opened.seen());
    let is_silent = (REUSED_AFTER..u16::MAX - REUSED_AFTER).contains(&age);
    let elsewhere = if kept.is_some() { kept.backend() } else { slot.settled_owner() };
    let goes_there = opened.holds(at) && !backends.takes_flows(opened.backend());
    is_silent || elsewhere == opened.backend() || goes_there || !backends.takes_flows(elsewhere)
}

/// Of a packet that goes where an entry says.
#[inline(always)]
pub fn follow(entry: FlowEntry, slot: Slot, transport: &Transport, now: Tick, backends: &impl Backends) -> Decision {
    if backends.is_down(entry.backend()) {
        return reroute(entry, slot, transport, now);
    }
    let was_once = matches!(entry.progress(), Progress::Once);
    let is_tcp = transport.protocol == TCP;
    // A SYN leaves no trace in what is kept, nor in what a SYN has opened unless it is that SYN once more.
    let is_trace = !transport.contradicts() && (!transport.opens() || is_syn_of(entry));
    let after = match (is_tcp, is_trace) {
        (true, true) => advanced(entry, transport, now),
        (true, false) => entry,
        (false, _) => FlowParts { seen: now, progress: Progress::Open, ..entry.parts() }.pack(),
    };
    let outcome = if is_tcp && !is_trace && transport.opens() {
        FlowOutcome::Passed
    } else if !was_once {
        FlowOutcome::Known
    } else if matches!(after.progress(), Progress::Once) {
        FlowOutcome::Repeated
    } else {
        FlowOutcome::Promoted
    };
    let write = if after == entry { Write::Nothing } else { Write::Replace };
    Decision { entry: after, write, outcome }
}

/// Whether nothing but the SYN that opened it was seen of a stream.
#[inline(always)]
fn is_syn_of(entry: FlowEntry) -> bool {
    matches!((entry.kind(), entry.progress()), (FlowKind::Opened, Progress::Once))
}

/// Of a packet whose entry's backend is down: its stream is the current owner's, who ends a connection that is under way
/// with the RST that he answers with.
#[inline(always)]
fn reroute(entry: FlowEntry, slot: Slot, transport: &Transport, now: Tick) -> Decision {
    let entry = if transport.contradicts() {
        entry.of_backend(slot.current())
    } else {
        let first = first(entry.kind(), slot.current(), transport, now);
        let is_new = transport.protocol != TCP || (transport.opens() && matches!(entry.kind(), FlowKind::Opened));
        if is_new { first } else { FlowParts { progress: Progress::Fin, ..first.parts() }.pack() }
    };
    let write = if slot.current() == NO_ID { Write::Nothing } else { Write::Replace };
    Decision { entry, write, outcome: FlowOutcome::Rerouted }
}

/// Of a packet that no entry is for.
#[inline(always)]
pub fn begin(
    claim: Claim,
    seen: &Seen,
    slot: Slot,
    transport: &Transport,
    now: Tick,
    always: bool,
    backends: &impl Backends,
) -> Decision {
    let opens = matches!(claim, Claim::New | Claim::Again);
    // Without an entry its stream might go elsewhere later.
    let is_known = seen.kept.is_some() || seen.opened.is_some();
    let is_at_risk = always || slot.current() != slot.settled_owner() || is_known;
    let is_tcp = transport.protocol == TCP;
    let is_new = opens || !is_tcp && !slot.keeps_udp();
    let is_down = !is_new && backends.is_down(slot.settled_owner());
    let backend = if is_new || is_down { slot.current() } else { slot.settled_owner() };
    let kind = match (is_tcp, opens) {
        (true, true) => FlowKind::Opened,
        (true, false) => FlowKind::Kept,
        (false, _) => FlowKind::Datagrams,
    };
    let entry = first(kind, backend, transport, now);
    let ends = transport.flags().contains(TcpFlags::RST) || transport.flags().contains(TcpFlags::SYN) && !opens;
    if is_tcp && is_down {
        Decision { entry, write: Write::Nothing, outcome: FlowOutcome::Rerouted }
    } else if !is_at_risk || ends || backend == NO_ID {
        Decision { entry, write: Write::Nothing, outcome: FlowOutcome::Passed }
    } else if matches!(claim, Claim::Again) {
        Decision { entry, write: Write::Replace, outcome: FlowOutcome::Reopened }
    } else {
        let outcome = if is_new || is_down { FlowOutcome::Opened } else { FlowOutcome::Kept };
        Decision { entry, write: Write::Enter, outcome }
    }
}

/// The entry after another segment of its stream.
#[inline(always)]
fn advanced(entry: FlowEntry, transport: &Transport, now: Tick) -> FlowEntry {
    let parts = entry.parts();
    let steps = Position::of(transport.sequence()).from(parts.next);
    let (fin, rst) = (transport.flags().contains(TcpFlags::FIN), transport.flags().contains(TcpFlags::RST));
    let continues = matches!(steps, -1..=1) && !parts.jumped;
    if rst && !continues {
        return entry;
    }
    // What is kept is not bound to a window: whatever is not the opened stream's comes here.
    let is_elsewhere = steps.unsigned_abs() > FAR;
    let progress = match parts.progress {
        _ if rst => Progress::Rst,
        _ if fin && continues => Progress::Fin,
        // A client that has sent FIN sends nothing new, but it acknowledges for as long as the backend sends.
        Progress::Fin if !is_elsewhere && (transport.data_len() == 0 || steps < 0) => Progress::Fin,
        Progress::Once if transport.opens() => Progress::Once,
        _ => Progress::Open,
    };
    let after = position_after(transport);
    let is_ahead = after.from(parts.next) > 0 && !transport.opens();
    let next = if is_ahead || is_elsewhere { after } else { parts.next };
    // What is far away was not carried by this stream.
    let level = if is_elsewhere {
        0
    } else if transport.data_len() > 0 {
        entry.level_at(Position::of(transport.sequence()), next)
    } else {
        parts.level
    };
    let jumped = parts.jumped || steps > NO_JUMP || is_elsewhere;
    FlowParts { progress, seen: now, next, level, jumped, ..parts }.pack()
}

#[inline(always)]
fn first(kind: FlowKind, backend: u32, transport: &Transport, now: Tick) -> FlowEntry {
    let is_fin = transport.flags().contains(TcpFlags::FIN);
    let progress = if is_fin { Progress::Fin } else { Progress::Once };
    // TCP Fast Open has data in the SYN (RFC 7413). One segment of what is kept is no more than a guess.
    let level = (transport.data_len() > 0 && matches!(kind, FlowKind::Opened)) as u32;
    FlowParts { backend, kind, progress, seen: now, next: position_after(transport), level, jumped: false }.pack()
}

/// Where the client's stream goes on behind this segment; SYN and FIN take a sequence number each (RFC 9293 §3.4).
#[inline(always)]
fn position_after(transport: &Transport) -> Position {
    let TcpFlags(flags) = transport.flags();
    let marks = (flags & 1) + (flags >> 1 & 1);
    Position::of(transport.sequence().wrapping_add(transport.data_len()).wrapping_add(marks as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u32 = 1;
    const B: u32 = 2;
    const NOW: Tick = Tick(100);
    const ISN: u32 = 0xffff_ff00;
    /// Where a silent client of before the change has come to, and where a stranger believes it to be.
    const OLD: u32 = 0x4000_0000;
    const FALSE: u32 = 0x9000_0000;

    /// Which of the backends are not active.
    #[derive(Clone, Copy, Default)]
    struct States {
        down: Option<u32>,
        drained: Option<u32>,
    }

    impl Backends for States {
        fn is_down(&self, id: u32) -> bool {
            Some(id) == self.down
        }

        fn takes_flows(&self, id: u32) -> bool {
            ![self.down, self.drained].contains(&Some(id))
        }
    }

    /// One flow, and a table with room for it.
    struct Flow {
        slot: Slot,
        now: Tick,
        always: bool,
        is_full: bool,
        backends: States,
        opened: FlowEntry,
        kept: FlowEntry,
        /// Packets of which less would have told as much.
        shortcuts: u32,
    }

    impl Flow {
        /// On a slot that is moving from A to B, of which nothing is known.
        fn new() -> Self {
            let (slot, nothing) = (Slot::moving(B, A, NOW), FlowEntry::default());
            let (opened, kept, backends) = (nothing, nothing, States::default());
            Self { slot, now: NOW, always: false, is_full: false, backends, opened, kept, shortcuts: 0 }
        }

        /// Of which these were sent.
        fn after(segments: &[Transport]) -> Self {
            let mut flow = Self::new();
            for segment in segments {
                flow.send(*segment);
            }
            flow
        }

        /// Sends one; the backend that it goes to, and what it was.
        fn send(&mut self, transport: Transport) -> (u32, FlowOutcome) {
            let backends = self.backends;
            let seen = Seen { opened: self.opened, kept: self.kept };
            let Decision { entry, write, outcome } =
                decide(&seen, self.slot, &transport, self.now, self.always, &backends);
            let [first, second] = [self.opened, self.kept];
            let only = if first.is_some() { first } else { second };
            if only.is_some() && first.is_some() != second.is_some() && !backends.is_down(only.backend()) {
                let nothing = (only, Write::Nothing, FlowOutcome::Known);
                if changes_nothing(only, &transport, self.now) {
                    assert_eq!((entry, write, outcome), nothing, "{transport:?}");
                    self.shortcuts += 1;
                }
            }
            if write == Write::Enter && self.is_full {
                return (refused(&seen, self.slot, &transport, &backends), FlowOutcome::TableFull);
            }
            if write != Write::Nothing {
                let cell = if entry.kind() == FlowKind::Opened { &mut self.opened } else { &mut self.kept };
                assert_eq!(cell.is_some(), write == Write::Replace, "{transport:?}");
                *cell = entry;
            }
            (entry.backend(), outcome)
        }

        /// The backends that these go to.
        fn all<const N: usize>(&mut self, segments: [Transport; N]) -> [u32; N] {
            segments.map(|segment| self.send(segment).0)
        }

        fn later(mut self, ticks: u16) -> Self {
            self.now = Tick(self.now.0 + ticks);
            self
        }

        fn progress(&self) -> Progress {
            self.opened.progress()
        }
    }

    fn segment(flags: u8, sequence: u32, data_len: u32) -> Transport {
        Transport::segment(0, TcpFlags(flags), sequence, data_len)
    }

    fn syn_of(sequence: u32) -> Transport {
        segment(0x02, sequence, 0)
    }

    fn syn() -> Transport {
        syn_of(ISN)
    }

    fn ack(sequence: u32, data_len: u32) -> Transport {
        segment(0x10, sequence, data_len)
    }

    /// So many bytes into the stream that `syn` opened.
    fn data(offset: u32, data_len: u32) -> Transport {
        ack(ISN.wrapping_add(1 + offset), data_len)
    }

    fn fin(sequence: u32) -> Transport {
        segment(0x11, sequence, 0)
    }

    fn rst(sequence: u32) -> Transport {
        segment(0x04, sequence, 0)
    }

    fn datagram() -> Transport {
        Transport::datagram(0, 100)
    }

    #[test]
    fn new_flows_go_to_the_current_owner_and_others_stay() {
        use FlowOutcome::{Kept, Opened, Passed};
        for (first, backend, outcome) in
            [(syn(), B, Opened), (ack(1, 0), A, Kept), (fin(1), A, Kept), (rst(1), A, Passed), (datagram(), A, Kept)]
        {
            assert_eq!(Flow::new().send(first), (backend, outcome), "{first:?}");
        }
        let without_udp = Slot::moving(B, A, NOW).aged(Tick(NOW.0 + 10), 1000, 10);
        assert_eq!(Flow { slot: without_udp, ..Flow::new() }.send(datagram()), (B, Opened));
    }

    #[test]
    fn what_no_change_puts_at_risk_is_not_entered() {
        for (slot, owner) in [(Slot::settled(A), A), (Slot::moving(B, A, NOW).aged(Tick(NOW.0 + 100), 100, 10), B)] {
            for first in [syn(), ack(1, 10), datagram()] {
                assert_eq!(Flow { slot, ..Flow::new() }.send(first), (owner, FlowOutcome::Passed));
                let (backend, outcome) = Flow { slot, always: true, ..Flow::new() }.send(first);
                assert!(matches!(outcome, FlowOutcome::Opened | FlowOutcome::Kept));
                assert_eq!(backend, owner);
            }
        }
        let nobody = Slot::moving(NO_ID, A, NOW);
        assert_eq!(Flow { slot: nobody, ..Flow::new() }.send(syn()), (NO_ID, FlowOutcome::Passed));
    }

    #[test]
    fn after_a_forged_syn_the_silent_client_stays_where_it_was() {
        // What follows it as well: the stranger completes a handshake, sends data, or leaves it at the SYN.
        for forged in [&[][..], &[ack(FALSE + 1, 0)], &[ack(FALSE + 1, 1000), ack(FALSE + 1001, 1000)]] {
            for answer in [ack(OLD, 100), ack(OLD, 0), rst(OLD), fin(OLD)] {
                let mut flow = Flow::after(&[&[syn_of(FALSE)], forged].concat());
                assert_eq!(flow.opened.backend(), B);
                assert_eq!(flow.all([answer, ack(OLD, 100), ack(OLD + 100, 0)]), [A; 3], "{answer:?}");
            }
            let mut flow = Flow::after(&[&[syn_of(FALSE)], forged].concat());
            assert_eq!(flow.send(rst(OLD)), (A, FlowOutcome::Passed), "a RST needs no entry");
        }
    }

    #[test]
    fn a_rst_that_answers_the_backends_answer_ends_what_the_syn_opened() {
        let mut flow = Flow::after(&[syn()]);
        assert_eq!(flow.all([rst(ISN.wrapping_add(1))]), [B]);
        assert_eq!(flow.progress(), Progress::Rst);
    }

    #[test]
    fn a_strangers_guesses_do_not_touch_an_honest_stream() {
        let mut flow = Flow::after(&[syn(), data(0, 100)]);
        for guess in [FALSE, OLD, 1 << 20, ISN.wrapping_sub(1 << 20)] {
            assert_eq!(flow.all([ack(guess, 1000), rst(guess), fin(guess), syn_of(guess)]), [A; 4], "{guess:#x}");
            assert_eq!(flow.all([data(100, 0), data(0, 100), data(50, 60_000)]), [B; 3], "{guess:#x}");
        }
        assert_eq!(flow.progress(), Progress::Open);
    }

    /// A real stream comes past wherever a stranger has put another one.
    #[test]
    fn streams_come_past_each_other() {
        const PAST: u32 = 8 << 20;
        let step = 1460;
        // The real one is the opened one, or the kept one; segments are sent again now and then, and one is missing.
        for (real, forged) in [(syn(), ack(PAST, 700)), (ack(ISN.wrapping_add(1), 10), syn_of(PAST))] {
            let mut flow = Flow::new();
            let backend = flow.send(real).0;
            let other = flow.send(forged).0;
            assert_ne!(other, backend);
            flow.all([ack(PAST + 700, 700), ack(PAST + 1400, 700)]);
            for number in 0..12_000u32 {
                let at = number * step;
                assert_eq!(flow.send(data(at, step)).0, backend, "{at} bytes in");
                if number % 7 == 3 {
                    assert_eq!(flow.send(data(at - 2 * step, step)).0, backend, "{at} bytes in, once more");
                }
            }
        }
    }

    #[test]
    fn fast_open_repetitions_keepalives_and_probes_are_of_the_stream() {
        let with_data = segment(0x02, ISN, 1400);
        for taken in [true, false] {
            let from = if taken { 1400 } else { 0 };
            let mut flow = Flow::after(&[with_data, with_data]);
            assert_eq!(flow.all([data(from, 0), data(from, 1000), with_data]), [B; 3]);
        }
        let mut flow = Flow::after(&[syn(), syn(), data(0, 0)]);
        // A keepalive repeats the last byte (RFC 9293 §3.8.4), before any data that of the SYN.
        assert_eq!(flow.all([ack(ISN, 0), ack(ISN, 1), data(0, 1), syn(), data(0, 1460)]), [B; 5]);
        assert_eq!((flow.progress(), flow.kept.is_some()), (Progress::Open, false));
        // Round the whole of the sequence numbers.
        for number in 0..70_000u32 {
            assert_eq!(flow.send(data(number.wrapping_mul(65_000), 65_000)).0, B);
        }
    }

    #[test]
    fn a_syn_with_a_new_number_on_an_open_stream_goes_to_the_settled_owner_and_its_stream_stays_whole() {
        let mut flow = Flow::after(&[syn(), data(0, 0)]);
        let opened = flow.opened;
        assert_eq!(flow.send(syn_of(OLD)), (A, FlowOutcome::Passed));
        assert_eq!((flow.opened, flow.kept.is_some()), (opened, false));
        assert_eq!(flow.all([ack(OLD + 1, 0), ack(OLD + 1, 1000), syn_of(OLD), fin(OLD + 1001)]), [A; 4]);
        assert_eq!(flow.all([data(0, 100)]), [B]);
        // In the second phase too.
        let aged = Slot::moving(B, A, NOW).aged(Tick(NOW.0 + 100), 100, 10).given_to(A, NOW);
        let mut flow = Flow { slot: aged, ..Flow::after(&[syn(), data(0, 0)]) };
        assert_eq!(flow.all([syn_of(OLD), ack(OLD + 1, 0), data(0, 1)]), [B, B, B]);
    }

    #[test]
    fn a_port_that_is_used_again_after_an_end_that_nobody_saw_gets_a_stream_of_its_own() {
        let mut flow = Flow::after(&[ack(OLD, 100)]);
        assert_eq!(flow.all([syn(), data(0, 0), data(0, 1000)]), [B; 3]);
        assert_eq!(flow.all([ack(OLD, 100), rst(OLD + 100)]), [A; 2], "late duplicates of the old one");
        assert_eq!(flow.all([data(1000, 1000), fin(ISN.wrapping_add(2001))]), [B; 2]);
        // Also where only what is kept is with another backend than everything else.
        let slot = Slot::moving(B, A, NOW).aged(Tick(NOW.0 + 100), 100, 10);
        let mut flow = Flow { slot, ..Flow::after(&[ack(OLD, 100)]) };
        assert_eq!(flow.all([syn(), data(0, 0), ack(OLD + 100, 0)]), [B, B, A]);
    }

    /// Wherever the shortcut is taken, it leads where the whole way does: [`Flow::send`] compares.
    #[test]
    fn most_packets_change_nothing() {
        let mut seed = 1u64;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u32 % below
        };
        let (mut packets, mut shortcuts) = (0, 0);
        for _ in 0..5_000 {
            let mut flow = Flow { always: random(2) == 0, ..Flow::new() };
            let (flags, mut at) = ([0x10, 0x10, 0x10, 0x10, 0x18, 0x02, 0x11, 0x04, 0x12], random(1 << 17));
            let is_tcp = random(8) > 0;
            for _ in 0..40 {
                let len = [0, 0, 1, 1460][random(4) as usize];
                let sent = match random(12) {
                    _ if !is_tcp => datagram(),
                    1 => segment(flags[random(9) as usize], random(u32::MAX), len),
                    _ => segment(flags[random(9) as usize], at, len),
                };
                at = at.wrapping_add(len);
                flow.send(sent);
                flow.now = Tick(flow.now.0 + u16::from(random(20) == 0));
                packets += 1;
            }
            shortcuts += flow.shortcuts;
        }
        assert!(shortcuts > packets / 10, "{shortcuts} of {packets}");
    }

    #[test]
    fn what_finds_no_room_goes_to_the_settled_owner_and_stays_there() {
        let mut flow = Flow { is_full: true, ..Flow::new() };
        assert_eq!(flow.send(syn()), (A, FlowOutcome::TableFull));
        assert_eq!(flow.all([data(0, 0), data(0, 1000), fin(ISN.wrapping_add(1001))]), [A; 3]);
        // Or where something is kept: the next segments will go there.
        let slot = Slot::moving(B, A, NOW).aged(Tick(NOW.0 + 100), 100, 10);
        let mut flow = Flow { slot, ..Flow::after(&[ack(OLD, 100)]) };
        flow.is_full = true;
        assert_eq!(flow.all([syn(), data(0, 0)]), [A; 2]);
        flow.backends.down = Some(A);
        assert_eq!(flow.all([syn(), data(0, 0)]), [B; 2]);
        // Datagrams of which none is kept any more are new: they go where they will go once there is room.
        let without_udp = Slot::moving(B, A, NOW).aged(Tick(NOW.0 + 10), 1000, 10);
        let mut flow = Flow { slot: without_udp, is_full: true, ..Flow::new() };
        assert_eq!(flow.all([datagram(), datagram()]), [B; 2]);
        flow.is_full = false;
        assert_eq!(flow.all([datagram()]), [B]);
    }

    /// In the second phase nothing is entered but what meets an entry: a stream beside a stale one, which it will come
    /// past.
    #[test]
    fn a_stream_beside_a_stale_one_is_kept_in_the_second_phase_too() {
        let slot = Slot::moving(B, A, NOW).aged(Tick(NOW.0 + 100), 100, 10).given_to(A, NOW);
        let settling = Slot::moving(slot.current(), slot.current(), NOW);
        let mut flow = Flow { slot: settling, ..Flow::after(&[syn(), data(0, 1000), data(1000, 1000)]) };
        let start = ISN.wrapping_sub(4 << 20);
        assert_eq!(flow.send(syn_of(start)), (A, FlowOutcome::Passed));
        for number in 0..6_000u32 {
            let at = start.wrapping_add(1 + number * 1460);
            assert_eq!(flow.send(ack(at, 1460)).0, A, "{number}");
        }
        assert_eq!(flow.opened.backend(), B);
    }

    /// Who sends single bytes further and further ahead gains no weight by it.
    #[test]
    fn a_false_stream_that_leaps_takes_nothing_that_follows_on_the_real_one() {
        let mut flow = Flow::after(&[ack(OLD, 1000), ack(OLD + 1000, 1000)]);
        let mut at = FALSE;
        flow.send(syn_of(at));
        for _ in 0..2000 {
            // As far as its window goes: it comes past the real one sooner or later.
            at = at.wrapping_add(96 << 10);
            flow.send(ack(at, 1));
            assert_eq!(flow.send(ack(OLD + 2000, 0)).0, A, "{at:#x}");
        }
        assert!(flow.opened.level() <= 1);
    }

    #[test]
    fn flows_of_a_backend_that_is_down_go_to_the_current_owner() {
        use FlowOutcome::{Opened, Rerouted};
        for (first, outcome) in [(ack(1, 10), Rerouted), (datagram(), Opened), (syn(), Opened)] {
            let backends = States { down: Some(A), ..States::default() };
            assert_eq!(Flow { backends, ..Flow::new() }.send(first), (B, outcome));
        }
        let moved = |first: Transport, then: Transport| {
            let mut flow = Flow { slot: Slot::moving(B, A, NOW), ..Flow::after(&[first]) };
            let own = if flow.opened.is_some() { B } else { A };
            (flow.backends.down, flow.slot) = (Some(own), Slot::moving(A + B - own, own, NOW));
            let sent = flow.send(then);
            let entry = if flow.opened.is_some() { flow.opened } else { flow.kept };
            assert_eq!(entry.backend(), A + B - own);
            (sent == (A + B - own, Rerouted), entry.state())
        };
        use lb_common::FlowState::{Fin, Open, Syn};
        assert_eq!(moved(ack(1, 10), ack(11, 10)), (true, Fin), "it ends with the other's RST");
        assert_eq!(moved(syn(), data(0, 10)), (true, Fin));
        assert_eq!(moved(syn(), syn()), (true, Syn));
        assert_eq!(moved(datagram(), datagram()), (true, Open));
    }

    #[test]
    fn a_connection_opens_and_closes() {
        let mut flow = Flow::new();
        let segments =
            [syn(), syn(), data(0, 0), data(0, 1000), fin(ISN.wrapping_add(1001)), data(1002, 0), data(1000, 0)];
        let states = segments.map(|segment| {
            assert_eq!(flow.send(segment).0, B);
            flow.opened.state()
        });
        use lb_common::FlowState::{Fin, Open, Syn};
        assert_eq!(states, [Syn, Syn, Open, Open, Fin, Fin, Fin]);
        flow.send(rst(ISN.wrapping_add(1002)));
        assert_eq!(flow.progress(), Progress::Rst);

        // Only after it was silent for a while is it another's, or where its client finds its way without it.
        assert_eq!(flow.send(syn_of(OLD)), (A, FlowOutcome::Passed));
        flow.slot = Slot::moving(A, B, NOW);
        let mut again = Flow { slot: flow.slot, ..Flow::after(&segments) };
        assert_eq!(again.send(syn_of(OLD)), (A, FlowOutcome::Reopened));
        assert_eq!(again.all([data(1002, 0), data(0, 1000)]), [B; 2], "the one that has ended");
        assert_eq!(again.all([ack(OLD + 1, 0), ack(OLD + 1, 1000)]), [A; 2]);
        flow.slot = Slot::moving(B, A, NOW);
        let mut flow = flow.later(REUSED_AFTER);
        assert_eq!(flow.send(syn_of(OLD)), (B, FlowOutcome::Reopened));
        assert_eq!((flow.opened.backend(), flow.progress()), (B, Progress::Once));
    }

    /// As with `always`, and in the second phase: a client that opens one connection after the other comes round to its
    /// ports within seconds. Its numbers are those of RFC 6528 §3.
    #[test]
    fn a_port_that_is_used_again_at_once_is_the_current_owners() {
        let mut flow = Flow { slot: Slot::settled(A), always: true, ..Flow::new() };
        for round in 0..6 {
            let owner = if round < 3 { A } else { B };
            flow.slot = Slot::moving(owner, if round < 4 { A } else { B }, NOW);
            let start = ISN.wrapping_add(20_000 * round);
            let next = start.wrapping_add(1);
            let sent = [syn_of(start), ack(next, 0), ack(next, 1000), ack(next.wrapping_add(1000), 0), ack(next, 1000)];
            assert_eq!(flow.all(sent), [owner; 5], "{round}");
            assert_eq!(
                flow.all([fin(next.wrapping_add(1000)), ack(next.wrapping_add(1001), 0)]),
                [owner; 2],
                "{round}"
            );
        }
    }

    /// On a slot in its first phase too, where its old owner takes no flows: that may have failed, or be about to end.
    #[test]
    fn a_port_that_is_used_again_at_once_does_not_go_to_a_backend_that_is_drained() {
        let segments = [syn(), data(0, 0), data(0, 1000), fin(ISN.wrapping_add(1001))];
        for known in [&segments[..], &[&[ack(OLD, 1000)], &segments[..]].concat()] {
            let mut flow = Flow::after(known);
            assert_eq!(flow.send(syn_of(FALSE)), (A, FlowOutcome::Passed), "its old owner takes flows");
            flow.backends.drained = Some(A);
            assert_eq!(flow.send(syn_of(FALSE)), (B, FlowOutcome::Reopened));
            assert_eq!(flow.all([ack(FALSE + 1, 0), ack(FALSE + 1, 1000), fin(FALSE + 1001)]), [B; 3]);
            assert_eq!(flow.all([ack(OLD + 1000, 0)]), [A], "what the old owner has stays there");
        }
        // Nor to the one that the stream before went to, where the slot has come back to its old owner since.
        let close_by = ISN.wrapping_add(1002 + 65_537);
        for (next, owner) in [(close_by, A), (FALSE, A)] {
            let mut flow = Flow::after(&segments);
            flow.slot = Slot::moving(A, A, NOW);
            (flow.always, flow.backends.drained) = (true, Some(B));
            assert_eq!(flow.send(syn_of(next)).0, owner, "{next:#x}");
            let next = next.wrapping_add(1);
            assert_eq!(flow.all([ack(next, 0), ack(next, 1000), fin(next.wrapping_add(1000))]), [owner; 3]);
        }
        // What has not ended does not give way.
        let mut flow = Flow::after(&segments[..3]);
        flow.backends.drained = Some(A);
        assert_eq!(flow.send(syn_of(FALSE)), (A, FlowOutcome::Passed));
        assert_eq!(flow.all([data(1000, 0)]), [B]);
    }

    /// It may acknowledge for as long as it likes, whatever a stranger opens and ends.
    #[test]
    fn a_client_that_has_sent_fin_stays_where_it_is() {
        let end = ISN.wrapping_add(1001);
        for slot in [Slot::moving(B, A, NOW), Slot::moving(A, B, NOW), Slot::settled(B)] {
            for has_guessed in [false, true] {
                let mut flow = Flow { slot, ..Flow::after(&[syn(), data(0, 0), data(0, 1000), fin(end)]) };
                if has_guessed {
                    flow.send(ack(0x2000_0000, 700));
                }
                for forged in [FALSE, OLD, FALSE + 1] {
                    flow.all([syn_of(forged), ack(forged + 1, 0), ack(forged + 1, 700), fin(forged + 701)]);
                    let sent = [ack(end.wrapping_add(1), 0), fin(end), ack(end.wrapping_add(1), 0)];
                    assert_eq!(flow.all(sent), [B; 3], "{forged:#x} {slot:?} {has_guessed}");
                }
            }
        }
    }

    /// A stranger knows where his own streams are, and may end them.
    #[test]
    fn streams_that_a_stranger_opens_and_ends_take_no_silent_client_away() {
        let slots = [
            Slot::moving(B, A, NOW),
            Slot::settled(A),
            Slot::moving(B, A, NOW).aged(Tick(NOW.0 + 100), 100, 10).given_to(A, NOW),
        ];
        for (slot, always, drained, end) in slots.into_iter().flat_map(|slot| {
            [(false, None), (true, None), (false, Some(A)), (true, Some(A))]
                .into_iter()
                .flat_map(move |(always, drained)| [fin, rst].map(|end| (slot, always, drained, end)))
        }) {
            for known in [&[][..], &[ack(OLD, 1000)], &[ack(OLD + 1000, 0)], &[ack(OLD, 1000), fin(OLD + 1000)]] {
                let mut flow = Flow { always, ..Flow::after(known) };
                (flow.slot, flow.always, flow.backends.drained) = (slot, always, drained);
                let own = if known.is_empty() { slot.settled_owner() } else { A };
                for forged in [FALSE, 0x2000_0000, FALSE + 5] {
                    flow.all([end(forged), syn_of(forged), end(forged + 1), syn_of(forged + (1 << 20))]);
                    flow.all([ack(forged + (1 << 20) + 1, 700), end(forged + (1 << 20) + 701), syn_of(forged)]);
                }
                assert_eq!(flow.send(ack(OLD + 1000, 0)).0, own, "{slot:?} {always} {known:?}");
                let mut flow = flow.later(REUSED_AFTER);
                flow.all([syn_of(0x3000_0000), end(0x3000_0001), syn_of(0x3800_0000)]);
                assert_eq!(flow.send(ack(OLD + 1000, 0)).0, own, "{slot:?} {always} {known:?}, later");
            }
        }
    }

    #[test]
    fn what_is_told_of_a_flow_goes_to_its_owner() {
        let told = |flow: &Flow, transport: Transport| {
            told(&Seen { opened: flow.opened, kept: flow.kept }, flow.slot, &transport, &flow.backends)
        };
        let own = || Flow::after(&[syn()]);
        for (flow, owner, without_a, without_b) in [
            (Flow::new(), A, B, A),
            (own(), B, B, A),
            (Flow::after(&[ack(OLD, 10)]), A, B, A),
            (Flow::after(&[syn(), ack(OLD, 10)]), A, B, A),
            (Flow { slot: Slot::settled(B), ..own() }, B, B, B),
        ] {
            let mut flow = flow;
            let found = [None, Some(A), Some(B)].map(|down| {
                flow.backends.down = down;
                told(&flow, syn())
            });
            assert_eq!(found, [owner, without_a, without_b], "{:?} {:?}", flow.opened, flow.kept);
        }
        let mut datagrams = Flow::new();
        assert_eq!(told(&datagrams, datagram()), datagrams.send(datagram()).0);
        assert_eq!(told(&datagrams, datagram()), datagrams.send(datagram()).0);
    }

    #[test]
    fn a_false_end_of_what_is_kept_is_forgotten() {
        let mut flow = Flow::after(&[fin(FALSE)]);
        assert_eq!(flow.kept.progress(), Progress::Fin);
        flow.send(ack(OLD, 0));
        assert_eq!(flow.kept.progress(), Progress::Open);
    }

    #[test]
    fn who_does_not_see_the_stream_cannot_end_its_entry() {
        const AT: u32 = 1_000_000;
        let end_of = |segments: &[Transport]| {
            let opened = [syn_of(AT - 1), ack(AT, 0)];
            let progress = Flow::after(&[&opened, segments].concat()).progress();
            let kept = Flow::after(&[&[ack(AT - 10, 10)], segments].concat()).kept.progress();
            assert_eq!(progress == Progress::Open, matches!(kept, Progress::Open | Progress::Once), "{segments:?}");
            progress
        };
        for forged in [rst(0), rst(AT - 70_000), rst(AT + 70_000), fin(AT + 100_000), fin(AT - 100_000)] {
            assert_eq!(end_of(&[forged]), Progress::Open, "{forged:?}");
        }
        // Segments ahead of the stream do not take it along to where a RST would then be believed, nor does a SYN.
        for ahead in [1 << 17, 1 << 20, 1 << 23, 1 << 30] {
            assert_eq!(end_of(&[ack(AT + ahead, 10), rst(AT + ahead + 10)]), Progress::Open, "{ahead}");
            let mut kept = Flow::after(&[ack(AT - 10, 10), ack(AT + ahead, 10), ack(AT, 10), fin(AT + 10)]);
            assert_eq!(kept.kept.progress(), Progress::Open, "nothing ends what has jumped, {ahead}");
            assert_eq!(kept.all([ack(AT + 10, 10)]), [A]);
            assert_eq!(end_of(&[syn_of(AT + ahead), rst(AT + ahead + 1)]), Progress::Open, "{ahead}");
        }
        assert_eq!(end_of(&[rst(AT)]), Progress::Rst);
        assert_eq!(end_of(&[fin(AT)]), Progress::Fin);
    }

    #[test]
    fn an_end_that_was_not_one_is_forgotten() {
        let after = |segments: &[Transport]| Flow::after(&[&[syn(), data(0, 0)], segments].concat()).progress();
        let at = ISN.wrapping_add(1);
        assert_eq!(after(&[rst(at), ack(at, 0)]), Progress::Open);
        assert_eq!(after(&[fin(at), ack(at, 0)]), Progress::Fin);
        assert_eq!(after(&[fin(at), ack(at, 1000)]), Progress::Open);
        assert_eq!(after(&[ack(at, 60_000), fin(at.wrapping_add(60_000)), ack(at, 1000)]), Progress::Fin, "sent again");
    }

    /// No table learns anything from a SYN with FIN or RST, whatever is there already.
    #[test]
    fn a_syn_that_contradicts_itself_neither_opens_nor_ends_a_connection() {
        for flags in [0x03, 0x06, 0x07, 0x13, 0x16] {
            let forged = segment(flags, ISN, 0);
            assert!(!forged.opens() && forged.contradicts());
            for always in [false, true] {
                assert_eq!(Flow { always, ..Flow::new() }.send(forged), (A, FlowOutcome::Passed));
            }
            for known in [&[syn()][..], &[syn(), data(0, 0)], &[syn(), fin(ISN.wrapping_add(1))], &[data(0, 0)]] {
                let mut flow = Flow::after(known);
                let before = (flow.opened, flow.kept);
                let backend = if flow.opened.is_some() { B } else { A };
                assert_eq!((flow.send(forged).0, (flow.opened, flow.kept)), (backend, before));
            }
        }
        let answer = segment(0x12, ISN, 0);
        assert!(!answer.contradicts() && !answer.opens(), "SYN with ACK");
        assert_eq!(Flow::new().send(answer), (A, FlowOutcome::Passed));
    }
}
