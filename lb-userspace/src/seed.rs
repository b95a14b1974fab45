//! The seed of the flow hash: a secret in a file of its own, the same on all load balancers of a site.
//!
//! What leaves this module is the key that the data plane hashes with, and a fingerprint by which two hosts can be
//! compared. Neither `Debug` nor `Display` of anything here shows a secret, and nothing here goes into the config's
//! text, the API or a log.
//!
//! Both are expanded from the seed by HKDF-SHA256 (RFC 5869) without salt; ADR 13 has the derivation, which never
//! changes.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use hkdf::Hkdf;
use lb_common::HashKey;
use sha2::Sha256;

use crate::disk;

/// Where a seed is unless told otherwise.
pub const DEFAULT_FILE: &str = "/etc/naru/hash_seed";

/// Bytes of a seed that is generated here.
const GENERATED: usize = 32;
/// Fewest bytes of a seed: 128 bits.
const MIN: usize = 16;
/// Most bytes of a seed: more is another file.
const MAX: usize = 512;

/// What the flow hash is expanded for; a change of either text moves every flow of everybody.
const KEY_INFO: &[u8] = b"naru flow hash key 1";
const FINGERPRINT_INFO: &[u8] = b"naru hash seed fingerprint 1";

/// What a seed makes of the flow hash. By default the one of no seed, which everybody knows.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct HashSeed {
    key: HashKey,
    fingerprint: Option<u32>,
}

