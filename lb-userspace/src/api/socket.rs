//! The unix socket that the API listens on: whose it is, and who may connect to it. What they may then ask for is
//! [`super::access`]'s matter.
//!
//! A socket that a dead daemon left is replaced, that of a live one never is.

use std::{
    convert::Infallible,
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::Group;
use tokio::{net::UnixListener, time::MissedTickBehavior};

use super::{access::GROUP, types::ProblemKind};
use crate::{config::Readers, controller::Handle};

/// Where only the owner and the group have anything to ask: read and write for them.
const MODE: u32 = 0o660;

/// Where others may read: to connect takes write permission.
const MODE_READERS: u32 = 0o666;

/// How often it is looked whether the group exists.
const LOOK: Duration = Duration::from_secs(5);

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

/// Listens on `path`, for root alone until [`keep`] lets in others; makes its directory where that is missing.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |what| move |source| SocketError::Io { what, path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed("make the directory of"))?;
    }
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(failed("set the mode of"))?;
    Ok(listener)
}

/// Lets connect to the socket at `path` whoever may ask for something, as the config and the groups change.
pub async fn keep(path: &Path, mut controller: Handle) -> Infallible {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept: Option<Readers> = None;
    loop {
        tokio::select! {
            _ = look.tick() => kept = None,
            () = controller.changed() => {}
        }
        let Ok(readers) = controller.readers() else { continue };
        if kept.as_ref() == Some(&readers) {
            continue;
        }
        let (socket, wanted) = (path.to_owned(), readers.clone());
        let Ok(problem) = tokio::task::spawn_blocking(move || admit(&socket, &wanted)).await else { continue };
        controller.note(ProblemKind::Socket, path.display().to_string(), problem).await;
        kept = Some(readers);
    }
}

/// Gives the socket its group and mode; what stands in the way of somebody who should be able to use it.
fn admit(path: &Path, readers: &Readers) -> Option<String> {
    let group = Group::from_name(GROUP).ok().flatten().map(|group| group.gid.as_raw());
    let mode = if *readers == Readers::Groups(Vec::new()) { MODE } else { MODE_READERS };
    let permit = || {
        let now = fs::metadata(path)?;
        if group.is_some_and(|group| now.gid() != group) {
            chown(path, None, group)?;
        }
        if now.permissions().mode() & 0o777 != mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        io::Result::Ok(())
    };
    if let Err(error) = permit() {
        let path = path.display();
        return Some(format!(
            "{path} cannot be given the group `{GROUP}` and mode {mode:o}: {error}; run the daemon as root or as a member \
             of that group"
        ));
    }
    let Readers::Groups(names) = readers else { return None };
    let unknown = |name: &&String| Group::from_name(name).is_ok_and(|group| group.is_none());
    let unknown: Vec<_> = names.iter().filter(unknown).map(String::as_str).collect();
    let is_unknown = if unknown.len() == 1 { "there is no group" } else { "there are no groups" };
    (!unknown.is_empty()).then(|| {
        let names = unknown.join(", ");
        format!("{is_unknown} {names}, which `readers` in [node] names: make it, or correct the name")
    })
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
    async fn others_may_connect_only_where_they_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/on/the/way/naru.sock");
        let _listener = listen(&path).unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o660);
        assert_eq!(admit(&path, &Readers::All), None);
        assert_eq!(mode(), 0o666);
        let problem = admit(&path, &Readers::Groups(vec!["root".into(), "no-such-group".into()])).unwrap();
        assert!(problem.starts_with("there is no group no-such-group, which `readers`"), "{problem}");
        assert_eq!(mode(), 0o666);
        assert_eq!(admit(&path, &Readers::Groups(Vec::new())), None);
        assert_eq!(mode(), 0o660);
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
