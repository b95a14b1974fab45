//! Saves that come at the worst moment, one by one, and a loop of edits against a loop of saves.

use std::{
    io::Write as _,
    os::unix::fs::symlink,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::channel,
    },
    thread,
};

use super::*;
use crate::disk::lease::lease_for_writing;

const OLD: &str = "weight = 1\n";
const NEW: &str = "weight = 2\n";

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("naru.toml"), OLD).unwrap();
        Self { directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("naru.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    /// Names of all files but the one.
    fn others(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "naru.toml").collect()
    }

    fn staged(&self) -> Staged {
        Staged::beside(&self.file(), NEW).unwrap()
    }

    fn rename_over(&self, text: &str) {
        let path = self.directory.path().join("editor");
        fs::write(&path, text).unwrap();
        fs::rename(path, self.file()).unwrap();
    }
}

/// The last look, at once.
fn look_back(replaced: Replaced) -> Option<Rescue> {
    let (now, never) = channel();
    drop(now);
    replaced.look_back(&never).unwrap()
}

#[test]
fn a_file_that_nobody_touches_is_replaced() {
    let place = Place::new();
    let replaced = place.staged().replace(OLD).unwrap();
    assert_eq!(place.text(), NEW);
    assert_eq!(look_back(replaced), None);
    assert_eq!(place.others(), [""; 0]);
}

#[test]
fn a_file_that_a_server_has_a_write_lease_on_is_left() {
    let place = Place::new();
    let staged = place.staged();
    let server = lease_for_writing(&place.file());
    assert!(matches!(staged.replace(OLD), Err(ReplaceError::Busy { .. })));
    drop(server);
    assert_eq!((place.text().as_str(), place.others().len()), (OLD, 0));
    place.staged().replace(OLD).unwrap();
    assert_eq!(place.text(), NEW);
}

#[test]
fn a_file_that_was_saved_before_is_left() {
    let place = Place::new();
    let staged = place.staged();
    place.rename_over("saved\n");
    assert!(matches!(staged.replace(OLD), Err(ReplaceError::Saved { kept: None, .. })));
    assert_eq!((place.text().as_str(), place.others().len()), ("saved\n", 0));
}

#[test]
fn a_file_that_is_being_saved_is_left() {
    let place = Place::new();
    let mut editor = File::options().write(true).open(place.file()).unwrap();
    assert!(matches!(place.staged().replace(OLD), Err(ReplaceError::Busy { .. })));
    editor.write_all(b"WEIGHT").unwrap();
    assert_eq!((place.text().as_str(), place.others().len()), ("WEIGHT = 1\n", 0));
}

#[test]
fn a_save_by_rename_between_look_and_exchange_comes_back() {
    let place = Place::new();
    let save_first = |temporary: &Path, target: &Path| {
        // Only before the first exchange: the second takes it back.
        if fs::read_to_string(temporary)? == NEW {
            fs::write(target.with_extension("editor"), "saved\n")?;
            fs::rename(target.with_extension("editor"), target)?;
        }
        exchange(temporary, target)
    };
    let error = place.staged().replace_by(OLD, save_first).unwrap_err();
    assert!(error.to_string().ends_with("was saved by somebody else at the same time"), "{error}");
    assert_eq!((place.text().as_str(), place.others().len()), ("saved\n", 0));
}

#[test]
fn the_last_of_several_saves_stays() {
    let place = Place::new();
    let save = |temporary: &Path, target: &Path| {
        let saved = if fs::read_to_string(temporary)? == NEW { "first\n" } else { "second\n" };
        if fs::read_to_string(target)? != "second\n" && fs::read_to_string(temporary)? != "second\n" {
            fs::write(target.with_extension("editor"), saved)?;
            fs::rename(target.with_extension("editor"), target)?;
        }
        exchange(temporary, target)
    };
    assert!(matches!(place.staged().replace_by(OLD, save), Err(ReplaceError::Saved { kept: None, .. })));
    assert_eq!((place.text().as_str(), place.others().len()), ("second\n", 0));
}

