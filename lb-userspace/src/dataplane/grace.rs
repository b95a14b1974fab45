//! The wait for packets that are on their way through the program.

use std::{thread, time::Duration};

use log::debug;

use super::sys;

/// Stands in for a grace period where the kernel does not offer one: it bounds nothing, but the program takes
/// microseconds, and an interrupted one resumes within a scheduler tick or two.
const GRACE: Duration = Duration::from_millis(20);

/// Returns when no packet is on its way through the program any more that may have read something from before the call.
pub(crate) fn grace() {
    if let Err(error) = sys::wait_for_readers() {
        debug!("the kernel offers no grace period ({error}): waiting {GRACE:?} instead");
        thread::sleep(GRACE);
    }
}