/// Why a seed cannot be had. What was in force stays in force.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file cannot be read.
    #[error("cannot read the hash seed {}: {error}{}", path.display(), hint(path, error))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error(
        "the hash seed {} has mode {mode:04o}, so that others can read it: `chmod 600 {}`; if somebody may have read \
         it, generate another one",
        path.display(),
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file belongs to an ordinary user.
    #[error("the hash seed {} belongs to user {owner}, who can read and replace it: `chown root: \
             {}`", path.display(), path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The file holds something else.
    #[error(
        "the hash seed {} {what}; it holds one line of {} or more hexadecimal digits: copy it from another load \
         balancer of this site, or make one by `naru seed generate --file {} --force`",
        path.display(), 2 * MIN, path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// There is a seed already.
    #[error(
        "{} is there already and was not touched: a new seed moves every flow of every VIP; `--force` replaces it",
        path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write the hash seed {}: {step}: {error}", path.display())]
    Unwritten {
        /// The file.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

fn hint(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "; copy it from another load balancer of this site, or make one by `naru seed generate --file {}`",
            path.display()
        ),
        io::ErrorKind::PermissionDenied => "; only root may read it".to_owned(),
        _ => String::new(),
    }
}

impl HashSeed {
    /// 64-bit words of [`HashSeed::to_words`].
    pub const WORDS: usize = HashKey::WORDS + 1;

    /// What a config that names this file makes of the flow hash, or one that names none.
    ///
    /// # Errors
    ///
    /// The file cannot be read, can be read by others, or has no seed in it.
    pub fn load(file: Option<&Path>) -> Result<Self, SeedError> {
        file.map_or(Ok(Self::default()), Self::read)
    }

    /// The key that the data plane hashes with.
    pub fn key(&self) -> &HashKey {
        &self.key
    }

    /// Whether there is a seed.
    pub fn is_secret(&self) -> bool {
        self.fingerprint.is_some()
    }

    /// For the daemon's notes in the kernel, which root alone can read.
    pub fn to_words(self) -> [u64; Self::WORDS] {
        let mut words = [0; Self::WORDS];
        words[..HashKey::WORDS].copy_from_slice(&self.key.0);
        words[HashKey::WORDS] = self.fingerprint.map_or(0, |fingerprint| 1 << 32 | u64::from(fingerprint));
        words
    }

    /// The reverse of [`HashSeed::to_words`].
    pub fn from_words(words: [u64; Self::WORDS]) -> Self {
        let (key, last) = words.split_at(HashKey::WORDS);
        let fingerprint = (last[0] >> 32 != 0).then_some(last[0] as u32);
        Self { key: HashKey(key.try_into().expect("as many words as a key has")), fingerprint }
    }

    fn read(path: &Path) -> Result<Self, SeedError> {
        let unreadable = |error| SeedError::Unreadable { path: path.to_owned(), error };
        let file = disk::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let malformed = |what: String| SeedError::Malformed { path: path.to_owned(), what };
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        if mode & 0o077 != 0 {
            return Err(SeedError::Exposed { path: path.to_owned(), mode });
        }
        if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
            return Err(SeedError::Foreign { path: path.to_owned(), owner });
        }
        let mut text = Vec::new();
        file.take(2 * MAX as u64 + 2).read_to_end(&mut text).map_err(unreadable)?;
        let seed = bytes(&text).map_err(malformed)?;
        Ok(Self::expand(&seed))
    }

    fn expand(seed: &[u8]) -> Self {
        let mut fingerprint = [0; 4];
        expand(seed, FINGERPRINT_INFO, &mut fingerprint);
        Self { key: key(seed), fingerprint: Some(u32::from_be_bytes(fingerprint)) }
    }
}

/// The fingerprint, or `none`.
impl fmt::Display for HashSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fingerprint {
            Some(fingerprint) => f.pad(&format!("{fingerprint:08x}")),
            None => f.pad("none"),
        }
    }
}

impl fmt::Debug for HashSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HashSeed({self})")
    }
}

/// Makes a seed and writes it to a file that its owner alone may read. Replaces one that is there only with `force`.
///
/// # Errors
///
/// There is one, or the file cannot be written.
pub fn generate(path: &Path, force: bool) -> Result<HashSeed, SeedError> {
    let failed = |step| move |error| SeedError::Unwritten { path: path.to_owned(), step, error };
    let mut seed = [0; GENERATED];
    getrandom::fill(&mut seed).map_err(|error| failed("getting random bytes")(error.into()))?;
    let digits: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Temporary files have mode 0600.
    let temporary = tempfile::Builder::new().prefix(".naru-").suffix(".tmp").tempfile_in(directory);
    let mut temporary = temporary.map_err(failed("making a temporary file beside it"))?;
    writeln!(temporary, "{digits}").map_err(failed("writing a temporary file beside it"))?;
    temporary.as_file().sync_all().map_err(failed("flushing the new file"))?;
    if force {
        temporary.persist(path).map_err(|error| failed("renaming the new file")(error.error))?;
    } else {
        temporary.persist_noclobber(path).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => SeedError::Exists { path: path.to_owned() },
            _ => failed("renaming the new file")(error.error),
        })?;
    }
    // The rename is on disk when the directory is.
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("flushing the directory"))?;
    Ok(HashSeed::expand(&seed))
}

/// The seed that a file's text spells. What is wrong is said without a word of the text.
fn bytes(text: &[u8]) -> Result<Vec<u8>, String> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if let Some(position) = text.iter().position(|byte| !byte.is_ascii_hexdigit()) {
        let lines = text.contains(&b'\n');
        let what = if lines { "has more than one line" } else { "has something else than hexadecimal digits" };
        return Err(format!("{what} at byte {}", position + 1));
    }
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if !text.len().is_multiple_of(2) || !(MIN..=MAX).contains(&(text.len() / 2)) {
        return Err(format!(
            "has {} hexadecimal digits, where an even number from {} to {} can be",
            text.len(),
            2 * MIN,
            2 * MAX
        ));
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("looked at above") as u8;
    Ok(text.as_chunks::<2>().0.iter().map(|[high, low]| digit(*high) << 4 | digit(*low)).collect())
}

fn key(seed: &[u8]) -> HashKey {
    let mut bytes = [0; 8 * HashKey::WORDS];
    expand(seed, KEY_INFO, &mut bytes);
    let (words, _) = bytes.as_chunks::<8>();
    HashKey(std::array::from_fn(|position| u64::from_le_bytes(words[position])))
}

fn expand(seed: &[u8], info: &[u8], out: &mut [u8]) {
    // RFC 5869 allows 255 times the 32 bytes of a digest.
    Hkdf::<Sha256>::new(None, seed).expand(info, out).expect("less than 8,160 bytes");
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn file(text: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hash_seed");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    /// Two versions of naru with one seed must agree: these values, computed by another implementation of HKDF, never
    /// change.
    #[test]
    fn seeds_expand_to_what_they_always_did() {
        let seed: Vec<u8> = (0..32).collect();
        let expanded = HashSeed::expand(&seed);
        assert_eq!(expanded.to_string(), "4c5b9787");
        assert_eq!(expanded.key.0[..2], [0xeaab_bb1a_5376_bd9a, 0x7177_cf1b_e79a_c845]);
        assert_eq!(key(b""), HashKey::PUBLIC);
    }

    #[test]
    fn a_generated_seed_is_secret_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hash_seed");
        let made = generate(&path, false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(HashSeed::load(Some(&path)).unwrap(), made);
        let text = fs::read_to_string(&path).unwrap();
        assert!(matches!(generate(&path, false), Err(SeedError::Exists { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "what is there stays");
        assert_ne!(generate(&path, true).unwrap(), made);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn nothing_that_is_printed_is_secret() {
        let (_directory, path) = file(b"00112233445566778899aabbccddeeff\n", 0o600);
        let seed = HashSeed::load(Some(&path)).unwrap();
        let shown = format!("{seed} {seed:?} {:?} {:?}", seed.key(), (seed.key(), Some(seed)));
        for word in seed.key.0 {
            assert!(!shown.contains(&word.to_string()) && !shown.contains(&format!("{word:x}")), "{shown}");
        }
        assert!(!shown.contains("00112233"), "{shown}");
        let (_directory, path) = file(b"00112233445566778899aabbccddeeXY\n", 0o600);
        let error = HashSeed::load(Some(&path)).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("00112233"), "{error}");
    }

    #[test]
    fn what_is_no_secret_is_refused_with_its_remedy() {
        let digits = b"00112233445566778899aabbccddeeff\n";
        for (text, mode, message) in [
            (&digits[..], 0o640, "has mode 0640, so that others can read it: `chmod 600 "),
            (digits, 0o604, "has mode 0604"),
            (b"", 0o600, "is empty; it holds one line of 32 or more hexadecimal digits"),
            (b"00112233\n", 0o600, "has 8 hexadecimal digits"),
            (&digits[1..], 0o600, "has 31 hexadecimal digits"),
            (b"00112233445566778899aabbccddeeff\n\n", 0o600, "has more than one line at byte 33"),
            (b"seed = 00112233445566778899aabbccddeeff", 0o600, "has something else than hexadecimal digits at byte 1"),
            (&[b'a'; 4096], 0o600, "hexadecimal digits, where an even number from 32 to 1024 can be"),
        ] {
            let (_directory, path) = file(text, mode);
            let error = HashSeed::load(Some(&path)).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let (directory, _) = file(digits, 0o600);
        let error = HashSeed::load(Some(&directory.path().join("missing"))).unwrap_err().to_string();
        assert!(error.contains("naru seed generate --file"), "{error}");
        let error = HashSeed::load(Some(directory.path())).unwrap_err().to_string();
        assert!(error.contains("is not a file"), "{error}");
    }

    #[test]
    fn notes_keep_the_seed_whole() {
        for seed in [HashSeed::default(), HashSeed::expand(b"0123456789abcdef")] {
            assert_eq!(HashSeed::from_words(seed.to_words()), seed);
        }
    }
}
