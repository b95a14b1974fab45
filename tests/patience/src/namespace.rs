//! Network namespaces: making and entering them, and `ip` in them. Tests do it here only.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// Where the kernel shows that of a thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace. One without a name goes once nothing holds it and no thread is in it. All of this needs root.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<File>);

impl Namespace {
    /// One without a name, its loopback interface still down.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        thread::scope(|scope| scope.spawn(Self::unshare).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Takes this thread, and what it starts, to a new one.
    pub fn unshare() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test makes network namespaces: run it as root");
        Self::current()
    }

    /// The one that this thread is in.
    pub fn current() -> Self {
        Self::open(Path::new(OWN)).expect("a thread has one")
    }

    /// One that a file is of.
    ///
    /// # Errors
    ///
    /// There is no such file.
    pub fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Arc::new).map(Self)
    }

    /// Takes this thread, and what it starts, there.
    pub fn enter(&self) {
        self.try_enter().expect("a namespace that is open can be entered by root");
    }

    fn try_enter(&self) -> io::Result<()> {
        Ok(setns(&self.0, CloneFlags::CLONE_NEWNET)?)
    }

    /// Its file.
    pub fn file(&self) -> &File {
        &self.0
    }

    /// Runs `work` on a thread inside and waits for it. A panic inside is passed on.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let inside = || {
            self.enter();
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A command that will run inside. It keeps every mount of this process (`ip netns exec` would hide bpffs).
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.clone();
        // SAFETY: between fork and exec this makes one system call and allocates nothing.
        unsafe { command.pre_exec(move || namespace.try_enter()) };
        command
    }

    /// Runs `ip` inside, with arguments that are separated by spaces; returns what it prints.
    ///
    /// # Panics
    ///
    /// With what `ip` says where it fails.
    pub fn ip(&self, line: &str) -> String {
        self.run(|| ip(line))
    }

    /// Runs lines of `ip` commands inside.
    ///
    /// # Errors
    ///
    /// With what `ip` says about the line that failed.
    pub fn ip_batch(&self, lines: &str) -> anyhow::Result<()> {
        self.run(|| ip_batch(lines))
    }

    /// Sets the sysctl `key` (with slashes, below `/proc/sys`).
    ///
    /// # Errors
    ///
    /// When the kernel has no such key or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| fs::write(&path, value)).with_context(|| format!("cannot write {value} to {}", path.display()))
    }
}

/// Runs `ip` in the namespace of this thread, with arguments that are separated by spaces; returns what it prints.
///
/// # Panics
///
/// With what `ip` says where it fails.
pub fn ip(line: &str) -> String {
    let output = crate::output(Command::new("ip").args(line.split_whitespace())).expect("iproute2 is installed");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// Runs lines of `ip` commands in the namespace of this thread.
///
/// # Errors
///
/// With what `ip` says about the line that failed.
pub fn ip_batch(lines: &str) -> anyhow::Result<()> {
    let output = crate::fed(Command::new("ip").args(["-batch", "-"]), lines.as_bytes()).context("iproute2 has it")?;
    let says = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip -batch` failed: {}\n{lines}", says.trim());
    Ok(())
}
