//! Who has the slots of backends that take no flows.
//!
//! A backend that is drained or down keeps its place in the Maglev table, which follows from the configured weights
//! alone; only its slots go to others, and come back when it does. To whom a slot goes follows from the slot, the table
//! and who serves: of a sequence of backends that each slot has, by weight and without an end, the first that serves has
//! it. So a change of one backend moves the slots that it has, or will have, and no others; and two load balancers that
//! differ about one backend agree about every slot that neither gives to it. That is the property of rendezvous hashing
//! (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM ToN 1998).
//!
//! The sequence is read off the table itself: its entries are the owners of slots that are drawn by a hash of the slot.
//! Shares in the table are those of the weights, so the sequence is by weight, and a look into it costs a read where
//! rendezvous hashing asks every backend. Where few serve, so that most draws are in vain, the slot goes to the first of
//! them in weighted rendezvous order after a number of draws.
//!
//! **Nothing here may ever change who has a slot**, as with the tables. The tests pin it.

use std::cmp::Ordering;

use super::{
    Owner,
    maglev::{self, NO_BACKEND, WeightedBackend},
};
use crate::mix::mix;

/// Draws for a slot before those that serve are asked one by one.
const DRAWS: u64 = 64;

// The fractional parts of the square roots of 5 and 7.
const DRAW_SEED: u64 = 0x3c6e_f372_fe94_f82b;
const RACE_SEED: u64 = 0xa54f_f53a_5f1d_36f1;

/// A [Maglev table](maglev::table) of `backends`, as indices into them, in which those that serve have the slots of those
/// that do not, in proportion to their weights; [`NO_BACKEND`] has all where none with weight serves.
///
/// # Panics
///
/// As Maglev tables do.
pub fn table(backends: &[Owner], slots: u32) -> Vec<u32> {
    let weighted: Vec<WeightedBackend> = backends.iter().map(|own| own.backend).collect();
    let mut table = maglev::table(&weighted, slots);
    let has_weight = |index: &u32| weighted[*index as usize].weight > 0;
    let (serving, away): (Vec<u32>, Vec<u32>) =
        (0..backends.len() as u32).filter(has_weight).partition(|index| backends[*index as usize].serves);
    if away.is_empty() {
        return table;
    }
    let is_served = |owner: u32| backends.get(owner as usize).is_some_and(|own| own.serves);
    let unserved = (0..).zip(&table).filter(|(_, owner)| !is_served(**owner)).map(|(slot, _)| slot);
    let owner = |slot| {
        // Where nobody serves nobody is looked for.
        serving.first()?;
        let drawn = draws(slot, &table).find(|owner| is_served(*owner));
        drawn.or_else(|| serving.iter().copied().min_by(|a, b| order(&weighted, slot, *a, *b)))
    };
    let refilled: Vec<(u32, u32)> = unserved.map(|slot| (slot, owner(slot).unwrap_or(NO_BACKEND))).collect();
    for (slot, owner) in refilled {
        table[slot as usize] = owner;
    }
    table
}

/// The owners of slots that are drawn for a slot, in turn.
fn draws(slot: u32, table: &[u32]) -> impl Iterator<Item = u32> {
    let own = mix(DRAW_SEED ^ u64::from(slot));
    (0..DRAWS).map(move |draw| {
        let place = ((mix(own.wrapping_add(draw)) >> 32) * table.len() as u64) >> 32;
        table[place as usize]
    })
}

/// Which of two backends with weight comes first in a slot's weighted rendezvous order: each has a number of its own
/// that is spread evenly, and what its logarithm is to the weight decides (Schindelhauer and Schomaker, "Weighted
/// Distributed Hash Tables", SPAA 2005, the logarithmic method).
fn order(backends: &[WeightedBackend], slot: u32, a: u32, b: u32) -> Ordering {
    let [a, b] = [a, b].map(|index| &backends[index as usize]);
    let number = |backend: &WeightedBackend| {
        let [first, second, third, fourth] = backend.key.0.map(|word| u64::from(word.host()));
        mix(mix(mix(RACE_SEED ^ u64::from(slot)) ^ (first << 32 | second)) ^ (third << 32 | fourth))
    };
    let distance = |own: &WeightedBackend, other: &WeightedBackend| {
        u128::from(negative_log2(number(own))) * u128::from(other.weight)
    };
    let key = |backend: &WeightedBackend| backend.key.0.map(|word| word.host());
    distance(a, b).cmp(&distance(b, a)).then_with(|| key(a).cmp(&key(b)))
}

