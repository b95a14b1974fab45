//! The value of a key of the config: how it is read from what TOML and JSON have, and how it is written.

use std::{fmt, str::FromStr};

/// A value as TOML and JSON have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// A string.
    Text(String),
    /// A whole number: its value, if it is no larger than any that a key takes, and how it is written.
    Integer(Option<u32>, String),
    /// `true` or `false`.
    Boolean(bool),
    /// Something that no key of a VIP takes.
    Other,
}

/// Why a value is not one of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WrongValue {
    /// It is of another type than this.
    Type(&'static str),
    /// It is of the right type, and wrong: what to write instead.
    Value(String),
}

/// The value of a key.
pub trait KeyValue: Clone + PartialEq + fmt::Display {
    /// Reads a value; `what` is what messages call it.
    ///
    /// # Errors
    ///
    /// It is none of this key.
    fn read(what: &str, scalar: &Scalar) -> Result<Self, WrongValue>;

    /// How it is written.
    fn scalar(&self) -> Scalar {
        Scalar::Text(self.to_string())
    }
}

/// Reads what is written as a string, with [`FromStr`].
pub(super) fn read_text<T: FromStr<Err: fmt::Display>>(scalar: &Scalar) -> Result<T, WrongValue> {
    let Scalar::Text(text) = scalar else { return Err(WrongValue::Type("a string in quotes")) };
    text.parse().map_err(|error: T::Err| WrongValue::Value(error.to_string()))
}

/// Reads a whole number from `min` to `max`.
pub(super) fn read_number(what: &str, scalar: &Scalar, min: u32, max: u32) -> Result<u32, WrongValue> {
    let Scalar::Integer(number, text) = scalar else {
        return Err(WrongValue::Type("a whole number without quotes"));
    };
    let number = number.filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| WrongValue::Value(format!("{what} is {text}; it must be from {min} to {max}")))
}

impl KeyValue for bool {
    fn read(_: &str, scalar: &Scalar) -> Result<Self, WrongValue> {
        match scalar {
            Scalar::Boolean(value) => Ok(*value),
            _ => Err(WrongValue::Type("`true` or `false` without quotes")),
        }
    }

    fn scalar(&self) -> Scalar {
        Scalar::Boolean(*self)
    }
}
