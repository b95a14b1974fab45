//! Shares of a whole.

use std::{fmt, str::FromStr};

use super::word::text_serde;

/// A share in per cent, 0 to 100: `50%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(pub(super) u8);

impl Share {
    /// Whether `part` is at least as much of `all` as this.
    pub fn is_reached(self, part: usize, all: usize) -> bool {
        part as u128 * 100 >= all as u128 * u128::from(self.0)
    }

    /// So much of `all`, rounded down.
    pub fn of(self, all: usize) -> usize {
        (all as u128 * u128::from(self.0) / 100) as usize
    }

    /// Whether `part` is more of `all` than this.
    pub fn is_exceeded(self, part: usize, all: usize) -> bool {
        part as u128 * 100 > all as u128 * u128::from(self.0)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let share = text.strip_suffix('%').and_then(|number| number.parse().ok()).filter(|share| *share <= 100);
        share.map(Self).ok_or_else(|| ShareError(text.to_owned()))
    }
}

text_serde!(Share);

/// A text that is no [`Share`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a share; write whole per cent from `\"0%\"` to `\"100%\"`")]
pub struct ShareError(String);
