//! What a listener bears.

use std::time::Duration;

/// What a listener bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// How long a connection may be without a whole request head.
    pub idle: Duration,
    /// How long the peer may read nothing of an answer.
    pub stall: Duration,
    /// How long the peer may take for a whole answer, but for what is buffered of its end.
    pub answer: Duration,
}
