//! What the flow table holds: one entry for each flow that a change has put at risk, or, where a VIP tracks always, for
//! each; two where two streams claim one flow.

use crate::Address;

/// Names a flow: its 5-tuple, the VIP's id in place of its address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Address of the client.
    pub source: Address,
    /// Source and destination port as they stand in the packet.
    pub ports: u32,
    /// Id of the VIP, and in the upper eight bits the IP protocol number.
    pub service: u32,
}

impl FlowKey {
    const PROTOCOL_SHIFT: u32 = 24;
    /// The largest VIP id that a key can hold.
    pub const MAX_VIP: u32 = (1 << Self::PROTOCOL_SHIFT) - 1;

    /// From parts; `ports` as they stand in the packet.
    #[inline(always)]
    pub const fn new(source: Address, ports: u32, vip: u32, protocol: u8) -> Self {
        Self { source, ports, service: (protocol as u32) << Self::PROTOCOL_SHIFT | vip & Self::MAX_VIP }
    }

    /// Id of the VIP.
    pub const fn vip(&self) -> u32 {
        self.service & Self::MAX_VIP
    }

    /// IP protocol number.
    pub const fn protocol(&self) -> u8 {
        (self.service >> Self::PROTOCOL_SHIFT) as u8
    }

    /// As three words of memory.
    pub fn to_words(&self) -> [u64; 3] {
        let [a, b, c, d] = self.source.0.map(crate::Be32::wire);
        [[a, b], [c, d], [self.ports, self.service]].map(|[low, high]| {
            let ([a, b, c, d], [e, f, g, h]) = (low.to_ne_bytes(), high.to_ne_bytes());
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        })
    }

    /// From these words.
    pub fn from_words(words: [u64; 3]) -> Self {
        let [[a, b], [c, d], [ports, service]] = words.map(|word| {
            let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
            [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
        });
        Self { source: Address([a, b, c, d].map(crate::Be32::from_wire)), ports, service }
    }

    /// Port of the client.
    pub const fn source_port(&self) -> u16 {
        (u32::from_be(self.ports) >> 16) as u16
    }

    /// Port of the VIP.
    pub const fn destination_port(&self) -> u16 {
        u32::from_be(self.ports) as u16
    }
}

/// Time in units of 2^30 nanoseconds, 1.07 seconds, of the monotonic clock, modulo 2^16: it comes round after 19.5
/// hours.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tick(pub u16);

impl Tick {
    /// Nanoseconds in a tick.
    pub const NANOSECONDS: u64 = 1 << 30;

    /// Of a time of the monotonic clock in nanoseconds.
    #[inline(always)]
    pub const fn at(nanoseconds: u64) -> Self {
        Self((nanoseconds >> 30) as u16)
    }

    /// Ticks from `earlier` to this.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u16 {
        self.0.wrapping_sub(earlier.0)
    }
}

/// What is known of a flow's stream, in one aligned 64-bit word that one compare-and-swap changes: its backend, when it
/// was last seen, how far it has come, and where in the client's TCP stream it is.
///
/// | bits | what |
/// | --- | --- |
/// | 23 | id of the backend; never 0, which is what tells an entry from a [place](crate::FlowLine) without one |
/// | 17 | [`Position`] |
/// | 16 | [`Tick`] at which it was last seen |
/// | 3 | level of its window ([`FlowEntry::holds`]) |
/// | 2 | progress: one packet, more, FIN, RST |
/// | 1 | its position jumped |
/// | 2 | [`FlowKind`] |
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEntry(u64);

/// Whose stream an entry is of: a TCP flow may have one of either of the first two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKind {
    /// The stream that a SYN opened, at the backend that was the slot's current owner then.
    Opened = 0,
    /// What goes to the slot's settled owner: a stream from before the last change.
    Kept = 1,
    /// Datagrams.
    Datagrams = 2,
}

/// How far a flow has come, as far as the packets of the client tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// Packets flow.
    Open = 0,
    /// A SYN was seen and nothing after it.
    Syn = 1,
    /// The client has sent FIN.
    Fin = 2,
    /// The client has sent RST.
    Rst = 3,
}

impl FlowState {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Open, Self::Syn, Self::Fin, Self::Rst];

    /// As operators read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Syn => "syn",
            Self::Fin => "fin",
            Self::Rst => "rst",
        }
    }
}

/// How far the client has come with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// One packet was seen, or the same SYN several times.
    Once = 0,
    /// More.
    Open = 1,
    /// FIN, where the stream had come to.
    Fin = 2,
    /// RST, where the stream had come to.
    Rst = 3,
}

