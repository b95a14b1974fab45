//! Where the daemon of a config file is: its socket, its pins, its state directory.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{
    args::Global,
    exit::{Exit, Failure},
};
use crate::{
    disk,
    model::Node,
    source::file::{self, ReadError},
};

/// The daemon's socket: as the command line says, else the config file, else the default.
pub fn socket(global: &Global) -> Result<PathBuf, Failure> {
    place(&global.socket, &global.config, |node| node.socket)
}

/// A place of the daemon: as the command line says, else as [`places`] says.
pub fn place(said: &Option<PathBuf>, config: &Path, of: impl FnOnce(Node) -> PathBuf) -> Result<PathBuf, Failure> {
    match said {
        Some(place) => Ok(place.clone()),
        None => places(config).map(of),
    }
}

/// Where a daemon of this config file is to be found, whatever else is wrong in the file. One that is not there, or
/// that this user may not read, leads to the daemon of the default config.
///
/// # Errors
///
/// The file cannot be read for another reason: what it says would be passed over without a word.
fn places(config: &Path) -> Result<Node, Failure> {
    let text = match disk::read(config) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => String::new(),
        Err(error) => return Err(Failure::new(Exit::Failed, ReadError::Unreadable { path: config.to_owned(), error })),
    };
    Ok(file::node(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_found_through_a_file_that_is_not_valid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("naru.toml");
        std::fs::write(&path, "[node]\nsocket = \"/run/x.sock\"\nxdp_mode = \"wrong\"\n[[vip]]\nnaem = 1\n").unwrap();
        let node = places(&path).unwrap();
        assert_eq!(node.socket, Path::new("/run/x.sock"));
        assert_eq!(node.bpffs, Node::default().bpffs);
        std::fs::write(&path, "[[vip]]\nname = 1\n[[vip]]\n[node]\nbpffs = \"/sys/fs/bpf/x\"\n").unwrap();
        assert_eq!(places(&path).unwrap().bpffs, Path::new("/sys/fs/bpf/x"), "[node] may stand last");
        assert_eq!(places(&dir.path().join("missing")).unwrap().socket, Node::default().socket);
        let error = places(dir.path()).unwrap_err();
        assert!(error.to_string().contains("it is not a file"), "{error}");
    }
}
