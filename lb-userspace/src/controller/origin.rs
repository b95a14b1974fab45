//! Who asked for a change and by which way, for the log, and for who finds it later.

use std::fmt;

/// Who asked for a change and by which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    user: String,
    by: String,
}

impl Origin {
    /// A user, and the same with the way; both fit behind "by".
    pub fn new(user: String, by: String) -> Self {
        Self { user, by }
    }

    /// Who it was, without the way.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// A signal to the daemon. Who sent it, the kernel does not say: root, or the daemon's own user.
    pub fn signal(name: &str) -> Self {
        let signal = format!("signal {name}");
        Self { user: signal.clone(), by: signal }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.by)
    }
}
