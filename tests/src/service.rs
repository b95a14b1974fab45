//! A unit of systemd without systemd: starts a program with the privileges that the unit leaves it, and no others. Of a
//! unit it heeds what limits: capabilities, groups, files that may be written, namespaces, families of sockets, system calls. What
//! it does not know it says nothing of; a unit that limits nothing is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::CString,
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr as _,
};

use anyhow::{Context as _, bail, ensure};
use caps::{CapSet, Capability, CapsHashSet};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::prctl,
    unistd::{Gid, setgroups},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};
use syscalls::Sysno;

/// Stands for whatever number the unit's group has on a host: it need not exist on this one.
pub const GROUP_ID: u32 = 64_242;

/// Of systemd.exec(5): "`execve()`, `exit()`, `exit_group()`, `getrlimit()`, `rt_sigreturn()`, `sigreturn()` system
/// calls and the system calls for querying time and sleeping are implicitly allow-listed".
const ALWAYS_ALLOWED: [&str; 13] = [
    "execve",
    "exit",
    "exit_group",
    "getrlimit",
    "rt_sigreturn",
    "clock_getres",
    "clock_gettime",
    "clock_nanosleep",
    "gettimeofday",
    "nanosleep",
    "pause",
    "restart_syscall",
    "time",
];

/// The families that a unit names, and their numbers.
const FAMILIES: [(&str, i32); 4] = [
    ("AF_UNIX", libc::AF_UNIX),
    ("AF_NETLINK", libc::AF_NETLINK),
    ("AF_INET", libc::AF_INET),
    ("AF_INET6", libc::AF_INET6),
];

/// What a unit's `[Service]` section says.
pub struct Unit(BTreeMap<String, Vec<String>>);

