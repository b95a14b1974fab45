//! How many ICMP answers of its own the data plane sends.

use std::fmt;

use lb_common::Answer;

/// How many ICMP answers of each kind a CPU sends in a second at most; 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpRate(u32);

impl IcmpRate {
    /// The largest.
    pub const MAX: u32 = 1_000_000;

    /// `None` where it is larger than [`Self::MAX`].
    pub fn new(rate: u32) -> Option<Self> {
        (rate <= Self::MAX).then_some(Self(rate))
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for IcmpRate {
    fn default() -> Self {
        Self(Answer::RATE)
    }
}

impl fmt::Display for IcmpRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_none_up_to_a_million() {
        assert_eq!(
            [0, 1_000_000, 1_000_001].map(|rate| IcmpRate::new(rate).map(IcmpRate::get)),
            [Some(0), Some(1_000_000), None]
        );
        assert_eq!(IcmpRate::default().to_string(), "1000");
    }
}
