//! `health` as an edit gives it: keys of the config with their values, or that nobody is asked.
//!
//! Which keys there are, and which values, is not judged here: the text that comes of an edit is read as every config is.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};
use toml_edit::{Array, InlineTable, Value};

use crate::model::keys::HEALTH_ALL;

/// What is to be `health` of a VIP.
///
/// As text: `none`, or words such as `http path=/healthz interval=2s`. As JSON: `"none"`, such a text, or a table with keys
/// as in the config: `{"type": "http", "path": "/healthz"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Json", into = "Json")]
pub enum HealthEdit {
    /// Nobody is asked.
    None,
    /// These keys: with `type` they are all that there are, without it they change what there is.
    Keys(BTreeMap<String, HealthValue>),
}

/// What is to be `health` of a backend.
///
/// As text and as JSON the same, and `vip`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Json", into = "Json")]
pub enum BackendHealthEdit {
    /// It has none of its own.
    AsVip,
    /// Its own.
    Own(HealthEdit),
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HealthValue {
    /// `true` or `false`.
    Boolean(bool),
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
    /// Words, as of a command.
    Words(Vec<String>),
}

/// Why a text is no `health`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HealthEditError {
    /// It says nothing.
    #[error("nothing is said of `health`; write such as `http path=/healthz`, or `none`")]
    Empty,
    /// A word stands alone.
    #[error("`{0}` is no key with a value; write `KEY=VALUE`, as `http path=/healthz interval=2s`")]
    Alone(String),
    /// A key is there twice.
    #[error("`{0}` is given twice; leave one of the two out")]
    Twice(String),
    /// A quote does not end.
    #[error("a quote does not end in `{0}`; write `body=\"all is well\"`")]
    Quote(String),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Json {
    Text(String),
    Keys(BTreeMap<String, HealthValue>),
}

const NONE: &str = "none";
const VIP: &str = "vip";

impl HealthEdit {
    /// Whether it is all that is to be said, and not a change of what there is.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::None => true,
            Self::Keys(keys) => keys.contains_key("type"),
        }
    }

    /// As the value of the key.
    pub(super) fn value(&self) -> Value {
        match self {
            Self::None => NONE.into(),
            Self::Keys(keys) => Self::in_order(keys).into_iter().collect::<InlineTable>().into(),
        }
    }

    /// The keys in the order in which the config is described, those behind that it does not have.
    pub(super) fn in_order(keys: &BTreeMap<String, HealthValue>) -> Vec<(&str, Value)> {
        let known = || HEALTH_ALL.iter().copied().flatten();
        let place = |key: &str| known().position(|known| known.name == key).unwrap_or(usize::MAX);
        let mut ordered: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), Value::from(value))).collect();
        ordered.sort_by_key(|(key, _)| place(key));
        ordered
    }
}

impl From<&HealthValue> for Value {
    fn from(value: &HealthValue) -> Self {
        match value {
            HealthValue::Boolean(boolean) => (*boolean).into(),
            HealthValue::Number(number) => (*number).into(),
            HealthValue::Text(text) => text.as_str().into(),
            HealthValue::Words(words) => words.iter().collect::<Array>().into(),
        }
    }
}

impl FromStr for HealthEdit {
    type Err = HealthEditError;

    fn from_str(text: &str) -> Result<Self, HealthEditError> {
        let mut keys = BTreeMap::new();
        let words = words(text)?;
        match words.as_slice() {
            [] => return Err(HealthEditError::Empty),
            [word] if word == NONE => return Ok(Self::None),
            _ => {}
        }
        for (at, word) in words.into_iter().enumerate() {
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, typed(key, value)?),
                None if at == 0 => ("type", HealthValue::Text(word.clone())),
                None => return Err(HealthEditError::Alone(word)),
            };
            if keys.insert(key.to_owned(), value).is_some() {
                return Err(HealthEditError::Twice(key.to_owned()));
            }
        }
        Ok(Self::Keys(keys))
    }
}

impl FromStr for BackendHealthEdit {
    type Err = HealthEditError;

    fn from_str(text: &str) -> Result<Self, HealthEditError> {
        if text.trim() == VIP { Ok(Self::AsVip) } else { text.parse().map(Self::Own) }
    }
}

impl TryFrom<Json> for HealthEdit {
    type Error = HealthEditError;

