//! A page, as probes ask for it.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    super::word::{UnknownValue, Word, text_serde, words},
    header::Header,
};

/// A page, and what is a good answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Path and query.
    pub path: String,
    /// The `Host` header; the VIP's address where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// By which version of HTTP.
    #[serde(default)]
    pub version: Version,
    /// By so many bytes the request is longer than it must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u16>,
    /// Statuses of good answers.
    pub status: Statuses,
    /// A header that good answers have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Header>,
    /// What the body of a good answer has within its first 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

words! {
    /// Versions of HTTP.
    #[derive(Default)]
    Version: "version" {
        /// HTTP/1.1.
        #[default]
        Http1 = "1.1",
        /// HTTP/2 from the first byte on, without TLS.
        H2c = "h2c",
        /// HTTP/2 over TLS.
        H2 = "h2",
    }
}

/// Ranges of HTTP statuses, as `200-399` or `200,204`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

/// Why a text is no ranges of statuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no HTTP status or range of them; write such as `200`, `200-399` or `200,301-302`")]
pub struct StatusError(String);

impl Page {
    /// Without `path`.
    pub const PATH: &'static str = "/";
    /// Smallest `size`.
    pub const SHORTEST: u16 = 16;
    /// Largest `size`: many servers take no header of more than 8 KiB.
    pub const LONGEST: u16 = 8000;
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

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, host, version, size, status, header, body } = self;
        f.write_str(path)?;
        host.as_ref().map_or(Ok(()), |host| write!(f, " host {host}"))?;
        if *version != Version::default() {
            write!(f, " version {version}")?;
        }
        size.map_or(Ok(()), |size| write!(f, " size {size}"))?;
        if *status != Statuses::default() {
            write!(f, " status {status}")?;
        }
        header.as_ref().map_or(Ok(()), |header| write!(f, " header {header}"))?;
        body.as_ref().map_or(Ok(()), |body| write!(f, " body {body:?}"))
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
}
