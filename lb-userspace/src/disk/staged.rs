//! A new text beside the file that it is for, so that a reader, or a crash, sees the old text or the new one and never
//! half of either.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
};
use tempfile::{NamedTempFile, TempPath};

use crate::fault;

/// Why a file was not replaced.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {step}: {error}", path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// What was being done.
    pub step: &'static str,
    /// What the system said.
    #[source]
    pub error: io::Error,
}

/// Room on the disk for a new text of a file, beside the file. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Reserved {
    path: PathBuf,
    target: PathBuf,
    temporary: NamedTempFile,
}

impl Reserved {
    /// Takes room for `length` bytes beside the file at `path`, or beside the file that it is a symbolic link to, with
    /// that file's mode and owner. A new file gets mode 0644. A full or read-only disk shows here: what is written
    /// later has room.
    pub fn beside(path: &Path, length: usize) -> Result<Self, WriteError> {
        Self::new(path, length, 0o644)
    }

    /// As [`Self::beside`]; a new file is its owner's alone.
    pub fn private(path: &Path, length: usize) -> Result<Self, WriteError> {
        Self::new(path, length, 0o600)
    }

    fn new(path: &Path, length: usize, new_mode: u32) -> Result<Self, WriteError> {
        let failed = |step| WriteError::at(path, step);
        let (target, old) = match fs::canonicalize(path) {
            Ok(target) => {
                let old = fs::metadata(&target).map_err(failed("looking at the old file"))?;
                (target, Some(old))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => (path.to_owned(), None),
            Err(error) => return Err(failed("following the path")(error)),
        };
        fault::point("stage a file");
        let mut temporary = tempfile::Builder::new()
            .prefix(PREFIX)
            .suffix(SUFFIX)
            .tempfile_in(directory(&target))
            .map_err(failed("making a temporary file beside it"))?;
        let mode = old.as_ref().map_or(new_mode, MetadataExt::mode) & 0o7777;
        if let Some(old) = old {
            keep_owner(temporary.as_file(), &old).map_err(failed("giving the new file the old one's owner"))?;
        }
        // After the owner: changing that clears the set-id bits.
        let permissions = Permissions::from_mode(mode);
        temporary.as_file().set_permissions(permissions).map_err(failed("giving the new file the old one's mode"))?;
        take_room(temporary.as_file_mut(), length).map_err(failed("taking room for the new file"))?;
        Ok(Self { path: path.to_owned(), target, temporary })
    }

    /// Writes the text. When this returns, it is on disk.
    pub fn write(self, text: &str) -> Result<Staged, WriteError> {
        let Self { path, target, mut temporary } = self;
        let failed = |step| WriteError::at(&path, step);
        temporary.write_all(text.as_bytes()).map_err(failed("writing a temporary file beside it"))?;
        fault::flush("flush a file");
        temporary.as_file().sync_all().map_err(failed("flushing the new file"))?;
        Ok(Staged { path, target, temporary: temporary.into_temp_path(), text: text.to_owned() })
    }
}

/// A new text for a file: on disk beside it, and not yet in its place. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Staged {
    /// The file as it was named.
    pub(super) path: PathBuf,
    /// The file itself, where that is a symbolic link.
    pub(super) target: PathBuf,
    pub(super) temporary: TempPath,
    pub(super) text: String,
}

impl Staged {
    /// Takes room and writes `text` there: see [`Reserved`].
    pub fn beside(path: &Path, text: &str) -> Result<Self, WriteError> {
        Reserved::beside(path, text.len())?.write(text)
    }

    /// As [`Self::beside`]; a new file is its owner's alone.
    pub fn private(path: &Path, text: &str) -> Result<Self, WriteError> {
        Reserved::private(path, text.len())?.write(text)
    }

    /// Puts the text in the file's place, whatever is there. When this returns, that is on disk.
    pub fn put(self) -> Result<(), WriteError> {
        let Self { path, target, temporary, text: _ } = self;
        fault::point("rename a file");
        temporary.persist(&target).map_err(|error| WriteError::at(&path, "renaming the new file")(error.error))?;
        flush_directory(&target).map_err(WriteError::at(&path, "flushing the directory"))
    }
}

