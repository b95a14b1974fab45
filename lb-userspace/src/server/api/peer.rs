//! Who is on the other end of a connection to the socket: as the kernel says, and as of when they connected.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use nix::unistd::{Gid, Uid, User};
use tokio::net::UnixStream;

use crate::controller::Origin;

/// The process on the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: Uid,
    /// Its effective group, and those besides.
    pub groups: Vec<Gid>,
    /// Its id; 0 where it is in another PID namespace.
    pub pid: i32,
}

impl Peer {
    /// Who is on the other end of `stream` (`SO_PEERCRED`, `SO_PEERGROUPS`: unix(7)).
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let mut groups = peer_groups(stream)?;
        groups.push(Gid::from_raw(credentials.gid()));
        Ok(Self { uid: Uid::from_raw(credentials.uid()), groups, pid: credentials.pid().unwrap_or(0) })
    }

    /// Whether this is root or the daemon's own user, whatever their groups are.
    pub fn is_above(&self) -> bool {
        self.uid.is_root() || self.uid == Uid::effective()
    }

    /// The user's name, or number where they have none. May ask the network, where users come from there, but not of
    /// root.
    pub fn user(&self) -> String {
        if self.uid.is_root() {
            return "root".to_owned();
        }
        let user = User::from_uid(self.uid).ok().flatten();
        user.map_or_else(|| format!("#{}", self.uid), |user| user.name)
    }

    /// Who asks for a change, for the log. May ask the network as [`Self::user`] does.
    pub fn origin(&self, socket: &str) -> Origin {
        let Self { uid, pid, .. } = self;
        // Whoever asks may call the process as they like: it is quoted, and cut.
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let (user, command) = (self.user(), command.trim_end());
        let by = format!("{user} (uid {uid}, process {pid} {command:?}) on {socket}");
        Origin::new(format!("{user} (uid {uid})"), by)
    }
}

/// The supplementary groups of the peer.
fn peer_groups(stream: &UnixStream) -> io::Result<Vec<Gid>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the descriptor is the stream's, which is borrowed; the kernel writes at most `length` bytes of
        // numbers to the vector, which has as many, and to `length` how many there are.
        let result = unsafe {
            libc::getsockopt(
                stream.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups.into_iter().map(Gid::from_raw).collect());
        }
        let error = io::Error::last_os_error();
        // Too little room: now it is known how much there must be.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_peer_is_this_process() {
        let (near, _far) = UnixStream::pair().unwrap();
        let peer = Peer::of(&near).unwrap();
        assert_eq!((peer.uid, peer.pid), (Uid::effective(), i32::try_from(std::process::id()).unwrap()));
        assert!(peer.groups.contains(&Gid::effective()), "{peer:?}");
        let origin = peer.origin("/run/x").to_string();
        let (uid, pid) = (peer.uid, peer.pid);
        assert!(
            origin.contains(&format!("(uid {uid}, process {pid} \"")) && origin.ends_with(" on /run/x"),
            "{origin}"
        );
    }
}
