//! The flow hash: the same flow has the same hash on every load balancer (of the same byte order) that has the same
//! seed, today and after an upgrade.
//!
//! It is keyed, so that nobody outside can compute which flows meet on one slot. First a sum of products, each word of
//! the flow in one of them beside a secret word of its own: "multilinear-HM" (Lemire and Kaser, "Strongly universal
//! string hashing is fast", The Computer Journal 2014), whose upper 33 bits are pairwise independent over the keys.
//! Then the finalizer of SplitMix64, a permutation, with one more secret word within: it gives the lower half the same
//! quality, and hides that the sum grows by equal steps along the ports of one client. ADR 13 says what this keeps from
//! whom.

use lb_common::{Address, Be32, FlowKey, FlowLine, HashKey};

/// A 64-bit hash. Its upper half chooses the slot and its lower half everything that is to vary by flow besides, so
/// that the two choices are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHash(u64);

/// Where the words of a [`HashKey`] are.
pub trait Key {
    /// The word at this position, which is below [`HashKey::WORDS`].
    fn word(&self, position: usize) -> u64;
}

/// Multipliers and rotations of the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), variant 13 of Stafford's
/// mixers.
const MIX: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

impl FlowHash {
    /// Of an IPv4 flow. `ports` is the word that holds both ports, or 0; `protocol` the protocol number, or 0.
    #[inline(always)]
    pub fn v4(key: &impl Key, source: Be32, destination: Be32, ports: u32, protocol: u8) -> Self {
        Self(mix(key, sum(key, source, destination, ports, protocol)))
    }

    /// Of an IPv6 flow.
    #[inline(always)]
    pub fn v6(key: &impl Key, source: Address, destination: Address, ports: u32, protocol: u8) -> Self {
        let [a, b, c, d] = source.0;
        let [e, f, g, h] = destination.0;
        let last = sum(key, d, h, ports, protocol);
        let rest = product(key, 5, a.wire(), b.wire())
            .wrapping_add(product(key, 7, c.wire(), g.wire()))
            .wrapping_add(product(key, 9, e.wire(), f.wire()));
        Self(mix(key, last.wrapping_add(rest)))
    }

    /// The slot of this flow in a table of `slots`, by multiply-shift (Lemire, TOMACS 2019) instead of division.
    #[inline(always)]
    pub const fn slot(self, slots: u32) -> u32 {
        (((self.0 >> 32) * slots as u64) >> 32) as u32
    }

    /// Of a flow whose slot is known: [`Self::entropy`] is this, and there is nothing else to it.
    #[inline(always)]
    pub const fn of_entropy(entropy: u32) -> Self {
        Self(entropy as u64)
    }

    /// 32 bits that vary by flow and do not depend on its slot.
    #[inline(always)]
    pub const fn entropy(self) -> u32 {
        self.0 as u32
    }
}

/// A 64-bit hash of a flow's name under a key that is never public: where its entry is in the flow table, and by which
/// tag that is known there.
///
/// Whoever finds two flows with one tag and one line makes a packet of one be taken for one of the other. With a key
/// that he does not know he cannot look for them, and of two flows that he does not choose by it, one in 2^32 meets the
/// other's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTag(u64);

impl FlowTag {
    /// Of a flow.
    #[inline(always)]
    pub fn of(key: &impl Key, flow: &FlowKey) -> Self {
        let [a, b, c, d] = flow.source.0;
        let sum = key
            .word(0)
            .wrapping_add(product(key, 1, d.wire(), flow.ports))
            .wrapping_add(product(key, 3, c.wire(), flow.service))
            .wrapping_add(product(key, 5, a.wire(), b.wire()));
        Self(mix(key, sum))
    }

    /// Group and number in it of the flow's home line, in a table of so many groups.
    #[inline(always)]
    pub const fn home(self, groups: u32) -> (u32, u32) {
        const A_GROUP: u64 = FlowLine::A_GROUP as u64;
        let line = ((self.0 >> 32) * groups as u64) >> (32 - A_GROUP.ilog2());
        ((line / A_GROUP) as u32, (line % A_GROUP) as u32)
    }

    /// The tag, which is never 0.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        let tag = self.0 as u32;
        if tag == 0 { 1 } else { tag }
    }
}