impl Unit {
    /// Reads a unit.
    ///
    /// # Errors
    ///
    /// When there is none, or it has no `[Service]`.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (_, section) = text.split_once("\n[Service]\n").context("the unit has no section [Service]")?;
        let mut keys: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for line in section.lines().take_while(|line| !line.starts_with('[')) {
            if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
                keys.entry(key.to_owned()).or_default().push(value.to_owned());
            }
        }
        Ok(Self(keys))
    }

    /// Becomes `program`, with the privileges that the unit leaves it. Its directories of config, state and runtime are
    /// `directory`, and its groups have [`GROUP_ID`]; returns only where that fails.
    pub fn exec(&self, directory: &Path, program: &Path, arguments: &[String]) -> anyhow::Error {
        match self.confine(directory) {
            Ok(()) => Command::new(program).args(arguments).exec().into(),
            Err(error) => error,
        }
    }

    fn confine(&self, directory: &Path) -> anyhow::Result<()> {
        // Asked for first: nothing is started later.
        let filter = self.filter()?;
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        mount_over(None, Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
        self.join_groups(directory)?;
        self.make_unwritable(directory)?;
        self.give_up_capabilities()?;
        ensure!(self.is("NoNewPrivileges", "yes"), "the unit does not say NoNewPrivileges=yes");
        prctl::set_no_new_privs()?;
        apply_filter(&filter).context("the kernel does not take the filter of system calls")
    }

    /// Words of all lines of `key`.
    fn words(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().flat_map(|value| value.split_whitespace())
    }

    fn is(&self, key: &str, value: &str) -> bool {
        self.words(key).eq([value])
    }

    /// The groups get a number in this mount namespace, and the process joins them.
    fn join_groups(&self, directory: &Path) -> anyhow::Result<()> {
        let names: Vec<_> = self.words("SupplementaryGroups").collect();
        let file = directory.join("group");
        let theirs = fs::read_to_string("/etc/group")?;
        let is_other = |line: &&str| !names.iter().any(|name| line.starts_with(&format!("{name}:")));
        let mut lines: Vec<_> = theirs.lines().filter(is_other).map(str::to_owned).collect();
        lines.extend(names.iter().map(|name| format!("{name}:x:{GROUP_ID}:")));
        fs::write(&file, lines.join("\n") + "\n")?;
        mount_over(Some(&file), Path::new("/etc/group"), MsFlags::MS_BIND)?;
        Ok(setgroups(&vec![Gid::from_raw(GROUP_ID); usize::from(!names.is_empty())])?)
    }

    /// Everything is read-only but what the unit names, and the directories that it asks for.
    fn make_unwritable(&self, directory: &Path) -> anyhow::Result<()> {
        ensure!(self.is("ProtectSystem", "strict"), "the unit does not say ProtectSystem=strict");
        ensure!(self.is("ProtectKernelTunables", "yes"), "the unit does not say ProtectKernelTunables=yes");
        let mut writable: Vec<_> = self.words("ReadWritePaths").map(PathBuf::from).collect();
        if ["ConfigurationDirectory", "StateDirectory", "RuntimeDirectory"].iter().all(|key| self.is(key, "naru")) {
            writable.push(directory.to_owned());
        }
        for path in &writable {
            mount_over(Some(path), path, MsFlags::MS_BIND | MsFlags::MS_REC)?;
        }
        let unwritable = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, ..no_change() };
        change_mounts(Path::new("/"), unwritable)?;
        for path in &writable {
            change_mounts(path, libc::mount_attr { attr_clr: libc::MOUNT_ATTR_RDONLY, ..no_change() })?;
        }
        let tried = fs::write("/run/naru-lab/unwritable", "").map_err(|error| error.raw_os_error());
        ensure!(tried == Err(Some(libc::EROFS)), "what the unit does not name can be written: {tried:?}");
        Ok(())
    }

    fn give_up_capabilities(&self) -> anyhow::Result<()> {
        let kept = self.words("CapabilityBoundingSet").map(Capability::from_str).collect::<Result<CapsHashSet, _>>()?;
        ensure!(!kept.is_empty(), "the unit does not bound the capabilities");
        for other in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *other)?;
        }
        caps::clear(None, CapSet::Inheritable)?;
        Ok(())
    }

    /// `SystemCallFilter` and `RestrictAddressFamilies`: what they do not list fails with EPERM.
    fn filter(&self) -> anyhow::Result<BpfProgram> {
        let mut allowed: BTreeSet<_> = ALWAYS_ALLOWED.map(str::to_owned).into();
        for line in self.0.get("SystemCallFilter").context("the unit does not filter system calls")? {
            let (names, removes) = line.strip_prefix('~').map_or((line.as_str(), false), |rest| (rest, true));
            for call in names.split_whitespace().map(system_calls).collect::<Result<Vec<_>, _>>()?.concat() {
                if removes {
                    allowed.remove(&call)
                } else {
                    allowed.insert(call)
                };
            }
        }
        // The list is for every architecture: calls that this one has not got have no number.
        let numbers = allowed.iter().filter_map(|name| Sysno::from_str(name).ok());
        let mut rules: BTreeMap<_, _> = numbers.map(|call| (i64::from(call.id()), Vec::new())).collect();
        rules.insert(libc::SYS_socket, self.families()?);
        rules.remove(&libc::SYS_setns);
        rules.insert(libc::SYS_unshare, self.namespaces()?);
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, env::consts::ARCH.try_into()?)?;
        Ok(filter.try_into()?)
    }

    /// `RestrictNamespaces`: the one sort of namespace that may be made; to enter another is refused. (How threads are made
    /// is not looked at.)
    fn namespaces(&self) -> anyhow::Result<Vec<SeccompRule>> {
        let allowed = if self.is("RestrictNamespaces", "net") { libc::CLONE_NEWNET } else { 0 };
        ensure!(allowed != 0 || self.is("RestrictNamespaces", "yes"), "the unit does not restrict namespaces");
        let is = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, allowed as u64)?;
        Ok(vec![SeccompRule::new(vec![is])?])
    }

    /// One rule for each family of sockets.
    fn families(&self) -> anyhow::Result<Vec<SeccompRule>> {
        let rule = |name: &str| {
            let (_, number) = FAMILIES.iter().find(|(known, _)| *known == name).context("an unknown family")?;
            let is = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *number as u64)?;
            Ok(SeccompRule::new(vec![is])?)
        };
        self.words("RestrictAddressFamilies").map(rule).collect()
    }
}

/// Names of the system calls in a set of systemd's, or of the one call that this is.
fn system_calls(name: &str) -> anyhow::Result<Vec<String>> {
    if !name.starts_with('@') {
        return Ok(vec![name.to_owned()]);
    }
    let output = Command::new("systemd-analyze").args(["syscall-filter", name]).output();
    let output = output.context("cannot run `systemd-analyze`: install systemd (`cargo xtask setup` does)")?;
    ensure!(output.status.success(), "systemd-analyze knows no set {name}");
    let text = String::from_utf8(output.stdout)?;
    let members = text.lines().filter(|line| line.starts_with(' ') && !line.trim_start().starts_with('#'));
    Ok(members.map(|line| system_calls(line.trim())).collect::<Result<Vec<_>, _>>()?.concat())
}

fn mount_over(source: Option<&Path>, target: &Path, flags: MsFlags) -> anyhow::Result<()> {
    mount(source, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot mount {source:?} on {}", target.display()))
}

fn no_change() -> libc::mount_attr {
    libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 }
}

/// Changes the mount at `path` and all below it (kernel 5.12).
fn change_mounts(path: &Path, change: libc::mount_attr) -> anyhow::Result<()> {
    let name = CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: both pointers are valid for the call, and the size is that of what the second one leads to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            name.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const change,
            size_of_val(&change),
        )
    };
    match result {
        0 => Ok(()),
        _ if Errno::last() == Errno::ENOSYS => bail!("mount_setattr(2) takes Linux 5.12"),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("cannot change the mounts at {}", path.display())),
    }
}
