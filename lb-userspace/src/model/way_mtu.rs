//! The largest packet that the way to a backend carries: bytes or none, as the config and the command line spell it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::value::{KeyValue, Scalar, WrongValue, read_number};

/// The largest IP packet in bytes that the way to a backend carries, including what the forward mode adds: `576..=65535`, or
/// none, where the first hop's MTU alone counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Json", into = "Json")]
pub struct WayMtu(Option<u16>);

/// What is to be the MTU of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Json", into = "Json")]
pub enum WayMtuChoice {
    /// That of its VIP: written as `vip`.
    AsVip,
    /// Its own.
    Own(WayMtu),
}

/// Why a text is not a [`WayMtu`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an MTU; write bytes from {MIN} to {MAX}, or `none`", MIN = WayMtu::MIN, MAX = u16::MAX)]
pub struct WayMtuError(String);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Json {
    Bytes(u32),
    Word(String),
}

impl WayMtu {
    /// The first hop's MTU alone counts.
    pub const NONE: Self = Self(None);
    /// The smallest: what every host takes over IPv4 (RFC 791 §3.1).
    pub const MIN: u16 = 576;
    /// The smallest where IPv6 is on the way: what every link carries (RFC 8200 §5).
    pub const MIN_IPV6: u16 = 1280;

    const WORD: &'static str = "none";

    /// In bytes.
    pub const fn bytes(self) -> Option<u16> {
        self.0
    }
}

impl WayMtuChoice {
    const VIP: &'static str = "vip";
}

impl FromStr for WayMtu {
    type Err = WayMtuError;

    fn from_str(text: &str) -> Result<Self, WayMtuError> {
        if text == Self::WORD {
            return Ok(Self::NONE);
        }
        let bytes = text.parse().ok().filter(|bytes| *bytes >= Self::MIN);
        bytes.map(|bytes| Self(Some(bytes))).ok_or_else(|| WayMtuError(text.to_owned()))
    }
}

impl fmt::Display for WayMtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => bytes.fmt(f),
            None => f.write_str(Self::WORD),
        }
    }
}

impl KeyValue for WayMtu {
    fn read(what: &str, scalar: &Scalar) -> Result<Self, WrongValue> {
        match scalar {
            Scalar::Text(text) if text == Self::WORD => Ok(Self::NONE),
            Scalar::Integer(..) => {
                let bytes = read_number(what, scalar, Self::MIN.into(), u16::MAX.into())?;
                Ok(Self(u16::try_from(bytes).ok()))
            }
            _ => Err(WrongValue::Type("a whole number without quotes, or `\"none\"`")),
        }
    }

    fn scalar(&self) -> Scalar {
        match self.0 {
            Some(bytes) => Scalar::Integer(Some(bytes.into()), bytes.to_string()),
            None => Scalar::Text(Self::WORD.to_owned()),
        }
    }
}

impl FromStr for WayMtuChoice {
    type Err = WayMtuError;

    fn from_str(text: &str) -> Result<Self, WayMtuError> {
        if text == Self::VIP { Ok(Self::AsVip) } else { text.parse().map(Self::Own) }
    }
}

impl From<Json> for String {
    fn from(json: Json) -> Self {
        match json {
            Json::Bytes(bytes) => bytes.to_string(),
            Json::Word(word) => word,
        }
    }
}

impl TryFrom<Json> for WayMtu {
    type Error = WayMtuError;

    fn try_from(json: Json) -> Result<Self, WayMtuError> {
        String::from(json).parse()
    }
}

impl From<WayMtu> for Json {
    fn from(mtu: WayMtu) -> Self {
        mtu.0.map_or_else(|| Self::Word(WayMtu::WORD.to_owned()), |bytes| Self::Bytes(bytes.into()))
    }
}

impl TryFrom<Json> for WayMtuChoice {
    type Error = WayMtuError;

    fn try_from(json: Json) -> Result<Self, WayMtuError> {
        String::from(json).parse()
    }
}

impl From<WayMtuChoice> for Json {
    fn from(choice: WayMtuChoice) -> Self {
        match choice {
            WayMtuChoice::AsVip => Self::Word(WayMtuChoice::VIP.to_owned()),
            WayMtuChoice::Own(mtu) => mtu.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_is_bytes_or_none() {
        for (text, bytes) in [("none", None), ("576", Some(576)), ("65535", Some(65_535))] {
            let mtu: WayMtu = text.parse().unwrap();
            assert_eq!((mtu.bytes(), mtu.to_string().as_str()), (bytes, text));
            assert_eq!(WayMtu::read("`mtu`", &mtu.scalar()), Ok(mtu));
            let json = serde_json::to_string(&mtu).unwrap();
            assert_eq!(json, bytes.map_or("\"none\"".to_owned(), |bytes| bytes.to_string()));
            assert_eq!(serde_json::from_str::<WayMtu>(&json).unwrap(), mtu);
            assert_eq!(text.parse(), Ok(WayMtuChoice::Own(mtu)));
        }
        for text in ["575", "65536", "-1", "", "any", "vip"] {
            let expected = format!("`{text}` is not an MTU; write bytes from 576 to 65535, or `none`");
            assert_eq!(text.parse::<WayMtu>().unwrap_err().to_string(), expected);
        }
        assert_eq!(serde_json::from_str::<WayMtuChoice>("\"vip\"").unwrap(), WayMtuChoice::AsVip);
        assert_eq!(serde_json::to_string(&WayMtuChoice::AsVip).unwrap(), "\"vip\"");
    }
}