const ID_BITS: u32 = 23;
const ID_MASK: u64 = (1 << ID_BITS) - 1;
const POSITION_SHIFT: u32 = ID_BITS;
const TICK_SHIFT: u32 = POSITION_SHIFT + Position::BITS;
const LEVEL_SHIFT: u32 = TICK_SHIFT + 16;
const PROGRESS_SHIFT: u32 = LEVEL_SHIFT + 3;
const JUMPED_SHIFT: u32 = PROGRESS_SHIFT + 2;
const KIND_SHIFT: u32 = JUMPED_SHIFT + 1;

/// The parts of a [`FlowEntry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowParts {
    /// Id of the backend that the stream belongs to.
    pub backend: u32,
    /// Whose stream it is.
    pub kind: FlowKind,
    /// How far it has come.
    pub progress: Progress,
    /// When its last packet came.
    pub seen: Tick,
    /// Where the client's TCP stream goes on.
    pub next: Position,
    /// How far from there a segment may be: see [`FlowEntry::holds`].
    pub level: u32,
    /// A segment was further ahead than what follows on the last one: who does not see the stream may have sent it.
    pub jumped: bool,
}

impl FlowParts {
    /// The largest level.
    pub const MAX_LEVEL: u32 = 7;

    /// As one word.
    #[inline(always)]
    pub const fn pack(self) -> FlowEntry {
        let Self { backend, kind, progress, seen, next, level, jumped } = self;
        FlowEntry(
            backend as u64 & ID_MASK
                | (next.0 as u64) << POSITION_SHIFT
                | (seen.0 as u64) << TICK_SHIFT
                | ((level & Self::MAX_LEVEL) as u64) << LEVEL_SHIFT
                | (progress as u64) << PROGRESS_SHIFT
                | (jumped as u64) << JUMPED_SHIFT
                | (kind as u64) << KIND_SHIFT,
        )
    }
}

impl FlowEntry {
    /// What a place holds from when its entry is taken out until no packet can be on its way to that any more: no entry,
    /// and not free.
    pub const GONE: Self = Self(1 << 63);

    /// From what a place holds.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As a place holds it.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether this is an entry, and not what a place without one holds.
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.backend() != crate::NO_ID
    }

    /// Its parts.
    #[inline(always)]
    pub const fn parts(self) -> FlowParts {
        FlowParts {
            backend: self.backend(),
            kind: self.kind(),
            progress: self.progress(),
            seen: self.seen(),
            next: self.next(),
            level: self.level(),
            jumped: self.has_jumped(),
        }
    }

    /// Id of the backend that the stream belongs to.
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        (self.0 & ID_MASK) as u32
    }

    /// Whose stream it is.
    #[inline(always)]
    pub const fn kind(self) -> FlowKind {
        match self.0 >> KIND_SHIFT {
            0 => FlowKind::Opened,
            1 => FlowKind::Kept,
            _ => FlowKind::Datagrams,
        }
    }

    /// How far it has come.
    #[inline(always)]
    pub const fn progress(self) -> Progress {
        match self.0 >> PROGRESS_SHIFT & 3 {
            0 => Progress::Once,
            1 => Progress::Open,
            2 => Progress::Fin,
            _ => Progress::Rst,
        }
    }

    /// How far the flow has come, as operators read it.
    pub const fn state(self) -> FlowState {
        match (self.progress(), self.kind()) {
            (Progress::Once, FlowKind::Opened) => FlowState::Syn,
            (Progress::Once | Progress::Open, _) => FlowState::Open,
            (Progress::Fin, _) => FlowState::Fin,
            (Progress::Rst, _) => FlowState::Rst,
        }
    }

    /// When its last packet came.
    #[inline(always)]
    pub const fn seen(self) -> Tick {
        Tick((self.0 >> TICK_SHIFT) as u16)
    }

    /// Where the client's TCP stream goes on.
    #[inline(always)]
    pub const fn next(self) -> Position {
        Position((self.0 >> POSITION_SHIFT) as u32 & Position::MASK)
    }

    /// Level of its window.
    #[inline(always)]
    pub const fn level(self) -> u32 {
        (self.0 >> LEVEL_SHIFT) as u32 & FlowParts::MAX_LEVEL
    }

    /// Whether its position jumped.
    #[inline(always)]
    pub const fn has_jumped(self) -> bool {
        self.0 >> JUMPED_SHIFT & 1 != 0
    }

    /// Steps from where the stream goes on to `at`, either way.
    #[inline(always)]
    pub const fn distance(self, at: Position) -> u32 {
        at.from(self.next()).unsigned_abs()
    }

    /// Whether a segment at `at` may be of the stream that a SYN opened: it is no further from where that goes on than
    /// 64 KiB and what the stream has carried, 16 MiB at most.
    ///
    /// No honest client is further ahead: the window of a SYN+ACK is not scaled (RFC 7323 §2.2), and what is on its way
    /// later is bounded by what was acknowledged before (RFC 5681 §3.1), which all came through here. What was carried
    /// is kept as a level ([`FlowEntry::level_at`]): of the first the window is 64 KiB, of the others 96 KiB doubled for
    /// each, and 16 MiB of the last.
    #[inline(always)]
    pub const fn holds(self, at: Position) -> bool {
        const LAST: u32 = (16 << 20) >> Position::DROPPED_BITS;
        let level = self.level();
        let window = match level {
            0 => 2,
            FlowParts::MAX_LEVEL => LAST,
            _ => 3 << level,
        };
        self.distance(at) <= window
    }

    /// The level of the stream's window once it has come to `next`, with data that begins at `at`. It goes up with the
    /// first byte and then whenever the stream comes past a multiple of 32 KiB doubled for each level. So the window is
    /// never less than 64 KiB and all that was carried: a stream that has come to level *l* has carried
    /// 64 KiB · (2^*l* − 1) at most.
    ///
    /// Where something is missing in between, it stays: whoever sends single bytes further and further ahead carries
    /// nothing. An honest stream that happens to lose what comes before such a multiple has room until the next one.
    #[inline(always)]
    pub const fn level_at(self, at: Position, next: Position) -> u32 {
        let level = self.level();
        let has_gap = at.from(self.next()) > 0;
        let is_past = level == 0 || self.next().0 >> level != next.0 >> level;
        if is_past && !has_gap && level < FlowParts::MAX_LEVEL { level + 1 } else { level }
    }

    /// Whether its stream has ended, as far as the client tells.
    #[inline(always)]
    pub const fn has_ended(self) -> bool {
        matches!(self.progress(), Progress::Fin | Progress::Rst)
    }

    /// The same stream, as what is kept.
    #[must_use]
    #[inline(always)]
    pub const fn kept(self) -> Self {
        Self(self.0 & !(u64::MAX << KIND_SHIFT) | (FlowKind::Kept as u64) << KIND_SHIFT)
    }

    /// The same stream, of another backend.
    #[must_use]
    #[inline(always)]
    pub const fn of_backend(self, backend: u32) -> Self {
        Self(self.0 & !ID_MASK | backend as u64 & ID_MASK)
    }
}

