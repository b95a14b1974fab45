//! How fast the network is followed.

use std::time::Duration;

/// How fast things are done. The default suits everything but tests in a hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long changes of routes may settle before routes are asked for anew.
    pub settle: Duration,
    /// How often neighbours that do not answer are tried again.
    pub retry: Duration,
    /// How often the neighbour table is read, and entries in use that are stale are confirmed.
    pub keep_alive: Duration,
    /// How often everything is read anew, in case a change came without an event; rounded to multiples of
    /// `keep_alive`.
    pub resync: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(30),
            retry: Duration::from_secs(1),
            keep_alive: Duration::from_secs(10),
            resync: Duration::from_secs(30),
        }
    }
}
