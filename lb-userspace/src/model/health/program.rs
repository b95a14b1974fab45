//! A program that finds out whether a backend works.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is started, without a shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The path of its file, and its arguments. It is not empty.
    pub command: Vec<String>,
}

impl Program {
    /// The path of its file.
    pub fn path(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.command.iter().try_for_each(|word| match word.contains(|part: char| part.is_whitespace() || part == '"') {
            true => write!(f, " {word:?}"),
            false => write!(f, " {word}"),
        })
    }
}
