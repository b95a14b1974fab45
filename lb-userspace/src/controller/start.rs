//! What a start begins from: the config file, or what was applied last (ADR 10).
//!
//! A file that nobody applied may be half an edit. A start applies it only if somebody meant that: after a clean stop,
//! or where there is nothing else to begin from. A config that was in force once is better than none.

use std::{fs, path::Path, thread};

use super::{
    Error,
    file::{ConfigFile, Contents, Text},
    state_directory::StateDirectory,
};
use crate::{
    dataplane,
    disk::{self, leftovers},
    plan::Removal,
};

/// What a start begins from.
#[derive(Debug)]
pub struct Start {
    /// What is to be put in force.
    pub contents: Contents,
    /// Why that is not the file, where the file says something else.
    pub because: Option<String>,
    /// Whether it is known what was applied before.
    pub is_known: bool,
}

impl Start {
    /// Chooses; `attached` says which interfaces the data plane below a directory runs on. Fails where the file is not
    /// valid and nothing was applied before, and where that cannot be told.
    pub fn choose(
        file: &ConfigFile,
        state_directory: &mut StateDirectory,
        attached: impl FnOnce(&Path) -> Result<Vec<String>, dataplane::Error>,
    ) -> Result<Self, Error> {
        // The file is read beside what was applied last, which takes a while where it is long.
        let (text, mut kept) = thread::scope(|scope| {
            let text = scope.spawn(|| file.settled_text());
            let kept = state_directory.applied().and_then(|text| kept(file, text));
            (text.join().expect("a file is read without a panic"), kept)
        });
        if let Some(Contents { config, .. }) = &mut kept
            && !config.node.names_interfaces
        {
            *config.local().interfaces = attached(&config.node.bpffs)?;
        }
        let wanted = text.and_then(|text| Ok(file.parse(text, kept.as_ref())?));
        let Some(kept) = kept else { return Ok(Self { contents: wanted?, because: None, is_known: false }) };
        let because = match wanted {
            Ok(wanted) if wanted.text == kept.text => None,
            Ok(wanted) if state_directory.was_stopped_cleanly() => match Removal::between(&kept.config, &wanted.config)
            {
                None => return Ok(Self { contents: wanted, because: None, is_known: true }),
                Some(removal) => Some(removal.to_string()),
            },
            Ok(_) => {
                Some("the daemon before did not stop cleanly, and the file has changes that nobody applied".to_owned())
            }
            Err(error) => Some(error.to_string()),
        };
        let because = because.map(|because| {
            format!("this start began from what was applied last: {because}; see `naru diff`, then `naru apply`")
        });
        Ok(Self { contents: kept, because, is_known: true })
    }
}

