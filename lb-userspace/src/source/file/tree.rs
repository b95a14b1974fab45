//! Takes values of known types out of a parsed TOML tree, and notes at its place what is not as it should be.
//!
//! Every function here returns `None` exactly where it has noted a problem or the key is absent, so that one mistake
//! is told once.

use std::{borrow::Cow, fmt, ops::Range, path::PathBuf, str::FromStr};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::Problems;
use crate::model::{
    KeyValue,
    keys::{Key, Scalar, WrongValue},
    suggest,
};

/// A value of the tree and the bytes that it was read from.
pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// A table of which every key is known.
pub(super) struct Section<'t> {
    place: &'static str,
    span: Range<usize>,
    table: &'t DeTable<'t>,
    keys: &'static [&'static [Key]],
}

impl<'t> Section<'t> {
    /// Notes every key of `table` that is not among `keys`. `place` is what messages call being in the
    /// table, `span` where it begins.
    pub(super) fn open(
        place: &'static str,
        span: Range<usize>,
        table: &'t DeTable<'t>,
        keys: &'static [&'static [Key]],
        problems: &mut Problems,
    ) -> Self {
        let section = Self { place, span, table, keys };
        for key in section.unknown_keys() {
            let remedy = match section.meant_by(key.get_ref()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the keys here are {}", suggest::list(section.names())),
            };
            problems.add(key.span(), format!("unknown key `{}` {place}; {remedy}", key.get_ref()));
        }
        section
    }

    /// The value of `key`, where there is one.
    pub(super) fn optional(&self, key: &str) -> Option<&'t Value<'t>> {
        self.table.get(key)
    }

    /// The value of `key`; its absence is noted, unless a key that looks like it was noted as unknown.
    pub(super) fn required(&self, key: &str, problems: &mut Problems) -> Option<&'t Value<'t>> {
        let value = self.optional(key);
        let misspelled = || self.unknown_keys().any(|unknown| self.meant_by(unknown.get_ref()) == Some(key));
        if value.is_none() && !misspelled() {
            let example = self.keys().find(|known| known.name == key).map_or("", |known| known.example);
            problems.add(self.span.clone(), format!("missing key `{key}` {}; add `{example}`", self.place));
        }
        value
    }

    fn unknown_keys(&self) -> impl Iterator<Item = &'t Spanned<Cow<'t, str>>> {
        self.table.keys().filter(|key| self.names().all(|name| name != key.get_ref()))
    }

    fn names(&self) -> impl Iterator<Item = &'static str> + Clone + use<> {
        self.keys().map(|key| key.name)
    }

    fn keys(&self) -> impl Iterator<Item = &'static Key> + Clone + use<> {
        self.keys.iter().copied().flatten()
    }

    /// The known key that `unknown` is a misspelling of: one that the table does not have yet.
    fn meant_by(&self, unknown: &str) -> Option<&'static str> {
        suggest::nearest(unknown, self.names().filter(|name| !self.table.contains_key(*name)))
    }
}

/// The value of a key.
pub(super) fn key_value<T: KeyValue>(what: &str, value: &Value<'_>, problems: &mut Problems) -> Option<T> {
    let scalar = match value.get_ref() {
        DeValue::String(text) => Scalar::Text(text.to_string()),
        DeValue::Integer(integer) => {
            let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
            Scalar::Integer(number, integer.to_string())
        }
        DeValue::Boolean(boolean) => Scalar::Boolean(*boolean),
        _ => Scalar::Other,
    };
    match T::read(what, &scalar) {
        Ok(read) => return Some(read),
        Err(WrongValue::Type(expected)) => wrong_type(what, value, expected, problems),
        Err(WrongValue::Value(message)) => problems.add(value.span(), message),
    }
    None
}

/// A string.
pub(super) fn text<'t>(what: &str, value: &'t Value<'t>, problems: &mut Problems) -> Option<&'t str> {
    let DeValue::String(text) = value.get_ref() else {
        wrong_type(what, value, "a string in quotes", problems);
        return None;
    };
    Some(text)
}

/// `true` or `false`.
pub(super) fn boolean(what: &str, value: &Value<'_>, problems: &mut Problems) -> Option<bool> {
    let DeValue::Boolean(boolean) = value.get_ref() else {
        wrong_type(what, value, "`true` or `false` without quotes", problems);
        return None;
    };
    Some(*boolean)
}

/// A whole number from `min` to `max`.
pub(super) fn number(what: &str, value: &Value<'_>, min: u32, max: u32, problems: &mut Problems) -> Option<u32> {
    let DeValue::Integer(integer) = value.get_ref() else {
        wrong_type(what, value, "a whole number without quotes", problems);
        return None;
    };
    let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
    let in_range = number.filter(|number| (min..=max).contains(number));
    if in_range.is_none() {
        problems.add(value.span(), format!("{what} is {integer}; it must be from {min} to {max}"));
    }
    in_range
}

/// A string that `T` can be made of.
pub(super) fn parsed<T>(what: &str, value: &Value<'_>, problems: &mut Problems) -> Option<T>
where
    T: FromStr<Err: fmt::Display>,
{
    let parsed = text(what, value, problems)?.parse();
    parsed.map_err(|error: T::Err| problems.add(value.span(), error.to_string())).ok()
}

/// As [`parsed`], of a key of `section`; without the key it is `default`.
pub(super) fn parsed_or<T>(section: &Section<'_>, key: &str, default: T, problems: &mut Problems) -> Option<T>
where
    T: FromStr<Err: fmt::Display>,
{
    match section.optional(key) {
        Some(value) => parsed(&format!("`{key}`"), value, problems),
        None => Some(default),
    }
}

/// An absolute path.
pub(super) fn path(what: &str, value: &Value<'_>, problems: &mut Problems) -> Option<PathBuf> {
    let text = text(what, value, problems)?;
    if !text.starts_with('/') {
        problems.add(value.span(), format!("{what} is `{text}`; write an absolute path, one that begins with `/`"));
        return None;
    }
    Some(PathBuf::from(text))
}

/// The elements of an array.
pub(super) fn array<'t>(what: &str, value: &'t Value<'t>, problems: &mut Problems) -> Option<&'t [Value<'t>]> {
    let DeValue::Array(array) = value.get_ref() else {
        wrong_type(what, value, "an array in brackets", problems);
        return None;
    };
    Some(array)
}

/// A table; `expected` says how to write it.
pub(super) fn table<'t>(
    what: &str,
    value: &'t Value<'t>,
    expected: &str,
    problems: &mut Problems,
) -> Option<&'t DeTable<'t>> {
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(what, value, expected, problems);
        return None;
    };
    Some(table)
}

/// Notes that the value is not what it should be.
pub(super) fn wrong_type(what: &str, value: &Value<'_>, expected: &str, problems: &mut Problems) {
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    problems.add(value.span(), format!("{what} must be {expected}, not {found}"));
}
