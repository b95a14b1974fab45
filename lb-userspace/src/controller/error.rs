//! Why a request to the controller was not done. What ran before runs on.

use std::{net::IpAddr, path::PathBuf};

use crate::{
    dataplane,
    disk::{ReplaceError, WriteError},
    health::MeansError,
    model::OperateError,
    network,
    plan::Removal,
    source::file::{ConfigErrors, ReadError, edit::EditError},
};

/// Why a request to the controller was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The config file cannot be read or is not valid.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The config has probes that need what cannot be had.
    #[error("`health` of vip {vip} in {}: {error}; nothing was changed", path.display())]
    Probes {
        /// The config file.
        path: PathBuf,
        /// Name of the VIP.
        vip: String,
        /// What that is.
        #[source]
        error: MeansError,
    },
    /// The edit does not fit the config.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// Nothing can be done to that backend.
    #[error(transparent)]
    Operate(#[from] OperateError),
    /// The config would not be valid after the edit.
    #[error("with this change the config would not be valid:\n{0}")]
    Edited(ConfigErrors),
    /// Somebody edited the file and did not apply it.
    #[error(
        "{} has changes that are not applied: see `naru diff`, then `naru apply`; nothing was changed",
        path.display()
    )]
    FileAhead {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be written; the config before is in force again.
    #[error("{0}; nothing was changed")]
    Unwritten(#[from] WriteError),
    /// The file was not replaced; the config before is in force again.
    #[error("{error}; nothing was changed{}", again(error))]
    Unreplaced {
        /// Why not.
        #[from]
        error: ReplaceError,
    },
    /// The config names interfaces that do not exist and that it did not name before.
    #[error(
        "there is no interface {} here; there are {}; nothing was changed", names.join(", "), existing.join(", ")
    )]
    NoSuchInterface {
        /// Those that do not exist.
        names: Vec<String>,
        /// Those that do.
        existing: Vec<String>,
    },
    /// The file would take away more than may go without force.
    #[error(
        "{} is refused: {removal}; nothing was changed: if it is meant, `naru apply --force`", path.display()
    )]
    TakesAway {
        /// The file.
        path: PathBuf,
        /// What would go.
        removal: Removal,
    },
    /// The same, at a start that has nothing else to begin from.
    #[error(
        "{} is refused: what forwards here is none of this daemon's memory, and {removal}; it goes on forwarding: \
         correct the file, or, if it is meant, take the data plane out first (`naru interface detach --all`)",
        path.display()
    )]
    TakesAwayAtStart {
        /// The file.
        path: PathBuf,
        /// What would go.
        removal: Removal,
    },
    /// Keys changed that only a start of the daemon can follow.
    #[error(
        "a running daemon cannot change {} in [node]: take the change back, or restart the daemon; nothing was changed",
        keys.join(", ")
    )]
    NeedsRestart {
        /// The keys.
        keys: Vec<&'static str>,
    },
    /// No VIP of that name.
    #[error("there is no VIP `{name}`; {remedy}")]
    NoSuchVip {
        /// The name.
        name: String,
        /// What there is.
        remedy: String,
    },
    /// No backend of that address.
    #[error(
        "{}; `naru backend list` shows the backends",
        match vip {
            Some(vip) => format!("VIP `{vip}` has no backend `{address}`, nor flows of one"),
            None => format!("no VIP has a backend `{address}`, or flows of one"),
        }
    )]
    NoSuchBackend {
        /// The address.
        address: IpAddr,
        /// The VIP that was named, if any.
        vip: Option<String>,
    },
    /// The data plane refused.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// Routes, neighbours and interfaces cannot be watched.
    #[error(transparent)]
    Netlink(#[from] network::NetlinkError),
    /// No `/metrics`.
    #[error("{0}")]
    Metrics(String),
    /// The controller has ended.
    #[error("the daemon is stopping")]
    Stopped,
}

/// What to do about a file that was not replaced.
fn again(error: &ReplaceError) -> &'static str {
    match error {
        ReplaceError::Write(_) => "",
        ReplaceError::Saved { .. } => ": see `naru diff`, then `naru apply`, and try again",
        ReplaceError::Busy { .. } => ": try again once that is done",
    }
}