#[test]
fn a_writer_that_had_found_the_old_file_gets_it_back() {
    let place = Place::new();
    let write_while_leased = |temporary: &Path, target: &Path| {
        let (waits, old) = (fs::read_to_string(temporary)? == NEW, target.to_owned());
        if waits {
            // It finds the file, and waits for the lease.
            thread::spawn(move || File::options().append(true).open(old).unwrap().write_all(b"# saved\n").unwrap());
            thread::sleep(Duration::from_millis(50));
        }
        exchange(temporary, target)
    };
    assert!(matches!(place.staged().replace_by(OLD, write_while_leased), Err(ReplaceError::Saved { kept: None, .. })));
    let deadline = Instant::now() + Duration::from_secs(10);
    while place.text() != format!("{OLD}# saved\n") {
        assert!(Instant::now() < deadline, "lost: {}", place.text());
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(place.others(), [""; 0]);
}

#[test]
fn what_is_saved_to_a_text_that_is_taken_back_is_kept() {
    let place = Place::new();
    let save = |temporary: &Path, target: &Path| {
        let is_first = fs::read_to_string(temporary)? == NEW;
        if is_first {
            fs::write(target.with_extension("editor"), "saved\n")?;
            fs::rename(target.with_extension("editor"), target)?;
        }
        exchange(temporary, target)?;
        if is_first {
            let new = target.to_owned();
            thread::spawn(move || File::options().append(true).open(new).unwrap().write_all(b"# more\n").unwrap());
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    let Err(ReplaceError::Saved { kept: Some(kept), .. }) = place.staged().replace_by(OLD, save) else {
        panic!("the second save was not noticed")
    };
    assert_eq!(place.text(), "saved\n");
    assert_eq!(fs::read_to_string(kept).unwrap(), format!("{NEW}# more\n"));
    assert_eq!(place.others(), ["naru.toml.saved"]);
}

#[test]
fn a_late_writer_to_the_old_file_is_found_at_the_last_look() {
    for saved_again in [false, true] {
        let place = Place::new();
        let replaced = place.staged().replace(OLD).unwrap();
        // As somebody does who had found the file before, or who opened it before where there are no leases.
        let old = replaced.temporary.as_ref().unwrap();
        File::options().append(true).open(old).unwrap().write_all(b"# late\n").unwrap();
        if saved_again {
            place.rename_over("again\n");
            let Some(Rescue::Kept(kept)) = look_back(replaced) else { panic!("not kept") };
            assert_eq!(fs::read_to_string(kept).unwrap(), format!("{OLD}# late\n"));
            assert_eq!(place.text(), "again\n");
        } else {
            assert_eq!(look_back(replaced), Some(Rescue::Restored));
            assert_eq!((place.text(), place.others().len()), (format!("{OLD}# late\n"), 0));
        }
    }
}

#[test]
fn a_link_that_leads_elsewhere_by_now_takes_the_text_back() {
    let place = Place::new();
    let [link, other] = ["link", "other"].map(|name| place.directory.path().join(name));
    symlink("naru.toml", &link).unwrap();
    fs::write(&other, OLD).unwrap();
    let turn = |temporary: &Path, target: &Path| {
        let link = target.with_file_name("link");
        fs::remove_file(&link)?;
        symlink("other", &link)?;
        exchange(temporary, target)
    };
    let staged = Staged::beside(&link, NEW).unwrap();
    assert!(matches!(staged.replace_by(OLD, turn), Err(ReplaceError::Saved { .. })));
    assert_eq!((place.text().as_str(), fs::read_to_string(other).unwrap().as_str()), (OLD, OLD));
}

#[test]
fn where_files_cannot_be_exchanged_they_are_renamed() {
    let unable = |_: &Path, _: &Path| Err(io::Error::from_raw_os_error(libc::EINVAL));
    let place = Place::new();
    let replaced = place.staged().replace_by(OLD, unable).unwrap();
    assert_eq!((place.text().as_str(), look_back(replaced)), (NEW, None));

    let place = Place::new();
    let staged = place.staged();
    place.rename_over("saved\n");
    assert!(matches!(staged.replace_by(OLD, unable), Err(ReplaceError::Saved { .. })));
    assert_eq!((place.text().as_str(), place.others().len()), ("saved\n", 0));
}

#[test]
fn a_file_that_is_moved_away_while_an_edit_is_taken_back_is_there_again() {
    static EXCHANGES: AtomicU32 = AtomicU32::new(0);
    fn met(one: &Path, other: &Path) -> io::Result<()> {
        match EXCHANGES.fetch_add(1, Ordering::Relaxed) {
            0 => by_rename(other, "saved\n"),
            1 => fs::rename(other, other.with_extension("toml~"))?,
            _ => {}
        }
        exchange(one, other)
    }
    let place = Place::new();
    assert!(matches!(place.staged().replace_by(OLD, met), Err(ReplaceError::Saved { kept: None, .. })));
    assert_eq!((place.text().as_str(), place.others()), ("saved\n", vec!["naru.toml~".to_owned()]));
}

/// How an editor saves.
type Save = fn(&Path, &str);

fn by_rename(file: &Path, text: &str) {
    let beside = file.with_extension("swp");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, file).unwrap();
}

/// As vim does with `backupcopy=no`: for a moment there is no file.
fn by_moving_away(file: &Path, text: &str) {
    let backup = file.with_extension("toml~");
    fs::rename(file, &backup).unwrap();
    fs::write(file, text).unwrap();
    fs::remove_file(backup).unwrap();
}

fn in_place(file: &Path, text: &str) {
    let mut file = File::options().write(true).truncate(true).open(file).unwrap();
    let (first, second) = text.split_at(text.len() / 2);
    file.write_all(first.as_bytes()).unwrap();
    thread::yield_now();
    file.write_all(second.as_bytes()).unwrap();
}

fn by_appending(file: &Path, text: &str) {
    let line = text.lines().last().unwrap();
    File::options().append(true).open(file).unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Edits count up the first line and leave the rest, as edits by command do. A save writes a line of its own.
#[test]
fn no_save_is_lost_in_thousands_of_rounds() {
    const SAVES: u32 = 1_000;
    const EDITS: u32 = 100;
    for (how, save) in [
        ("rename", by_rename as Save),
        ("moving away", by_moving_away),
        ("in place", in_place),
        ("appending", by_appending),
    ] {
        let place = Place::new();
        let (file, edits) = (place.file(), AtomicU32::new(0));
        let refused = thread::scope(|scope| {
            let saver = scope.spawn(|| {
                // However busy the machine is, there are enough of both.
                let deadline = Instant::now() + Duration::from_secs(120);
                let mut saves = 0;
                while saves < SAVES || edits.load(Ordering::Relaxed) < EDITS {
                    let line = format!("# save {saves}");
                    save(&file, &format!("weight = 0\n{line}\n"));
                    stays(&file, how, &line);
                    saves += 1;
                    assert!(Instant::now() < deadline, "{how}: {saves} saves, {edits:?} edits");
                }
            });
            let refused = edit_until(|| saver.is_finished(), &file, &edits);
            saver.join().unwrap();
            refused
        });
        assert!(refused > 0, "{how}: no edit ever met a save: {edits:?} edits");
    }
}

/// Edits in a loop; gives back how many were refused.
fn edit_until(is_over: impl Fn() -> bool, file: &Path, edits: &AtomicU32) -> u32 {
    let mut refused = 0;
    while !is_over() {
        let before = fs::read_to_string(file).unwrap_or_default();
        let Some((_, rest)) = before.split_once('\n') else { continue };
        let after = format!("weight = {}\n{rest}", edits.load(Ordering::Relaxed));
        // Without a file there is nothing to edit.
        let Ok(staged) = Staged::beside(file, &after) else { continue };
        match staged.replace(&before) {
            Ok(replaced) => {
                edits.fetch_add(1, Ordering::Relaxed);
                let _ = look_back(replaced);
            }
            Err(ReplaceError::Write(error)) => panic!("{error}"),
            Err(_) => refused += 1,
        }
    }
    refused
}

/// The file has `line`, now or soon: while an edit is taken back it has the line of nobody for a moment.
fn stays(file: &Path, how: &str, line: &str) {
    let has = || fs::read_to_string(file).is_ok_and(|text| text.lines().any(|other| other == line));
    let deadline = Instant::now() + Duration::from_secs(5);
    // Twice in a row: the edit that would lose it may be under way.
    for _ in 0..2 {
        while !has() {
            assert!(Instant::now() < deadline, "{how}: `{line}` is lost: {:?}", fs::read_to_string(file));
            thread::yield_now();
        }
        thread::sleep(Duration::from_micros(300));
    }
}
