//! Weighted Maglev tables: which backend owns which slot (Eisenbud et al., "Maglev: A Fast and Reliable Software
//! Network Load Balancer", NSDI 2016, §3.4).
//!
//! A table is a function of its size and of the set of (address, weight) alone, whatever the order: two load balancers
//! with one config have one table, so that ECMP may send a flow to either. **Nothing here may ever change what a table
//! comes out as**: during an upgrade, old and new versions serve side by side. The tests pin tables.
//!
//! Every backend has its own permutation of the slots, made from two hashes of its address. Backends take turns; on its
//! turn, a backend gets the first slot of its permutation that is still free. Weight is the number of turns: in each
//! round a backend earns `weight / largest weight` of a turn, and takes it once it has a whole one. As each turn gives
//! one slot, shares are those of the weights to within about a slot.

use lb_common::Address;

use crate::{mix::mix, model::prime::is_prime};

/// What stands in a table of which no backend has weight.
pub const NO_BACKEND: u32 = u32::MAX;

/// A backend as the table sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Its address, which tells it from the others.
    pub key: Address,
    /// Its share in proportion to the other weights; with 0 it gets no slot.
    pub weight: u32,
}

/// For each of `slots` slots the index into `backends` of its owner; [`NO_BACKEND`] throughout where none has weight.
///
/// # Panics
///
/// Where `slots` is not a prime below 2^31: then a permutation would not reach every slot.
pub fn table(backends: &[WeightedBackend], slots: u32) -> Vec<u32> {
    assert!(is_prime(slots) && slots < 1 << 31, "a Maglev table needs a prime below 2^31, not {slots} slots");
    let mut table = vec![NO_BACKEND; slots as usize];
    let mut turns = turns(backends, slots);
    let Some(largest) = turns.iter().map(|turn| turn.weight).max() else { return table };
    let mut free = Free::all(slots);
    loop {
        for turn in &mut turns {
            turn.earned += u64::from(turn.weight);
            if turn.earned < u64::from(largest) {
                continue;
            }
            turn.earned -= u64::from(largest);
            if free.count == 0 {
                return table;
            }
            table[free.take(turn) as usize] = turn.backend;
        }
    }
}

/// So many slots of a permutation are looked at together: the processor does not know beforehand at which a search ends,
/// and what it guessed wrong costs it more than slots that nobody had to look at.
const TOGETHER: usize = 5;

/// A backend on its way through its permutation.
struct Turn {
    /// Index into the caller's backends.
    backend: u32,
    weight: u32,
    /// Part of a turn, as a fraction of the largest weight.
    earned: u64,
    /// The slot to try next.
    slot: u32,
    /// From one slot of the permutation to the next; in `1..slots`.
    stride: u32,
    /// From a slot to those that are looked at together with it; the first is itself.
    ahead: [u32; TOGETHER],
    /// What orders slots by when they come in the permutation, once that is asked for.
    pace: Option<u64>,
}

/// The backends with weight in the order of their addresses, at the start of their permutations.
fn turns(backends: &[WeightedBackend], slots: u32) -> Vec<Turn> {
    let mut ordered: Vec<_> = (0..).zip(backends).filter(|(_, backend)| backend.weight > 0).collect();
    ordered.sort_unstable_by_key(|(_, backend)| (backend.key.0.map(|word| word.host()), backend.weight));
    let turn = |(index, backend): (u32, &WeightedBackend)| {
        let stride = 1 + below(hash(backend.key, STRIDE_SEED), slots - 1);
        let mut ahead = [0; TOGETHER];
        for place in 1..TOGETHER {
            ahead[place] = sum(ahead[place - 1], stride, slots);
        }
        Turn {
            backend: index,
            weight: backend.weight,
            earned: 0,
            slot: below(hash(backend.key, OFFSET_SEED), slots),
            stride,
            ahead,
            pace: None,
        }
    };
    ordered.into_iter().map(turn).collect()
}

/// `hash` modulo `bound`.
fn below(hash: u64, bound: u32) -> u32 {
    (hash % u64::from(bound)) as u32
}

// The fractional parts of the square roots of 2 and 3: any two different numbers do.
const OFFSET_SEED: u64 = 0x6a09_e667_f3bc_c908;
const STRIDE_SEED: u64 = 0xbb67_ae85_84ca_a73b;

