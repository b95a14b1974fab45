//! Where the data plane is pinned, and whose it is: the bpf file system, the lock, the names of the pins.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use lb_common::ABI;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

use super::Error;

/// Where bpf file systems are mounted by convention.
pub(super) const BPFFS: &str = "/sys/fs/bpf";
/// What the directories of decapsulations are named, before the number of the ABI.
pub const DECAP: &str = "decap-v";

/// The directory of all pins of this ABI, held by this process.
#[derive(Debug)]
pub struct Place {
    bpffs: PathBuf,
    root: PathBuf,
    _lock: Flock<File>,
}

impl Place {
    /// Makes the directory below `bpffs` if need be, and takes it.
    ///
    /// # Errors
    ///
    /// Another process has it, or `bpffs` is not on a bpf file system.
    pub fn take(bpffs: &Path) -> Result<Self, Error> {
        mount_if_missing(bpffs)?;
        let root = root(bpffs);
        let links = links_of(&root);
        make_directories(&links)?;
        let lock = lock(&root)?;
        Ok(Self { bpffs: bpffs.to_owned(), root, _lock: lock })
    }

    /// Where the directories of all versions are.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The directory of this version.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of the link pins.
    pub fn links(&self) -> PathBuf {
        links_of(&self.root)
    }

    /// Directory of a generation.
    pub fn generation(&self, number: u32) -> PathBuf {
        generation(&self.root, number)
    }

    /// The generations that have a directory, the newest first.
    pub fn generations(&self) -> Result<Vec<u32>, Error> {
        generations(&self.root)
    }
}

/// The pins of all links below `bpffs`: of data planes and of decapsulations, of whatever ABI.
pub fn link_pins(bpffs: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut directories = Vec::new();
    for name in names(bpffs)? {
        let root = bpffs.join(&name);
        if is_abi(&name) {
            directories.push(links_of(&root));
        } else if name.starts_with(DECAP) {
            directories.extend(names(&root)?.iter().map(|interface| links_of(&root.join(interface))));
        }
    }
    let mut pins = Vec::new();
    for directory in directories {
        pins.extend(names(&directory)?.iter().map(|pin| directory.join(pin)));
    }
    Ok(pins)
}

/// The directory of the data plane, of whatever ABI, that a link pinned below `bpffs` is of; `None` for a
/// decapsulation's.
pub fn root_of<'a>(bpffs: &Path, pin: &'a Path) -> Option<&'a Path> {
    let root = pin.parent()?.parent()?;
    (root.parent()? == bpffs && is_abi(root.file_name()?.to_str()?)).then_some(root)
}

/// The directories of the data planes below `bpffs`, of whatever ABI.
pub fn roots(bpffs: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(names(bpffs)?.into_iter().filter(|name| is_abi(name)).map(|name| bpffs.join(name)).collect())
}

/// The directory of all pins of this ABI below `bpffs`.
pub fn root(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{ABI}"))
}

/// The directory of a generation in a directory of pins.
pub fn generation(root: &Path, number: u32) -> PathBuf {
    root.join(format!("g{number}"))
}

/// The generations that have a directory in a directory of pins, the newest first.
pub fn generations(root: &Path) -> Result<Vec<u32>, Error> {
    let mut numbers: Vec<u32> =
        names(root)?.iter().filter_map(|name| name.strip_prefix('g').and_then(|number| number.parse().ok())).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers)
}

/// The directory of the links in a directory of pins.
pub fn links_of(root: &Path) -> PathBuf {
    root.join("links")
}

/// The name of an interface's pin. Names on a bpf file system have no dots, names of interfaces have no colons.
pub fn pin_name(interface: &str) -> String {
    interface.replace('.', ":")
}

/// The interface of a pin.
pub fn interface_of(pin: &str) -> String {
    pin.replace(':', ".")
}

/// Removes a file; `false` if there was none.
pub fn remove(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::file("remove", path)(error)),
    }
}

/// Removes a directory with all in it, if it is there.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Names in a directory, sorted; none if it is not there.
///
/// # Errors
///
/// It is there and cannot be read.
pub fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("read the directory", directory)(error)),
    };
    let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> =
        entries.map(name).collect::<Result<_, _>>().map_err(Error::file("read the directory", directory))?;
    names.sort();
    Ok(names)
}

