//! Who asked for a change and by which way, for the log.

use std::fmt;

/// Who asked for a change and by which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// In words that fit behind "by".
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A signal to the daemon. Who sent it, the kernel does not say: root, or the daemon's own user.
    pub fn signal(name: &str) -> Self {
        Self(format!("signal {name}"))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
