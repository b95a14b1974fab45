//! How long a drain may take: a duration or none, as the config and the command line spell it.

use std::{fmt, str::FromStr, time::Duration};

use super::{
    idle::{TimeError, Times},
    value::{KeyValue, Scalar, WrongValue},
    word::text_serde,
};

/// The time after which a backend that takes no new flows has those cut that are left: whole seconds, `1s..=30days`,
/// or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainDeadline(Option<Duration>);

impl DrainDeadline {
    /// However long it takes.
    pub const NONE: Self = Self(None);

    const WORD: &'static str = "none";
    const TIMES: Times = Times {
        min: Duration::from_secs(1),
        max: Duration::from_secs(30 * 86_400),
        example: "30m",
        word: Some("none"),
    };

    /// From seconds; 0 for none.
    pub const fn from_seconds(seconds: u32) -> Self {
        if seconds == 0 { Self::NONE } else { Self(Some(Duration::from_secs(seconds as u64))) }
    }

    /// In seconds; 0 where there is none.
    pub fn seconds(self) -> u32 {
        self.0.map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX))
    }
}

impl FromStr for DrainDeadline {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        if text == Self::WORD {
            return Ok(Self::NONE);
        }
        Self::TIMES.parse(text).map(|time| Self(Some(time)))
    }
}

impl fmt::Display for DrainDeadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => humantime::format_duration(time).fmt(f),
            None => f.write_str(Self::WORD),
        }
    }
}

text_serde!(DrainDeadline);

impl KeyValue for DrainDeadline {
    fn read(what: &str, scalar: &Scalar) -> Result<Self, WrongValue> {
        Self::TIMES.read(what, scalar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_times_or_none() {
        for (text, seconds, written) in [("none", 0, "none"), ("90s", 90, "1m 30s"), ("30days", 2_592_000, "30days")] {
            let deadline: DrainDeadline = text.parse().unwrap();
            assert_eq!((deadline.seconds(), deadline.to_string().as_str()), (seconds, written));
            assert_eq!(DrainDeadline::from_seconds(seconds), deadline);
            assert_eq!(written.parse(), Ok(deadline));
        }
        let any = "write one such as `30m`, between `1s` and `30days`, or `none`";
        for (text, message) in [
            ("900", "`900` has no unit; write `900s`".to_owned()),
            ("never", format!("`never` is not a duration; {any}")),
            ("0s", format!("`0s` is too short or too long; {any}")),
            ("31days", format!("`31days` is too short or too long; {any}")),
        ] {
            assert_eq!(text.parse::<DrainDeadline>().unwrap_err().to_string(), message);
        }
    }
}
