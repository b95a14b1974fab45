//! What a lab leaves outside of its process, and how it goes away again even when that process was killed.
//!
//! Every lab has a directory below [`ROOT`] with a lock file that its process holds locked. A directory whose lock is
//! free belongs to a process that is gone; unless it says that the lab is kept, the next lab removes it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};

use crate::netns::{self, Netns};

const ROOT: &str = "/run/naru-lab";
const BPFFS: &str = "/sys/fs/bpf";
/// The file in a lab's directory that says that it outlives its process.
const KEPT: &str = "kept";

/// The traces of one lab; removed when this is dropped.
pub struct State {
    id: String,
    dir: PathBuf,
    bpffs: PathBuf,
    kept: bool,
    _lock: File,
}

impl State {
    /// Removes what is left of crashed labs, then claims a new id.
    ///
    /// # Errors
    ///
    /// When `/run` is not writable or no bpf file system can be mounted.
    pub fn new() -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        mount_bpffs()?;
        fs::create_dir_all(ROOT).with_context(|| format!("cannot make {ROOT}"))?;
        // Held until the new lab has its own lock: another process must not take it for a leftover.
        let all = lock_file(Path::new(ROOT))?;
        all.lock()?;
        sweep()?;
        let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(ROOT).join(&id);
        fs::create_dir_all(&dir)?;
        let lock = lock_file(&dir)?;
        lock.lock()?;
        let bpffs = bpffs_of(&id);
        fs::create_dir(&bpffs).with_context(|| format!("cannot make {}", bpffs.display()))?;
        Ok(Self { id, dir, bpffs, kept: false, _lock: lock })
    }

    /// Unique among the labs of this machine.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lab's directory in the bpf file system.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Name of the namespace of the lab's host `host`.
    pub fn namespace(&self, host: &str) -> String {
        format!("{}{host}", prefix(&self.id))
    }

    /// Makes the lab outlive this process.
    ///
    /// # Errors
    ///
    /// When the note cannot be written; the lab then goes.
    pub fn keep(mut self) -> anyhow::Result<()> {
        fs::write(self.dir.join(KEPT), "").context("cannot note that the lab is kept")?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = remove(&self.id) {
            eprintln!("lab {}: {error:#}; the next lab will try again", self.id);
        }
    }
}

/// Removes the lab `id` when the user interrupts this process, and ends the process.
///
/// # Errors
///
/// When no thread can be started to wait for that.
pub fn remove_on_interrupt(id: &str) -> io::Result<()> {
    let id = id.to_owned();
    let wait = move || {
        if netns::runtime().block_on(tokio::signal::ctrl_c()).is_ok() {
            if let Err(error) = remove(&id) {
                eprintln!("lab {id}: {error:#}; the next lab will try again");
            }
            // As a shell reports a process that SIGINT ended.
            std::process::exit(128 + 2);
        }
    };
    thread::Builder::new().name("interrupt".to_owned()).spawn(wait).map(drop)
}

/// Removes every lab that was kept. Returns their ids.
///
/// # Errors
///
/// When one cannot be removed.
pub fn teardown_kept() -> anyhow::Result<Vec<String>> {
    let kept: Vec<_> = ids().into_iter().filter(|id| Path::new(ROOT).join(id).join(KEPT).exists()).collect();
    for id in &kept {
        remove(id)?;
    }
    Ok(kept)
}

/// Removes the labs whose process is gone and that are not kept.
fn sweep() -> anyhow::Result<()> {
    for id in ids() {
        let dir = Path::new(ROOT).join(&id);
        // Its process may just be removing it.
        let Ok(lock) = lock_file(&dir) else { continue };
        if lock.try_lock().is_ok() && !dir.join(KEPT).exists() {
            remove(&id).with_context(|| format!("cannot remove what is left of lab {id}"))?;
        }
    }
    Ok(())
}

/// Removes the processes, namespaces, pins and files of the lab `id`, in this order.
fn remove(id: &str) -> anyhow::Result<()> {
    for name in Netns::names(&prefix(id)) {
        Netns::open(&name)?.delete()?;
    }
    for dir in [bpffs_of(id), Path::new(ROOT).join(id)] {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn ids() -> Vec<String> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The lock file of `dir`, not locked yet.
fn lock_file(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    File::create(&path).with_context(|| format!("cannot make {}", path.display()))
}

fn prefix(id: &str) -> String {
    format!("naru-{id}-")
}

fn bpffs_of(id: &str) -> PathBuf {
    Path::new(BPFFS).join(format!("naru-lab-{id}"))
}

/// Mounts the bpf file system where it is not mounted yet.
fn mount_bpffs() -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount a bpf file system at {BPFFS}"))
}