/// A TCP sequence number without its last 15 bits: to 32 KiB, which is what an entry has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position(u32);

impl Position {
    const BITS: u32 = 17;
    const DROPPED_BITS: u32 = 32 - Self::BITS;
    const MASK: u32 = (1 << Self::BITS) - 1;

    /// Of a sequence number.
    #[inline(always)]
    pub const fn of(sequence: u32) -> Self {
        Self(sequence >> Self::DROPPED_BITS)
    }

    /// Steps of 32 KiB from `other` to this, negative where this comes before; sequence numbers wrap (RFC 9293 §3.4).
    #[inline(always)]
    pub const fn from(self, other: Self) -> i32 {
        // The field's sign is brought to that of the word and back.
        (self.0.wrapping_sub(other.0) << Self::DROPPED_BITS).cast_signed() >> Self::DROPPED_BITS
    }
}

/// What became of a packet that the flow table was asked for: a counter each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowOutcome {
    /// Its flow was established: more than one packet of it was seen before.
    Known = 0,
    /// Its flow was embryonic, and stayed so: a repeated SYN, or a RST.
    Repeated = 1,
    /// The second packet of its flow, which is established from now on.
    Promoted = 2,
    /// A new flow, entered for the slot's current owner.
    Opened = 3,
    /// A flow from before the last change, entered for the slot's settled owner.
    Kept = 4,
    /// A flow without an entry that needs none, or a packet that is to leave no trace in one: a SYN with another number
    /// than the stream's that is open.
    Passed = 5,
    /// A SYN on an entry whose flow had ended: a new flow, entered for the slot's current owner.
    Reopened = 6,
    /// Its flow's backend is down: it went to the slot's current owner.
    Rerouted = 7,
    /// Its flow found no free place: it went to the settled owner, where it stays even so.
    TableFull = 8,
    /// Its VIP's share of the table was used up: it went to the settled owner, where it stays even so.
    OverShare = 9,
}

impl FlowOutcome {
    /// Every outcome, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Known,
        Self::Repeated,
        Self::Promoted,
        Self::Opened,
        Self::Kept,
        Self::Passed,
        Self::Reopened,
        Self::Rerouted,
        Self::TableFull,
        Self::OverShare,
    ];
    /// Number of outcomes.
    pub const COUNT: usize = Self::ALL.len();
    /// Counters that their map is made with; see [`DropReason::ROOM`](crate::DropReason::ROOM).
    pub const ROOM: usize = 32;

    /// As metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Repeated => "repeated",
            Self::Promoted => "promoted",
            Self::Opened => "opened",
            Self::Kept => "kept",
            Self::Passed => "passed",
            Self::Reopened => "reopened",
            Self::Rerouted => "rerouted",
            Self::TableFull => "table_full",
            Self::OverShare => "over_share",
        }
    }
}

