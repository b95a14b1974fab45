//! Other users of the host: what a thread does as one of them. They need no entry in `/etc/passwd`.

use std::{io, panic::resume_unwind, ptr, thread};

/// Runs `work` on a thread of its own as the user `id`, whose only group has the same number, and waits for it. A panic
/// inside is passed on.
///
/// # Panics
///
/// When this process is not root.
pub fn as_user<R: Send>(id: u32, work: impl FnOnce() -> R + Send) -> R {
    let inside = || {
        become_user(id).expect("root may be any user");
        work()
    };
    thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Makes the calling thread the user's. The C library's functions would do it to every thread of the process.
fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: these calls take numbers, and no list of groups where its length is 0.
    let results = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()),
            libc::syscall(libc::SYS_setresgid, id, id, id),
            libc::syscall(libc::SYS_setresuid, id, id, id),
        ]
    };
    if results == [0; 3] { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn only_that_thread_is_the_users() {
        let ids = || {
            let text = fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = |name| text.lines().find(|line| line.starts_with(name)).unwrap().trim().to_owned();
            ["Uid:", "Gid:", "Groups:"].map(line)
        };
        let before = ids();
        let of_user = as_user(64_000, ids);
        assert_eq!(of_user, ["Uid:\t64000\t64000\t64000\t64000", "Gid:\t64000\t64000\t64000\t64000", "Groups:"]);
        assert_eq!(ids(), before);
    }
}
