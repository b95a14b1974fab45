//! What the daemon may do: three capabilities, and nothing that it does not need for as long as it runs.
//!
//! Root starts it, and it stays uid 0, for config, pins and socket are root's. But it gives every other capability up
//! before it opens anything: it then loads no kernel module, mounts nothing, reads no file that is closed to root as an
//! ordinary user, gives no file away, traces and signals nobody, and no program that it might be made to start gets
//! more (bounding set, `no_new_privs`). Whoever takes it over can still make the network of this host do anything
//! (CAP_NET_ADMIN) and read kernel memory (CAP_PERFMON, CAP_BPF); see docs/adr/0009-privileges.md.
//!
//! Capabilities belong to threads: all of this is called while there is only one, and by the one thread of the prober's,
//! which was there before to make a namespace ([`crate::prober::Namespace`]).

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::{
    errno::Errno,
    sys::prctl,
    unistd::{Group, getgroups, setgroups},
};

/// What the daemon needs (kernel 5.8): programs and maps; links, neighbours and netlink; programs that follow pointers.
pub const NEEDED: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// Why a process cannot be the daemon.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// It may do too little.
    #[error("the daemon lacks {}: run it as root, or under systemd with configs/naru.service", names(missing))]
    Missing {
        /// What it lacks.
        missing: Vec<Capability>,
    },
    /// The kernel does not let it give up the rest.
    #[error("cannot give up the capabilities that the daemon does not need: {0}")]
    Capabilities(#[from] CapsError),
    /// The kernel does not let it rule out new ones.
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivileges(#[from] Errno),
}

/// Makes this process a member of `group`, if there is one, so that later it can give files to that group without
/// CAP_CHOWN. Where that is not allowed, whoever started the daemon has to have seen to it (`SupplementaryGroups` in
/// the unit).
pub fn join_group(group: &str) {
    let Ok(Some(group)) = Group::from_name(group) else { return };
    let Ok(mut groups) = getgroups() else { return };
    if !groups.contains(&group.gid) {
        groups.push(group.gid);
        if let Err(errno) = setgroups(&groups) {
            log::debug!("cannot join the group {}: {errno}", group.name);
        }
    }
}

/// Keeps [`NEEDED`] and gives up every other capability, for good.
///
/// # Errors
///
/// Not all of them are there to be kept, or the kernel refuses.
pub fn reduce() -> Result<(), PrivilegeError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let missing: Vec<_> = NEEDED.into_iter().filter(|needed| !permitted.contains(needed)).collect();
    if !missing.is_empty() {
        return Err(PrivilegeError::Missing { missing });
    }
    let needed = CapsHashSet::from(NEEDED);
    // Only with this one can the bounding set be narrowed; whoever has not got it was started by somebody who had.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        caps::set(None, CapSet::Effective, &permitted)?;
        for other in caps::read(None, CapSet::Bounding)?.difference(&needed) {
            caps::drop(None, CapSet::Bounding, *other)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &needed)?;
    caps::set(None, CapSet::Permitted, &needed)?;
    prctl::set_no_new_privs()?;
    Ok(())
}

fn names(capabilities: &[Capability]) -> String {
    capabilities.iter().map(Capability::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::{
        sched::{CloneFlags, unshare},
        unistd,
    };

    use super::*;

    /// On a thread of its own, which then is the only one that has given anything up.
    fn on_a_thread(work: impl FnOnce() + Send + 'static) {
        assert!(unistd::geteuid().is_root(), "this test gives up capabilities: run it as root");
        thread::spawn(work).join().unwrap();
    }

    #[test]
    #[ignore = "needs root"]
    fn three_capabilities_are_left_in_every_set_and_none_comes_back() {
        on_a_thread(|| {
            reduce().unwrap();
            let set = |set| caps::read(None, set).unwrap();
            let needed = CapsHashSet::from(NEEDED);
            for kept in [CapSet::Effective, CapSet::Permitted, CapSet::Bounding] {
                assert_eq!(set(kept), needed, "{kept:?}");
            }
            for empty in [CapSet::Inheritable, CapSet::Ambient] {
                assert_eq!(set(empty), CapsHashSet::new(), "{empty:?}");
            }
            assert!(prctl::get_no_new_privs().unwrap());
            assert_eq!(unshare(CloneFlags::CLONE_NEWNS), Err(Errno::EPERM));
            assert!(caps::raise(None, CapSet::Permitted, Capability::CAP_SYS_ADMIN).is_err());
            reduce().unwrap();
        });
    }

    #[test]
    #[ignore = "needs root"]
    fn what_is_missing_is_named() {
        on_a_thread(|| {
            caps::drop(None, CapSet::Effective, Capability::CAP_PERFMON).unwrap();
            caps::drop(None, CapSet::Permitted, Capability::CAP_PERFMON).unwrap();
            let error = reduce().unwrap_err().to_string();
            assert!(error.starts_with("the daemon lacks CAP_PERFMON: run it as root"), "{error}");
        });
    }
}
