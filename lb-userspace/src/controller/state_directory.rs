//! What the next daemon must know after a crash: files under the state directory (`state` in `[node]`).
//!
//! - `applied.toml`: the text that was applied last, replaced as a whole after the maps were written. Its first line is
//!   a comment that says which config file it is of, and by its length and checksum whether the disk gave back what was
//!   written.
//! - `operations.json`: what operators have done over the config file and not taken back, replaced as a whole; one that
//!   cannot be read is put aside as `operations.json.damaged`.
//! - `clean`: there only between a clean stop and the next start.
//!
//! A state directory that is missing, damaged or in use by another daemon is told, and keeps nobody from forwarding.
//! Names beside these are left alone: numbered revisions will be in `revisions/`.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::fcntl::Flock;

use super::{
    book::Book,
    directory::lock,
    file::Text,
    page::{Page, unpack},
    unkept::{Kept, Unkept},
};
use crate::{
    disk::{Staged, WriteError, leftovers},
    fault,
    model::{Config, Operations},
};

const APPLIED: &str = "applied.toml";
const OPERATIONS: &str = "operations.json";
const CLEAN: &str = "clean";

/// The config that was applied last of `file`, as a daemon with this state directory noted it.
pub fn applied_last(state: &Path, file: &Path) -> Option<Config> {
    let kept = fs::read_to_string(state.join(APPLIED)).ok()?;
    let (config, text) = unpack(&kept)?;
    let is_it = Path::new(config) == std::path::absolute(file).ok()?;
    is_it.then(|| Config::parse(text, file).ok())?
}

/// The state directory of this daemon.
#[derive(Debug)]
pub struct StateDirectory {
    directory: PathBuf,
    /// The config file that it is about.
    config: PathBuf,
    /// Whether it could be made and is this daemon's.
    lock: Option<Flock<File>>,
    /// What is kept there.
    kept: Option<Text>,
    problem: Option<String>,
    /// What operators have done.
    pub book: Book,
}

impl StateDirectory {
    /// Takes the directory; what is wrong with it is a [problem](Self::problem) and no failure.
    pub fn open(directory: &Path, config: &Path) -> Self {
        let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
        let (lock, problem) = match lock(directory).inspect(|_| remove_leftovers(directory)) {
            Ok(lock) => (Some(lock), None),
            Err(reason) => (None, Some(reason)),
        };
        let (book, _) = Book::open(directory.join(OPERATIONS), &config, false);
        let mut state_directory =
            Self { directory: directory.to_owned(), config, lock, kept: None, problem: None, book };
        state_directory.problem = problem.map(|reason| state_directory.unusable(&reason));
        state_directory
    }

