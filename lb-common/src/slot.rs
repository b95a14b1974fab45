//! One entry of a VIP's Maglev table.
//!
//! A table has four bytes for it ([`SlotWord`]): all of a slot that is settled. Of one that moves there is more to say
//! ([`Slot`]), in eight bytes that it shares with every slot of which the same is to be said, and that packets on other
//! slots never read. A slot becomes another one by one store to its four bytes, whatever it was and will be.

use crate::{NO_ID, Tick};

/// What a table has of a slot: the id of its owner where it is settled, else the place of its [`Slot`] among those that
/// move.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotWord(u32);

/// The slots that one cache line holds: the map of slots has lines for values.
pub type SlotLine = [SlotWord; SlotWord::A_LINE as usize];

/// Whom the flows of one slot belong to: two backend ids, the time of the last change and two flags in one aligned
/// 64-bit word.
///
/// A slot is *settled* while every flow on it belongs to one backend; packets then need no flow table. A change that
/// gives it to another backend makes it *moving*: it has a current owner, which new flows go to, and a settled owner,
/// which flows belong to that are in no flow table. Once flows without an entry can only be new ones ([`Slot::aged`]),
/// the current owner is the settled owner too, and the slot stays moving only for the flows of others that are in the
/// tables ([`Slot::settle`]).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot(u64);

/// Bits of a backend id.
const ID_BITS: u32 = 23;
const ID_MASK: u64 = (1 << ID_BITS) - 1;
const TICK_SHIFT: u32 = 2 * ID_BITS;
const KEEPS_UDP: u64 = 1 << 62;
const MOVING: u64 = 1 << 63;

impl SlotWord {
    /// Slots in a line.
    pub const A_LINE: u32 = 16;
    /// The largest place of a slot that moves.
    pub const MAX_MOVE: u32 = Self::MOVING - 1;

    const MOVING: u32 = 1 << 31;

    /// A slot on which every flow belongs to `owner`.
    #[inline(always)]
    pub const fn settled(owner: u32) -> Self {
        Self(owner)
    }

    /// A slot that moves, of which `place` has the rest.
    #[inline(always)]
    pub const fn moving(place: u32) -> Self {
        Self(Self::MOVING | place)
    }

    /// The owner of a settled slot.
    #[inline(always)]
    pub const fn owner(self) -> Option<u32> {
        if self.0 & Self::MOVING == 0 { Some(self.0) } else { None }
    }

    /// Where the rest is of a slot that moves.
    #[inline(always)]
    pub const fn place(self) -> u32 {
        self.0 & Self::MAX_MOVE
    }

    /// As the map has it.
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// From what the map has.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl Slot {
    /// No backend: what a table holds before it is filled, and when a VIP has no backend with weight.
    pub const EMPTY: Self = Self(0);
    /// The largest backend id that a slot can hold.
    pub const MAX_ID: u32 = ID_MASK as u32;

    /// A slot on which every flow belongs to `owner`.
    #[inline(always)]
    pub const fn settled(owner: u32) -> Self {
        Self::owners(owner, owner)
    }

    /// A slot that was given from `settled` to `current` at `since`.
    #[inline(always)]
    pub const fn moving(current: u32, settled: u32, since: Tick) -> Self {
        Self(Self::owners(current, settled).0 | (since.0 as u64) << TICK_SHIFT | KEEPS_UDP | MOVING)
    }

    /// The backend id that new flows go to.
    #[inline(always)]
    pub const fn current(self) -> u32 {
        (self.0 & ID_MASK) as u32
    }

    /// The backend id that flows without an entry in a flow table belong to, unless they are new.
    #[inline(always)]
    pub const fn settled_owner(self) -> u32 {
        (self.0 >> ID_BITS & ID_MASK) as u32
    }

    /// Whether flows of more than one backend may be on this slot.
    #[inline(always)]
    pub const fn is_moving(self) -> bool {
        self.0 & MOVING != 0
    }

    /// Whether a UDP flow without an entry belongs to the settled owner still: nothing tells whether it is a new one.
    #[inline(always)]
    pub const fn keeps_udp(self) -> bool {
        self.0 & KEEPS_UDP != 0
    }

    /// When the settled owner ceased to be the current one; of no meaning in a settled slot.
    #[inline(always)]
    pub const fn since(self) -> Tick {
        Tick((self.0 >> TICK_SHIFT) as u16)
    }

    /// The slot after a change that gives it to `current`.
    ///
    /// Whether the settled owner is down makes no difference: its flows go to the current owner while it is, and those
    /// that were silent meanwhile are its own again if it comes back.
    #[must_use]
    pub const fn given_to(self, current: u32, now: Tick) -> Self {
        let settled = self.settled_owner();
        if self.current() == current {
            self
        } else if settled == NO_ID {
            // Nobody was served here: flows that are in no table are new.
            if self.is_moving() { Self::moving(current, current, now) } else { Self::settled(current) }
        } else if !self.is_moving() || self.current() == settled {
            // Flows that are in no table began at the owner that loses the slot now.
            Self::moving(current, settled, now)
        } else {
            // They began before that owner: those of the owner that loses the slot now are all in the tables.
            Self(self.0 & !ID_MASK | current as u64)
        }
    }

