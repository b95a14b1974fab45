//! The MAC address of a backend: as the config and the command line spell it.

use std::{fmt, str::FromStr};

use super::word::text_serde;

/// A unicast MAC address, written as `02:00:00:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

/// Why a text is not a [`Mac`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is {wrong}; write the backend's own, such as `02:00:00:00:00:01`")]
pub struct MacError {
    text: String,
    wrong: &'static str,
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let refused = |wrong| Err(MacError { text: text.to_owned(), wrong });
        let Some(bytes) = bytes(text) else { return refused("not a MAC address") };
        match bytes {
            [0, 0, 0, 0, 0, 0] => refused("the address of nobody"),
            [first, ..] if first & 1 == 1 => refused("a group's MAC address"),
            _ => Ok(Self(bytes)),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

text_serde!(Mac);

impl From<Mac> for [u8; 6] {
    fn from(Mac(bytes): Mac) -> Self {
        bytes
    }
}

impl From<[u8; 6]> for Mac {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

/// What a backend's `mac` is to be: an address, or no more than what the network says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacChoice {
    /// This one.
    Pinned(Mac),
    /// None: written as `none`.
    None,
}

impl FromStr for MacChoice {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        if text == "none" { Ok(Self::None) } else { text.parse().map(Self::Pinned) }
    }
}

impl fmt::Display for MacChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned(mac) => mac.fmt(f),
            Self::None => f.write_str("none"),
        }
    }
}

text_serde!(MacChoice);

fn bytes(text: &str) -> Option<[u8; 6]> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
    let byte = |part: &str| is_byte(part).then(|| u8::from_str_radix(part, 16).ok()).flatten();
    text.split(separator).map(byte).collect::<Option<Vec<u8>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_either_spelling_and_written_in_one() {
        for text in ["02:00:00:00:be:ef", "02-00-00-00-BE-EF"] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), "02:00:00:00:be:ef");
        }
        for choice in ["none", "02:00:00:00:be:ef"] {
            assert_eq!(choice.parse::<MacChoice>().unwrap().to_string(), choice);
        }
    }

    #[test]
    fn what_no_backend_can_have_is_refused() {
        for (text, wrong) in [
            ("02:00:00:00:00", "not a MAC address"),
            ("02:00:00:00:00:01:02", "not a MAC address"),
            ("2:0:0:0:0:1", "not a MAC address"),
            ("02:00:00:00:00:+1", "not a MAC address"),
            ("00:00:00:00:00:00", "the address of nobody"),
            ("ff:ff:ff:ff:ff:ff", "a group's MAC address"),
            ("01:00:5e:00:00:01", "a group's MAC address"),
        ] {
            let error = text.parse::<Mac>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is {wrong}; write")), "{error}");
        }
    }
}