super::pod!(FlowKey, FlowEntry);

const _: () = assert!(KIND_SHIFT + 2 == u64::BITS);

const _: () = assert!(size_of::<FlowKey>() == 24);
const _: () = assert!(size_of::<FlowEntry>() == 8);
const _: () = assert!(FlowOutcome::COUNT <= FlowOutcome::ROOM);

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(sequence: u32) -> FlowParts {
        FlowParts {
            backend: 7,
            kind: FlowKind::Opened,
            progress: Progress::Open,
            seen: Tick(0),
            next: Position::of(sequence),
            level: 0,
            jumped: false,
        }
    }

    #[test]
    fn every_part_of_an_entry_keeps_to_its_bits() {
        for kind in [FlowKind::Opened, FlowKind::Kept, FlowKind::Datagrams] {
            for progress in [Progress::Once, Progress::Open, Progress::Fin, Progress::Rst] {
                for jumped in [false, true] {
                    let parts = FlowParts {
                        backend: crate::Slot::MAX_ID,
                        kind,
                        progress,
                        seen: Tick(0xabcd),
                        next: Position::of(0xfedc_ba98),
                        level: 5,
                        jumped,
                    };
                    assert_eq!(parts.pack().parts(), parts);
                    assert_eq!(parts.pack().of_backend(7).parts(), FlowParts { backend: 7, ..parts });
                    assert!(parts.pack().is_some());
                }
            }
        }
        assert!(!FlowEntry::GONE.is_some() && !FlowEntry::default().is_some());
    }

    #[test]
    fn keys_tell_their_parts() {
        let ports = u32::from_ne_bytes([0x9c, 0x40, 0x00, 0x50]);
        let key = FlowKey::new(Address::default(), ports, FlowKey::MAX_VIP, 17);
        assert_eq!((key.vip(), key.protocol()), (FlowKey::MAX_VIP, 17));
        assert_eq!((key.source_port(), key.destination_port()), (40_000, 80));
        let source = Address([1, 2, 3, 4].map(crate::Be32::new));
        let key = FlowKey { source, ..key };
        assert_eq!(FlowKey::from_words(key.to_words()), key);
    }

    #[test]
    fn positions_wrap_as_sequence_numbers_do() {
        let (before, after) = (Position::of(u32::MAX - 32_767), Position::of(65_536));
        assert_eq!((after.from(before), before.from(after)), (3, -3));
        assert_eq!(Position::of(1 << 31).from(Position::of(0)), -(1 << 16));
    }

    /// Whatever a stream begins with and wherever segments lie in what may be on its way, it holds them all.
    #[test]
    fn a_window_holds_what_an_honest_client_may_have_on_its_way() {
        const UNSCALED: u64 = 65_535;
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..300 {
            let isn = random(1 << 32);
            let sequence = |offset: u64| (isn + offset) as u32;
            let (mut carried, mut parts) = (0, stream(sequence(1)));
            for _ in 0..2000 {
                let entry = parts.pack();
                let window = (UNSCALED + carried).min(16 << 20);
                // Ahead by all that may be on its way, or an old one once more.
                let ahead = random(window + 1);
                assert!(entry.holds(Position::of(sequence(1 + carried + ahead))), "{carried} and {ahead} ahead");
                assert!(
                    entry.holds(Position::of(sequence(1 + carried - random(window.min(carried) + 1).min(carried))))
                );
                // On it goes.
                let len = 1 + random(1460);
                let at = parts.next;
                carried += len;
                parts.next = Position::of(sequence(1 + carried));
                parts.level = entry.level_at(at, parts.next);
            }
        }
        // Single bytes, each as far ahead as it may be, carry nothing.
        let mut parts = FlowParts { level: 1, ..stream(0) };
        for _ in 0..100 {
            let at = Position(parts.next.0 + 6);
            assert!(parts.pack().holds(at));
            (parts.level, parts.next) = (parts.pack().level_at(at, at), at);
        }
        assert_eq!(parts.level, 1);
        let young = stream(1 << 20).pack();
        assert!(!young.holds(Position::of((1 << 20) + (96 << 10))), "96 KiB ahead of a stream without data");
        let old = FlowParts { level: FlowParts::MAX_LEVEL, ..stream(0) }.pack();
        assert!(old.holds(Position::of(16 << 20)) && !old.holds(Position::of((16 << 20) + (32 << 10))));
    }

    #[test]
    fn outcomes_are_in_the_order_of_their_numbers() {
        assert!(FlowOutcome::ALL.iter().enumerate().all(|(index, outcome)| index == *outcome as usize));
        assert!(FlowState::ALL.iter().enumerate().all(|(index, state)| index == *state as usize));
    }
}