    /// The slot with each backend id replaced.
    #[must_use]
    pub fn renamed(self, name: impl Fn(u32) -> u32) -> Self {
        let owners = Self::owners(name(self.current()), name(self.settled_owner()));
        Self(self.0 & !Self::owners(Self::MAX_ID, Self::MAX_ID).0 | owners.0)
    }

    /// The slot `now`, as time has passed: after `udp_idle` ticks without a packet a UDP flow counts as new, and after
    /// both idle times any flow does that has no entry.
    #[must_use]
    pub const fn aged(self, now: Tick, tcp_idle: u16, udp_idle: u16) -> Self {
        if !self.is_moving() || self.current() == self.settled_owner() {
            return self;
        }
        let age = now.since(self.since());
        if age >= tcp_idle && age >= udp_idle {
            Self::moving(self.current(), self.current(), self.since())
        } else if age >= udp_idle {
            Self(self.0 & !KEEPS_UDP)
        } else {
            self
        }
    }

    /// Whether only flows in the tables keep this slot from being settled.
    pub const fn is_settling(self) -> bool {
        self.is_moving() && self.current() == self.settled_owner()
    }

    /// The slot once no flow of another backend than the current owner is in the tables; only of one that
    /// [`Slot::is_settling`].
    #[must_use]
    pub const fn settle(self) -> Self {
        Self::settled(self.current())
    }

    /// As the map has it.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// From what the map has.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline(always)]
    const fn owners(current: u32, settled: u32) -> Self {
        Self((settled as u64 & ID_MASK) << ID_BITS | current as u64 & ID_MASK)
    }
}

super::pod!(Slot, SlotWord);

const _: () = assert!(size_of::<SlotLine>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    const A: u32 = 1;
    const B: u32 = 2;
    const C: u32 = Slot::MAX_ID;
    const NOW: Tick = Tick(0xfff0);

    #[test]
    fn every_part_keeps_to_its_bits() {
        let slot = Slot::moving(C, A, NOW);
        assert_eq!((slot.current(), slot.settled_owner(), slot.since()), (C, A, NOW));
        assert!(slot.is_moving() && slot.keeps_udp() && !slot.is_settling());
        let settled = Slot::settled(C);
        assert_eq!((settled.current(), settled.settled_owner(), settled.since()), (C, C, Tick(0)));
        assert!(!settled.is_moving() && !settled.keeps_udp());
        assert_eq!(Slot::EMPTY.current(), NO_ID);
        assert_eq!(slot.renamed(|id| if id == C { B } else { id }), Slot::moving(B, A, NOW));
    }

    #[test]
    fn a_word_is_an_owner_or_a_place() {
        for number in [0, 1, Slot::MAX_ID, SlotWord::MAX_MOVE] {
            assert_eq!(SlotWord::settled(number).owner(), Some(number));
            assert_eq!((SlotWord::moving(number).owner(), SlotWord::moving(number).place()), (None, number));
        }
        assert_eq!(SlotWord::default().owner(), Some(NO_ID));
    }

    #[test]
    fn unknown_flows_belong_to_whom_they_began_at() {
        let first = Slot::settled(A).given_to(B, NOW);
        assert_eq!(first, Slot::moving(B, A, NOW));
        let later = Tick(NOW.0.wrapping_add(40));
        // Flows of B are in the tables; those of A count their idle time from when A lost the slot.
        assert_eq!(first.given_to(C, later), Slot::moving(C, A, NOW));
        let back = first.given_to(A, later);
        assert!(back.is_settling() && back.current() == A, "flows of B may still be in the tables");
        // From here on, new flows began at A without an entry.
        assert_eq!(back.given_to(B, later), Slot::moving(B, A, later));
        assert_eq!(first.given_to(B, later), first);
        assert_eq!(Slot::settled(A).given_to(A, later), Slot::settled(A));
    }

    #[test]
    fn nobody_is_an_owner_too() {
        assert_eq!(Slot::EMPTY.given_to(B, NOW), Slot::settled(B));
        let drained = Slot::settled(A).given_to(NO_ID, NOW);
        assert_eq!(drained, Slot::moving(NO_ID, A, NOW));
        assert_eq!(drained.given_to(B, NOW), Slot::moving(B, A, NOW));
        let ended = drained.aged(NOW, 0, 0).given_to(B, NOW);
        assert!(ended.is_settling() && ended.current() == B, "flows of A may still be in the tables");
    }

    #[test]
    fn idle_times_end_what_is_unknown() {
        let slot = Slot::moving(B, A, NOW);
        let at = |ticks: u16| slot.aged(Tick(NOW.0.wrapping_add(ticks)), 100, 10);
        assert_eq!(at(9), slot);
        assert!(!at(10).keeps_udp() && at(10).settled_owner() == A);
        assert!(!at(99).is_settling());
        assert!(at(100).is_settling());
        assert_eq!(at(100).settle(), Slot::settled(B));
        assert_eq!(Slot::settled(A).aged(NOW, 0, 0), Slot::settled(A));
    }
}