impl WriteError {
    /// For `map_err`: what was being done to which file.
    pub(super) fn at(path: &Path, step: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self { path, step, error }
    }
}

/// What a file is named as long as it is not in place.
const PREFIX: &str = ".naru-";
const SUFFIX: &str = ".tmp";

/// What processes that were killed left beside the file at `path`.
pub fn leftovers(path: &Path) -> Vec<PathBuf> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let is_leftover = |name: &str| name.starts_with(PREFIX) && name.ends_with(SUFFIX);
    let entries = fs::read_dir(directory(&target)).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_leftover)).map(|entry| entry.path()).collect()
}

/// Takes room for `length` bytes, of which none is there yet. Where the file system cannot (`EOPNOTSUPP`), they are
/// written, and the file is empty again: it is then known that there was room a moment ago.
fn take_room(file: &mut File, length: usize) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let bytes = i64::try_from(length).map_err(io::Error::other)?;
    match fallocate(&*file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => try_room(file, length),
        taken => Ok(taken?),
    }
}

/// Fills `length` bytes, down to the disk, and gives them back.
fn try_room(file: &mut File, length: usize) -> io::Result<()> {
    io::copy(&mut io::repeat(0).take(length as u64), file)?;
    file.sync_data()?;
    file.set_len(0)?;
    file.rewind()
}

/// A rename is on disk when the directory is.
pub(super) fn flush_directory(file: &Path) -> io::Result<()> {
    fault::flush("flush a directory");
    File::open(directory(file))?.sync_all()
}

pub(super) fn directory(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn keep_owner(file: &File, old: &fs::Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) == (old.uid(), old.gid()) {
        return Ok(());
    }
    fchown(file, Some(old.uid()), Some(old.gid())).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let (user, group) = (old.uid(), old.gid());
            let remedy = "make it root's (`chown root:root`), or edit it yourself and run `naru apply`";
            io::Error::other(format!(
                "it belongs to user {user} and group {group}, and naru can give no file away: {remedy}"
            ))
        }
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn mode_link_and_neighbours_stay() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("real.toml"), directory.path().join("naru.toml"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real.toml", &link).unwrap();
        Staged::beside(&link, "new").unwrap().put().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(link.is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(names(directory.path()), ["naru.toml", "real.toml"]);
    }

    #[test]
    #[ignore = "needs root"]
    fn the_owner_stays() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("naru.toml");
        fs::write(&file, "old").unwrap();
        give_away(&file);
        Staged::beside(&file, "new").unwrap().put().unwrap();
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (12_345, 54_321));
    }

    #[test]
    #[ignore = "needs root"]
    fn a_file_of_another_owner_is_left_alone_by_who_cannot_give_files_away() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("naru.toml");
        fs::write(&file, "old").unwrap();
        give_away(&file);
        let staged = || {
            crate::privileges::reduce().unwrap();
            Staged::beside(&file, "new").unwrap_err().to_string()
        };
        // On a thread of its own, which then is the only one that has given anything up.
        let error = std::thread::scope(|scope| scope.spawn(staged).join().unwrap());
        let expected = "giving the new file the old one's owner: it belongs to user 12345 and group 54321";
        assert!(error.contains(expected), "{error}");
        assert_eq!(
            (fs::read_to_string(&file).unwrap().as_str(), names(directory.path())),
            ("old", vec!["naru.toml".into()])
        );
    }

    fn give_away(file: &Path) {
        std::os::unix::fs::chown(file, Some(12_345), Some(54_321))
            .expect("this test gives a file away: run it as root");
    }

    #[test]
    fn a_new_file_is_readable_by_all() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("naru.toml");
        Staged::beside(&file, "new").unwrap().put().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o644);
    }

    #[test]
    fn room_is_tried_where_it_cannot_be_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("room");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        try_room(&mut file, 100_000).unwrap();
        file.write_all(b"text").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(try_room(&mut full, 1).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_failure_names_the_file_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("missing").join("naru.toml");
        let error = Staged::beside(&file, "new").unwrap_err();
        let expected = format!("cannot write {}: making a temporary file beside it: ", file.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(names(directory.path()).is_empty());
    }
}
