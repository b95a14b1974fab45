//! Reads files that are files: whoever opens a FIFO or a terminal waits for its other end, maybe for ever.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Opens the file at `path` for reading, and waits for nobody.
///
/// # Errors
///
/// It cannot be opened, or it is something else than a file, such as a directory or a FIFO. Where another program holds a
/// write lease on it, [`io::ErrorKind::WouldBlock`].
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a file, but a directory, a FIFO or a device",
        ));
    }
    Ok(file)
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
    use std::fs;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

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
        assert_eq!(read(&directory.path().join("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
