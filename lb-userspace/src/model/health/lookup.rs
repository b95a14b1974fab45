//! A question to a name server, and which answers are good.

use std::{fmt, str::FromStr};

use domain::base::iana;
use serde::{Deserialize, Serialize};

use super::super::word::text_serde;

/// What a name server is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// The name.
    pub name: String,
    /// Which records of it.
    pub record: RecordType,
    /// Response codes of good answers.
    pub rcode: Rcodes,
}

/// A type of records, as `A` or `AAAA`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordType(pub iana::Rtype);

/// Response codes, as `NOERROR` or `NOERROR,NXDOMAIN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rcodes(Vec<iana::Rcode>);

/// Why a text is not what name servers are asked for, or answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No name.
    #[error("`{0}` is no DNS name; write one such as `www.example.org`")]
    Name(String),
    /// No type of records.
    #[error("`{0}` is no type of DNS records; write one such as `A`, `AAAA`, `SOA` or `TYPE65`")]
    Record(String),
    /// No response codes.
    #[error("`{0}` is no DNS response code or list of them; write such as `NOERROR` or `NOERROR,NXDOMAIN`")]
    Rcode(String),
}

impl Rcodes {
    /// Whether this is one of them.
    pub fn contain(&self, rcode: iana::Rcode) -> bool {
        self.0.contains(&rcode)
    }
}

impl Default for RecordType {
    fn default() -> Self {
        Self(iana::Rtype::A)
    }
}

impl Default for Rcodes {
    fn default() -> Self {
        Self(vec![iana::Rcode::NOERROR])
    }
}

impl FromStr for RecordType {
    type Err = LookupError;

    fn from_str(text: &str) -> Result<Self, LookupError> {
        text.parse().map(Self).map_err(|_| LookupError::Record(text.to_owned()))
    }
}

impl FromStr for Rcodes {
    type Err = LookupError;

    fn from_str(text: &str) -> Result<Self, LookupError> {
        let rcode = |word: &str| word.trim().parse().ok();
        let rcodes: Option<Vec<_>> = text.split(',').map(rcode).collect();
        rcodes.map(Self).ok_or_else(|| LookupError::Rcode(text.to_owned()))
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Rcodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
    }
}

text_serde!(RecordType);
text_serde!(Rcodes);

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, record, rcode } = self;
        write!(f, "{name} {record}")?;
        if *rcode != Rcodes::default() {
            write!(f, " rcode {rcode}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_codes_are_read_as_they_are_written() {
        for text in ["A", "AAAA", "SOA", "TYPE64999"] {
            assert_eq!(text.parse::<RecordType>().unwrap().to_string(), text);
        }
        for text in ["", "ADDRESS", "1"] {
            assert!(text.parse::<RecordType>().unwrap_err().to_string().contains("`AAAA`"), "{text}");
        }
        let rcodes: Rcodes = "NOERROR,NXDOMAIN".parse().unwrap();
        assert!(rcodes.contain(iana::Rcode::NXDOMAIN) && !rcodes.contain(iana::Rcode::SERVFAIL));
        assert_eq!(rcodes.to_string(), "NOERROR,NXDOMAIN");
        for text in ["", "OK", "NOERROR,"] {
            assert!(text.parse::<Rcodes>().unwrap_err().to_string().contains("NOERROR,NXDOMAIN"), "{text}");
        }
    }
}