/// Removes what an edit left beside the file whose daemon was killed, where that is certain to be nobody's save.
pub fn remove_leftovers(file: &ConfigFile, applied: &str) {
    let leftovers = leftovers(&file.path);
    if leftovers.is_empty() {
        return;
    }
    let current = file.text().ok();
    for path in leftovers {
        let text = disk::read(&path).ok();
        // Room that was taken, and not written to.
        let is_room = text.as_deref().is_some_and(|text| text.bytes().all(|byte| byte == 0));
        let is_known = text.is_some() && [Some(applied), current.as_deref()].contains(&text.as_deref());
        if !is_known && !is_room {
            log::warn!(
                "{} was left by a daemon that was killed: it is what the file was before its last edit, an edit that \
                 was not made, or a save; look, and remove it",
                path.display()
            );
        } else if let Err(error) = fs::remove_file(&path) {
            log::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

/// The text that was applied last, if this version can read it.
fn kept(file: &ConfigFile, text: Text) -> Option<Contents> {
    let kept = file.parse(text, None);
    kept.inspect_err(|errors| log::error!("what was applied last is no valid config any more: {errors}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{controller::Overrides, source::file::ReadError};

    const OLD: &str = "[node]\ninterfaces = [\"eth0\"]\n";
    const NEW: &str = "[node]\ninterfaces = [\"eth1\"]\n";

    /// What a start begins from, and why not from the file.
    fn begins(text: Option<&str>, applied: Option<&str>, clean: bool) -> Result<(String, Option<String>), Error> {
        let directory = tempfile::tempdir().unwrap();
        let file = ConfigFile { path: directory.path().join("naru.toml"), overrides: Overrides::default() };
        let mut state_directory = StateDirectory::open(&directory.path().join("state"), &file.path);
        if let Some(text) = text {
            fs::write(&file.path, text).unwrap();
        }
        if let Some(applied) = applied {
            let page = state_directory.page(&Text::new(applied.to_owned())).unwrap();
            page.put(page.reserve(applied).unwrap(), applied).unwrap();
        }
        if clean {
            state_directory.end();
        }
        let attached = |_: &Path| Ok(vec!["eth7".to_owned()]);
        Start::choose(&file, &mut state_directory, attached)
            .map(|Start { contents, because, .. }| (contents.text.to_string(), because))
    }

    #[test]
    fn only_after_a_clean_stop_is_it_the_file() {
        let (text, because) = begins(Some(NEW), Some(OLD), false).unwrap();
        assert_eq!(text, OLD);
        assert!(because.unwrap().contains("did not stop cleanly"));
        assert_eq!(begins(Some(NEW), Some(OLD), true).unwrap(), (NEW.to_owned(), None));
    }

    #[test]
    fn a_file_that_takes_everything_away_is_not_applied_unasked() {
        let (text, because) = begins(Some("[node]\ninterfaces = []\n"), Some(OLD), true).unwrap();
        assert_eq!(text, OLD);
        assert!(because.unwrap().contains("every interface (eth0)"));
        let vip = "[[vip]]\nname = \"a\"\naddress = \"203.0.113.1\"\nports = [\"tcp/80\"]\nforward = \"l2\"\n";
        let none = format!("[node]\ninterfaces = []\n{vip}");
        let (text, because) = begins(Some(&none), Some(vip), true).unwrap();
        assert_eq!(text, vip);
        assert!(because.unwrap().contains("every interface (eth7)"));
        // What does not name them lets none go.
        assert_eq!(begins(Some(vip), Some(vip), true).unwrap(), (vip.to_owned(), None));
        let other = vip.replace("\"a\"", "\"b\"");
        assert_eq!(begins(Some(&other), Some(vip), true).unwrap(), (other, None));
    }

    #[test]
    fn a_file_that_is_what_was_applied_is_nothing_to_tell() {
        for clean in [false, true] {
            assert_eq!(begins(Some(OLD), Some(OLD), clean).unwrap(), (OLD.to_owned(), None));
        }
    }

    #[test]
    fn a_file_that_is_not_valid_is_no_reason_to_stay_down() {
        for clean in [false, true] {
            let (text, because) = begins(Some("[node"), Some(OLD), clean).unwrap();
            assert_eq!(text, OLD);
            assert!(because.unwrap().contains("naru.toml:1:"));
            let (text, because) = begins(None, Some(OLD), clean).unwrap();
            assert_eq!(text, OLD);
            assert!(because.unwrap().contains("cannot read the config"));
        }
    }

    #[test]
    fn what_a_killed_edit_left_is_removed_where_it_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let file = ConfigFile { path: directory.path().join("naru.toml"), overrides: Overrides::default() };
        fs::write(&file.path, NEW).unwrap();
        let path = |name: &str| directory.path().join(name);
        let left = [
            (".naru-1.tmp", OLD),
            (".naru-2.tmp", NEW),
            (".naru-3.tmp", "saved"),
            ("naru-4.tmp", OLD),
            (".naru-5.tmp", "\0\0"),
        ];
        for (name, text) in left {
            fs::write(path(name), text).unwrap();
        }
        remove_leftovers(&file, OLD);
        let names = [".naru-1.tmp", ".naru-2.tmp", ".naru-3.tmp", "naru-4.tmp", ".naru-5.tmp"];
        assert_eq!(names.map(|name| path(name).exists()), [false, false, true, true, false]);
    }

    #[test]
    fn the_first_start_has_only_the_file() {
        for clean in [false, true] {
            assert_eq!(begins(Some(NEW), None, clean).unwrap(), (NEW.to_owned(), None));
            assert!(matches!(begins(Some("[node"), None, clean), Err(Error::Read(ReadError::Invalid(_)))));
            assert!(matches!(begins(None, None, clean), Err(Error::Read(ReadError::Unreadable { .. }))));
        }
        assert_eq!(begins(Some(NEW), Some("of = \"another version\""), false).unwrap(), (NEW.to_owned(), None));
    }
}
