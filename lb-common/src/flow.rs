//! What the flow tables hold: one entry for each flow that a change has put at risk, or, where a VIP tracks always, for
//! each.

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

/// What is known of a flow, in one aligned 64-bit word that one store changes: its backend, when it was last seen, how
/// far it has come, and where in the client's TCP stream it is.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEntry(u64);

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

    /// Whether the client has said that it will send no more.
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        matches!(self, Self::Fin | Self::Rst)
    }

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

/// Bits of a backend id and of a [`Position`].
const FIELD_BITS: u32 = 23;
const FIELD_MASK: u64 = (1 << FIELD_BITS) - 1;
const POSITION_SHIFT: u32 = FIELD_BITS;
const TICK_SHIFT: u32 = 2 * FIELD_BITS;
const STATE_SHIFT: u32 = 62;

impl FlowEntry {
    /// From parts.
    #[inline(always)]
    pub const fn new(backend: u32, state: FlowState, seen: Tick, next: Position) -> Self {
        Self(
            backend as u64 & FIELD_MASK
                | (next.0 as u64) << POSITION_SHIFT
                | (seen.0 as u64) << TICK_SHIFT
                | (state as u64) << STATE_SHIFT,
        )
    }

    /// Id of the backend that the flow belongs to.
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        (self.0 & FIELD_MASK) as u32
    }

    /// How far the flow has come.
    #[inline(always)]
    pub const fn state(self) -> FlowState {
        match self.0 >> STATE_SHIFT {
            0 => FlowState::Open,
            1 => FlowState::Syn,
            2 => FlowState::Fin,
            _ => FlowState::Rst,
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
        Position((self.0 >> POSITION_SHIFT & FIELD_MASK) as u32)
    }

    /// The same flow, of another backend.
    #[must_use]
    pub const fn of_backend(self, backend: u32) -> Self {
        Self(self.0 & !FIELD_MASK | backend as u64 & FIELD_MASK)
    }
}

/// A TCP sequence number without its last nine bits: to half a kilobyte, which is what an entry has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position(u32);

impl Position {
    const DROPPED_BITS: u32 = 32 - FIELD_BITS;
    /// Steps of half a kilobyte that a stream may be ahead of what was seen of it: a mebibyte.
    const AHEAD: i32 = 1 << 11;

    /// Of a sequence number.
    #[inline(always)]
    pub const fn of(sequence: u32) -> Self {
        Self(sequence >> Self::DROPPED_BITS)
    }

    /// Steps from `other` to this, negative where this comes before; sequence numbers wrap (RFC 9293 §3.4).
    #[inline(always)]
    pub const fn from(self, other: Self) -> i32 {
        // The field's sign is brought to that of the word and back.
        (self.0.wrapping_sub(other.0) << Self::DROPPED_BITS).cast_signed() >> Self::DROPPED_BITS
    }

    /// Whether a segment that begins here continues a stream that had come to `other`.
    #[inline(always)]
    pub const fn continues(self, other: Self) -> bool {
        matches!(self.from(other), -1..=1)
    }

    /// The further of both, unless this is so far ahead of `other` that it is no part of the same stream.
    #[inline(always)]
    pub const fn advanced_from(self, other: Self) -> Self {
        if matches!(self.from(other), 0..=Self::AHEAD) { self } else { other }
    }
}

/// What became of a packet that the flow tables were asked for: a counter each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowOutcome {
    /// Its flow was in the table of established flows.
    Known = 0,
    /// Its flow was in the table of embryonic flows, and stayed there: a repeated SYN, or a RST.
    Repeated = 1,
    /// The second packet of its flow: from the embryonic flows to the established ones.
    Promoted = 2,
    /// A new flow, entered for the slot's current owner.
    Opened = 3,
    /// A flow from before the last change, entered for the slot's settled owner.
    Kept = 4,
    /// A flow without an entry that needs none.
    Passed = 5,
    /// A SYN on an entry whose flow had ended: a new flow, entered for the slot's current owner.
    Reopened = 6,
    /// Its flow's backend is down: it went to the slot's current owner.
    Rerouted = 7,
    /// Its flow could not be entered: it went to the settled owner, where it stays even so.
    TableFull = 8,
}

impl FlowOutcome {
    /// Every outcome, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Known,
        Self::Repeated,
        Self::Promoted,
        Self::Opened,
        Self::Kept,
        Self::Passed,
        Self::Reopened,
        Self::Rerouted,
        Self::TableFull,
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
        }
    }
}

super::pod!(FlowKey, FlowEntry);

const _: () = assert!(size_of::<FlowKey>() == 24);
const _: () = assert!(size_of::<FlowEntry>() == 8);
const _: () = assert!(FlowOutcome::COUNT <= FlowOutcome::ROOM);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_an_entry_keeps_to_its_bits() {
        let next = Position::of(u32::MAX);
        for state in FlowState::ALL {
            let entry = FlowEntry::new(crate::Slot::MAX_ID, state, Tick(0xabcd), next);
            assert_eq!(
                (entry.backend(), entry.state(), entry.seen(), entry.next()),
                (crate::Slot::MAX_ID, state, Tick(0xabcd), next)
            );
            let other = entry.of_backend(7);
            assert_eq!((other.backend(), other.state(), other.seen(), other.next()), (7, state, Tick(0xabcd), next));
        }
    }

    #[test]
    fn keys_tell_their_parts() {
        let ports = u32::from_ne_bytes([0x9c, 0x40, 0x00, 0x50]);
        let key = FlowKey::new(Address::default(), ports, FlowKey::MAX_VIP, 17);
        assert_eq!((key.vip(), key.protocol()), (FlowKey::MAX_VIP, 17));
        assert_eq!((key.source_port(), key.destination_port()), (40_000, 80));
    }

    #[test]
    fn positions_wrap_as_sequence_numbers_do() {
        let (before, after) = (Position::of(u32::MAX - 511), Position::of(1024));
        assert_eq!((after.from(before), before.from(after)), (3, -3));
        assert!(Position::of(100).continues(Position::of(u32::MAX)));
        assert!(!Position::of(1 << 31).continues(Position::of(0)));
        assert_eq!(after.advanced_from(before), after);
        assert_eq!(before.advanced_from(after), after);
        assert_eq!(Position::of(1 << 24).advanced_from(Position::of(0)), Position::of(0));
    }

    #[test]
    fn outcomes_are_in_the_order_of_their_numbers() {
        assert!(FlowOutcome::ALL.iter().enumerate().all(|(index, outcome)| index == *outcome as usize));
        assert!(FlowState::ALL.iter().enumerate().all(|(index, state)| index == *state as usize));
    }
}
