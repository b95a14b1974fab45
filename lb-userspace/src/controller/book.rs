//! What operators have done, as it is kept for the next start: `operations.json` in the state directory.

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::directory::make;
use crate::{
    disk::{Staged, WriteError},
    model::{Operation, Operations},
};

/// What operators have done, as it is kept.
#[derive(Debug)]
pub struct Book {
    place: Place,
    /// What is kept; `None` where that is not known.
    kept: Option<Arc<Operations>>,
    /// Why it cannot be kept.
    problem: Option<String>,
    /// Where a book is that could not be read, and why.
    damaged: Option<(PathBuf, String)>,
}

/// Where the book of a config file is.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    /// The config file that it is about.
    config: String,
}

/// Why nothing was read from a book.
#[derive(Debug)]
pub enum Unread {
    /// It is of another config file, and so many backends.
    Other(String, usize),
    /// It cannot be read.
    Damaged(String),
}

impl Place {
    /// What is kept there.
    pub fn read(&self) -> Result<Operations, Unread> {
        let damaged = |error: &dyn std::error::Error| Unread::Damaged(error.to_string());
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Operations::default()),
            text => text.map_err(|error| damaged(&error))?,
        };
        let Page { config, operations } = serde_json::from_str(&text).map_err(|error| damaged(&error))?;
        if config != self.config && !is_same_file(&config, &self.config) {
            return Err(Unread::Other(config, operations.len()));
        }
        let mut all = Operations::default();
        for Entry { vip, backend, operation } in operations {
            all.set(&vip, backend, operation);
        }
        Ok(all)
    }

    /// Where a book goes that cannot be read.
    fn aside(&self) -> PathBuf {
        self.path.with_extension("json.damaged")
    }
}

impl Book {
    /// The book at `path` of what was done over `config`, and what is in it. `is_ours` where it may be read.
    pub fn open(path: PathBuf, config: &Path, is_ours: bool) -> (Self, Arc<Operations>) {
        let place = Place { path, config: config.to_string_lossy().into_owned() };
        let mut book = Self { place, kept: None, problem: None, damaged: None };
        if !is_ours {
            return (book, Arc::default());
        }
        let operations = Arc::new(match book.place.read() {
            Ok(operations) => operations,
            Err(Unread::Other(config, count)) => {
                if count > 0 {
                    let (path, own) = (book.place.path.display(), &book.place.config);
                    log::warn!(
                        "{path} is of {config} and not of {own}: what operators did to {count} backends there is not \
                         in force"
                    );
                }
                Operations::default()
            }
            Err(Unread::Damaged(error)) => {
                book.put_aside(&error);
                Operations::default()
            }
        });
        let aside = book.place.aside();
        if book.damaged.is_none() && aside.exists() {
            let path = aside.display();
            let reason = format!("{path} was put aside because it could not be read: look at it, and remove it");
            book.damaged = Some((aside, reason));
        }
        book.kept = Some(Arc::clone(&operations));
        (book, operations)
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Out of the way of the next one, for who looks at it.
    fn put_aside(&mut self, error: &str) {
        let (path, aside) = (&self.place.path, self.place.aside());
        let moved = fs::rename(path, &aside);
        let remedy = match &moved {
            Ok(()) => format!("look at {}, drain them again, and remove it", aside.display()),
            Err(error) => format!("drain them again (it cannot be put aside: {error})"),
        };
        let reason = format!(
            "{} cannot be read, and backends that were drained or taken down by command serve again: {error}; \
             {remedy}",
            path.display()
        );
        log::error!("{reason}");
        self.damaged = Some((aside, reason));
    }

    /// Whether these operations are kept.
    pub fn has_kept(&self, operations: &Arc<Operations>) -> bool {
        self.kept.as_ref() == Some(operations)
    }

    /// How to keep `operations`; `None` where there is no need to.
    pub fn sheet(&self, operations: &Arc<Operations>) -> Option<Sheet> {
        if self.has_kept(operations) {
            return None;
        }
        let entry = |(vip, backend, operation): (&str, IpAddr, &Operation)| Entry {
            vip: vip.to_owned(),
            backend,
            operation: operation.clone(),
        };
        let page = Page { config: self.place.config.clone(), operations: operations.iter().map(entry).collect() };
        let text = serde_json::to_string_pretty(&page).expect("names, numbers and addresses are JSON") + "\n";
        Some(Sheet { path: self.place.path.clone(), text })
    }

    /// Takes note of what became of keeping `operations`.
    pub fn note(&mut self, written: Result<(), WriteError>, operations: &Arc<Operations>) {
        self.kept = written.is_ok().then(|| Arc::clone(operations));
        self.note_problem(written.err().map(|error| error.to_string()));
    }

    /// Takes note that the disk does not answer.
    pub fn note_slow(&mut self) {
        let path = self.place.path.display();
        self.note_problem(Some(format!("{path} is not written yet: the disk does not answer")));
    }

    fn note_problem(&mut self, reason: Option<String>) {
        let problem = reason.map(|reason| {
            format!("{reason}; until this is mended, a start would not know what was drained or taken down by command")
        });
        if let Some(problem) = problem.as_ref().filter(|_| self.problem != problem) {
            log::error!("{problem}");
        }
        self.problem = problem;
    }

    /// Where a book is that could not be read.
    pub fn damaged(&self) -> Option<&Path> {
        self.damaged.as_ref().map(|(path, _)| path.as_path())
    }

    /// Takes note that somebody has looked at that, and removed it.
    pub fn forget_damaged(&mut self) {
        self.damaged = None;
    }

    /// What is wrong with it, a reason each.
    pub fn problems(&self) -> BTreeSet<String> {
        self.problem.iter().chain(self.damaged.as_ref().map(|(_, reason)| reason)).cloned().collect()
    }
}

/// Whether two paths lead to one file, which a symbolic link may.
fn is_same_file(one: &str, other: &str) -> bool {
    fs::canonicalize(one).is_ok_and(|one| fs::canonicalize(other).is_ok_and(|other| one == other))
}

/// What operators have done, to be written to where it is kept.
#[derive(Clone, Debug)]
pub struct Sheet {
    path: PathBuf,
    text: String,
}

impl Sheet {
    /// Puts it in the place of what is kept. May wait for a disk.
    pub fn put(&self) -> Result<(), WriteError> {
        // Somebody may have removed the directory; if it cannot be made, what follows says why.
        let _ = self.path.parent().map(make);
        Staged::private(&self.path, &self.text)?.put()
    }
}

/// As it is on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    config: String,
    operations: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    vip: String,
    backend: IpAddr,
    operation: Operation,
}

