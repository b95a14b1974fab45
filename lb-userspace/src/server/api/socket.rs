//! The unix socket that the API listens on: whose it is, who may connect to it, and whose connections come first. What
//! they may then ask for is [`super::access`]'s matter.
//!
//! A socket that a dead daemon left is replaced, that of a live one never is, nor is anything else that lies in its
//! place. Where the daemon cannot listen it runs without, and tries again; the same where its socket is gone or is
//! another one's, as when somebody has wiped `/run`. Connections from before go on.
//!
//! What somebody can do who may connect: see [`crate::server`]. Root, the daemon's own user and members of the group
//! [`GROUP`] are a class above others there, which is seen by numbers that the kernel has, and takes no look-up. What
//! somebody can do who may write to the socket's directory: everything with the socket, which is why only root may by
//! default; he cannot have the daemon remove or overwrite what is not a socket, nor one that somebody listens on.

use std::{
    convert::Infallible,
    fs,
    io::{self, ErrorKind},
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::socket::{MsgFlags, send},
    unistd::{Gid, Group, Uid},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Mutex, watch},
    time::MissedTickBehavior,
};

use super::{access::GROUP, failure::ApiError, peer::Peer};
use crate::{
    api::types::ProblemKind,
    controller::Handle,
    model::Readers,
    server::{Class, Limits, Listener, Owner},
};

/// What the socket bears. A change may take its time: only silence before a request counts, and an answer that is not
/// read, or too slowly.
pub const LIMITS: Limits = Limits {
    connections: 64,
    idle: Duration::from_secs(30),
    stall: Duration::from_secs(10),
    answer: Duration::from_secs(30),
};

/// Where only the owner and the group have anything to ask: read and write for them.
const MODE: u32 = 0o660;

/// Where others may read: to connect takes write permission.
const MODE_READERS: u32 = 0o666;

/// Of a directory that is made for the socket, whatever the umask is: who may connect is the socket's to say.
const MODE_DIR: u32 = 0o755;

/// How often it is looked whether the socket and the group are there.
const LOOK: Duration = Duration::from_secs(5);

/// Stands for no group.
const NO_GROUP: u32 = u32::MAX;

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
    #[error("cannot {what} {}: {source}; {}", path.display(), remedy(source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The API's socket, while there is one.
pub struct Socket {
    path: PathBuf,
    listening: watch::Sender<Option<Arc<UnixListener>>>,
    place: Mutex<Place>,
    /// The number of the group [`GROUP`] when it was last looked up.
    group: AtomicU32,
}

/// What lies where the socket is to be.
#[derive(Default)]
struct Place {
    /// Device and inode of the socket that is listened on.
    own: Option<(u64, u64)>,
    is_given_up: bool,
}

impl Place {
    fn is_own(&self, path: &Path) -> bool {
        self.own.is_some() && self.own == identity(path)
    }
}

impl Socket {
    /// The socket at `path`; nothing is listened on yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, listening: watch::Sender::new(None), place: Mutex::default(), group: AtomicU32::new(NO_GROUP) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is listened on.
    pub fn is_listening(&self) -> bool {
        self.listening.borrow().is_some()
    }

    /// Listens, if the socket there is not this one already; for root alone until [`Self::keep`] lets in others.
    pub async fn listen(&self) -> Result<(), SocketError> {
        let mut place = self.place.lock().await;
        if place.is_given_up || place.is_own(&self.path) {
            return Ok(());
        }
        let listener = listen(&self.path).await?;
        place.own = identity(&self.path);
        self.listening.send_replace(Some(Arc::new(listener)));
        Ok(())
    }

    /// Goes on listening, and lets connect whoever may ask for something, as the config and the groups change.
    pub async fn keep(&self, controller: Handle) -> Infallible {
        tokio::select! {
            never = self.keep_listening(controller.clone()) => never,
            never = self.keep_admitting(controller) => never,
        }
    }