/// Hashes the 16 bytes of an address as two big-endian words, each mixed in by [`mix`].
fn hash(key: Address, seed: u64) -> u64 {
    let [a, b, c, d] = key.0.map(|word| u64::from(word.host()));
    mix(mix(seed ^ (a << 32 | b)) ^ (c << 32 | d))
}

/// Which slots are free.
struct Free {
    slots: u32,
    /// By slot. A byte is quicker to look at than a bit, even where bits alone would fit the first-level cache.
    is_free: Vec<bool>,
    count: u32,
    /// All that are free, once they are few.
    few: Vec<u32>,
    /// As many are few: by then, looking at each of them takes a backend as long as looking for one.
    few_are: u32,
}

impl Free {
    fn all(slots: u32) -> Self {
        let few_are = slots.isqrt();
        Self { slots, is_free: vec![true; slots as usize], count: slots, few: Vec::new(), few_are }
    }

    /// Takes the next free slot of a backend's permutation; there must be one.
    fn take(&mut self, turn: &mut Turn) -> u32 {
        let slot = if self.count > self.few_are { self.find(turn) } else { self.choose(turn) };
        self.count -= 1;
        turn.slot = sum(slot, turn.stride, self.slots);
        slot
    }

    /// By going through the permutation.
    fn find(&mut self, turn: &Turn) -> u32 {
        let mut slot = turn.slot;
        loop {
            let mut found = 0;
            for (place, ahead) in turn.ahead.iter().enumerate() {
                found |= u32::from(self.is_free[sum(slot, *ahead, self.slots) as usize]) << place;
            }
            if found != 0 {
                // The remainder is what it is anyway, and spares a check.
                slot = sum(slot, turn.ahead[found.trailing_zeros() as usize % TOGETHER], self.slots);
                self.is_free[slot as usize] = false;
                return slot;
            }
            slot = sum(sum(slot, turn.ahead[TOGETHER - 1], self.slots), turn.stride, self.slots);
        }
    }

    /// By looking which of the few that are free comes first.
    fn choose(&mut self, turn: &mut Turn) -> u32 {
        if self.few.is_empty() {
            self.few = (0..self.slots).filter(|slot| self.is_free[*slot as usize]).collect();
        }
        let pace = *turn.pace.get_or_insert_with(|| pace(turn.stride, self.slots));
        let from = u64::from(turn.slot);
        let until = |slot: u32| u64::from(slot).wrapping_sub(from).wrapping_mul(pace);
        let first = (0..self.few.len()).min_by_key(|index| until(self.few[*index]));
        self.few.swap_remove(first.expect("a slot is free"))
    }
}

/// `a + b` modulo `slots`, both below it.
fn sum(a: u32, b: u32, slots: u32) -> u32 {
    let sum = a + b;
    // Where it is below `slots`, the other number is what lies beyond 2^31.
    sum.min(sum.wrapping_sub(slots))
}

/// What the way from one slot to another is to be multiplied by, modulo 2^64, to order slots by the number of strides
/// that lead to them.
///
/// So many strides are the way times the stride's inverse modulo `slots`. In units of 2^64 for `slots`, the remainder is
/// what overflow leaves: one multiplication, and no division. That the unit is rounded makes it wrong by less than `slots`,
/// and numbers of strides lie at least 2^33 apart.
fn pace(stride: u32, slots: u32) -> u64 {
    ((u128::from(inverse(stride, slots)) << u64::BITS) / u128::from(slots)) as u64 + 1
}

