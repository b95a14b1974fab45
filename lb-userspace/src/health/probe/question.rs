//! What is asked of whom, and what comes of it.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use lb_common::Via;

use crate::{
    health::{paths::Path, trust::Trusted},
    model::Check,
};

/// What is asked of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where the backend is asked.
    pub to: To,
    /// The address of the VIP; where VIPs share the probe, the backend's own.
    pub vip: IpAddr,
    /// What it is asked.
    pub check: Check,
    /// The certificates that it goes by, of a probe over TLS.
    pub trusted: Option<Arc<Trusted>>,
    /// How long it may take.
    pub timeout: Duration,
}

/// Where a backend is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// At an address of its own, which these routing tables lead to.
    Address(SocketAddr, Via),
    /// At the VIP, the way that clients' packets go.
    Path(Path),
}

impl To {
    /// What sockets connect to.
    pub fn destination(&self) -> SocketAddr {
        match self {
            Self::Address(server, _) => *server,
            Self::Path(path) => path.service(),
        }
    }
}

/// Why an answer is no good one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There was none in time; and how far it came.
    TimedOut(&'static str),
    /// The connection was refused, or no way leads there: in the words of the system.
    Connection(String),
    /// It is not the protocol that is spoken here; its name, and what is wrong.
    Protocol(&'static str, String),
    /// The certificate is no good one: in words that go on from "the certificate".
    Certificate(String),
    /// Another status than those of good answers.
    Status(u16),
    /// The body has not what it should.
    Body,
    /// What an answer says instead of what it should.
    Answer(String),
    /// The probe was not sent: in the words of the system.
    Unsent(String),
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A good answer.
    Good,
    /// None.
    Bad(Failure),
    /// This host was too busy for a verdict, or had no socket left: it says nothing about the backend.
    Void(Failure),
}

impl Failure {
    /// Of a socket that was to reach the backend.
    pub fn of_socket(error: &io::Error) -> Self {
        match error.raw_os_error() {
            // No port, no memory, no right, no interface or route that is up: faults of this host.
            Some(
                libc::EADDRNOTAVAIL
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EMFILE
                | libc::ENFILE
                | libc::EPERM
                | libc::EACCES
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::ENODEV
                | libc::EINVAL,
            ) => Self::Unsent(error.to_string()),
            _ => Self::Connection(words(error)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(stage) => write!(f, "no answer in time ({stage})"),
            Self::Connection(error) | Self::Answer(error) => f.write_str(error),
            Self::Protocol(name, error) => write!(f, "not {name}: {error}"),
            Self::Certificate(what) => write!(f, "the certificate {what}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Body => f.write_str("the body has not what it should"),
            Self::Unsent(error) => write!(f, "the probe could not be sent: {error}"),
        }
    }
}

/// What the system says, without its number.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}
