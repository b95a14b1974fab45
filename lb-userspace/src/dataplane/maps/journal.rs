//! What the daemon notes about a generation, in a map of its own.

use std::ops::Range;

use lb_common::Features;

use super::Maps;
use crate::{dataplane::globals::Globals, model::IcmpRate, seed::HashSeed};

/// Words of the map. More may come behind these; what they are stays, so that each version reads those of every other.
pub(super) const ENTRIES: u32 = 4 + 2 * HashSeed::WORDS as u32;

const GENERATION: u64 = 1 << 1;
const FORMER: u64 = 1 << 2;

/// What the daemon notes about a generation, so that another daemon knows what this one was doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// Id of the program that the rest is about.
    pub program: u32,
    /// Features that it was loaded with.
    pub features: Features,
    /// Seed that it was loaded with.
    pub seed: HashSeed,
    /// How many ICMP answers of each kind it was told to send.
    pub icmp_rate: IcmpRate,
    /// Hash of the object that it is from.
    pub object: u64,
    /// An apply is under way, or broke off.
    pub applying: bool,
    /// What the maps before these counted is not carried over yet.
    pub carrying: Option<Carrying>,
}

/// What is still to be carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrying {
    /// What the generation before this one counted, and flows that it alone knows.
    Generation,
    /// What a former data plane counted, and flows that it alone knows.
    Former,
}

impl Journal {
    /// The word of flags.
    pub const FLAGS: u32 = 3;
    /// The flag that an apply is under way, or broke off.
    pub const APPLYING: u64 = 1;

    /// From the words of its map.
    pub fn from_words(word: impl Fn(u32) -> u64) -> Self {
        let [program, features, object, flags] = [0, 1, 2, Self::FLAGS].map(&word);
        Self {
            program: program as u32,
            features: Features(features as u32),
            seed: seed_in(half(program), word),
            icmp_rate: rate_of(features),
            object,
            applying: flags & Self::APPLYING != 0,
            carrying: match flags & (GENERATION | FORMER) {
                0 => None,
                GENERATION => Some(Carrying::Generation),
                _ => Some(Carrying::Former),
            },
        }
    }

    /// What the program was loaded with.
    pub fn globals(self) -> Globals {
        let Self { features, seed, icmp_rate, .. } = self;
        Globals { features, seed, icmp_rate }
    }
}

impl Maps {
    /// The daemon's notes.
    pub fn journal(&self) -> Journal {
        Journal::from_words(|index| self.journal.load(index))
    }

    /// Writes the daemon's notes. What they are about is written before they say so, and flags are raised first.
    pub fn note(&self, journal: Journal) {
        let Journal { program, features, seed, icmp_rate, object, applying, carrying } = journal;
        let mut in_use = half(self.journal.load(0));
        if seed_in(in_use, |index| self.journal.load(index)) != seed {
            // The other half, which the word of the program puts in use together with the program.
            in_use = 1 - in_use;
            for (index, word) in (seed_words(in_use)).zip(seed.to_words()) {
                self.journal.store(index, word);
            }
        }
        let carrying = match carrying {
            None => 0,
            Some(Carrying::Generation) => GENERATION,
            Some(Carrying::Former) => FORMER,
        };
        let flags = if applying { Journal::APPLYING | carrying } else { carrying };
        self.journal.store(Journal::FLAGS, flags | self.journal.load(Journal::FLAGS));
        self.journal.store(1, u64::from(features.0) | noted(icmp_rate));
        self.journal.store(2, object);
        self.journal.store(0, u64::from(program) | u64::from(in_use) << 32);
        self.journal.store(Journal::FLAGS, flags);
    }
}

/// The rate as it is noted in the word of the features, above them: one more than it is, for there is 0 where none was noted.
fn noted(icmp_rate: IcmpRate) -> u64 {
    u64::from(icmp_rate.get() + 1) << 32
}

/// The rate in the word of the features; that of a program for which none is noted is the default.
fn rate_of(features: u64) -> IcmpRate {
    let noted = (features >> 32) as u32;
    noted.checked_sub(1).and_then(IcmpRate::new).unwrap_or_default()
}

/// The seed in a half of the journal.
fn seed_in(half: u32, word: impl Fn(u32) -> u64) -> HashSeed {
    let first = seed_words(half).start;
    HashSeed::from_words(std::array::from_fn(|position| word(first + position as u32)))
}

/// Which half of the journal's seeds is in use, by its first word.
fn half(program: u64) -> u32 {
    (program >> 32) as u32 & 1
}

/// Indexes of a half of the journal's seeds.
fn seed_words(half: u32) -> Range<u32> {
    let words = HashSeed::WORDS as u32;
    let first = 4 + half * words;
    first..first + words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_noted_beside_the_features() {
        for rate in [0, 7, IcmpRate::MAX] {
            let rate = IcmpRate::new(rate).unwrap();
            assert_eq!(rate_of(noted(rate) | 0xffff_ffff), rate);
        }
        let before = Journal::from_words(|index| if index == 1 { 0x60 } else { 0 });
        assert_eq!((before.features, before.icmp_rate), (Features(0x60), IcmpRate::default()));
    }
}
