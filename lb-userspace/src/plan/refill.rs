//! Who has the slots of backends that take no flows, or a part of theirs.
//!
//! A backend that is drained or down keeps its place in the Maglev table, which follows from the configured weights
//! alone; only its slots go to others, and come back when it does. To whom a slot goes follows from the slot, the table
//! and who serves: of a sequence of backends that each slot has, by weight and without an end, the first that serves has
//! it. So a change of one backend moves the slots that it has, or will have, and no others; and two load balancers that
//! differ about one backend agree about every slot that neither gives to it. That is the property of rendezvous hashing
//! (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM ToN 1998).
//!
//! A backend may take a part of its slots only, some eighths. Each slot has a number below eight, drawn by a hash of it,
//! and such a backend takes those whose number is below its eighths: to all others it is one that does not serve. So with
//! more eighths it has the slots that it had, and some more; and what is said above holds for each step as well. Where all
//! that serve take a part only, those slots that none would take go by their sequences as if all were whole.
//!
//! The sequence is read off the table itself: its entries are the owners of slots that are drawn by a hash of the slot.
//! Shares in the table are those of the weights, so the sequence is by weight, and a look into it costs a read where
//! rendezvous hashing asks every backend. Where few serve, so that most draws are in vain, the slot goes to the first of
//! them in weighted rendezvous order after a number of draws.
//!
//! **Nothing here may ever change who has a slot**, as with the tables. The tests pin it.

use std::cmp::Ordering;

use lb_common::SlowStart;

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
// That of the square root of 11.
const PART_SEED: u64 = 0x510e_527f_ade6_82d1;

/// A [Maglev table](maglev::table) of `backends`, as indices into them, in which those that serve have the slots that
/// others do not take, in proportion to their weights; [`NO_BACKEND`] has all where none with weight serves.
///
/// # Panics
///
/// As Maglev tables do.
pub fn table(backends: &[Owner], slots: u32) -> Vec<u32> {
    let weighted: Vec<WeightedBackend> = backends.iter().map(|own| own.backend).collect();
    let mut table = maglev::table(&weighted, slots);
    let has_weight = |index: &u32| weighted[*index as usize].weight > 0;
    let eighths = |index: u32| backends.get(index as usize).map_or(0, |own| own.eighths);
    let all = || (0..backends.len() as u32).filter(has_weight);
    if all().all(|index| eighths(index) >= SlowStart::WHOLE) {
        return table;
    }
    let serving: Vec<u32> = all().filter(|index| eighths(*index) > 0).collect();
    // The first that takes so many eighths, where any does.
    let first = |slot: u32, least: u32| {
        // Where nobody serves nobody is looked for.
        serving.first()?;
        let drawn = draws(slot, &table).find(|owner| eighths(*owner) >= least);
        let raced = || serving.iter().copied().filter(|index| eighths(*index) >= least);
        drawn.or_else(|| raced().min_by(|a, b| order(&weighted, slot, *a, *b)))
    };
    let refill = |(slot, own): (u32, u32)| {
        let least = part(slot) + 1;
        if eighths(own) >= least {
            return None;
        }
        let found = first(slot, least).or_else(|| Some(own).filter(|_| eighths(own) > 0)).or_else(|| first(slot, 1));
        Some((slot, found.unwrap_or(NO_BACKEND)))
    };
    let refilled: Vec<(u32, u32)> = (0..).zip(table.iter().copied()).filter_map(refill).collect();
    for (slot, owner) in refilled {
        table[slot as usize] = owner;
    }
    table
}

