//! How long a flow may be silent: a duration as the config and the command line spell it.

use std::{fmt, str::FromStr, time::Duration};

use super::{
    value::{KeyValue, Scalar, WrongValue, read_text},
    word::text_serde,
};

/// The time without a packet after which a flow counts as ended: whole seconds, `1s..=12h`, written as `15m` or
/// `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleTime(Duration);

/// Why a text is not a time that it is to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {wrong}; {remedy}")]
pub struct TimeError {
    text: String,
    wrong: &'static str,
    remedy: String,
}

/// Which times a key takes: whole seconds between two bounds.
pub(super) struct Times {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
    /// One of them, for messages.
    pub example: &'static str,
    /// What may stand in the place of a time.
    pub word: Option<&'static str>,
}

impl IdleTime {
    /// Of TCP flows of a VIP that does not say: that of established connections in IPVS (`tcp_timeouts`).
    pub const TCP: Self = Self(Duration::from_secs(900));
    /// Of UDP flows of a VIP that does not say: that of Envoy (`idle_timeout` of its UDP proxy) and of Cilium
    /// (`bpf-ct-timeout-service-any`).
    pub const UDP: Self = Self(Duration::from_secs(60));

    /// So many seconds.
    pub const fn from_seconds(seconds: u16) -> Self {
        Self(Duration::from_secs(seconds as u64))
    }

    /// Seconds: whole ones, and fewer than 2^16.
    pub fn seconds(self) -> u16 {
        u16::try_from(self.0.as_secs()).unwrap_or(u16::MAX)
    }

    const TIMES: Times =
        Times { min: Duration::from_secs(1), max: Duration::from_secs(12 * 3600), example: "15m", word: None };
}

impl Times {
    /// Longest text that is read. humantime panics where the parts of a text add up to 2^64 seconds by way of the last
    /// nanosecond, and no text this short can say that.
    const MAX_LENGTH: usize = 20;

    /// Reads one.
    pub(super) fn parse(&self, text: &str) -> Result<Duration, TimeError> {
        let refused = |wrong, remedy| Err(TimeError { text: text.to_owned(), wrong, remedy });
        let parsed = (text.len() <= Self::MAX_LENGTH).then(|| humantime::parse_duration(text).ok()).flatten();
        match parsed {
            None if is_number(text) => refused("has no unit", self.remedy(text, "")),
            None => refused("is not a duration", self.any("")),
            Some(time) if !(self.min..=self.max).contains(&time) => refused("is too short or too long", self.any("")),
            Some(time) if time.subsec_nanos() > 0 => refused("is not a whole number of seconds", self.any("")),
            Some(time) => Ok(time),
        }
    }

    /// Reads the value of a key.
    pub(super) fn read<T: FromStr<Err = TimeError>>(&self, what: &str, scalar: &Scalar) -> Result<T, WrongValue> {
        if let Scalar::Integer(_, number) = scalar {
            let remedy = self.remedy(number, "\"");
            return Err(WrongValue::Value(format!("{what} needs a unit, and quotes; {remedy}")));
        }
        read_text(scalar)
    }

    /// What to write for a number without a unit, which most likely means seconds, between `quotes`.
    fn remedy(&self, number: &str, quotes: &str) -> String {
        let seconds = format!("{number}s");
        match self.parse(&seconds) {
            Ok(_) => format!("write `{quotes}{seconds}{quotes}`"),
            Err(_) => self.any(quotes),
        }
    }

    fn any(&self, quotes: &str) -> String {
        let [min, max] = [self.min, self.max].map(humantime::format_duration);
        let example = self.example;
        let word = self.word.map_or_else(String::new, |word| format!(", or `{quotes}{word}{quotes}`"));
        format!(
            "write one such as `{quotes}{example}{quotes}`, between `{quotes}{min}{quotes}` and `{quotes}{max}{quotes}`{word}"
        )
    }
}

impl FromStr for IdleTime {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        Self::TIMES.parse(text).map(Self)
    }
}

impl fmt::Display for IdleTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

text_serde!(IdleTime);

impl KeyValue for IdleTime {
    fn read(what: &str, scalar: &Scalar) -> Result<Self, WrongValue> {
        Self::TIMES.read(what, scalar)
    }
}

impl From<IdleTime> for Duration {
    fn from(IdleTime(time): IdleTime) -> Self {
        time
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_any_unit_and_written_in_the_shortest() {
        for (text, seconds, written) in [
            ("1s", 1, "1s"),
            ("900s", 900, "15m"),
            ("15m", 900, "15m"),
            ("15 min", 900, "15m"),
            ("1m30s", 90, "1m 30s"),
            ("1.5h", 5_400, "1h 30m"),
            ("3000ms", 3, "3s"),
            ("12h", 43_200, "12h"),
        ] {
            let time: IdleTime = text.parse().unwrap();
            assert_eq!(Duration::from(time), Duration::from_secs(seconds), "{text}");
            assert_eq!(time.to_string(), written);
            assert_eq!(written.parse(), Ok(time));
        }
    }

    #[test]
    fn others_are_refused_with_a_remedy() {
        let any = "write one such as `15m`, between `1s` and `12h`";
        for (text, message) in [
            ("900", "`900` has no unit; write `900s`".to_owned()),
            ("99999", format!("`99999` has no unit; {any}")),
            ("", format!("`` is not a duration; {any}")),
            ("15x", format!("`15x` is not a duration; {any}")),
            ("-15m", format!("`-15m` is not a duration; {any}")),
            ("soon", format!("`soon` is not a duration; {any}")),
            ("1500ms", format!("`1500ms` is not a whole number of seconds; {any}")),
            ("1s 1ns", format!("`1s 1ns` is not a whole number of seconds; {any}")),
            ("0", format!("`0` is too short or too long; {any}")),
            ("999ms", format!("`999ms` is too short or too long; {any}")),
            ("12h 1s", format!("`12h 1s` is too short or too long; {any}")),
            ("1day", format!("`1day` is too short or too long; {any}")),
            ("584542046090y", format!("`584542046090y` is too short or too long; {any}")),
        ] {
            assert_eq!(text.parse::<IdleTime>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_text_that_humantime_panics_at_is_refused() {
        let text = "5124095576030431h15s1000ms";
        assert!(text.parse::<IdleTime>().unwrap_err().to_string().contains("is not a duration"));
    }
}
