//! Reads a file that somebody may be saving in place: what is there meanwhile is the beginning of the new text, or
//! nothing.

use std::{
    io::{self, ErrorKind, Read as _},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    lease::{Lease, Taken},
    plain,
};

/// How long a save may take. Editors that keep a file open keep it open for reading.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries.
const REST: Duration = Duration::from_millis(10);

/// The text of the file at `path`, which nobody writes to while it is read; waits a little for who does.
///
/// # Errors
///
/// It cannot be read, or somebody keeps it open for writing ([`ErrorKind::ResourceBusy`]).
pub fn read_settled(path: &Path) -> io::Result<String> {
    read_within(path, PATIENCE)
}

fn read_within(path: &Path, patience: Duration) -> io::Result<String> {
    let deadline = Instant::now() + patience;
    loop {
        match read_now(path)? {
            Some(text) => return Ok(text),
            None if Instant::now() < deadline => sleep(REST),
            None => {
                let message = "a program has it open for writing; try again when it is saved (`fuser` tells which)";
                return Err(io::Error::new(ErrorKind::ResourceBusy, message));
            }
        }
    }
}

/// The text of the file that is at `path` now, if nobody writes to that. A save by rename makes it another file.
fn read_now(path: &Path) -> io::Result<Option<String>> {
    let file = match plain::open(path) {
        // Whoever has a write lease on it has been told to give that back.
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
        file => file?,
    };
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
        io::Write as _,
        thread,
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
        assert_eq!(read_settled(&path).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
