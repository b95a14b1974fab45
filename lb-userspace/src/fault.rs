//! Places at which a test has the process die or a disk be slow. Only builds with debug assertions have them: in a
//! release they are nothing.
//!
//! `NARU_FAULTS` names a directory. While that has a file `armed`, every place that is passed adds a line to `passed`, and
//! the one whose number is in `armed` is where the process is killed by SIGKILL; 0 kills at none. While it has a file
//! `slow`, flushing takes as many milliseconds as that says longer, and makes a file `flushing` when it begins.

#[cfg(debug_assertions)]
pub use self::armed::{flush, point};

/// A place that the process may die at.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_: &str) {}

/// A place where a disk is flushed.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn flush(_: &str) {}

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
        if let Some(milliseconds) = number(&faults.join("slow")) {
            fs::write(faults.join("flushing"), name).expect("a test gives a directory that can be written");
            sleep(Duration::from_millis(milliseconds));
        }
    }

    fn number(path: &Path) -> Option<u64> {
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }
}
