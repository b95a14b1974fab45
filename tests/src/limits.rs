//! Limits of this process, which all tests of a program share.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files of this process, and of what it starts, to what is allowed: the sockets, maps and
/// namespaces of many tests are more than many systems begin with.
///
/// # Errors
///
/// When the limit cannot be read or set.
pub fn allow_many_files() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}
