//! What probes over TLS believe and show: certificates and a key, from the files that the config names.
//!
//! Files are read in the background, one after the other, when a config begins to name them and at each apply: a disk that
//! hangs holds up no verdict. Until they are read, and where they cannot be, probes are void.
//!
//! Nothing here shows a key: neither `Debug` nor an error does.

use std::{
    collections::HashMap,
    fmt,
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::unverified::Unverified;
use crate::{
    disk,
    model::{Identity, Trust},
};

/// No file of certificates is larger, in bytes.
const LARGEST: u64 = 1 << 20;

/// Why a probe over TLS has not what it needs.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("cannot read `{key}` {}: {error}{}", path.display(), hint(error))]
    Unreadable {
        /// The key of `health` that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Root may not read a file, but by powers that the daemon has not got.
    #[error(
        "the daemon cannot read `{key}` {}, for it has not got root's power to read everything: make {} root's, or \
         open to all",
        path.display(), closed.display()
    )]
    Closed {
        /// The key of `health` that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The file, or the directory above it that is closed.
        closed: PathBuf,
    },
    /// Everybody may read a private key.
    #[error("`client_key` {} has mode {mode:04o}, so that all can read it: `chmod o= {}`", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file holds something else.
    #[error("`{key}` {} {what}", path.display())]
    Malformed {
        /// The key of `health` that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what it should be.
        what: String,
    },
}

/// The files of one sort of probes, as they were read last.
#[derive(Debug)]
pub struct Trusted {
    files: Trust,
    loaded: Mutex<Option<Loaded>>,
}

type Loaded = Result<Arc<ClientConfig>, String>;

/// Two are the same if their files are.
impl PartialEq for Trusted {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files
    }
}

impl Eq for Trusted {}

impl Trusted {
    /// How connections are made; or why they cannot be.
    pub fn client(&self) -> Loaded {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.clone().unwrap_or_else(|| Err("its certificates are being read".to_owned()))
    }

    /// That is in these files now.
    #[cfg(test)]
    pub fn of(files: &Trust) -> Arc<Self> {
        let trusted = Self { files: files.clone(), loaded: Mutex::new(None) };
        trusted.read();
        Arc::new(trusted)
    }

    fn read(&self) {
        let read = load(&self.files).map(Arc::new).map_err(|error| error.to_string());
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }
}

/// All that is trusted by some probe.
pub struct Store {
    known: HashMap<Trust, Weak<Trusted>>,
    reader: mpsc::UnboundedSender<Vec<Arc<Trusted>>>,
}

impl Store {
    /// Of nothing. Its reader is a task, which ends with it.
    pub fn new() -> Self {
        let (reader, asked) = mpsc::unbounded_channel();
        tokio::spawn(read(asked));
        Self { known: HashMap::new(), reader }
    }

    /// What is in these files; they are read soon, if they are new.
    pub fn get(&mut self, files: &Trust) -> Arc<Trusted> {
        if let Some(known) = self.known.get(files).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Trusted { files: files.clone(), loaded: Mutex::new(None) });
        self.known.insert(files.clone(), Arc::downgrade(&new));
        self.ask(vec![Arc::clone(&new)]);
        new
    }

    /// Reads all files again soon. Until then what was read before holds.
    pub fn renew(&mut self) {
        self.known.retain(|_, known| known.strong_count() > 0);
        self.ask(self.known.values().filter_map(Weak::upgrade).collect());
    }

    fn ask(&self, wanted: Vec<Arc<Trusted>>) {
        // The reader ends only with this.
        let _ = self.reader.send(wanted);
    }
}

async fn read(mut asked: mpsc::UnboundedReceiver<Vec<Arc<Trusted>>>) {
    while let Some(wanted) = asked.recv().await {
        // A panic is told by its hook.
        let _ = spawn_blocking(move || wanted.iter().for_each(|trusted| trusted.read())).await;
    }
}

/// Whether these files are good.
pub fn check(files: &Trust) -> Result<(), TrustError> {
    load(files).map(drop)
}

/// How connections are made that go by these files.
fn load(files: &Trust) -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("ring has what TLS 1.2 and 1.3 take");
    let builder = match &files.ca {
        Some(path) => builder.with_root_certificates(authorities(path)?),
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified::new(provider))),
    };
    let mut client = match &files.identity {
        Some(Identity { client_cert, client_key }) => {
            let certificates = certificates("client_cert", client_cert)?;
            let malformed = |error| TrustError::Malformed {
                key: "client_key",
                path: client_key.clone(),
                what: format!("is not the key of {}: {error}", client_cert.display()),
            };
            builder.with_client_auth_cert(certificates, key(client_key)?).map_err(malformed)?
        }
        None => builder.with_no_client_auth(),
    };
    // A session that is resumed shows no certificate: each probe is to see one.
    client.resumption = Resumption::disabled();
    Ok(client)
}

