//! Places at which a test has the process die, a part of it panic, or a disk be slow. Only builds with debug assertions
//! have them: in a release they are nothing.
//!
//! `NARU_FAULTS` names a directory. While that has a file `armed`, every place that is passed adds a line to `passed`,
//! and the one whose number is in `armed` is where the process is killed by SIGKILL; 0 kills at none. While it has a
//! file `slow`, flushing takes as many milliseconds as that says longer, and makes a file `flushing` when it begins;
//! while it has a file `held`, flushing waits for that to go; while it has a file `unread`, what of the API's reads is
//! named in it does. While it has a file `panic`, the place whose name is in it panics.

#[cfg(debug_assertions)]
pub use self::armed::{flush, part, point, read};

/// A place that the process may die at.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_: &str) {}

/// A place where a disk is flushed.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn flush(_: &str) {}

/// A place where something is read that a read of the API asks for.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn read(_: &str) {}

/// A place where a part of the process may fail that the rest is to survive.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn part(_: &str) {}

#[cfg(debug_assertions)]
mod armed {
    use std::{
        fs,
        io::Write as _,
        path::{Path, PathBuf},
        sync::{LazyLock, Mutex},
        thread::sleep,
        time::Duration,
    };

    use nix::sys::signal::{Signal, raise};

    static FAULTS: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("NARU_FAULTS").map(PathBuf::from));

    /// Places that were passed while they counted.
    static PASSED: Mutex<u32> = Mutex::new(0);

    /// A place that the process may die at.
    pub fn point(name: &str) {
        let Some(faults) = FAULTS.as_deref() else { return };
        let Some(place) = number(&faults.join("armed")) else { return };
        let mut passed = PASSED.lock().expect("counting does not panic");
        *passed += 1;
        let line = format!("{name}\n");
        let log = fs::File::options().append(true).create(true).open(faults.join("passed"));
        log.and_then(|mut log| log.write_all(line.as_bytes())).expect("a test gives a directory that can be written");
        if u64::from(*passed) == place {
            raise(Signal::SIGKILL).expect("a process may kill itself");
        }
    }

    /// A place where a disk is flushed.
    pub fn flush(name: &str) {
        point(name);
        let Some(faults) = FAULTS.as_deref() else { return };
        let (slow, held) = (number(&faults.join("slow")), faults.join("held"));
        if slow.is_some() || held.exists() {
            fs::write(faults.join("flushing"), name).expect("a test gives a directory that can be written");
        }
        sleep(Duration::from_millis(slow.unwrap_or_default()));
        wait_for_end(&held);
    }

    /// A place where something is read that a read of the API asks for.
    pub fn read(name: &str) {
        let Some(faults) = FAULTS.as_deref() else { return };
        let unread = faults.join("unread");
        if fs::read_to_string(&unread).is_ok_and(|named| named.trim() == name) {
            wait_for_end(&unread);
        }
    }

    /// A place where a part of the process may fail that the rest is to survive.
    pub fn part(name: &str) {
        let Some(faults) = FAULTS.as_deref() else { return };
        let wanted = fs::read_to_string(faults.join("panic")).unwrap_or_default();
        assert!(wanted.trim() != name, "a test has {name} fail");
    }

    fn wait_for_end(file: &Path) {
        while file.exists() {
            sleep(Duration::from_millis(5));
        }
    }

    fn number(path: &Path) -> Option<u64> {
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }
}
