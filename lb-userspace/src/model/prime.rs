//! Sizes of Maglev tables: primes, so that every stride walks over every slot.

use std::{fmt, num::ParseIntError, str::FromStr};

use serde::{Deserialize, Serialize};

use super::value::{KeyValue, Scalar, WrongValue, read_number};

/// The size of a VIP's table. One that comes from a config file is a prime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slots(u32);

impl Slots {
    /// Of a VIP that does not say.
    pub const DEFAULT: Self = Self(16_381);

    /// So many.
    pub const fn new(slots: u32) -> Self {
        Self(slots)
    }

    /// How many.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether it is a prime is found where the file says so.
impl FromStr for Slots {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

impl KeyValue for Slots {
    fn read(what: &str, scalar: &Scalar) -> Result<Self, WrongValue> {
        let slots = read_number(what, scalar, SMALLEST, LARGEST)?;
        if is_prime(slots) {
            return Ok(Self(slots));
        }
        let (below, above) = around(slots);
        Err(WrongValue::Value(format!("{what} is {slots}, which is not a prime; write {below} or {above}")))
    }

    fn scalar(&self) -> Scalar {
        Scalar::Integer(Some(self.0), self.0.to_string())
    }
}

/// Smallest table.
pub(crate) const SMALLEST: u32 = 5;
/// Largest table: the largest prime below 2^20.
pub(crate) const LARGEST: u32 = 1_048_573;

/// Whether `number` is a prime, and so can be the size of a table.
pub(crate) fn is_prime(number: u32) -> bool {
    let mut divisors = (3..).step_by(2).take_while(|divisor| divisor * divisor <= u64::from(number));
    number == 2 || (number > 2 && number % 2 == 1 && !divisors.any(|divisor| u64::from(number).is_multiple_of(divisor)))
}

/// The primes next below and above `number`, within the sizes of tables.
pub(crate) fn around(number: u32) -> (u32, u32) {
    let below = (SMALLEST..=number.min(LARGEST)).rev().find(|candidate| is_prime(*candidate));
    (below.unwrap_or(SMALLEST), at_least(number))
}

/// The smallest size of a table that is not below `number`; the largest one where there is none.
pub(crate) fn at_least(number: u32) -> u32 {
    (number.max(SMALLEST)..=LARGEST).find(|candidate| is_prime(*candidate)).unwrap_or(LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_the_rest() {
        let primes: Vec<_> = (0..50).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47]);
        for prime in [16_381, 65_537, SMALLEST, LARGEST] {
            assert!(is_prime(prime), "{prime}");
        }
        assert!(!(LARGEST + 1..1 << 20).any(is_prime));
    }

    #[test]
    fn neighbours_stay_within_the_sizes_of_tables() {
        assert_eq!(around(16_384), (16_381, 16_411));
        assert_eq!(around(6), (5, 7));
        assert_eq!(around(1_048_574), (LARGEST, LARGEST));
        assert_eq!((at_least(0), at_least(1_000), at_least(u32::MAX)), (5, 1_009, LARGEST));
    }
}