fn is_abi(name: &str) -> bool {
    name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Makes a directory of pins with those above it, for nobody else to look into: whoever owns it could take pins away.
///
/// # Errors
///
/// It cannot be made, or is somebody else's.
pub fn make_directories(path: &Path) -> Result<(), Error> {
    let failed = Error::file("make the directory", path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let owner = fs::metadata(path).map_err(Error::file("look at", path))?.uid();
    if owner != geteuid().as_raw() {
        let source = io::Error::other(format!("it belongs to user {owner}: remove it, or become that user"));
        return Err(Error::file("use the directory", path)(source));
    }
    Ok(())
}

/// Sees to it that `path`, or the nearest directory above it that is there, is on a bpf file system: below
/// `/sys/fs/bpf` one is mounted if there is none.
///
/// # Errors
///
/// `path` is elsewhere and not on one, or mounting fails.
pub fn mount_if_missing(path: &Path) -> Result<(), Error> {
    if is_bpffs(path)? {
        return Ok(());
    }
    if path.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS))? {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .map_err(|errno| Error::file("mount a bpf file system at", Path::new(BPFFS))(errno.into()))?;
        return Ok(());
    }
    Err(Error::NotBpffs { path: path.to_owned() })
}

fn is_bpffs(path: &Path) -> Result<bool, Error> {
    let mut there = path;
    loop {
        match statfs(there) {
            Ok(stat) => return Ok(stat.filesystem_type() == BPF_FS_MAGIC),
            Err(Errno::ENOENT) => there = there.parent().unwrap_or(Path::new("/")),
            Err(errno) => return Err(Error::file("look at", there)(errno.into())),
        }
    }
}

/// Holds a data plane's directory as a daemon does.
pub fn lock(root: &Path) -> Result<Flock<File>, Error> {
    let directory = File::open(root).map_err(Error::file("open", root))?;
    let inode = directory.metadata().map_err(Error::file("look at", root))?.ino();
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Error::Held { path: root.to_owned(), holder: holder(inode) },
        errno => Error::file("lock", root)(errno.into()),
    })
}

/// Who holds the lock on `inode`: `/proc/locks` names the process, unless it lives in another PID namespace.
fn holder(inode: u64) -> String {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    match locks.lines().find_map(|line| lock_owner(line, inode)) {
        Some(pid) => {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim_end())
        }
        None => "another process".to_owned(),
    }
}

/// From a line of `/proc/locks` such as `1: FLOCK  ADVISORY  WRITE 4242 00:1c:113 0 EOF`: the process, if the inode is
/// the one that was asked for.
fn lock_owner(line: &str, inode: u64) -> Option<u32> {
    let mut fields = line.split_whitespace().skip_while(|field| *field != "FLOCK");
    let pid = fields.nth(3)?.parse().ok()?;
    let found: u64 = fields.next()?.rsplit(':').next()?.parse().ok()?;
    (found == inode).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_vlan_interfaces_have_no_dots() {
        assert_eq!(pin_name("eth0.100"), "eth0:100");
        assert_eq!(interface_of("eth0:100"), "eth0.100");
    }

    #[test]
    fn the_data_plane_of_a_link_is_told_from_a_decapsulation() {
        let root = |pin| root_of(Path::new("/bpf"), Path::new(pin)).map(|root| root.display().to_string());
        assert_eq!(root("/bpf/v2/links/eth0"), Some("/bpf/v2".to_owned()));
        assert_eq!(root("/bpf/decap-v2/v3/links/v3"), None);
        assert_eq!(root("/bpf/other/links/eth0"), None);
    }

    #[test]
    fn the_owner_of_a_lock_is_found_by_inode() {
        let line = "3: FLOCK  ADVISORY  WRITE 4242 00:1c:113 0 EOF";
        assert_eq!(lock_owner(line, 113), Some(4242));
        assert_eq!(lock_owner(line, 112), None);
        assert_eq!(lock_owner("4: POSIX  ADVISORY  READ 1 00:1c:113 0 EOF", 113), None);
    }

    #[test]
    fn a_directory_elsewhere_is_refused() {
        let error = mount_if_missing(Path::new("/proc/self")).unwrap_err();
        assert!(matches!(error, Error::NotBpffs { .. }), "{error}");
    }
}
