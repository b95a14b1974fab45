//! How long something that an operator does lasts: a duration as the command line spells it.

use std::{fmt, str::FromStr, time::Duration};

use super::{
    idle::{TimeError, Times},
    word::text_serde,
};

/// After which time a thing ends by itself: whole seconds, `1s..=30days`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lasting(Duration);

impl Lasting {
    const TIMES: Times =
        Times { min: Duration::from_secs(1), max: Duration::from_secs(30 * 86_400), example: "30m", word: None };

    /// In seconds.
    pub fn seconds(self) -> u64 {
        self.0.as_secs()
    }
}

impl FromStr for Lasting {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        Self::TIMES.parse(text).map(Self)
    }
}

impl fmt::Display for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

text_serde!(Lasting);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds_with_a_unit() {
        assert_eq!("1h 30m".parse::<Lasting>().unwrap().seconds(), 5400);
        assert_eq!("90m".parse::<Lasting>().unwrap().to_string(), "1h 30m");
        for wrong in ["0s", "30", "none", "31days", "1500ms", ""] {
            assert!(wrong.parse::<Lasting>().is_err(), "{wrong}");
        }
    }
}
