//! How many backends are enough.

use std::{fmt, str::FromStr};

use super::super::{Share, word::text_serde};

/// A number of backends, or a share of those that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Least {
    /// So many.
    Count(u32),
    /// So large a part.
    Share(Share),
}

impl Least {
    /// Whether `part` of `all` are enough.
    pub fn is_reached(self, part: usize, all: usize) -> bool {
        match self {
            Self::Count(count) => part as u128 >= u128::from(count),
            Self::Share(share) => share.is_reached(part, all),
        }
    }
}

impl fmt::Display for Least {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

/// A text that is no [`Least`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no number of backends; write one such as `2`, or a share such as `\"50%\"`")]
pub struct LeastError(String);

impl FromStr for Least {
    type Err = LeastError;

    fn from_str(text: &str) -> Result<Self, LeastError> {
        let count = || text.parse().ok().filter(|count| *count > 0).map(Self::Count);
        let least = if text.ends_with('%') { text.parse().ok().map(Self::Share) } else { count() };
        least.ok_or_else(|| LeastError(text.to_owned()))
    }
}

text_serde!(Least);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_share_are_reached() {
        let is_reached = |text: &str, part, all| text.parse::<Least>().unwrap().is_reached(part, all);
        assert!(
            is_reached("1", 1, 9) && !is_reached("1", 0, 9) && is_reached("50%", 5, 10) && !is_reached("50%", 4, 9)
        );
        for wrong in ["0", "", "half", "101%", "-1", "2.5"] {
            assert!(wrong.parse::<Least>().is_err(), "{wrong}");
        }
    }
}
