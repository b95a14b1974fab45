//! A read lease on a file (`F_SETLEASE`, fcntl(2)): while it lasts, nobody has the file open for writing, and whoever
//! opens it for that or truncates it waits until it ends, 45 seconds at most (`/proc/sys/fs/lease-break-time`).
//!
//! The file's owner may take one, everybody else needs CAP_LEASE. Some file systems know none. NFS and CIFS give one
//! only while their server has promised the file to this client, and otherwise say what others say of a file that is
//! open for writing: of them it is taken for no answer.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, RawFd},
};

use nix::sys::statfs::fstatfs;

/// A lease, given back when dropped.
#[derive(Debug)]
pub(super) struct Lease<'f> {
    file: &'f File,
}

/// What became of the wish for a lease.
#[derive(Debug)]
pub(super) enum Taken<'f> {
    /// Nobody has the file open for writing.
    Lease(Lease<'f>),
    /// Somebody has.
    Busy,
    /// This file system, or this user, has no leases.
    Unknown,
}

impl<'f> Lease<'f> {
    /// Takes a lease on `file`, which is open for reading only.
    pub(super) fn take(file: &'f File) -> Taken<'f> {
        let fd = file.as_raw_fd();
        // The signal that tells of a waiting writer is SIGIO unless one says otherwise, and that ends the process.
        let taken = control(fd, F_SETSIG, libc::SIGURG).and_then(|_| control(fd, libc::F_SETLEASE, libc::F_RDLCK));
        match taken {
            Ok(_) => Taken::Lease(Self { file }),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && !is_remote(file) => Taken::Busy,
            Err(_) => Taken::Unknown,
        }
    }

    /// Whether somebody waits for it to end. `F_GETLEASE` says what the lease is being broken to.
    pub(super) fn is_wanted(&self) -> bool {
        control(self.file.as_raw_fd(), libc::F_GETLEASE, 0).ok() != Some(libc::F_RDLCK)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // Nothing is lost if it fails: the lease ends with the file descriptor at the latest.
        let _ = control(self.file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK);
    }
}

/// Whether the file is on a file system that asks a server for leases. One that does not say is none.
fn is_remote(file: &File) -> bool {
    // `linux/magic.h`: NFS, SMB, CIFS, SMB2.
    const REMOTE: [i64; 4] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42];
    // An `i64` on some targets only.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    fstatfs(file).is_ok_and(|system| REMOTE.contains(&(system.filesystem_type().0 as i64)))
}

/// `F_SETSIG` of `asm-generic/fcntl.h`, which libc has for few targets.
const F_SETSIG: i32 = 10;

fn control(fd: RawFd, command: i32, argument: i32) -> io::Result<i32> {
    // SAFETY: the descriptor is that of a file that the caller holds, and none of these commands takes a pointer.
    match unsafe { libc::fcntl(fd, command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// The file at `path` with a write lease, as a file server takes one. It lasts until the file is dropped.
#[cfg(test)]
pub(super) fn lease_for_writing(path: &std::path::Path) -> File {
    let file = File::options().read(true).write(true).open(path).unwrap();
    control(file.as_raw_fd(), F_SETSIG, libc::SIGURG).unwrap();
    control(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK).unwrap();
    file
}

#[cfg(test)]
mod tests {
    use std::{fs, thread, time::Duration};

    use super::*;

    fn lease(file: &File) -> Lease<'_> {
        match Lease::take(file) {
            Taken::Lease(lease) => lease,
            other => panic!("{other:?}: is the directory for temporary files on a file system without leases?"),
        }
    }

    #[test]
    fn a_writer_waits_and_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "old").unwrap();
        let file = File::open(&path).unwrap();
        let lease = lease(&file);
        assert!(!lease.is_wanted());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old", "a reader does not wait");
        let writer = thread::spawn({
            let path = path.clone();
            move || fs::write(path, "new").unwrap()
        });
        while !lease.is_wanted() {
            assert!(!writer.is_finished(), "it did not wait");
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        drop(lease);
        writer.join().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_file_that_is_being_written_gives_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let writer = File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        assert!(matches!(Lease::take(&file), Taken::Busy));
        assert!(!is_remote(&file));
        drop(writer);
        lease(&file);
    }

    #[test]
    fn where_there_are_no_leases_that_is_told() {
        // Only regular files have leases.
        let file = File::open("/dev/null").unwrap();
        assert!(matches!(Lease::take(&file), Taken::Unknown));
    }
}