/// The number of a slot, below [`SlowStart::WHOLE`]: who takes more eighths than that takes it.
fn part(slot: u32) -> u32 {
    const { assert!(SlowStart::WHOLE == 8) };
    (mix(PART_SEED ^ u64::from(slot)) >> 61) as u32
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
        parts(backends, slots, |index| if away.contains(&index) { 0 } else { 8 })
    }

    /// With as many eighths for each.
    fn parts(backends: &[WeightedBackend], slots: u32, eighths: impl Fn(u32) -> u32) -> Vec<u32> {
        let owner = |(id, backend): (u32, &WeightedBackend)| Owner { backend: *backend, id, eighths: eighths(id) };
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

    /// Eighths of some that are whole, away, and in between.
    fn mixed(seed: u64) -> impl Fn(u32) -> u32 {
        move |index| [0, 1, 2, 4, 8, 8, 8, 8][(mix(seed << 32 | u64::from(index)) % 8) as usize]
    }

    /// Whoever else serves, in whichever part: of the slots, only those move that it gains, it keeps those that it has,
    /// and in the end it has what it has where it is whole.
    #[test]
    fn each_step_of_a_backend_moves_slots_to_it_and_no_others() {
        for backends in fleets() {
            let count = backends.len() as u32;
            for others in 0..6 {
                for own in [0, count / 2, count - 1] {
                    let at = |eighths: u32| {
                        let others: &dyn Fn(u32) -> u32 = if others == 0 { &|_| 8 } else { &mixed(others) };
                        parts(&backends, 4_093, |index| if index == own { eighths } else { others(index) })
                    };
                    let steps = [0, 1, 2, 4, 8].map(at);
                    for pair in steps.windows(2) {
                        for (slot, (before, after)) in pair[0].iter().zip(&pair[1]).enumerate() {
                            assert!(before == after || *after == own, "slot {slot}: {before} → {after}, not {own}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_part_is_as_many_eighths_of_the_slots() {
        let backends = equal(10);
        let has = |eighths: u32| {
            let table = parts(&backends, 65_537, |index| if index == 3 { eighths } else { 8 });
            table.iter().filter(|owner| **owner == 3).count() as f64
        };
        for eighths in [1, 2, 4] {
            let wanted = has(8) * f64::from(eighths) / 8.0;
            assert!((has(eighths) - wanted).abs() < 5.0 * wanted.sqrt(), "{eighths}: {} not {wanted}", has(eighths));
        }
    }

    #[test]
    fn load_balancers_at_different_steps_agree_about_the_slots_of_all_others() {
        let backends = weighted((0..50).map(|index| 1 + index % 7));
        for (mine, theirs) in (0..20).flat_map(|mine| (0..20).map(move |theirs| (mixed(mine), mixed(theirs)))) {
            let (my_owners, their_owners) = (parts(&backends, 1_021, &mine), parts(&backends, 1_021, &theirs));
            let differ = |index: &u32| mine(*index) != theirs(*index);
            for (my_owner, their_owner) in my_owners.iter().zip(&their_owners) {
                assert!(my_owner == their_owner || differ(my_owner) || differ(their_owner));
            }
        }
    }

    #[test]
    fn where_all_have_a_part_only_no_slot_is_lost() {
        let backends = weighted((0..20).map(|index| index * 37 % 11));
        for seed in 0..20 {
            let part = |index: u32| [0, 1, 2, 4][(mix(seed << 32 | u64::from(index)) % 4) as usize];
            let table = parts(&backends, 1_021, part);
            assert!(table.iter().all(|owner| part(*owner) > 0), "{seed}");
        }
        // As if they were whole, where none has more than another.
        assert_eq!(parts(&backends, 1_021, |_| 2), owners(&backends, 1_021, &[]));
        let away = [3, 8];
        let part = |index: u32| if away.contains(&index) { 0 } else { 1 };
        assert_eq!(parts(&backends, 1_021, part), owners(&backends, 1_021, &away));
        // The only one that serves has all.
        assert_eq!(parts(&equal(3), 7, |index| u32::from(index == 1)), [1; 7]);
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
        assert_eq!(
            digest(parts(&equal(8), SLOTS, |index| [1, 8, 2, 0, 4, 8, 8, 8][index as usize])),
            0x8cf9_ee81_f5b0_8be9
        );
    }
}