/// -log2 of a number over 2^64, in units of 2^-32; of 0 as of 1. In whole numbers, so that it comes out the same on every
/// processor: a bit of the fraction for each time that the mantissa is squared.
fn negative_log2(number: u64) -> u64 {
    const BITS: u32 = 32;
    let number = number.max(1);
    let zeros = number.leading_zeros();
    // Between 1 and 2, in units of 2^-63.
    let mut mantissa = number << zeros;
    let mut fraction = 0;
    for _ in 0..BITS {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let bit = (square >> 127) as u64;
        fraction = fraction << 1 | bit;
        mantissa = (square >> (63 + bit)) as u64;
    }
    ((u64::from(zeros) + 1) << BITS) - fraction
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixtures::{equal, weighted},
        *,
    };

    const SLOTS: u32 = 16_381;

    fn owners(backends: &[WeightedBackend], slots: u32, away: &[u32]) -> Vec<u32> {
        let owner =
            |(id, backend): (u32, &WeightedBackend)| Owner { backend: *backend, id, serves: !away.contains(&id) };
        table(&(0..).zip(backends).map(owner).collect::<Vec<_>>(), slots)
    }

    /// Sets of backends that are away, from few to nearly all of `count`.
    fn aways(count: u32) -> Vec<Vec<u32>> {
        let drawn = |seed: u32, share: u64| {
            let is_away = move |index: &u32| mix(u64::from(seed) << 32 | u64::from(*index)) % 1000 < share;
            (0..count).filter(is_away).collect::<Vec<_>>()
        };
        [0, 10, 100, 500, 900, 990, 999].into_iter().flat_map(|share| [drawn(1, share), drawn(2, share)]).collect()
    }

    fn fleets() -> Vec<Vec<WeightedBackend>> {
        vec![equal(2), equal(10), equal(100), weighted((0..100).map(|index| index * 37 % 11)), weighted([1, 65_535, 7])]
    }

    #[test]
    fn a_backend_that_fails_moves_its_own_slots_and_no_others() {
        for backends in fleets() {
            for away in aways(backends.len() as u32) {
                let before = owners(&backends, 4_093, &away);
                for fails in [0, backends.len() as u32 / 2, backends.len() as u32 - 1] {
                    if away.contains(&fails) {
                        continue;
                    }
                    let after = owners(&backends, 4_093, &[away.as_slice(), &[fails]].concat());
                    for (slot, (before, after)) in before.iter().zip(&after).enumerate() {
                        assert_eq!(before != after, *before == fails, "slot {slot}, {fails} fails beside {away:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn load_balancers_that_differ_about_backends_agree_about_the_slots_of_all_others() {
        let backends = weighted((0..50).map(|index| 1 + index % 7));
        let aways = aways(50);
        for (mine, theirs) in aways.iter().flat_map(|mine| aways.iter().map(move |theirs| (mine, theirs))) {
            let (my_owners, their_owners) = (owners(&backends, 1_021, mine), owners(&backends, 1_021, theirs));
            for (my_owner, their_owner) in my_owners.iter().zip(&their_owners) {
                let is_agreed = my_owner == their_owner;
                assert!(is_agreed || theirs.contains(my_owner) || mine.contains(their_owner));
            }
        }
    }

    #[test]
    fn refilled_slots_go_to_others_by_their_weights() {
        // Half by draws; nearly all by the race.
        for (weights, away) in [(1..=20, (0..10).collect()), (1..=1000, (0..994).collect::<Vec<u32>>())] {
            let backends = weighted(weights);
            let owners = owners(&backends, 65_537, &away);
            let serving = || (0..backends.len() as u32).filter(|index| !away.contains(index));
            let total: u32 = serving().map(|index| backends[index as usize].weight).sum();
            for index in serving() {
                let has = owners.iter().filter(|owner| **owner == index).count() as f64;
                let wanted = 65_537.0 * f64::from(backends[index as usize].weight) / f64::from(total);
                // Within five standard deviations of as many draws.
                assert!((has - wanted).abs() < 5.0 * wanted.sqrt(), "{index}: {has} slots instead of {wanted}");
            }
            assert!(owners.iter().all(|owner| !away.contains(owner)));
        }
    }

    #[test]
    fn without_anybody_who_serves_no_backend_has_a_slot() {
        assert_eq!(owners(&equal(3), 7, &[0, 1, 2]), [NO_BACKEND; 7]);
        assert_eq!(owners(&[], 7, &[]), [NO_BACKEND; 7]);
        // Weight is needed as well.
        assert_eq!(owners(&weighted([5, 0]), 7, &[0]), [NO_BACKEND; 7]);
        assert_eq!(owners(&weighted([5, 1]), 7, &[0]), [1; 7]);
        // One that has no slot of its own serves where all do not that have.
        let away: Vec<u32> = maglev::table(&equal(20), 7);
        assert!(owners(&equal(20), 7, &away).iter().all(|owner| *owner < 20 && !away.contains(owner)));
    }

    #[test]
    fn the_order_of_the_backends_does_not_matter() {
        let backends = weighted((0..40).map(|index| index * 37 % 11));
        let keys = |backends: &[WeightedBackend], away: &[u32]| -> Vec<_> {
            owners(backends, SLOTS, away).into_iter().map(|owner| backends[owner as usize].key).collect()
        };
        let mut reversed = backends.clone();
        reversed.reverse();
        for away in [vec![1, 3, 8], (1..39).collect()] {
            let there: Vec<u32> = away.iter().map(|index| 39 - index).collect();
            assert_eq!(keys(&backends, &away), keys(&reversed, &there));
        }
    }

    #[test]
    fn logarithms_are_those_of_real_numbers() {
        for number in [1, 2, 3, 12_345, 1 << 40, u64::MAX / 3, u64::MAX] {
            let expected = 64.0 - (number as f64).log2();
            let found = negative_log2(number) as f64 / 2f64.powi(32);
            assert!((found - expected).abs() < 1e-8, "{number}: {found} instead of {expected}");
        }
        assert_eq!(negative_log2(0), negative_log2(1));
    }

    /// The numbers come from a second implementation, written from the description above.
    #[test]
    fn who_has_a_slot_never_changes_between_versions() {
        let digest = |table: Vec<u32>| table.into_iter().fold(0, |digest, owner| mix(digest ^ u64::from(owner)));
        assert_eq!(digest(owners(&equal(8), SLOTS, &[2])), 0x6fbe_556e_8fdc_347e);
        assert_eq!(digest(owners(&weighted(1..=100), 65_537, &(0..50).collect::<Vec<_>>())), 0x9c25_b7d9_2c33_a74c);
        assert_eq!(digest(owners(&weighted(1..=100), 4_093, &(3..100).collect::<Vec<_>>())), 0x8258_7b57_9de5_6000);
    }
}
