//! Who may read.

use std::fmt;

/// Who may read what the API tells, besides those who may change things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readers {
    /// Every user of the machine.
    All,
    /// Members of these groups.
    Groups(Vec<String>),
}

impl fmt::Display for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Groups(groups) if groups.is_empty() => f.write_str("none"),
            Self::Groups(groups) => f.write_str(&groups.join(",")),
        }
    }
}
