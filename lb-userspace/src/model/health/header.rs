//! A header that good answers have.

use std::{fmt, str::FromStr};

use hyper::header::{HeaderName, HeaderValue};

use super::super::word::text_serde;

/// A header, as `X-Role: primary`, or `X-Role` with any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: HeaderName,
    /// What it must be; `None` where it may be anything.
    pub value: Option<HeaderValue>,
}

/// Why a text is no header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no header; write one such as `X-Role: primary`, or `X-Role` if its value may be anything")]
pub struct HeaderError(String);

impl FromStr for Header {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name, Some(value.trim())),
            None => (text, None),
        };
        let wrong = || HeaderError(text.escape_debug().to_string());
        let value = value.map(HeaderValue::from_str).transpose().map_err(|_| wrong())?;
        let is_text = value.as_ref().is_none_or(|value| value.to_str().is_ok());
        match HeaderName::try_from(name) {
            Ok(name) if is_text => Ok(Self { name, value }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_str())?;
        self.value.as_ref().map_or(Ok(()), |value| write!(f, ": {}", value.to_str().unwrap_or_default()))
    }
}

text_serde!(Header);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        for (text, told) in
            [("X-Role: primary", "x-role: primary"), ("x-role", "x-role"), ("a:b: c", "a: b: c"), ("a:", "a: ")]
        {
            let header: Header = text.parse().unwrap();
            assert_eq!(header.to_string(), told);
            assert_eq!(told.parse::<Header>().unwrap(), header);
        }
        for text in ["", ": a", "a b: c", "a: b\nc", "a: é"] {
            assert!(text.parse::<Header>().unwrap_err().to_string().contains("X-Role: primary"), "{text}");
        }
    }
}
