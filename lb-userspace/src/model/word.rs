//! Types whose values are words: each value has one spelling, the one of the config file. It is what `Display` prints
//! and `FromStr` reads, and what the API carries.

use super::suggest;

/// A type whose values are words of the config.
pub trait Word: Copy + PartialEq + 'static {
    /// What such a value is, for messages: "forward mode".
    const WHAT: &'static str;
    /// Every value and its spelling.
    const WORDS: &'static [(&'static str, Self)];

    /// The spelling.
    fn word(self) -> &'static str {
        // Every value is in the list; the tests walk over all of them.
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("?", |(word, _)| word)
    }

    /// The value that `text` spells.
    fn from_word(text: &str) -> Result<Self, UnknownValue> {
        let value = Self::WORDS.iter().find(|(word, _)| *word == text);
        value.map(|(_, value)| *value).ok_or_else(|| UnknownValue::new::<Self>(text))
    }
}

/// A text that is none of the words that it could be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{text}`; {remedy}")]
pub struct UnknownValue {
    what: &'static str,
    text: String,
    remedy: String,
}

impl UnknownValue {
    fn new<T: Word>(text: &str) -> Self {
        let words = T::WORDS.iter().map(|(word, _)| *word);
        Self { what: T::WHAT, text: text.to_owned(), remedy: suggest::remedy(text, words) }
    }
}

/// Declares an enum of config words with `Display`, `FromStr` and serde.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $what:literal { $($(#[$value_doc:meta])* $value:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl Word for $name {
            const WHAT: &'static str = $what;
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$value),)+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $name {
            type Err = UnknownValue;

            fn from_str(text: &str) -> Result<Self, UnknownValue> {
                Self::from_word(text)
            }
        }

        text_serde!($name);

        impl $crate::model::value::KeyValue for $name {
            fn read(
                _: &str,
                scalar: &$crate::model::value::Scalar,
            ) -> Result<Self, $crate::model::value::WrongValue> {
                $crate::model::value::read_text(scalar)
            }
        }
    };
}

/// Implements serde for a type by its `Display` and `FromStr`.
macro_rules! text_serde {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'_, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(super) use text_serde;
pub(super) use words;