    /// Removes the socket, if it is still this one, for good. Whoever has connected is still answered.
    pub async fn give_up(&self) {
        let mut place = self.place.lock().await;
        place.is_given_up = true;
        if place.is_own(&self.path) {
            // Whoever was quicker has done what was wanted.
            let _ = fs::remove_file(&self.path);
        }
    }

    async fn keep_listening(&self, controller: Handle) -> Infallible {
        let what = self.path.display().to_string();
        let mut look = looks();
        loop {
            look.tick().await;
            let problem = self.listen().await.err().map(|error| error.to_string());
            controller.note(ProblemKind::Socket, what.clone(), problem).await;
        }
    }

    /// Looks groups up, which may take long, and is not in the way of listening.
    async fn keep_admitting(&self, mut controller: Handle) -> Infallible {
        let what = format!("access to {}", self.path.display());
        let mut listening = self.listening.subscribe();
        let mut look = looks();
        let mut kept: Option<Readers> = None;
        loop {
            tokio::select! {
                _ = look.tick() => kept = None,
                Ok(()) = listening.changed() => kept = None,
                () = controller.changed() => {}
            }
            let Ok(readers) = controller.readers() else { continue };
            if kept.as_ref() == Some(&readers) || !self.place.lock().await.is_own(&self.path) {
                continue;
            }
            let (path, known, wanted) = (self.path.clone(), self.group(), readers.clone());
            let admitted = tokio::task::spawn_blocking(move || {
                // Where nobody can say, it is what it was.
                let group = Group::from_name(GROUP).map_or(known, |group| group.map(|group| group.gid));
                (group, admit(&path, group, &wanted))
            });
            let Ok((group, problem)) = admitted.await else { continue };
            self.group.store(group.map_or(NO_GROUP, Gid::as_raw), Ordering::Relaxed);
            if !self.place.lock().await.is_own(&self.path) {
                // It went meanwhile, and so did what stood in the way of it.
                continue;
            }
            controller.note(ProblemKind::Socket, what.clone(), problem).await;
            kept = Some(readers);
        }
    }

    /// What connections of `peer` count for: as much as he may do, by what the kernel knows.
    pub(super) fn class(&self, peer: &Peer) -> Class {
        let is_member = self.group().is_some_and(|group| peer.groups.contains(&group));
        if peer.is_above() || is_member { Class::Operator } else { Class::Anybody }
    }

    fn group(&self) -> Option<Gid> {
        Some(self.group.load(Ordering::Relaxed)).filter(|group| *group != NO_GROUP).map(Gid::from_raw)
    }
}

/// Whose connections are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    user: Uid,
    class: Class,
}

impl Owner for Account {
    fn class(&self) -> Class {
        self.class
    }
}

impl Listener for Arc<Socket> {
    type Stream = UnixStream;
    type Peer = Peer;
    type Owner = Account;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let mut listening = self.listening.subscribe();
        loop {
            let listener = listening.borrow_and_update().clone();
            tokio::select! {
                accepted = accept(listener.as_deref()) => {
                    let (stream, _) = accepted?;
                    let peer = Peer::of(&stream)?;
                    return Ok((stream, peer));
                }
                // From now on on that one. The sender is here.
                _ = listening.changed() => {}
            }
        }
    }

    fn owner(&self, peer: &Peer) -> Account {
        Account { user: peer.uid, class: self.class(peer) }
    }

    fn refuse(stream: UnixStream) {
        static ANSWER: LazyLock<String> = LazyLock::new(|| too_many_connections().unasked());
        // A new connection has room for it. Who has gone already wants no answer.
        let _ = send(stream.as_raw_fd(), ANSWER.as_bytes(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    }

    fn cut(_: &UnixStream) {
        // What is not read of a unix socket goes with it.
    }
}

async fn accept(listener: Option<&UnixListener>) -> io::Result<(UnixStream, tokio::net::unix::SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn looks() -> tokio::time::Interval {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// Which file is there, if any.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Listens on `path`, for root alone; makes its directory where that is missing.
async fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |what| move |source| SocketError::Io { what, path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        make_dir(dir).map_err(failed("make the directory of"))?;
    }
    remove_stale(path).await?;
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(failed("set the mode of"))?;
    Ok(listener)
}

/// Makes a directory where it is missing, and those above it, so that everybody can get through.
fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    match (fs::create_dir(dir), dir.parent()) {
        (Err(error), Some(above)) if error.kind() == ErrorKind::NotFound => {
            make_dir(above)?;
            fs::create_dir(dir)?;
        }
        (made, _) => made?,
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(MODE_DIR))
}

/// What to do where the kernel refused.
fn remedy(error: &io::Error) -> &'static str {
    if error.kind() == ErrorKind::ReadOnlyFilesystem {
        // Under systemd only the directory that it made can be written to, and that one is no longer there.
        return "if somebody has removed the directory that systemd made for it, `systemctl restart naru` makes it \
                anew and interrupts nothing; else set another `socket` in [node]";
    }
    "set another `socket` in [node] or correct the directory"
}

