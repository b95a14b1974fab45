//! The text that was applied last, as it is kept for the next start: `applied.toml` in the state directory.

use std::path::{Path, PathBuf};

use super::directory;
use crate::disk::{Reserved, WriteError};

/// Where the text that was applied last is kept.
#[derive(Clone, Debug)]
pub struct Page {
    pub(super) path: PathBuf,
    /// The config file that it is of.
    pub(super) config: PathBuf,
    pub(super) is_needed: bool,
}

impl Page {
    /// Takes room beside the text that is kept for `text`, to be written and put in its place once it is in force.
    pub fn reserve(&self, text: &str) -> Result<Reserved, WriteError> {
        // Somebody may have removed the directory; if it cannot be made, what follows says why.
        let _ = self.path.parent().map(directory::make);
        let head = pack(&self.config, "").len();
        // The length of a length in decimal digits.
        Reserved::private(&self.path, head + 20 + text.len())
    }

    /// Keeps `text`, for which there is room.
    pub fn put(&self, room: Reserved, text: &str) -> Result<(), WriteError> {
        room.write(&pack(&self.config, text))?.put()
    }

    /// Whether a change is not to happen that cannot be kept: one could be before.
    pub fn is_needed(&self) -> bool {
        self.is_needed
    }
}

/// `text` with a first line that says what it is.
fn pack(config: &Path, text: &str) -> String {
    let ((length, checksum), config) = (print(text), config.display());
    format!("{HEAD}length={length} checksum={checksum:016x} config={config}\n{text}")
}

/// The config file and the text, if they are what was packed.
pub fn unpack(kept: &str) -> Option<(&str, &str)> {
    let (head, text) = kept.split_once('\n')?;
    let (length, rest) = head.strip_prefix(HEAD)?.strip_prefix("length=")?.split_once(" checksum=")?;
    let (sum, config) = rest.split_once(" config=")?;
    let reported = (length.parse().ok()?, u64::from_str_radix(sum, 16).ok()?);
    (reported == print(text)).then_some((config, text))
}

const HEAD: &str = "# What naru applied last, for the start after a crash; do not edit. ";

/// Length and checksum of a text: FNV-1a, 64 bits (draft-eastlake-fnv §2), against disks, not against people.
fn print(text: &str) -> (usize, u64) {
    let sum = |sum: u64, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    (text.len(), text.bytes().fold(0xcbf2_9ce4_8422_2325, sum))
}
