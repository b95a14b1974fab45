//! Network namespaces with names, which outlive a process that was killed.

use std::{fs, future::Future, io, os::unix::fs::MetadataExt as _, path::Path, process::Command, thread};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use patience::{Namespace, ip_batch};

/// Where iproute2 keeps named namespaces.
const RUN: &str = "/run/netns";

/// A named network namespace. Dropping this handle leaves the namespace; [`Netns::delete`] removes it.
///
/// Programs started through it keep every mount of this process (`ip netns exec` would hide bpffs from them).
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    namespace: Namespace,
}

impl Netns {
    /// Makes the namespaces `names`, with their loopback interfaces still down.
    ///
    /// # Errors
    ///
    /// Needs root and iproute2; fails when a name is taken.
    pub fn create<'a>(names: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Vec<Self>> {
        let names: Vec<_> = names.into_iter().collect();
        let batch: String = names.iter().map(|name| format!("netns add {name}\n")).collect();
        ip_batch(&batch)?;
        names.into_iter().map(Self::open).collect()
    }

    /// Opens the namespace `name`.
    ///
    /// # Errors
    ///
    /// Fails when there is none.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        let path = Path::new(RUN).join(name);
        let namespace =
            Namespace::open(&path).with_context(|| format!("cannot open the namespace {}", path.display()))?;
        Ok(Self { name: name.to_owned(), namespace })
    }

    /// Names of all namespaces that start with `prefix`.
    pub fn names(prefix: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(RUN) else {
            return Vec::new();
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// Runs `work` on a thread inside the namespace and waits for it. A panic inside is passed on.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.namespace.run(work)
    }

    /// Starts `work` on a thread inside the namespace.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn spawn<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> io::Result<thread::JoinHandle<R>> {
        let namespace = self.namespace.clone();
        thread::Builder::new().name(self.name.clone()).spawn(move || {
            namespace.enter();
            work()
        })
    }

    /// Runs the future that `work` makes, on a tokio runtime of one thread inside the namespace.
    pub fn block_on<F: Future<Output: Send>>(&self, work: impl FnOnce() -> F + Send) -> F::Output {
        self.run(|| runtime().block_on(work()))
    }

    /// Runs lines of `ip` commands inside the namespace.
    ///
    /// # Errors
    ///
    /// With what `ip` says about the line that failed.
    pub fn ip(&self, batch: &str) -> anyhow::Result<()> {
        self.namespace.ip_batch(batch).with_context(|| format!("in the namespace {}", self.name))
    }

    /// Sets the sysctl `key` (with slashes, below `/proc/sys`) of the namespace.
    ///
    /// # Errors
    ///
    /// When the kernel has no such key or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        self.namespace.sysctl(key, value).with_context(|| format!("in the namespace {}", self.name))
    }

    /// Kills every process in the namespace, then removes it and its interfaces.
    ///
    /// # Errors
    ///
    /// When iproute2 cannot remove it.
    pub fn delete(&self) -> anyhow::Result<()> {
        for pid in self.processes() {
            // A process that ended meanwhile is what we want.
            let _ = kill(pid, Signal::SIGKILL);
        }
        ip_batch(&format!("netns del {}\n", self.name))
    }

    /// The processes whose main thread is inside the namespace.
    fn processes(&self) -> Vec<Pid> {
        let Ok(inode) = self.namespace.file().metadata().map(|metadata| metadata.ino()) else {
            return Vec::new();
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let here = |pid: &i32| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns.ino() == inode);
        pids.filter(here).map(Pid::from_raw).collect()
    }
}

/// A tokio runtime that keeps to the calling thread, so that its sockets belong to the thread's namespace.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs an epoll descriptor only")
}