    fn try_from(json: Json) -> Result<Self, HealthEditError> {
        match json {
            Json::Text(text) => text.parse(),
            Json::Keys(keys) if keys.is_empty() => Err(HealthEditError::Empty),
            Json::Keys(keys) => Ok(Self::Keys(keys)),
        }
    }
}

impl From<HealthEdit> for Json {
    fn from(health: HealthEdit) -> Self {
        match health {
            HealthEdit::None => Self::Text(NONE.to_owned()),
            HealthEdit::Keys(keys) => Self::Keys(keys),
        }
    }
}

impl TryFrom<Json> for BackendHealthEdit {
    type Error = HealthEditError;

    fn try_from(json: Json) -> Result<Self, HealthEditError> {
        match json {
            Json::Text(text) => text.parse(),
            keys => keys.try_into().map(Self::Own),
        }
    }
}

impl From<BackendHealthEdit> for Json {
    fn from(health: BackendHealthEdit) -> Self {
        match health {
            BackendHealthEdit::AsVip => Self::Text(VIP.to_owned()),
            BackendHealthEdit::Own(own) => own.into(),
        }
    }
}

/// A value as its key wants it, if it can be: `80` is a number for `port` and a text for `status`.
fn typed(key: &str, value: &str) -> Result<HealthValue, HealthEditError> {
    let known = HEALTH_ALL.iter().copied().flatten().find(|known| known.name == key);
    let example = known.and_then(|known| known.example.split_once(" = ")).map_or("", |(_, example)| example);
    let text = || HealthValue::Text(value.to_owned());
    Ok(match example.as_bytes().first() {
        Some(b'[') => HealthValue::Words(words(value)?),
        Some(b't' | b'f') => value.parse().map_or_else(|_| text(), HealthValue::Boolean),
        Some(b'0'..=b'9') => value.parse().map_or_else(|_| text(), HealthValue::Number),
        _ => text(),
    })
}

/// The words of a text: between blanks, of which there may be some in quotes, that of the other kind included.
fn words(text: &str) -> Result<Vec<String>, HealthEditError> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for part in text.chars() {
        match (part, quote) {
            (_, Some(begun)) if part == begun => quote = None,
            ('"' | '\'', None) => {
                quote = Some(part);
                word.get_or_insert_default();
            }
            (blank, None) if blank.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(part),
        }
    }
    if quote.is_some() {
        return Err(HealthEditError::Quote(text.to_owned()));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        let edit: BackendHealthEdit = text.parse().unwrap();
        let json = serde_json::to_string(&edit).unwrap();
        assert_eq!(serde_json::from_str::<BackendHealthEdit>(&json).unwrap(), edit, "{json}");
        json
    }

    #[test]
    fn values_are_what_their_keys_want() {
        for (text, expected) in [
            ("none", r#""none""#),
            ("vip", r#""vip""#),
            ("tcp", r#"{"type":"tcp"}"#),
            ("type=tcp", r#"{"type":"tcp"}"#),
            (" http  port=8080 status=200 ", r#"{"port":8080,"status":"200","type":"http"}"#),
            ("https verify=false", r#"{"type":"https","verify":false}"#),
            ("min_healthy=2", r#"{"min_healthy":2}"#),
            ("min_healthy=50%", r#"{"min_healthy":"50%"}"#),
            (
                r#"http body="all is well" header='X-Role: a'"#,
                r#"{"body":"all is well","header":"X-Role: a","type":"http"}"#,
            ),
            (r#"exec command="/bin/probe -n 'a b'""#, r#"{"command":["/bin/probe","-n","a b"],"type":"exec"}"#),
            // What it cannot be is refused when the config is read.
            ("tcp port=web", r#"{"port":"web","type":"tcp"}"#),
            ("tcp prot=80", r#"{"prot":"80","type":"tcp"}"#),
        ] {
            assert_eq!(json(text), expected, "{text}");
        }
    }

    #[test]
    fn a_text_that_says_nothing_is_refused() {
        for (text, expected) in [
            ("", HealthEditError::Empty),
            ("http /healthz", HealthEditError::Alone("/healthz".into())),
            ("tcp type=http", HealthEditError::Twice("type".into())),
            ("http body=\"a b", HealthEditError::Quote("http body=\"a b".into())),
        ] {
            assert_eq!(text.parse::<HealthEdit>(), Err(expected), "{text}");
        }
        assert!(serde_json::from_str::<HealthEdit>("{}").is_err());
    }
}
