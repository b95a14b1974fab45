//! Why there are no probes.

use std::{io, net::IpAddr};

use lb_common::ProbePath;

use crate::{dataplane, privileges::PrivilegeError};

/// Why there are no probes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No namespace.
    #[error(
        "cannot make the network namespace that probes of backends come from: {source}; that takes CAP_SYS_ADMIN for a \
         moment: start the daemon as root, or let its unit have it and make namespaces (`CapabilityBoundingSet` and \
         `RestrictNamespaces=net`, as in configs/naru.service)"
    )]
    Namespace {
        /// What the kernel said.
        source: io::Error,
    },
    /// Its thread may do more than it should.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// No way out of the namespace.
    #[error(
        "cannot set up the veth pair {name}, by which probes of backends leave: cannot {action}: {source}{}",
        hint(source)
    )]
    Pair {
        /// Its end on this host.
        name: &'static str,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// No program, or no entry in a map.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// More addresses than there is room for.
    #[error("probes come from {} addresses of this host already, and from no more", ProbePath::ADDRESSES)]
    TooManySources,
    /// Every port is taken.
    #[error("{count} probes are under way, more than there are ports for: probe less often, or with shorter timeouts")]
    NoPort {
        /// So many there are.
        count: usize,
    },
    /// No socket.
    #[error("cannot make a socket for a probe from {from}: {source}")]
    Socket {
        /// The address of this host.
        from: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EEXIST) => "; does another daemon of this host probe? One can, in each network namespace",
        Some(libc::EOPNOTSUPP) => "; this kernel has no veth",
        _ => "",
    }
}
