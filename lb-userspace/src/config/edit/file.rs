//! Replacing a file so that a reader, or a crash, sees the old text or the new one and never half of either.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

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

/// Replaces the text of the file at `path`, or of the file that it is a symbolic link to, keeping mode and owner. A new
/// file gets mode 0644. When this returns, the text is on disk.
pub fn write_atomically(path: &Path, text: &str) -> Result<(), WriteError> {
    let failed = |step| move |error| WriteError { path: path.to_owned(), step, error };
    let (target, old) = match fs::canonicalize(path) {
        Ok(target) => {
            let old = fs::metadata(&target).map_err(failed("looking at the old file"))?;
            (target, Some(old))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => (path.to_owned(), None),
        Err(error) => return Err(failed("following the path")(error)),
    };
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = tempfile::Builder::new().prefix(".naru-").suffix(".tmp").tempfile_in(directory);
    let mut temporary = temporary.map_err(failed("making a temporary file beside it"))?;
    temporary.write_all(text.as_bytes()).map_err(failed("writing a temporary file beside it"))?;
    let file = temporary.as_file();
    let mode = old.as_ref().map_or(0o644, MetadataExt::mode) & 0o7777;
    if let Some(old) = old {
        keep_owner(file, &old).map_err(failed("giving the new file the old one's owner"))?;
    }
    // After the owner: changing that clears the set-id bits.
    file.set_permissions(Permissions::from_mode(mode)).map_err(failed("giving the new file the old one's mode"))?;
    file.sync_all().map_err(failed("flushing the new file"))?;
    temporary.persist(&target).map_err(|error| failed("renaming the new file")(error.error))?;
    // The rename is on disk when the directory is.
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("flushing the directory"))
}

fn keep_owner(file: &File, old: &fs::Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) == (old.uid(), old.gid()) {
        return Ok(());
    }
    fchown(file, Some(old.uid()), Some(old.gid()))
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
        write_atomically(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(link.is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(names(directory.path()), ["naru.toml", "real.toml"]);
    }

    #[test]
    fn the_owner_stays() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("naru.toml");
        fs::write(&file, "old").unwrap();
        if std::os::unix::fs::chown(&file, Some(12_345), Some(54_321)).is_err() {
            eprintln!("not allowed to give files away: cannot try");
            return;
        }
        write_atomically(&file, "new").unwrap();
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (12_345, 54_321));
    }

    #[test]
    fn a_new_file_is_readable_by_all() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("naru.toml");
        write_atomically(&file, "new").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o644);
    }

    #[test]
    fn a_failure_names_the_file_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("missing").join("naru.toml");
        let error = write_atomically(&file, "new").unwrap_err();
        let expected = format!("cannot write {}: making a temporary file beside it: ", file.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(names(directory.path()).is_empty());
    }
}