/// What the last or only words of the addresses, ports and protocol add up to. A client chooses its address and its
/// port: they share a product, so that what he learns of one port says nothing of another.
#[inline(always)]
fn sum(key: &impl Key, source: Be32, destination: Be32, ports: u32, protocol: u8) -> u64 {
    key.word(0).wrapping_add(product(key, 1, source.wire(), ports)).wrapping_add(product(
        key,
        3,
        destination.wire(),
        protocol.into(),
    ))
}

/// The product of two words, beside the key's words from `position` on.
#[inline(always)]
fn product(key: &impl Key, position: usize, a: u32, b: u32) -> u64 {
    key.word(position).wrapping_add(a.into()).wrapping_mul(key.word(position + 1).wrapping_add(b.into()))
}

#[inline(always)]
fn mix(key: &impl Key, sum: u64) -> u64 {
    let hash = (sum ^ sum >> 30).wrapping_mul(MIX[0]);
    let hash = (hash ^ hash >> 27 ^ key.word(11)).wrapping_mul(MIX[1]);
    hash ^ hash >> 31
}

impl Key for HashKey {
    #[inline(always)]
    fn word(&self, position: usize) -> u64 {
        self.0[position]
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const TABLE: u32 = 1021;
    const FLOWS: u32 = TABLE * 400;

    /// Keys as a seed gives them, and the one that everybody knows.
    fn keys() -> [HashKey; 4] {
        // SplitMix64 over a number.
        let words = |seed: u64| {
            let word = |position: usize| {
                let state = ((seed << 8) + position as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let state = (state ^ state >> 30).wrapping_mul(MIX[0]);
                let state = (state ^ state >> 27).wrapping_mul(MIX[1]);
                state ^ state >> 31
            };
            HashKey(core::array::from_fn(word))
        };
        [HashKey::PUBLIC, words(1), words(2), words(3)]
    }

    fn v4(key: &HashKey, index: u32, vary: fn(u32) -> (u32, u32)) -> FlowHash {
        let (host, port) = vary(index);
        let source = Be32::new(Ipv4Addr::new(10, 0, 0, 0).to_bits() + host);
        let ports = u32::from_be_bytes([0, 0, 0, 80]) | (1024 + port) << 16;
        FlowHash::v4(key, source, Be32::from(Ipv4Addr::new(203, 0, 113, 10)), ports.to_be(), 6)
    }

    fn v6(key: &HashKey, index: u32, vary: fn(u32) -> (u32, u32)) -> FlowHash {
        let (host, port) = vary(index);
        let source = Address::from(Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(host)));
        let destination = Address::from("2001:db8::10".parse::<Ipv6Addr>().unwrap());
        FlowHash::v6(key, source, destination, ((1024 + port) << 16 | 80).to_be(), 17)
    }

    /// As with `hash = "source-ip"`.
    fn source_ip(key: &HashKey, index: u32, vary: fn(u32) -> (u32, u32)) -> FlowHash {
        let (host, port) = vary(index);
        let source = Be32::new(Ipv4Addr::new(10, 0, 0, 0).to_bits() + host + (port << 7));
        FlowHash::v4(key, source, Be32::from(Ipv4Addr::new(203, 0, 113, 10)), 0, 0)
    }

    /// Chi squared of counts per slot.
    fn chi_squared(slots: impl Iterator<Item = u32>) -> f64 {
        let mut counts = [0u32; TABLE as usize];
        slots.for_each(|slot| counts[slot as usize] += 1);
        let expected = f64::from(FLOWS / TABLE);
        counts.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum()
    }

    /// Counter-like inputs are what clients send; their counts per slot must look like those of random numbers, by
    /// either half of the hash and under any key.
    #[test]
    fn counting_clients_and_ports_spread_evenly() {
        let hosts: fn(u32) -> (u32, u32) = |index| (index, 0);
        let ports: fn(u32) -> (u32, u32) = |index| (index >> 15, index & 0x7fff);
        for key in keys() {
            for hash in [v4, v6, source_ip] {
                for vary in [hosts, ports] {
                    let hashes = || (0..FLOWS).map(|index| hash(&key, index, vary));
                    let upper = chi_squared(hashes().map(|hash| hash.slot(TABLE)));
                    let lower = chi_squared(hashes().map(|hash| FlowHash(u64::from(hash.entropy()) << 32).slot(TABLE)));
                    // 1,020 degrees of freedom: mean 1,020, standard deviation 45.
                    assert!((800.0..1250.0).contains(&upper), "chi squared {upper} of the upper half, {key:?}");
                    assert!((800.0..1250.0).contains(&lower), "chi squared {lower} of the lower half, {key:?}");
                }
            }
        }
    }

    #[test]
    fn every_bit_of_the_entropy_varies_within_a_slot() {
        for key in keys() {
            let mut ones = [0u32; 32];
            let mut flows = 0;
            for index in 0..FLOWS {
                let hash = v4(&key, index, |index| (index, index & 0xff));
                if hash.slot(TABLE) == 7 {
                    flows += 1;
                    for (bit, ones) in ones.iter_mut().enumerate() {
                        *ones += hash.entropy() >> bit & 1;
                    }
                }
            }
            assert!(ones.iter().all(|ones| (flows / 3..flows * 2 / 3).contains(ones)), "{ones:?} of {flows}");
        }
    }

    /// Every bit of the flow, and every word of the key, changes each bit of the hash for about half of all flows.
    #[test]
    fn every_bit_of_the_flow_and_every_word_of_the_key_matter_to_every_bit_of_the_hash() {
        const SAMPLES: u32 = 1000;
        let word = |index: u32, salt: u32| (index + 1).wrapping_mul(0x9e37_79b1) ^ salt.wrapping_mul(0x85eb_ca6b);
        let hash = |key: &HashKey, words: [u32; 9], protocol: u8| {
            let [a, b, c, d, e, f, g, h, ports] = words;
            let address = |words: [u32; 4]| Address(words.map(Be32::new));
            FlowHash::v6(key, address([a, b, c, d]), address([e, f, g, h]), ports, protocol).0
        };
        let check = |what: &str, changed: &dyn Fn(u32, &HashKey, [u32; 9]) -> u64| {
            let mut flips = [0u32; 64];
            for index in 0..SAMPLES {
                let key = &keys()[1 + index as usize % 3];
                let words = core::array::from_fn(|position| word(index, position as u32));
                let difference = hash(key, words, 6) ^ changed(index, key, words);
                flips.iter_mut().enumerate().for_each(|(bit, flips)| *flips += (difference >> bit & 1) as u32);
            }
            // Half of 1,000, standard deviation 16.
            assert!(flips.iter().all(|flips| (400..600).contains(flips)), "{what}: {flips:?}");
        };
        for bit in 0..9 * 32 {
            check("flow", &|_, key, mut words| {
                words[bit / 32] ^= 1 << (bit % 32);
                hash(key, words, 6)
            });
        }
        check("protocol", &|_, key, words| hash(key, words, 17));
        for position in 0..HashKey::WORDS {
            check("key", &|index, key, words| {
                let mut key = *key;
                key.0[position] = key.0[position].rotate_left(7 + index % 49);
                hash(&key, words, 6)
            });
        }
    }

    /// What meets on one slot under one key is spread under another.
    #[test]
    fn who_has_another_key_finds_no_flows_of_one_slot() {
        let [known, secret, ..] = keys();
        for hash in [v4, v6, source_ip] {
            let vary: fn(u32) -> (u32, u32) = |index| (index >> 12, index & 0xfff);
            let aimed = (0..FLOWS).filter(|index| hash(&known, *index, vary).slot(TABLE) == 7);
            let mut counts = [0u32; TABLE as usize];
            aimed.for_each(|index| counts[hash(&secret, index, vary).slot(TABLE) as usize] += 1);
            let (flows, most) = (counts.iter().sum::<u32>(), counts.iter().max().unwrap());
            assert!(flows > 300 && *most <= 6, "{most} of {flows} on one slot");
        }
    }
    #[test]
    fn slots_stay_within_the_table() {
        assert_eq!(FlowHash(u64::MAX).slot(16_381), 16_380);
        assert_eq!(FlowHash(0).slot(16_381), 0);
    }

    /// Two versions of naru behind one ECMP group must agree: these values never change.
    #[test]
    fn hashes_are_what_they_always_were() {
        let ipv4 =
            FlowHash::v4(&HashKey::PUBLIC, Be32::new(0x0a00_0001), Be32::new(0xcb00_710a), 0x9c40_0050u32.to_be(), 6);
        let source = Address::from("2001:db8::1".parse::<Ipv6Addr>().unwrap());
        let destination = Address::from("2001:db8::10".parse::<Ipv6Addr>().unwrap());
        let ipv6 = FlowHash::v6(&HashKey::PUBLIC, source, destination, 0x9c40_0050u32.to_be(), 17);
        assert_eq!((ipv4.0, ipv6.0), (0x30e3_ff26_9b86_214d, 0x82a3_59af_6921_d32f));
    }
}
