//! Directories in the bpf file system for tests, and what is left of those whose process was killed.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

const BPFFS: &str = "/sys/fs/bpf";
const PREFIX: &str = "naru-test-";

/// A directory for the pins of one test, which makes and removes it. Directories of processes that have ended are
/// removed first, with all that is pinned there.
pub fn pins() -> PathBuf {
    static SWEPT: Once = Once::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    SWEPT.call_once(|| sweep(Path::new(BPFFS)));
    Path::new(BPFFS).join(format!("{PREFIX}{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)))
}

fn sweep(bpffs: &Path) {
    let entries = fs::read_dir(bpffs).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| is_left(path)) {
        // Another process may be at the same.
        if let Err(error) = fs::remove_dir_all(&path)
            && path.exists()
        {
            eprintln!("cannot remove {}, which a killed test left: {error}", path.display());
        }
    }
}

/// Whether a directory is of a test whose process has ended.
fn is_left(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((pid, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else { return false };
    pid.parse::<u32>().is_ok_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_process_left_that_has_ended_is_removed() {
        let place = std::env::temp_dir().join(format!("naru-sweep-{}", process::id()));
        // No process has a number above the largest that there can be (PID_MAX_LIMIT, 2^22).
        let (left, own) = (format!("{PREFIX}4194305-0"), format!("{PREFIX}{}-0", process::id()));
        let names = [left.as_str(), own.as_str(), "naru-test-", "naru-test-x-0", "naru", "other"];
        names.iter().for_each(|name| fs::create_dir_all(place.join(name).join("maps")).unwrap());
        sweep(&place);
        let there = names.map(|name| place.join(name).exists());
        fs::remove_dir_all(&place).unwrap();
        assert_eq!(there, [false, true, true, true, true, true]);
    }
}