#[cfg(test)]
mod tests {
    use lb_common::BackendState;

    use super::*;

    fn drained() -> Arc<Operations> {
        let operation = Operation {
            state: BackendState::Drain,
            by: "alice".into(),
            since: 7,
            why: Some("disk".into()),
            deadline: None,
            until: None,
        };
        let mut operations = Operations::default();
        operations.set("web", "10.0.1.11".parse().unwrap(), operation);
        Arc::new(operations)
    }

    fn open(directory: &Path, config: &Path) -> (Book, Arc<Operations>) {
        Book::open(directory.join("operations.json"), config, true)
    }

    #[test]
    fn what_operators_did_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("naru.toml");
        let (mut book, nothing) = open(directory.path(), &config);
        assert_eq!((&*nothing, book.problems().len()), (&Operations::default(), 0));
        assert!(book.sheet(&nothing).is_none(), "nothing is no news");
        let written = book.sheet(&drained()).unwrap().put();
        book.note(written, &drained());
        assert!(book.sheet(&drained()).is_none());

        let (book, operations) = open(directory.path(), &config);
        assert_eq!(operations, drained());
        assert!(book.sheet(&drained()).is_none() && book.sheet(&nothing).is_some());
        assert_eq!(open(directory.path(), &directory.path().join("other.toml")).1, nothing, "of another config file");
        // The same file by another name.
        fs::write(&config, "").unwrap();
        let link = directory.path().join("link.toml");
        std::os::unix::fs::symlink(&config, &link).unwrap();
        assert_eq!(open(directory.path(), &link).1, drained());
        // Of whom another daemon has the directory.
        let (book, operations) = Book::open(directory.path().join("operations.json"), &config, false);
        assert_eq!(operations, nothing);
        assert!(book.sheet(&nothing).is_some(), "what is kept is not known");
    }

    #[test]
    fn one_that_is_damaged_is_put_aside_and_told_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("naru.toml");
        fs::write(directory.path().join("operations.json"), "{").unwrap();
        let (mut book, operations) = open(directory.path(), &config);
        assert_eq!(*operations, Operations::default());
        let written = book.sheet(&drained()).unwrap().put();
        book.note(written, &drained());
        let problems: Vec<String> = book.problems().into_iter().collect();
        assert!(problems[0].contains("operations.json cannot be read"), "{problems:?}");
        assert_eq!(fs::read_to_string(book.damaged().unwrap()).unwrap(), "{");
        // The next start tells of it as well, until it is removed.
        let (mut next, operations) = open(directory.path(), &config);
        assert_eq!((operations, next.problems().len()), (drained(), 1));
        fs::remove_file(next.damaged().unwrap()).unwrap();
        next.forget_damaged();
        assert_eq!(next.problems().len(), 0);
        assert_eq!(open(directory.path(), &config).0.problems().len(), 0);
    }

    #[test]
    fn a_disk_that_does_not_answer_is_told_until_it_does() {
        let directory = tempfile::tempdir().unwrap();
        let (mut book, _) = open(directory.path(), &directory.path().join("naru.toml"));
        book.note_slow();
        assert!(book.problems().iter().any(|problem| problem.contains("the disk does not answer")));
        book.note(Ok(()), &drained());
        assert_eq!(book.problems().len(), 0);
    }
}
