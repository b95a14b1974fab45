//! The demo.

/// Runs it.
pub fn run(_keep: bool) -> anyhow::Result<bool> {
    Ok(true)
}
