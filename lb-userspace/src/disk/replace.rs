//! Putting a staged text in the place of another while people save the same file, by whichever editor: no save is lost.
//!
//! Between a look at the file and a rename over it somebody may save. Two kinds of saves are told apart:
//!
//! - **In place** (`echo >>`, `sed` with a redirect, editors that keep the inode). A read [lease](super::lease) on the
//!   old file says that nobody has it open for writing, and makes whoever opens it wait. It is kept for a moment after
//!   the exchange: a writer that had found the old file by then shows up as one who waits, and the old file goes back.
//! - **By rename** (most editors, deployments). The new text and the file change places (`RENAME_EXCHANGE`), so that
//!   what came out can be looked at: if it is not what was looked at before, it goes back.
//!
//! The old file is not deleted at once. [`Replaced::look_back`] looks at it a last time: a writer that slept between
//! finding the file and opening it, or one on a file system without leases, may have written to it after all. A file
//! that holds what is nobody's but a person's is never deleted: it goes back in place, or is kept beside the file.
//!
//! Where the file system cannot exchange (NFS, some FUSE), a rename does, and a save by rename within the microseconds
//! between look and rename is lost there.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tempfile::TempPath;

use super::{
    lease::{Lease, Taken},
    plain,
    staged::{Staged, WriteError, flush_directory},
};
use crate::fault;

/// How long the leases are kept after the exchange: opening a file takes microseconds.
const LINGER: Duration = Duration::from_millis(1);

/// How long the old file is kept.
const KEEP: Duration = Duration::from_secs(1);

/// How long a save that is under way in a file that is to go is waited for.
const SAVING: Duration = Duration::from_secs(10);

/// Why the file was not replaced. It is as it would be if nobody had tried.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Somebody saved it after it had been read.
    #[error("{} was saved by somebody else at the same time{}", path.display(), aside(kept.as_deref()))]
    Saved {
        /// The file.
        path: PathBuf,
        /// Where a second save is that was made to what was taken back.
        kept: Option<PathBuf>,
    },
    /// Somebody has it open for writing.
    #[error("{} is open for writing, so that somebody is saving it", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
}

fn aside(kept: Option<&Path>) -> String {
    kept.map(|kept| format!("; what was saved last is in {}", kept.display())).unwrap_or_default()
}

/// A file that was replaced, with what it was before.
#[derive(Debug)]
pub struct Replaced {
    path: PathBuf,
    target: PathBuf,
    before: String,
    old: Look,
    new: Identity,
    /// The name that the old file has now, if it has one.
    temporary: Option<TempPath>,
}

/// What was done for a save that went to the old file after all.
#[derive(Debug, PartialEq, Eq)]
pub enum Rescue {
    /// It is the file again; what replaced it is not.
    Restored,
    /// The file has been saved once more since, so that it is kept here.
    Kept(PathBuf),
}

/// Device and inode.
type Identity = (u64, u64);

type Exchange = fn(&Path, &Path) -> io::Result<()>;

/// A file that is open for reading, whatever becomes of its name.
#[derive(Debug)]
struct Look {
    file: File,
    identity: Identity,
}

impl Look {
    fn at(path: &Path) -> io::Result<Self> {
        let file = plain::open(path)?;
        let identity = identity(&file.metadata()?);
        Ok(Self { file, identity })
    }

    /// All that is in the file now.
    fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        (&self.file).rewind()?;
        (&self.file).read_to_end(&mut text)?;
        Ok(text)
    }
}

impl Staged {
    /// Puts the text in the file's place, provided that this is still `before` and that nobody is saving it. When this
    /// returns, that is on disk.
    pub fn replace(self, before: &str) -> Result<Replaced, ReplaceError> {
        self.replace_by(before, exchange)
    }

