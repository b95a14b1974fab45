//! Bytes that need not be text.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Bytes; as JSON in hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Octets(Vec<u8>);

/// Why a text is no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not bytes in hexadecimal; write two digits for each, such as `1b00ff`")]
pub struct OctetsError(String);

impl Octets {
    /// These.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// They.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Of hexadecimal digits, with spaces between bytes or without.
impl FromStr for Octets {
    type Err = OctetsError;

    fn from_str(text: &str) -> Result<Self, OctetsError> {
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some(char::from(*high).to_digit(16)? as u8 * 16 + char::from(*low).to_digit(16)? as u8),
            _ => None,
        };
        let words = text.split(' ').flat_map(|word| word.as_bytes().chunks(2));
        words.map(byte).collect::<Option<_>>().map(Self).ok_or_else(|| OctetsError(text.to_owned()))
    }
}

impl TryFrom<String> for Octets {
    type Error = OctetsError;

    fn try_from(text: String) -> Result<Self, OctetsError> {
        text.parse()
    }
}

impl From<Octets> for String {
    fn from(octets: Octets) -> Self {
        octets.hex()
    }
}

/// For people: text in quotes where it is text, or hexadecimal digits behind `0x`.
impl fmt::Display for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n');
        match self.0.iter().all(is_text) {
            true => write!(f, "\"{}\"", self.0.escape_ascii()),
            false => write!(f, "0x{}", self.hex()),
        }
    }
}

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_as_text_where_they_are_text() {
        for (hex, bytes, told) in [
            ("", &b""[..], "\"\""),
            ("70696e67", b"ping", "\"ping\""),
            ("1b 00 FF", b"\x1b\0\xff", "0x1b00ff"),
            ("220d0a", b"\"\r\n", r#""\"\r\n""#),
        ] {
            let octets: Octets = hex.parse().unwrap();
            assert_eq!((octets.bytes(), octets.to_string().as_str()), (bytes, told));
            assert_eq!(serde_json::from_value::<Octets>(serde_json::to_value(&octets).unwrap()).unwrap(), octets);
        }
        for text in ["1", "1b 0 0", "0x1b", "zz", "+1", "\u{e9}\u{e9}"] {
            assert!(text.parse::<Octets>().unwrap_err().to_string().contains("two digits"), "{text}");
        }
    }
}