/// The inverse of `number` modulo the prime `modulus`, by Euclid's extended algorithm.
fn inverse(number: u32, modulus: u32) -> u32 {
    let (mut larger, mut smaller) = (i64::from(modulus), i64::from(number));
    let (mut of_larger, mut of_smaller) = (0, 1);
    while smaller != 0 {
        let quotient = larger / smaller;
        (larger, smaller) = (smaller, larger - quotient * smaller);
        (of_larger, of_smaller) = (of_smaller, of_larger - quotient * of_smaller);
    }
    of_larger.rem_euclid(i64::from(modulus)) as u32
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{
        super::fixtures::{equal, weighted},
        *,
    };

    const SLOTS: u32 = 16_381;

    /// Slots of each backend.
    fn shares(backends: &[WeightedBackend], slots: u32) -> Vec<u32> {
        let mut shares = vec![0; backends.len()];
        for owner in table(backends, slots) {
            shares[owner as usize] += 1;
        }
        shares
    }

    /// The owners' addresses, slot by slot.
    fn owners(backends: &[WeightedBackend], slots: u32) -> Vec<Address> {
        table(backends, slots).into_iter().map(|owner| backends[owner as usize].key).collect()
    }

    /// The part of the slots that change their owner, in percent.
    fn moved(before: &[WeightedBackend], after: &[WeightedBackend], slots: u32) -> f64 {
        let (before, after) = (owners(before, slots), owners(after, slots));
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        100.0 * moved as f64 / f64::from(slots)
    }

    /// The table by the description above, without anything that makes it quick.
    fn plain(backends: &[WeightedBackend], slots: u32) -> Vec<u32> {
        let mut table = vec![NO_BACKEND; slots as usize];
        let mut turns = turns(backends, slots);
        let Some(largest) = turns.iter().map(|turn| turn.weight).max() else { return table };
        let mut free = slots;
        loop {
            for turn in &mut turns {
                turn.earned += u64::from(turn.weight);
                if turn.earned < u64::from(largest) {
                    continue;
                }
                turn.earned -= u64::from(largest);
                if free == 0 {
                    return table;
                }
                while table[turn.slot as usize] != NO_BACKEND {
                    turn.slot = (turn.slot + turn.stride) % slots;
                }
                table[turn.slot as usize] = turn.backend;
                free -= 1;
            }
        }
    }

    #[test]
    fn tables_are_those_of_the_plain_method() {
        for slots in [2, 3, 5, 7, 11, 13, 101, 211, 509, 1_021, 4_093, 16_381, 65_537] {
            for count in [1, 2, 3, 4, 7, 10, 16, 33, 100, 300, 1000] {
                for weights in [[100, 100, 100, 100], [1, 2, 3, 4], [0, 5, 0, 7], [65_535, 1, 300, 0], [0, 0, 0, 0]] {
                    let backends = weighted(weights.into_iter().cycle().take(count));
                    let same = table(&backends, slots) == plain(&backends, slots);
                    assert!(same, "{count} backends of weights {weights:?} on {slots} slots");
                }
            }
        }
    }

    #[test]
    fn slots_are_ordered_by_the_strides_that_lead_to_them() {
        // The largest prime below 2^31, and neighbours in a permutation at its ends.
        let slots = 2_147_483_647;
        for stride in [1, 2, 3, 1_000_003, 1_073_741_824, slots - 2, slots - 1] {
            let pace = pace(stride, slots);
            assert_eq!(u64::from(inverse(stride, slots)) * u64::from(stride) % u64::from(slots), 1);
            for from in [0, 1, 1_234_567, slots - 1] {
                let until = |strides: u64| {
                    let slot = (u64::from(from) + strides * u64::from(stride)) % u64::from(slots);
                    slot.wrapping_sub(u64::from(from)).wrapping_mul(pace)
                };
                let last = u64::from(slots) - 1;
                let ordered = [0, 1, 2, 1_000, 1_001, last / 2, last / 2 + 1, last - 1, last].map(until);
                assert!(ordered.is_sorted_by(|a, b| a < b), "{stride} {from}");
            }
        }
    }

    #[test]
    fn equal_weights_get_equal_shares() {
        for count in [1, 2, 3, 8, 100, 1000] {
            let shares = shares(&equal(count), SLOTS);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{count} backends: {least}..={most}");
            assert_eq!(shares.iter().sum::<u32>(), SLOTS);
        }
    }

    #[test]
    fn shares_follow_weights_to_a_slot() {
        for weights in
            [vec![100, 100, 50], vec![1, 2, 3, 4, 5], vec![65_535, 1, 32_768], vec![7, 0, 11, 0], vec![1, 1000]]
        {
            let backends = weighted(weights.iter().copied());
            let total = f64::from(weights.iter().sum::<u32>());
            for (share, weight) in shares(&backends, SLOTS).into_iter().zip(&weights) {
                let wanted = f64::from(SLOTS) * f64::from(*weight) / total;
                assert!((f64::from(share) - wanted).abs() <= 1.5, "{weights:?}: {share} slots instead of {wanted}");
            }
        }
    }

    #[test]
    fn the_order_of_the_backends_does_not_matter() {
        let backends = weighted((0..40).map(|index| index * 37 % 11));
        let expected = owners(&backends, SLOTS);
        let mut other = backends.clone();
        other.reverse();
        assert_eq!(owners(&other, SLOTS), expected);
        other.rotate_left(13);
        assert_eq!(owners(&other, SLOTS), expected);
    }

    #[test]
    fn only_the_ratio_of_weights_matters() {
        let (small, large) = (weighted([4, 3, 2, 1]), weighted([400, 300, 200, 100]));
        assert_eq!(table(&small, SLOTS), table(&large, SLOTS));
    }

    #[test]
    fn backends_without_weight_are_as_good_as_absent() {
        let with = weighted([5, 0, 7, 0]);
        let without: Vec<_> = with.iter().copied().filter(|backend| backend.weight > 0).collect();
        assert_eq!(owners(&with, SLOTS), owners(&without, SLOTS));
        assert_eq!(table(&weighted([0, 0]), 7), [NO_BACKEND; 7]);
        assert_eq!(table(&[], 7), [NO_BACKEND; 7]);
        assert_eq!(table(&weighted([0, 9]), 7), [1; 7]);
    }

    #[test]
    fn more_backends_than_slots_leave_some_without() {
        let shares = shares(&equal(20), 7);
        assert_eq!(shares.iter().filter(|share| **share == 1).count(), 7);
        assert_eq!(shares.iter().sum::<u32>(), 7);
    }

    /// The numbers come from a second implementation, written from the description above.
    #[test]
    fn tables_never_change_between_versions() {
        let expected = [0, 0, 2, 0, 1, 2, 1, 1, 0, 0, 2, 1, 2, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1];
        assert_eq!(table(&weighted([100, 100, 50]), 23), expected);
        let v6 = |host| WeightedBackend { key: IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host]).into(), weight: 1 };
        assert_eq!(table(&[v6(1), v6(2), v6(3)], 13), [2, 0, 0, 2, 1, 2, 0, 2, 1, 1, 0, 1, 0]);
        let digest = |table: Vec<u32>| table.into_iter().fold(0, |digest, owner| mix(digest ^ u64::from(owner)));
        assert_eq!(digest(table(&equal(8), 16_381)), 0x7731_720f_6f24_2498);
        assert_eq!(digest(table(&weighted(1..=100), 65_537)), 0x30d9_9eb0_f760_5bd4);
    }

    /// Slots move that need not: the ones that the changed backend's turns win or lose displace others. How many was
    /// measured, in percent of the table; the bounds leave little room above.
    #[test]
    fn a_change_of_one_backend_moves_little_else() {
        for (count, removed_or_added, reweighted) in [(3, 0.1, 0.1), (8, 0.6, 0.5), (20, 0.8, 0.9), (100, 1.5, 2.3)] {
            let full = equal(count);
            let share = |weight: f64| 100.0 * weight / (100.0 * (count as f64 - 1.0) + weight);
            let mut fewer = full.clone();
            fewer.remove(count / 2);
            for moved in [moved(&full, &fewer, SLOTS), moved(&fewer, &full, SLOTS)] {
                let extra = moved - share(100.0);
                assert!((-0.01..removed_or_added).contains(&extra), "{count} backends, one removed or added: {extra}");
            }
            for weight in [0, 1, 50, 99, 101, 200, 1000] {
                let mut other = full.clone();
                other[count / 2].weight = weight;
                let extra = moved(&full, &other, SLOTS) - (share(100.0) - share(f64::from(weight))).abs();
                assert!((-0.01..reweighted).contains(&extra), "{count} backends, one reweighted to {weight}: {extra}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "a Maglev table needs a prime below 2^31, not 16384 slots")]
    fn sizes_that_no_permutation_covers_are_refused() {
        table(&equal(3), 16_384);
    }
}
