//! How the flow table is laid out: a memory-mapped array of groups of cache lines, beside it the flows' names, and what
//! each VIP may enter.
//!
//! A flow's hash ([`lb_ebpf::hash::FlowTag`](https://docs.rs/lb-ebpf)) names its home line and its tag. Its entry is in
//! that line or, where it was full, in one of the next of its group, which begins again behind its last; a line that an
//! entry went past is marked, so that others need not be read. So a packet reads one line.
//!
//! Packets look, claim and publish at any time; the daemon alone takes out. A place goes through these states:
//!
//! | tag | entry | what |
//! | --- | --- | --- |
//! | 0 | 0 | free |
//! | 0 | some | claimed by whoever swapped the entry in: its flow's name is being written |
//! | some | some | published |
//! | 0 or some | [`FlowEntry::GONE`](crate::FlowEntry::GONE) | taken out; free at the next sweep, before which a grace period has passed |
//!
//! So whoever has read a tag and an entry, in whichever order they came to him, has not read another flow's entry:
//! between one flow's entry and the next one's at a place, no packet is on its way.

use crate::{FlowEntry, FlowKey};

/// A cache line of places for entries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowLine {
    /// By place: the tag of the flow whose entry is there; 0 where none is.
    pub tags: [u32; FlowLine::PLACES],
    /// How many entries went past this line, where it was full, since it last had none that did.
    pub spilled: u32,
    /// By place: the entry.
    pub entries: [FlowEntry; FlowLine::PLACES],
}

/// The lines that an entry may be in.
pub type FlowGroup = [FlowLine; FlowLine::A_GROUP];

/// By place, whose entries a group has; written once before an entry is published, and read by the daemon alone.
pub type FlowNames = [FlowKey; FlowLine::PLACES_A_GROUP];

/// A place within a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowPlace(u32);

/// How many flows of a VIP each CPU may enter until the next sweep, in one aligned 64-bit word.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance(u64);

/// What a CPU has entered for a VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intake {
    /// The sweep since which [`Intake::entered`] counts.
    pub sweep: u32,
    /// Flows that it has entered since.
    pub entered: u32,
    /// Flows that it ever had to refuse.
    pub refused: u64,
}

impl Allowance {
    /// As the sweep of that number has it, which is not 0.
    pub const fn new(sweep: u32, flows: u32) -> Self {
        Self((sweep as u64) << 32 | flows as u64)
    }

    /// Number of the sweep that said so; 0 where none has met the VIP yet.
    #[inline(always)]
    pub const fn sweep(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Flows.
    #[inline(always)]
    pub const fn flows(self) -> u32 {
        self.0 as u32
    }
}

impl FlowLine {
    /// Places in a line.
    pub const PLACES: usize = 5;
    /// Lines in a group.
    pub const A_GROUP: usize = 8;
    /// Places in a group.
    pub const PLACES_A_GROUP: usize = Self::PLACES * Self::A_GROUP;
    /// Flows for which a group is made. With as many on average one group in 5,300 has more than it has places for
    /// (Poisson), and one flow in 58,000 finds its group full.
    pub const FLOWS_A_GROUP: u32 = 22;
}

impl FlowPlace {
    /// No place.
    pub const NONE: Self = Self(u32::MAX);

    /// The place of that number in a line of a group.
    #[inline(always)]
    pub const fn new(line: u32, number: u32) -> Self {
        Self(line << 3 | number)
    }

    /// Whether it is one.
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0 != Self::NONE.0
    }

    /// Its line; below [`FlowLine::A_GROUP`] whatever it was made of.
    #[inline(always)]
    pub const fn line(self) -> u32 {
        self.0 >> 3 & (FlowLine::A_GROUP as u32 - 1)
    }

    /// Its number within that line.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0 & 7
    }

    /// Its number within the group.
    #[inline(always)]
    pub const fn in_group(self) -> u32 {
        self.line() * FlowLine::PLACES as u32 + self.number()
    }

    /// As a number, which is not that within the group.
    #[inline(always)]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// From that number.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// All places of a group, in the order of their numbers in it.
    pub fn all() -> impl Iterator<Item = Self> {
        let lines = 0..FlowLine::A_GROUP as u32;
        lines.flat_map(|line| (0..FlowLine::PLACES as u32).map(move |number| Self::new(line, number)))
    }
}

super::pod!(FlowLine, Allowance, Intake);

const _: () = assert!(size_of::<FlowLine>() == 64);
const _: () = assert!(size_of::<Allowance>() == 8 && size_of::<Intake>() == 16);
const _: () = assert!(FlowLine::A_GROUP.is_power_of_two() && FlowLine::PLACES <= 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_tell_where_they_are() {
        assert!(FlowPlace::all().enumerate().all(|(index, place)| place.in_group() as usize == index));
        assert!(FlowPlace::all().all(FlowPlace::is_some) && !FlowPlace::NONE.is_some());
        assert_eq!(FlowPlace::all().count(), FlowLine::PLACES_A_GROUP);
    }
}