    fn replace_by(self, before: &str, exchange: Exchange) -> Result<Replaced, ReplaceError> {
        let failed = |step| WriteError::at(&self.path, step);
        let old = match Look::at(&self.target) {
            // Some editors move the file away before they write it anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.was_saved(None)),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                return Err(ReplaceError::Busy { path: self.path });
            }
            old => old.map_err(failed("opening the old file"))?,
        };
        let new = Look::at(&self.temporary).map_err(failed("opening the new file"))?;
        let lease = match Lease::take(&old.file) {
            Taken::Lease(lease) => Some(lease),
            Taken::Unknown => None,
            Taken::Busy => return Err(ReplaceError::Busy { path: self.path }),
        };
        // Read under the lease: what is read before may be half a save.
        if old.text().map_err(failed("reading the old file"))? != before.as_bytes() {
            return Err(self.was_saved(None));
        }
        let new_lease = match Lease::take(&new.file) {
            Taken::Lease(lease) => Some(lease),
            Taken::Unknown | Taken::Busy => None,
        };
        fault::point("exchange the config file");
        match exchange(&self.temporary, &self.target) {
            Ok(()) => {}
            Err(error) if is_unable(&error) => {
                drop(lease);
                return self.rename_over(before, old, new.identity);
            }
            // Somebody is renaming another file to it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.was_saved(None)),
            Err(error) => return Err(failed("exchanging it for the new file")(error).into()),
        }
        fault::point("look at what came out");
        if self.has_taken_out(&old, lease.as_ref(), before) {
            drop((lease, new_lease));
            // The edit is in place and the old text is not deleted yet: a failure that nothing can undo is told.
            if let Err(error) = flush_directory(&self.target) {
                log::error!("{} may be lost if the power fails: flushing the directory: {error}", self.path.display());
            }
            return Ok(self.replaced(before, old, new.identity));
        }
        if let Err(error) = give_back(&self.temporary, &self.target, new.identity, exchange) {
            return Err(self.left_behind(new.identity, error).into());
        }
        drop(lease);
        let kept = self.keep_if_saved(&new, new_lease).map_err(failed("keeping what was saved"))?;
        Err(self.was_saved(kept))
    }

    /// Whether the exchange has taken out what was looked at, and nobody is about to write to it.
    fn has_taken_out(&self, old: &Look, lease: Option<&Lease<'_>>, before: &str) -> bool {
        // The path may be a symbolic link, and lead elsewhere by now.
        let leads_here =
            || fs::canonicalize(&self.path).is_ok_and(|target| identity_at(&target) == identity_at(&self.target));
        if identity_at(&self.temporary) != Some(old.identity) || !leads_here() {
            return false;
        }
        sleep(LINGER);
        match lease {
            Some(lease) => !lease.is_wanted(),
            None => old.text().is_ok_and(|text| text == before.as_bytes()),
        }
    }

    /// Keeps the new file, which is out of place again, if somebody saves to it who found it while it was in place.
    fn keep_if_saved(&self, new: &Look, lease: Option<Lease<'_>>) -> io::Result<Option<PathBuf>> {
        if identity_at(&self.temporary) != Some(new.identity) {
            return Ok(None);
        }
        sleep(LINGER);
        let is_wanted = lease.as_ref().is_some_and(Lease::is_wanted);
        drop(lease);
        let is_saved = || Ok::<_, io::Error>(new.text()? != self.text.as_bytes());
        let deadline = Instant::now() + SAVING;
        while is_wanted && !is_saved()? && Instant::now() < deadline {
            sleep(LINGER);
        }
        wait_for_writers(&new.file);
        if is_saved()? { keep(&self.target, &self.temporary).map(Some) } else { Ok(None) }
    }

    /// What came out could not be put back: it is somebody's text, and stays beside the file.
    fn left_behind(self, new: Identity, error: io::Error) -> WriteError {
        let Self { path, temporary, .. } = self;
        if identity_at(&temporary) != Some(new) {
            match temporary.keep() {
                Ok(kept) => log::error!("{} is what {} was before the edit", kept.display(), path.display()),
                Err(error) => log::error!("what {} was before the edit is lost: {error}", path.display()),
            }
        }
        WriteError::at(&path, "taking the new file back")(error)
    }

    fn was_saved(self, kept: Option<PathBuf>) -> ReplaceError {
        ReplaceError::Saved { path: self.path, kept }
    }

    fn replaced(self, before: &str, old: Look, new: Identity) -> Replaced {
        let Self { path, target, temporary, text: _ } = self;
        Replaced { path, target, before: before.to_owned(), old, new, temporary: Some(temporary) }
    }

    /// The best that there is where files cannot be exchanged.
    fn rename_over(self, before: &str, old: Look, new: Identity) -> Result<Replaced, ReplaceError> {
        if identity_at(&self.target) != Some(old.identity) {
            return Err(self.was_saved(None));
        }
        let Self { path, target, temporary, text: _ } = self;
        temporary.persist(&target).map_err(|error| WriteError::at(&path, "renaming the new file")(error.error))?;
        flush_directory(&target).map_err(WriteError::at(&path, "flushing the directory"))?;
        Ok(Replaced { path, target, before: before.to_owned(), old, new, temporary: None })
    }
}