    /// The text that was applied last, if that was a text of the same config file.
    pub fn applied(&mut self) -> Option<Text> {
        self.lock.as_ref()?;
        let path = self.path(APPLIED);
        let kept = match fs::read_to_string(&path) {
            Ok(kept) => kept,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                self.problem = Some(format!("cannot read {}: {error}", path.display()));
                return None;
            }
        };
        match unpack(&kept) {
            Some((config, text)) if Path::new(config) == self.config => {
                let text = Text::new(text.to_owned());
                self.kept = Some(Text::clone(&text));
                Some(text)
            }
            Some((config, _)) => {
                log::info!("{} is of {config} and not of {}: it is not used", path.display(), self.config.display());
                None
            }
            None => {
                self.problem = Some(format!("{} is damaged, and not used", path.display()));
                None
            }
        }
    }

    /// What operators had done over the same config file.
    pub fn operations(&mut self) -> Arc<Operations> {
        let (book, operations) = Book::open(self.path(OPERATIONS), &self.config, self.lock.is_some());
        self.book = book;
        operations
    }

    /// What is not kept of what runs; `None` where all is.
    pub fn unkept(&self, text: &Text, operations: &Arc<Operations>) -> Option<Unkept> {
        let page = self.page_of(text).map(|page| (page, Arc::clone(text)));
        let operations = self.book.sheet(operations).map(|sheet| (sheet, Arc::clone(operations)));
        let damaged = self.book.damaged().map(Path::to_owned);
        let directory = self.lock.is_none().then(|| (self.directory.clone(), self.book.place().clone()));
        let is_all = page.is_none() && operations.is_none() && damaged.is_none() && directory.is_none();
        (!is_all).then_some(Unkept { directory, page, operations, damaged })
    }

    /// Whether these operations are kept.
    pub fn has_kept(&self, operations: &Arc<Operations>) -> bool {
        self.book.has_kept(operations)
    }

    /// Takes note of what became of keeping what was not kept. Gives back what operators had done, where the directory
    /// has only now become this daemon's.
    pub fn note_kept(&mut self, kept: Kept) -> Option<Operations> {
        let Kept { lock, page, operations, is_damaged_gone } = kept;
        match lock {
            Some(Ok((lock, found))) => {
                self.lock = Some(lock);
                // A clean stop of the daemon before is no clean stop of this one.
                self.begin();
                return Some(found);
            }
            Some(Err(reason)) => self.problem = Some(self.unusable(&reason)),
            None => {}
        }
        if let Some(written) = page {
            self.note(written);
        }
        if let Some((written, operations)) = operations {
            self.book.note(written, &operations);
        }
        if is_damaged_gone {
            self.book.forget_damaged();
        }
        None
    }

    fn unusable(&self, reason: &str) -> String {
        format!("{}: {reason}; {REMEDY}, nor what was drained or taken down by command", self.directory.display())
    }

    /// Whether the daemon before this one stopped cleanly.
    pub fn was_stopped_cleanly(&self) -> bool {
        self.lock.is_some() && self.path(CLEAN).exists()
    }

    /// From now on, an end is a crash until [`Self::end`].
    pub fn begin(&mut self) {
        let path = self.path(CLEAN);
        if self.lock.is_none() {
            return;
        }
        fault::point("remove the mark of a clean stop");
        let gone = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            result => result.and_then(|()| File::open(&self.directory)?.sync_all()),
        };
        if let Err(error) = gone {
            self.problem = Some(format!("cannot remove {}: {error}", path.display()));
        }
    }

    /// Notes that the daemon stops cleanly.
    pub fn end(&self) {
        if self.lock.is_none() {
            return;
        }
        let note = "The daemon stopped cleanly: the next one begins from the config file.\n";
        if let Err(error) = Staged::private(&self.path(CLEAN), note).and_then(Staged::put) {
            log::error!("the next start takes this stop for a crash: {error}");
        }
    }

    /// Where to keep `text` once it is applied, for a thread of its own; `None` where there is no need to, or no way.
    pub fn page(&self, text: &Text) -> Option<Page> {
        self.lock.as_ref().and_then(|_| self.page_of(text))
    }

    fn page_of(&self, text: &Text) -> Option<Page> {
        let is_kept = self.problem.is_none() && self.kept.as_ref().is_some_and(|kept| is_same(kept, text));
        if is_kept {
            return None;
        }
        let is_needed = self.problem.is_none();
        Some(Page { path: self.path(APPLIED), config: self.config.clone(), is_needed })
    }

    /// What keeps this from being of use, if anything does.
    pub fn problem(&self) -> Option<String> {
        let reasons: Vec<String> = self.problem.iter().cloned().chain(self.book.problems()).collect();
        (!reasons.is_empty()).then(|| reasons.join("; and "))
    }

    /// Takes note of what became of writing to it.
    pub fn note(&mut self, written: Result<Text, WriteError>) {
        let before = self.problem.take();
        self.problem = written.as_ref().err().map(|error| format!("{error}; {REMEDY}"));
        if let Some(problem) = self.problem.as_ref().filter(|problem| before.as_ref() != Some(*problem)) {
            log::error!("{problem}");
        }
        self.kept = written.ok();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

const REMEDY: &str = "until this is mended, a start after a crash would not know what was applied last";

/// Nobody else writes here.
fn remove_leftovers(directory: &Path) {
    // All of its files are in this directory.
    for path in leftovers(&directory.join(APPLIED)) {
        if let Err(error) = fs::remove_file(&path) {
            log::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

/// Whether two texts are the same; mostly they are one.
fn is_same(one: &Text, other: &Text) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[node]\ninterfaces = [\"eth0\"]\n";

    fn keep(state_directory: &StateDirectory, text: &str) {
        let page = state_directory.page(&Text::new(text.to_owned())).unwrap();
        page.put(page.reserve(text).unwrap(), text).unwrap();
    }

    #[test]
    fn what_was_applied_comes_back_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("made/here");
        let open = || StateDirectory::open(&state, Path::new("/etc/naru/naru.toml"));
        let mut state_directory = open();
        assert_eq!((state_directory.applied(), state_directory.problem()), (None, None));
        keep(&state_directory, TEXT);
        assert_eq!(state_directory.applied().as_deref().map(String::as_str), Some(TEXT));
        let path = state.join(APPLIED);
        let whole = fs::read_to_string(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole.replace("eth0", "eth1"), "", "\n", TEXT] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(state_directory.applied(), None, "{damaged}");
            assert!(state_directory.problem().unwrap().contains("applied.toml is damaged"), "{damaged}");
        }
        drop(state_directory);
        fs::write(&path, whole).unwrap();
        let mut other = StateDirectory::open(&state, Path::new("/etc/naru/other.toml"));
        assert_eq!((other.applied(), other.problem()), (None, None));
    }

    #[test]
    fn only_a_clean_stop_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let open = || StateDirectory::open(directory.path(), Path::new("naru.toml"));
        let mut state_directory = open();
        assert!(!state_directory.was_stopped_cleanly());
        state_directory.end();
        assert!(state_directory.was_stopped_cleanly());
        state_directory.begin();
        assert!(!state_directory.was_stopped_cleanly());
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_told_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(directory.path(), Path::new("naru.toml"));
        keep(&first, TEXT);
        first.end();
        let mut second = StateDirectory::open(directory.path(), Path::new("naru.toml"));
        assert!(second.problem().unwrap().contains("another daemon uses this state directory"), "{second:?}");
        second.begin();
        assert!(
            (second.applied(), second.was_stopped_cleanly()) == (None, false)
                && second.page(&Text::new(TEXT.to_owned())).is_none()
        );
        assert!(first.was_stopped_cleanly(), "the second daemon touched what is the first one's");

        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let state_directory = StateDirectory::open(&file.join("below"), Path::new("naru.toml"));
        assert!(state_directory.problem().unwrap().contains("cannot make the state directory"), "{state_directory:?}");
    }
}
