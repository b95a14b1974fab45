//! Waiting for a moment that may not come.

use tokio::time::{Instant, sleep_until};

/// Waits until that moment; for ever where there is none.
pub async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
