//! How a VIP has it found out whether its backends work.

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Share,
    word::{UnknownValue, Word, text_serde, words},
};

/// How it is found out whether the backends of a VIP work, and what follows where one does not.
///
/// As JSON: `{"check": {"type": "http", "path": "/", …}, "interval_ms": 2000, …}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What a backend is asked.
    pub check: Check,
    /// At which of its ports; `None` for the first TCP port of the VIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// From one probe to the next.
    #[serde(rename = "interval_ms", with = "milliseconds")]
    pub interval: Duration,
    /// The same while a verdict is forming: after an answer that speaks against the verdict that stands.
    #[serde(rename = "fast_interval_ms", with = "milliseconds")]
    pub fast_interval: Duration,
    /// From the begin of a probe until an answer is too late.
    #[serde(rename = "timeout_ms", with = "milliseconds")]
    pub timeout: Duration,
    /// As many good answers in a row bring a backend back.
    pub rise: u32,
    /// As many failures in a row take it out.
    pub fall: u32,
    /// What becomes of the connections of one that is out.
    pub on_failure: OnFailure,
    /// Where fewer of the backends than this share work, all serve.
    pub panic: Share,
}

/// What a backend is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Check {
    /// For a TCP connection.
    Tcp,
    /// For a page, by HTTP/1.1.
    Http(Page),
}

/// A page, and what is a good answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Path and query.
    pub path: String,
    /// The `Host` header; the VIP's address where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Statuses of good answers.
    pub status: Statuses,
    /// What the body of a good answer has within its first 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

words! {
    /// What becomes of the connections of a backend that fails its probes.
    OnFailure: "on_failure" {
        /// They go to the slots' new owners at once, which answer with RST, as with `state = "down"`.
        Reset = "reset",
        /// They stay, as with `state = "drain"`.
        Drain = "drain",
    }
}

/// Ranges of HTTP statuses, as `200-399` or `200,204`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

/// Why a text is no ranges of statuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no HTTP status or range of them; write such as `200`, `200-399` or `200,301-302`")]
pub struct StatusError(String);

impl Health {
    /// Without `interval`.
    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// Without `fast_interval`.
    pub const FAST_INTERVAL: Duration = Duration::from_millis(500);
    /// Without `timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
    /// Without `rise`.
    pub const RISE: u32 = 2;
    /// Without `fall`.
    pub const FALL: u32 = 3;
    /// Without `panic`: all serve where none works.
    pub const PANIC: Share = Share(0);
    /// Largest `rise` and `fall`.
    pub const MAX_COUNT: u32 = 100;
}

impl Page {
    /// Without `path`.
    pub const PATH: &'static str = "/";
}

impl Statuses {
    /// Whether this is one of them.
    pub fn contain(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

impl FromStr for Statuses {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Self, StatusError> {
        let status = |text: &str| text.trim().parse().ok().filter(|status| (100..=599).contains(status));
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (status(first)?, status(last)?);
            (first <= last).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        ranges.map(Self).ok_or_else(|| StatusError(text.to_owned()))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        f.write_str(&self.0.iter().map(word).collect::<Vec<_>>().join(","))
    }
}

text_serde!(Statuses);

/// In one line, for people: `http :8080/healthz, every 2s (500ms), timeout 1s, rise 2, fall 3, reset`.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, port, interval, fast_interval, timeout, rise, fall, on_failure, panic } = self;
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        match check {
            Check::Tcp if port.is_empty() => f.write_str("tcp")?,
            Check::Tcp => write!(f, "tcp {port}")?,
            Check::Http(page) => write!(f, "http {port}{page}")?,
        }
        let [interval, fast_interval, timeout] = [*interval, *fast_interval, *timeout].map(humantime::format_duration);
        write!(f, ", every {interval} ({fast_interval}), timeout {timeout}, rise {rise}, fall {fall}, {on_failure}")?;
        if *panic == Self::PANIC { Ok(()) } else { write!(f, ", panic {panic}") }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, host, status, body } = self;
        f.write_str(path)?;
        host.as_ref().map_or(Ok(()), |host| write!(f, " host {host}"))?;
        if *status != Statuses::default() {
            write!(f, " status {status}")?;
        }
        body.as_ref().map_or(Ok(()), |body| write!(f, " body {body:?}"))
    }
}

/// Durations as whole milliseconds.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_millis().try_into().unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_as_they_are_written() {
        for (text, good, bad) in [("200", 200, 201), ("200-399", 399, 400), ("200,301-302", 302, 300)] {
            let statuses: Statuses = text.parse().unwrap();
            assert!(statuses.contain(good) && !statuses.contain(bad), "{text}");
            assert_eq!(statuses.to_string(), text);
        }
        for text in ["", "20", "600", "399-200", "200-", "ok", "200;204"] {
            assert!(text.parse::<Statuses>().unwrap_err().to_string().contains("200-399"), "{text}");
        }
    }

    #[test]
    fn what_is_asked_is_told_in_a_line() {
        let page = Page {
            path: "/healthz".into(),
            host: Some("www.example.org".into()),
            status: "200".parse().unwrap(),
            body: Some("ok".into()),
        };
        let health = Health {
            check: Check::Http(page),
            port: Some(8080),
            interval: Health::INTERVAL,
            fast_interval: Health::FAST_INTERVAL,
            timeout: Health::TIMEOUT,
            rise: 2,
            fall: 3,
            on_failure: OnFailure::Reset,
            panic: Health::PANIC,
        };
        let rest = "every 2s (500ms), timeout 1s, rise 2, fall 3, reset";
        assert_eq!(
            health.to_string(),
            format!("http :8080/healthz host www.example.org status 200 body \"ok\", {rest}")
        );
        assert_eq!(serde_json::from_value::<Health>(serde_json::to_value(&health).unwrap()).unwrap(), health);
        let tcp = Health { check: Check::Tcp, port: None, panic: "50%".parse().unwrap(), ..health };
        assert_eq!(tcp.to_string(), format!("tcp, {rest}, panic 50%"));
    }
}
