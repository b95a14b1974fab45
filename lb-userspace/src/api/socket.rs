//! The unix socket that the API listens on: whose it is, and who may use it.
//!
//! A socket that a dead daemon left is replaced, that of a live one never is.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use nix::unistd::Group;
use tokio::net::UnixListener;

/// Members of this group may use the API, where the group exists.
pub const GROUP: &str = "naru";

/// Read and write for the owner and the group.
const MODE: u32 = 0o660;

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process answers on the socket.
    #[error(
        "another daemon answers at {}: stop it, or give this one a socket of its own (`socket` in [node])",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket lies there.
    #[error("{} exists and is not a socket: move it away, or set another `socket` in [node]", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot {what} {}: {source}; set another `socket` in [node] or correct the directory", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Listens on `path`; makes its directory where that is missing.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |what| move |source| SocketError::Io { what, path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed("make the directory of"))?;
    }
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    if let Ok(Some(group)) = Group::from_name(GROUP) {
        chown(path, None, Some(group.gid.as_raw())).map_err(failed("give the group `naru` the socket"))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(failed("set the mode of"))?;
    Ok(listener)
}

/// Removes a socket on which nobody answers.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |what| move |source| SocketError::Io { what, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale socket"))
        }
        Err(error) => Err(failed("try whether anybody answers at")(error)),
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn group_and_owner_may_use_it_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/on/the/way/naru.sock");
        let _listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[tokio::test]
    async fn a_dead_daemons_socket_is_replaced_and_a_live_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("naru.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = listen(&path).unwrap();
        assert!(matches!(listen(&path).unwrap_err(), SocketError::InUse { .. }));
        drop(listener);
        listen(&path).unwrap();
    }

    #[tokio::test]
    async fn a_file_in_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("naru.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path).unwrap_err(), SocketError::NotASocket { .. }));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
