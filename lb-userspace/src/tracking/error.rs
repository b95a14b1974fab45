//! Failures of sweeps.

use crate::dataplane;

/// Why the flow table was not swept, or what a sweep found not applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data plane, or the kernel, refuses something.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// The thread that swept ended without a result.
    #[error("the thread of a sweep ended without a result, which is a bug: what it said before tells more")]
    BrokeOff,
}