fn authorities(path: &Path) -> Result<RootCertStore, TrustError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("ca", path)? {
        let malformed = |error| TrustError::Malformed {
            key: "ca",
            path: path.to_owned(),
            what: format!("has a certificate that is of no authority: {error}"),
        };
        store.add(certificate).map_err(malformed)?;
    }
    Ok(store)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let text = text(key, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TrustError::Malformed {
            key,
            path: path.to_owned(),
            what: "is no certificate; it must have one or more in PEM (`-----BEGIN CERTIFICATE-----`)".to_owned(),
        }),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TrustError> {
    let text = text("client_key", path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| TrustError::Malformed {
        key: "client_key",
        path: path.to_owned(),
        what: "is no private key; it must have one in PEM, without a passphrase (`-----BEGIN PRIVATE KEY-----`)"
            .to_owned(),
    })
}

fn text(key: &'static str, path: &Path) -> Result<Vec<u8>, TrustError> {
    let unreadable = |error| TrustError::Unreadable { key, path: path.to_owned(), error };
    let file = disk::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    if let Some(closed) = closed(path, &file) {
        return Err(TrustError::Closed { key, path: path.to_owned(), closed });
    }
    if key == "client_key" && mode & 0o007 != 0 {
        return Err(TrustError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// What keeps root from a file that was opened by root's powers: whoever checks a config may have them, and the daemon
/// has not. For groups anybody may be in them.
fn closed(path: &Path, file: &File) -> Option<PathBuf> {
    let is_open = |metadata: Metadata, own: u32, others: u32| match metadata.uid() {
        0 => metadata.mode() & own != 0,
        _ => metadata.mode() & others != 0,
    };
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    if !file.metadata().is_ok_and(|metadata| is_open(metadata, 0o400, 0o044)) {
        return Some(path.to_owned());
    }
    let above = path.ancestors().skip(1);
    let mut shut = above.filter(|part| !part.metadata().is_ok_and(|metadata| is_open(metadata, 0o100, 0o011)));
    shut.next().map(Path::to_owned)
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; put it there, or name another",
        io::ErrorKind::PermissionDenied if nix::unistd::geteuid().is_root() => {
            "; the daemon has not got root's power to read everything: make the file root's or open to all, and the \
             directories above it open to root"
        }
        io::ErrorKind::PermissionDenied => "; run as a user who may read it",
        _ => "",
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("known", &self.known.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, chown},
    };

    use super::*;

    fn fails(files: &Trust) -> String {
        load(files).unwrap_err().to_string()
    }

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn files_that_are_not_what_they_should_be_are_named_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let own = rcgen::generate_simple_self_signed(["probe".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap();
        write(&path("cert"), &own.cert.pem());
        write(&path("key"), &own.signing_key.serialize_pem());
        write(&path("other"), &other.signing_key.serialize_pem());
        write(&path("text"), "no PEM");
        let ca = |name: &str| Trust { ca: Some(path(name)), identity: None };
        let shown = |cert: &str, key: &str| {
            let identity = Identity { client_cert: path(cert), client_key: path(key) };
            Trust { ca: None, identity: Some(identity) }
        };
        load(&ca("cert")).unwrap();
        load(&shown("cert", "key")).unwrap();
        let at = |name: &str| path(name).display().to_string();
        assert_eq!(
            fails(&ca("none")),
            format!(
                "cannot read `ca` {}: No such file or directory (os error 2); put it there, or name another",
                at("none")
            )
        );
        for name in ["text", "key"] {
            assert!(fails(&ca(name)).starts_with(&format!("`ca` {} is no certificate; it must have", at(name))));
        }
        assert!(fails(&shown("key", "key")).contains("`client_cert`"));
        assert!(fails(&shown("cert", "cert")).contains("is no private key; it must have one in PEM"));
        assert!(fails(&shown("cert", "other")).contains(&format!("is not the key of {}", at("cert"))));
        fs::set_permissions(path("key"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            fails(&shown("cert", "key"))
                .ends_with(&format!("has mode 0644, so that all can read it: `chmod o= {}`", at("key")))
        );
    }

    #[test]
    #[ignore = "needs root"]
    fn what_root_reads_by_its_powers_only_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca");
        write(&path, &rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem());
        let files = Trust { ca: Some(path.clone()), identity: None };
        load(&files).unwrap();
        chown(&path, Some(1), Some(1)).unwrap();
        let told = format!("make {} root's, or open to all", path.display());
        assert!(fails(&files).ends_with(&told), "{}", fails(&files));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        load(&files).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        chown(directory.path(), Some(1), Some(1)).unwrap();
        let told = format!("make {} root's, or open to all", directory.path().display());
        assert!(fails(&files).ends_with(&told), "{}", fails(&files));
    }

    #[tokio::test]
    async fn files_are_read_again_when_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca");
        let files = Trust { ca: Some(path.clone()), identity: None };
        let mut store = Store::new();
        let trusted = store.get(&files);
        let wait = async |is_done: fn(&Loaded) -> bool| {
            let until = tokio::time::Instant::now() + patience::LIMIT;
            while !is_done(&trusted.client()) {
                assert!(tokio::time::Instant::now() < until, "{:?}", trusted.client());
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        wait(|loaded| loaded.as_ref().is_err_and(|error| error.contains("put it there"))).await;
        write(&path, &rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem());
        assert!(Arc::ptr_eq(&trusted, &store.get(&files)));
        assert!(trusted.client().is_err(), "nobody asked for it");
        store.renew();
        wait(Result::is_ok).await;
    }
}
