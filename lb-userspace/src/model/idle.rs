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

/// Why a text is not an [`IdleTime`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {wrong}; {remedy}")]
pub struct IdleTimeError {
    text: String,
    wrong: &'static str,
    remedy: String,
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

    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(12 * 3600);

    /// Longest text that is read. humantime panics where the parts of a text add up to 2^64 seconds by way of the last
    /// nanosecond, and no text this short can say that.
    const MAX_LENGTH: usize = 20;
}

impl FromStr for IdleTime {
    type Err = IdleTimeError;

    fn from_str(text: &str) -> Result<Self, IdleTimeError> {
        let refused = |wrong, remedy| Err(IdleTimeError { text: text.to_owned(), wrong, remedy });
        let parsed = (text.len() <= Self::MAX_LENGTH).then(|| humantime::parse_duration(text).ok()).flatten();
        match parsed {
            None if is_number(text) => refused("has no unit", remedy(text, "")),
            None => refused("is not a duration", any("")),
            Some(time) if !(Self::MIN..=Self::MAX).contains(&time) => refused("is too short or too long", any("")),
            Some(time) if time.subsec_nanos() > 0 => refused("is not a whole number of seconds", any("")),
            Some(time) => Ok(Self(time)),
        }
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
        if let Scalar::Integer(_, number) = scalar {
            let remedy = remedy(number, "\"");
            return Err(WrongValue::Value(format!("{what} needs a unit, and quotes; {remedy}")));
        }
        read_text(scalar)
    }
}

impl From<IdleTime> for Duration {
    fn from(IdleTime(time): IdleTime) -> Self {
        time
    }
}

/// What to write for a number without a unit, which most likely means seconds, between `quotes`.
fn remedy(number: &str, quotes: &str) -> String {
    let seconds = format!("{number}s");
    match seconds.parse::<IdleTime>() {
        Ok(_) => format!("write `{quotes}{seconds}{quotes}`"),
        Err(_) => any(quotes),
    }
}

fn any(quotes: &str) -> String {
    let [min, max] = [IdleTime::MIN, IdleTime::MAX].map(IdleTime);
    format!("write one such as `{quotes}15m{quotes}`, between `{quotes}{min}{quotes}` and `{quotes}{max}{quotes}`")
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
