//! The flow hash: the same flow has the same hash on every load balancer (of the same byte order), today and after an
//! upgrade.

use lb_common::{Address, Be32};

/// A 64-bit hash. Its upper half chooses the slot and its lower half everything that is to vary by flow besides, so
/// that the two choices are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHash(u64);

/// Multipliers and rotations of the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), variant 13 of Stafford's
/// mixers.
const MIX: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];
/// An odd constant with an even spread of bits, 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl FlowHash {
    /// Of an IPv4 flow. `ports` is the word that holds both ports, or 0; `protocol` the protocol number, or 0.
    #[inline(always)]
    pub fn v4(source: Be32, destination: Be32, ports: u32, protocol: u8) -> Self {
        let addresses = pair(source.wire(), destination.wire());
        Self(mix(fold(GOLDEN, addresses) ^ pair(ports, u32::from(protocol))))
    }

    /// Of an IPv6 flow.
    #[inline(always)]
    pub fn v6(source: Address, destination: Address, ports: u32, protocol: u8) -> Self {
        let [a, b, c, d] = source.0.map(Be32::wire);
        let [e, f, g, h] = destination.0.map(Be32::wire);
        let source = fold(fold(GOLDEN, pair(a, b)), pair(c, d));
        let both = fold(fold(source, pair(e, f)), pair(g, h));
        Self(mix(both ^ pair(ports, u32::from(protocol))))
    }

    /// The slot of this flow in a table of `slots`, by multiply-shift (Lemire, TOMACS 2019) instead of division.
    #[inline(always)]
    pub const fn slot(self, slots: u32) -> u32 {
        (((self.0 >> 32) * slots as u64) >> 32) as u32
    }

    /// 32 bits that vary by flow and do not depend on its slot.
    #[inline(always)]
    pub const fn entropy(self) -> u32 {
        self.0 as u32
    }
}

#[inline(always)]
const fn pair(a: u32, b: u32) -> u64 {
    (b as u64) << 32 | a as u64
}

/// Takes a word into a hash that [`mix`] will finish.
#[inline(always)]
const fn fold(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(MIX[0]);
    hash ^ hash >> 32
}

#[inline(always)]
const fn mix(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 30).wrapping_mul(MIX[0]);
    let hash = (hash ^ hash >> 27).wrapping_mul(MIX[1]);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const TABLE: u32 = 1021;
    const FLOWS: u32 = TABLE * 400;

    fn v4(index: u32, vary: fn(u32) -> (u32, u32)) -> FlowHash {
        let (host, port) = vary(index);
        let source = Be32::new(Ipv4Addr::new(10, 0, 0, 0).to_bits() + host);
        let ports = u32::from_be_bytes([0, 0, 0, 80]) | (1024 + port) << 16;
        FlowHash::v4(source, Be32::from(Ipv4Addr::new(203, 0, 113, 10)), ports.to_be(), 6)
    }

    fn v6(index: u32, vary: fn(u32) -> (u32, u32)) -> FlowHash {
        let (host, port) = vary(index);
        let source = Address::from(Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(host)));
        let destination = Address::from("2001:db8::10".parse::<Ipv6Addr>().unwrap());
        FlowHash::v6(source, destination, ((1024 + port) << 16 | 80).to_be(), 17)
    }

    /// Counter-like inputs are what clients send; their counts per slot must look like those of random numbers.
    #[test]
    fn counting_clients_and_ports_spread_evenly_over_slots() {
        let hosts: fn(u32) -> (u32, u32) = |index| (index, 0);
        let ports: fn(u32) -> (u32, u32) = |index| (index >> 15, index & 0x7fff);
        for hash in [v4, v6] {
            for vary in [hosts, ports] {
                let mut counts = [0u32; TABLE as usize];
                for index in 0..FLOWS {
                    counts[hash(index, vary).slot(TABLE) as usize] += 1;
                }
                let expected = f64::from(FLOWS / TABLE);
                let chi_squared: f64 = counts.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
                // 1,020 degrees of freedom: mean 1,020, standard deviation 45.
                assert!((800.0..1250.0).contains(&chi_squared), "chi squared {chi_squared}");
            }
        }
    }

    #[test]
    fn every_bit_of_the_entropy_varies_within_a_slot() {
        let mut ones = [0u32; 32];
        let mut flows = 0;
        for index in 0..FLOWS {
            let hash = v4(index, |index| (index, index & 0xff));
            if hash.slot(TABLE) == 7 {
                flows += 1;
                for (bit, ones) in ones.iter_mut().enumerate() {
                    *ones += hash.entropy() >> bit & 1;
                }
            }
        }
        assert!(ones.iter().all(|ones| (flows / 3..flows * 2 / 3).contains(ones)), "{ones:?} of {flows}");
    }

    #[test]
    fn slots_stay_within_the_table() {
        assert_eq!(FlowHash(u64::MAX).slot(16_381), 16_380);
        assert_eq!(FlowHash(0).slot(16_381), 0);
    }

    /// Two versions of naru behind one ECMP group must agree: these values never change.
    #[test]
    fn hashes_are_what_they_always_were() {
        let ipv4 = FlowHash::v4(Be32::new(0x0a00_0001), Be32::new(0xcb00_710a), 0x9c40_0050u32.to_be(), 6);
        let source = Address::from("2001:db8::1".parse::<Ipv6Addr>().unwrap());
        let destination = Address::from("2001:db8::10".parse::<Ipv6Addr>().unwrap());
        let ipv6 = FlowHash::v6(source, destination, 0x9c40_0050u32.to_be(), 17);
        assert_eq!((ipv4.0, ipv6.0), (0x6e275f9e34f3c347, 0x3913db6a34942d93));
    }
}
