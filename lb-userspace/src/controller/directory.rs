//! The state directory itself: made, and taken by one daemon.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use nix::fcntl::{Flock, FlockArg};

/// Makes a state directory where there is none.
pub fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Takes a state directory, and makes it where there is none. May wait for a disk.
pub fn lock(directory: &Path) -> Result<Flock<File>, String> {
    let failed = |what: &'static str| move |error: io::Error| format!("cannot {what} the state directory: {error}");
    make(directory).map_err(failed("make"))?;
    let file = File::open(directory).map_err(failed("open"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        "another daemon uses this state directory: give each its own (`state` in [node]) and restart".to_owned()
    })
}
