//! The config file: what it may say, and what is wrong with one that says something else.
//!
//! A text becomes a [`Config`] in one direction: TOML tree (with the place of every value) → `read` (each value on its
//! own) → `validate` (values against each other). Whatever is wrong is told with file, line, column and remedy, each
//! mistake once, and as many mistakes as there are. [`edit`] changes the text of a config the way an operator would.
//!
//! Nothing here looks at the running system: whether an interface exists is not this module's question.

pub mod edit;
mod error;
mod health;
mod read;
mod reference;
mod reparse;
mod section;
mod syntax;
mod tree;
mod validate;
mod warning;

use std::path::Path;

use toml::de::DeTable;

use self::error::Problems;
pub use self::{
    error::{ConfigError, ConfigErrors, ReadError},
    reference::reference,
    section::Sections,
    warning::Warning,
};
use crate::model::{Config, Node};

/// What a text says of its node; what is wrong there or elsewhere is passed over, and so are VIPs behind `[node]`: a
/// config with mistakes still leads to its daemon, and thousands of VIPs cost nothing.
pub fn node(text: &str) -> Node {
    let read = |text: &str| read::node(DeTable::parse(text).ok()?.get_ref().get("node")?, &mut Problems::default());
    let head = text.find("\n[[").map_or(text, |end| &text[..end]);
    read(head).or_else(|| read(text)).unwrap_or_default()
}

impl Config {
    /// Reads a config from its text. `file` is what errors call the text.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigErrors> {
        Self::parse_with_sections(text, file).map(|(config, _)| config)
    }

    /// The same, with the sections of the text.
    pub fn parse_with_sections(text: &str, file: &Path) -> Result<(Self, Sections), ConfigErrors> {
        match reparse::in_pieces(text) {
            Some(read) => Ok(read),
            None => Ok((Self::parse_whole(text, file)?, Sections::of(text))),
        }
    }

    fn parse_whole(text: &str, file: &Path) -> Result<Self, ConfigErrors> {
        let (root, syntax_errors) = DeTable::parse_recoverable(text);
        // What follows a syntax error is guesswork, so the first one is the only one to tell.
        if let Some(error) = syntax_errors.first() {
            return Err(ConfigErrors::locate(text, file, vec![syntax::problem(text, error)]));
        }
        let mut problems = Problems::default();
        let draft = read::draft(root.get_ref(), &mut problems);
        match validate::config(text, &draft, &mut problems) {
            Some(config) if problems.0.is_empty() => Ok(config),
            _ => Err(ConfigErrors::locate(text, file, problems.0)),
        }
    }

    /// The same as [`Config::parse`], but much quicker where `text` differs little from `before`, which `self` was read
    /// from and which has these `sections`: an edit of one VIP among thousands.
    pub fn reparse(
        &self,
        before: &str,
        sections: &Sections,
        text: &str,
        file: &Path,
    ) -> Result<(Self, Sections), ConfigErrors> {
        match reparse::reparse(self, before, sections, text) {
            Some(reparsed) => Ok(reparsed),
            None => Self::parse_with_sections(text, file),
        }
    }

    /// Reads the config file at `path`, which may be a pipe: whoever checks a config may make it on the way.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| ReadError::Unreadable { path: path.to_owned(), error })?;
        Ok(Self::parse(&text, path)?)
    }
}