impl Replaced {
    /// Looks at the old file a last time, after a second or as soon as the other end of `now` is gone, and deletes it.
    /// If somebody saved to it, the save goes back in place, or is kept beside the file where there is a newer one.
    pub fn look_back(self, now: &Receiver<()>) -> Result<Option<Rescue>, WriteError> {
        let _ = now.recv_timeout(KEEP);
        fault::point("look at the file before");
        wait_for_writers(&self.old.file);
        let text = self.old.text().map_err(WriteError::at(&self.path, "reading the file before"))?;
        if text == self.before.as_bytes() {
            return Ok(None);
        }
        let path = self.path.clone();
        self.rescue(&text).map(Some).map_err(WriteError::at(&path, "keeping what was saved"))
    }

    fn rescue(self, text: &[u8]) -> io::Result<Rescue> {
        let Some(temporary) = self.temporary else {
            let path = free_name(&self.target);
            fs::write(&path, text)?;
            return Ok(Rescue::Kept(path));
        };
        if identity_at(&self.target) == Some(self.new) {
            exchange(&temporary, &self.target)?;
            // Unless it was saved in that very moment.
            if identity_at(&temporary) == Some(self.new) {
                flush_directory(&self.target)?;
                return Ok(Rescue::Restored);
            }
            exchange(&temporary, &self.target)?;
        }
        keep(&self.target, &temporary).map(Rescue::Kept)
    }
}

/// Puts what came out at `temporary` back in the place of what went in, `new`. Whatever comes out then that did not go
/// in the step before was saved in between, is newer, and goes back in its turn.
fn give_back(temporary: &Path, target: &Path, new: Identity, exchange: Exchange) -> io::Result<()> {
    let mut inside = Some(new);
    loop {
        let back = identity_at(temporary);
        match exchange(temporary, target) {
            // An editor has moved away what was in place, and has not written it anew yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match put_where_nothing_is(temporary, target) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                put => return put.and_then(|()| flush_directory(target)),
            },
            exchanged => exchanged?,
        }
        if identity_at(temporary) == inside {
            return flush_directory(target);
        }
        inside = back;
    }
}

fn put_where_nothing_is(from: &Path, to: &Path) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)?)
}

fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)?)
}

/// Whether the file system, or the kernel, does not know how to exchange.
fn is_unable(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP))
}

/// Until nobody has the file open for writing any more, as far as can be told.
fn wait_for_writers(file: &File) {
    let deadline = Instant::now() + SAVING;
    while Instant::now() < deadline && matches!(Lease::take(file), Taken::Busy) {
        sleep(LINGER);
    }
}

/// Gives the file at `temporary` a name that stays.
fn keep(target: &Path, temporary: &Path) -> io::Result<PathBuf> {
    let path = free_name(target);
    fs::hard_link(temporary, &path)?;
    flush_directory(&path)?;
    Ok(path)
}

/// `naru.toml.saved`, or with a number where that is taken.
fn free_name(target: &Path) -> PathBuf {
    let with = |suffix: String| {
        let mut name = OsString::from(target);
        name.push(suffix);
        PathBuf::from(name)
    };
    let numbered = (2..).map(|number| with(format!(".saved-{number}")));
    let mut names = std::iter::once(with(".saved".to_owned())).chain(numbered);
    names.find(|name| fs::symlink_metadata(name).is_err()).expect("one of all numbers is free")
}

fn identity_at(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|metadata| identity(&metadata))
}

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests;
