//! By which routing tables backends are reached: as the config and the command line spell it.

use std::{fmt, str::FromStr};

use lb_common::VrfName;

use serde::{Deserialize, Serialize};

use super::{
    address,
    value::{KeyValue, Scalar, WrongValue, read_number, read_text},
    word::text_serde,
};

/// A VRF by its name, or `default`, the host's main routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vrf(VrfName);

impl Vrf {
    const MAIN: &str = "default";
}

impl FromStr for Vrf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == Self::MAIN {
            return Ok(Self(VrfName::default()));
        }
        address::interface(text)?;
        let name = VrfName::new(text).filter(|name| !name.is_none());
        name.map(Self).ok_or_else(|| format!("VRF name `{text}` is longer than {} bytes", VrfName::MAX))
    }
}

impl fmt::Display for Vrf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_none() { Self::MAIN } else { self.0.as_str() })
    }
}

text_serde!(Vrf);

impl KeyValue for Vrf {
    fn read(_: &str, scalar: &Scalar) -> Result<Self, WrongValue> {
        read_text(scalar)
    }
}

impl From<Vrf> for VrfName {
    fn from(Vrf(name): Vrf) -> Self {
        name
    }
}

impl From<VrfName> for Vrf {
    fn from(name: VrfName) -> Self {
        Self(name)
    }
}

/// A mark that policy rules are asked with; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(u32);

impl Mark {
    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl From<u32> for Mark {
    fn from(mark: u32) -> Self {
        Self(mark)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mark_word(self.0))
    }
}

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_mark(text).map(Self)
    }
}

impl KeyValue for Mark {
    fn read(what: &str, scalar: &Scalar) -> Result<Self, WrongValue> {
        read_number(what, scalar, 0, u32::MAX).map(Self)
    }

    fn scalar(&self) -> Scalar {
        Scalar::Integer(Some(self.0), self.to_string())
    }
}

/// A mark as operators write it: `0x10`.
pub fn mark_word(mark: u32) -> String {
    format!("{mark:#x}")
}

/// Reads a mark, `0x10` or `16`.
fn parse_mark(text: &str) -> Result<u32, String> {
    let mark = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    mark.map_err(|_| format!("`{text}` is not a mark; write a number such as `16` or `0x10`, at most 0xffffffff"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_routing_has_a_name() {
        for (text, name) in [("default", ""), ("blue", "blue")] {
            let vrf: Vrf = text.parse().unwrap();
            assert_eq!((vrf.to_string().as_str(), VrfName::from(vrf).as_str()), (text, name));
        }
        for text in ["", "a b", "sixteen-bytes-ab"] {
            assert!(text.parse::<Vrf>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn marks_are_read_in_either_base() {
        for (text, mark) in [("16", 16), ("0x10", 16), ("0xffffffff", u32::MAX)] {
            assert_eq!(parse_mark(text), Ok(mark));
            assert_eq!(parse_mark(&mark_word(mark)), Ok(mark));
        }
        for text in ["", "0x", "-1", "0x100000000", "ten"] {
            assert!(parse_mark(text).unwrap_err().contains("is not a mark"), "{text}");
        }
    }
}
