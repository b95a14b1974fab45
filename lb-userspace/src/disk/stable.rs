//! Reads a file that somebody may be saving in place: what is there meanwhile is the beginning of the new text, or
//! nothing.

use std::{
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use super::{
    lease::{Lease, Taken},
    plain,
};

/// The text of the file at `path`, which nobody writes to while it is read; waits a little for who does.
///
/// # Errors
///
/// It cannot be read, or somebody keeps it open for writing ([`ErrorKind::ResourceBusy`]).
pub fn read_stable(path: &Path) -> io::Result<String> {
    read_within(path, plain::PATIENCE)
}

fn read_within(path: &Path, patience: Duration) -> io::Result<String> {
    plain::patiently(patience, || read_now(path))
}

/// The text of the file that is at `path` now, if nobody writes to that. A save by rename makes it another file.
fn read_now(path: &Path) -> io::Result<Option<String>> {
    let Some(file) = plain::open_now(path)? else { return Ok(None) };
    let lease = Lease::take(&file);
    if matches!(lease, Taken::Busy) {
        return Ok(None);
    }
    // Where there are no leases nobody can tell.
    let mut text = String::new();
    (&file).read_to_string(&mut text)?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::{ErrorKind, Write as _},
        thread::{self, sleep},
    };

    use super::*;

    #[test]
    fn half_a_save_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"half, ").unwrap();
        let error = read_within(&path, Duration::from_millis(30)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        let reader = thread::spawn({
            let path = path.clone();
            move || read_within(&path, Duration::from_secs(60)).unwrap()
        });
        sleep(Duration::from_millis(30));
        assert!(!reader.is_finished(), "it did not wait");
        writer.write_all(b"whole").unwrap();
        drop(writer);
        assert_eq!(reader.join().unwrap(), "half, whole");
        fs::remove_file(&path).unwrap();
        assert_eq!(read_stable(&path).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