/// Gives the socket its group and mode; what stands in the way of somebody who should be able to use it.
fn admit(path: &Path, group: Option<Gid>, readers: &Readers) -> Option<String> {
    let group = group.map(Gid::as_raw);
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
            "{path} cannot be given the group `{GROUP}` and mode {mode:o}: {error}; run the daemon as root or as a \
             member of that group"
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
async fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |what| move |source| SocketError::Io { what, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale socket"))
        }
        // Somebody listens whose hands are full.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) => Err(failed("try whether anybody answers at")(error)),
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
    }
}

/// The answer on a connection that is one too many.
fn too_many_connections() -> ApiError {
    let error = format!(
        "the daemon has {} connections, which is all that it takes, and none of them gives way to one more of this \
         user: try again in a moment",
        LIMITS.connections
    );
    ApiError::unavailable(error)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::fd::OwnedFd;

    use nix::{
        mount::{MsFlags, mount, umount},
        sched::{CloneFlags, unshare},
        sys::{
            socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, socket},
            stat::{Mode, umask},
        },
    };

    use super::*;

    /// A socket that nobody listens on, where the group [`GROUP`] has this number.
    pub fn with_group(path: &str, group: u32) -> Socket {
        Socket { group: AtomicU32::new(group), ..Socket::new(path.into()) }
    }

    fn at(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("naru.sock")
    }

    /// A listener at `path` that has no room for another connection than the one that is there.
    pub async fn full(path: &Path) -> (OwnedFd, UnixStream) {
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        nix::sys::socket::listen(&listener, Backlog::new(0).unwrap()).unwrap();
        (listener, UnixStream::connect(path).await.unwrap())
    }

    #[tokio::test]
    async fn others_may_connect_only_where_they_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/on/the/way/naru.sock");
        let _listener = listen(&path).await.unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o660);
        assert_eq!(admit(&path, None, &Readers::All), None);
        assert_eq!(mode(), 0o666);
        let problem = admit(&path, None, &Readers::Groups(vec!["root".into(), "no-such-group".into()])).unwrap();
        assert!(problem.starts_with("there is no group no-such-group, which `readers`"), "{problem}");
        assert_eq!(mode(), 0o666);
        assert_eq!(admit(&path, None, &Readers::Groups(Vec::new())), None);
        assert_eq!(mode(), 0o660);
    }

    /// Does something on a thread with mounts and a umask of its own.
    fn apart(work: impl FnOnce() + Send + 'static) {
        let apart = move || {
            unshare(CloneFlags::CLONE_NEWNS).expect("root runs this test");
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
            work();
        };
        std::thread::spawn(apart).join().unwrap();
    }

    fn listen_here(path: &Path) -> Result<(), SocketError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(listen(path)).map(drop)
    }

    #[test]
    #[ignore = "needs root"]
    fn a_directory_that_is_made_lets_others_through() {
        apart(|| {
            umask(Mode::from_bits_truncate(0o077));
            let dir = tempfile::tempdir().unwrap();
            listen_here(&dir.path().join("made/here/naru.sock")).unwrap();
            for made in ["made", "made/here"] {
                let mode = fs::metadata(dir.path().join(made)).unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, 0o755, "{made}");
            }
        });
    }

    #[test]
    #[ignore = "needs root"]
    fn where_nothing_may_be_written_a_restart_is_what_helps() {
        apart(|| {
            let dir = tempfile::tempdir().unwrap();
            mount(None::<&str>, dir.path(), Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
            for path in ["naru.sock", "naru/naru.sock"] {
                let error = listen_here(&dir.path().join(path)).unwrap_err().to_string();
                assert!(error.contains("Read-only") && error.contains("`systemctl restart naru`"), "{error}");
            }
            umount(dir.path()).unwrap();
        });
    }

    #[tokio::test]
    async fn a_dead_daemons_socket_is_replaced_and_a_live_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = at(&dir);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = listen(&path).await.unwrap();
        assert!(matches!(listen(&path).await.unwrap_err(), SocketError::InUse { .. }));
        drop(listener);
        listen(&path).await.unwrap();
    }

    #[tokio::test]
    async fn who_has_no_room_for_another_connection_is_alive() {
        let dir = tempfile::tempdir().unwrap();
        let path = at(&dir);
        let _full = full(&path).await;
        let listened = tokio::time::timeout(Duration::from_secs(30), listen(&path)).await;
        assert!(matches!(listened.expect("nobody is waited for").unwrap_err(), SocketError::InUse { .. }));
    }

    #[tokio::test]
    async fn a_file_in_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = at(&dir);
        fs::write(&path, "precious").unwrap();
        let socket = Socket::new(path.clone());
        assert!(matches!(socket.listen().await.unwrap_err(), SocketError::NotASocket { .. }));
        Socket::new(path.clone()).give_up().await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        socket.listen().await.unwrap();
        socket.give_up().await;
        assert!(!path.exists());
        socket.listen().await.unwrap();
        assert!(!path.exists(), "it was given up");
    }

    #[tokio::test]
    async fn a_socket_that_has_gone_is_listened_on_anew() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Arc::new(Socket::new(at(&dir)));
        socket.listen().await.unwrap();
        let accepting = Arc::clone(&socket);
        let accepted = tokio::spawn(async move { accepting.accept().await.unwrap().1.pid });
        tokio::task::yield_now().await;
        let before = identity(socket.path());
        socket.listen().await.unwrap();
        assert_eq!(identity(socket.path()), before, "it was there");
        fs::remove_file(socket.path()).unwrap();
        socket.listen().await.unwrap();
        // Who has begun to wait on the one before is woken by this one.
        let _stream = UnixStream::connect(socket.path()).await.unwrap();
        let pid = tokio::time::timeout(Duration::from_secs(30), accepted).await.unwrap().unwrap();
        assert_eq!(pid, std::process::id().cast_signed());
    }

    #[test]
    fn who_may_change_things_is_above_others() {
        let socket = Arc::new(Socket::new("/nowhere".into()));
        let class = |uid, groups: &[u32]| {
            let groups = groups.iter().copied().map(Gid::from_raw).collect();
            socket.owner(&Peer { uid: Uid::from_raw(uid), groups, pid: 1 }).class()
        };
        assert_eq!(class(0, &[]), Class::Operator);
        assert_eq!(class(Uid::effective().as_raw(), &[]), Class::Operator);
        assert_eq!(class(4_000_000, &[900, NO_GROUP]), Class::Anybody);
        socket.group.store(900, Ordering::Relaxed);
        assert_eq!(class(4_000_000, &[5, 900]), Class::Operator);
        assert_eq!(class(4_000_000, &[5]), Class::Anybody);
    }
}
