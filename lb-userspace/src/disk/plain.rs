//! Reads files that are files: whoever opens a FIFO or a terminal waits for its other end, maybe for ever. Whoever
//! opens a file that another program has a write lease on (Samba, an NFS server) waits as well, and here not for long.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a save, or a write lease, is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries.
const REST: Duration = Duration::from_millis(10);

/// Opens the file at `path` for reading. Where another program has a write lease on it, that has two seconds to give it
/// back, which the kernel asks it to do.
///
/// # Errors
///
/// It cannot be opened, or it is something else than a file, such as a directory or a FIFO. Where the write lease is
/// still there, [`ErrorKind::ResourceBusy`].
pub fn open(path: &Path) -> io::Result<File> {
    patiently(PATIENCE, || open_now(path))
}

/// Opens the file at `path`, unless another program has a write lease on it. That is asked to give it back.
pub(super) fn open_now(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::new(ErrorKind::InvalidInput, "it is not a file, but a directory, a FIFO or a device")),
    }
}

/// What `attempt` comes to, tried again while there is nothing yet because a program writes to the file.
///
/// # Errors
///
/// As with `attempt`; if there is still nothing after `patience`, [`ErrorKind::ResourceBusy`].
pub(super) fn patiently<T>(patience: Duration, attempt: impl Fn() -> io::Result<Option<T>>) -> io::Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt()? {
            Some(done) => return Ok(done),
            None if Instant::now() < deadline => sleep(REST),
            None => {
                let message = "a program has it open for writing; try again when it is saved (`fuser` tells which)";
                return Err(io::Error::new(ErrorKind::ResourceBusy, message));
            }
        }
    }
}

/// The text of the file at `path`.
///
/// # Errors
///
/// As with [`open`]; also where it cannot be read, or is no text.
pub fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;
    use crate::disk::lease::lease_for_writing;

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "text").unwrap();
        assert_eq!(read(&path).unwrap(), "text");
        let fifo = directory.path().join("fifo");
        mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        for other in [fifo.as_path(), directory.path(), Path::new("/dev/zero")] {
            let error = read(other).unwrap_err();
            assert!(error.to_string().starts_with("it is not a file"), "{error}");
        }
        assert_eq!(read(&directory.path().join("missing")).unwrap_err().kind(), ErrorKind::NotFound);
    }
    #[test]
    fn a_write_lease_is_waited_for_and_not_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "text").unwrap();
        let server = lease_for_writing(&path);
        let error = patiently(Duration::from_millis(30), || open_now(&path)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
        let reader = thread::spawn({
            let path = path.clone();
            move || patiently(Duration::from_secs(60), || open_now(&path)).unwrap()
        });
        sleep(Duration::from_millis(30));
        assert!(!reader.is_finished(), "it did not wait");
        drop(server);
        reader.join().unwrap();
        assert_eq!(read(&path).unwrap(), "text");
    }
}
