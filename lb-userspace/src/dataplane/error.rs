//! What can go wrong with the data plane.

use std::{
    error::Error as StdError,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use aya::{maps::MapError, pin::PinError};
use thiserror::Error;

use super::{Mode, kernel};

/// An error of the data plane.
#[derive(Debug, Error)]
pub enum Error {
    /// Another daemon has it.
    #[error(
        "{holder} runs the data plane pinned under {}; stop it first, or give this daemon a `bpffs` of its own in \
         [node]",
        path.display()
    )]
    Held {
        /// Where it is pinned.
        path: PathBuf,
        /// Who, as far as the kernel tells.
        holder: String,
    },
    /// A directory for pins that can hold none.
    #[error(
        "{} is not on a bpf file system; set `bpffs` in [node] to a directory below /sys/fs/bpf, or mount one there: \
         mount -t bpf bpf {}",
        path.display(), path.display()
    )]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// A file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map operation.
    #[error("cannot {action} the map {name}: {}", chain(source))]
    Map {
        /// What was tried.
        action: &'static str,
        /// Name of the map.
        name: String,
        /// What the kernel said.
        source: MapError,
    },
    /// A map that is not laid out as this program lays it out.
    #[error(
        "the pinned map {name} has values of {found} bytes where this version writes {expected}; it is not naru's, or \
         damaged: remove it with `naru interface detach --all` and start again"
    )]
    Layout {
        /// Name of the map.
        name: String,
        /// Size of its values in bytes.
        found: u32,
        /// The right size.
        expected: u32,
    },
    /// A map whose size does not follow from a config, but from what it comes to hold, is full. New maps have more room.
    #[error("the map {map} has no room left")]
    NoPlace {
        /// Its name.
        map: &'static str,
    },
    /// The program does not load.
    #[error("the kernel does not take the data plane: {reason}")]
    Load {
        /// What it said.
        reason: String,
    },
    /// The interface cannot be asked, or its name is none.
    #[error("interface {name} {problem}")]
    Interface {
        /// The interface.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An interface that this process does not see.
    #[error(
        "interface {name}, to which the program is attached, is in another network namespace than this process; run \
         naru there, or take the program off with `{command}`"
    )]
    Elsewhere {
        /// Name of the interface.
        name: String,
        /// What detaches.
        command: String,
    },
    /// Another program is in the way.
    #[error("interface {name} already runs the XDP program {program}; {remedy}, then try again")]
    Occupied {
        /// The interface.
        name: String,
        /// Name and id of the program.
        program: String,
        /// How to be rid of it.
        remedy: String,
    },
    /// The kernel does not attach.
    #[error("cannot attach to interface {name} in {mode} mode: {reason}")]
    Attach {
        /// The interface.
        name: String,
        /// The mode that was asked for.
        mode: Mode,
        /// What the kernel said, and what it means.
        reason: String,
    },
}

impl Error {
    /// For `map_err`: what was tried on which path.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    /// For `map_err`: what was tried on which map.
    pub(super) fn map<E: Into<MapError>>(action: &'static str, name: &str) -> impl FnOnce(E) -> Self {
        let name = name.to_owned();
        move |source| Self::Map { action, name, source: source.into() }
    }

    /// For `map_err`: a map that could not be pinned.
    pub(super) fn pin(name: &str) -> impl FnOnce(PinError) -> Self {
        let name = name.to_owned();
        move |error| Self::Map { action: "pin", name, source: MapError::PinError { name: None, error } }
    }

    /// The program did not load for this. What an old kernel says of it tells nobody that it is old.
    pub(super) fn load(error: &dyn StdError) -> Self {
        let said = chain(error);
        let reason = match kernel::too_old(&kernel::release()) {
            Some(old) => format!("{old} (it said: {said})"),
            None => said,
        };
        Self::Load { reason }
    }
}

/// An error and its causes on one line: those of the BPF library name the cause only in their source.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
