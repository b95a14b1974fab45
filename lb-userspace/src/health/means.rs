//! Whether probes have what they need, before a config is in force.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    probe::{PING_GROUPS, may_echo},
    trust::{self, TrustError},
};
use crate::model::{Check, Config};

/// What probes have not.
#[derive(Debug, thiserror::Error)]
pub enum MeansError {
    /// Files of probes over TLS.
    #[error(transparent)]
    Files(#[from] TrustError),
    /// A program.
    #[error("{} {what}", path.display())]
    Program {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// The right to send echo requests.
    #[error("{PING_GROUPS}")]
    Echo,
}

/// The first VIP of a config whose probes have not what they need, and what that is.
///
/// # Errors
///
/// There is one.
pub fn check_means(config: &Config) -> Result<(), (String, MeansError)> {
    let mut seen = HashSet::new();
    for (vip, health) in config.vips.iter().flat_map(|vip| vip.healths().map(move |health| (vip, health))) {
        let fails = |error| (vip.name.clone(), error);
        match &health.check {
            // The daemon is root's; of others nothing follows.
            Check::Icmp(_) if nix::unistd::geteuid().is_root() && !may_echo() => return Err(fails(MeansError::Echo)),
            Check::Exec(program) => check_program(Path::new(program.path())).map_err(fails)?,
            check => {
                if let Some(files) = check.trust().filter(|files| seen.insert(*files)) {
                    trust::check(files).map_err(|error| fails(error.into()))?;
                }
            }
        }
    }
    Ok(())
}

/// Programs have the daemon's user: nobody but root may change them, or put others in their place.
fn check_program(path: &Path) -> Result<(), MeansError> {
    let wrong = |what: String| MeansError::Program { path: path.to_owned(), what };
    let unreadable = |error: io::Error| wrong(format!("cannot be started: {error}; put a program there"));
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
        return Err(wrong("is no program: it is no file, or may not be executed (`chmod +x`)".to_owned()));
    }
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    match changeable(path).map_err(unreadable)? {
        None => Ok(()),
        Some(part) => {
            let part = part.display();
            Err(wrong(format!(
                "would have the daemon's user, and {part} can be changed by others than root: `chown -h root {part}` and \
                 `chmod go-w {part}`"
            )))
        }
    }
}

/// The first thing on the way to a file, or the file, that others than root may change: directories, and links and what
/// they lead to.
fn changeable(path: &Path) -> io::Result<Option<PathBuf>> {
    let parts = |path: &Path| path.components().map(|part| PathBuf::from(part.as_os_str())).rev().collect::<Vec<_>>();
    let mut left = parts(path);
    let mut here = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == Path::new("..") {
            here.pop();
            continue;
        }
        here.push(part);
        let metadata = fs::symlink_metadata(&here)?;
        // In a directory such as /tmp, nobody takes away what is another's. A link has no mode of its own.
        let is_sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
        let is_writable = metadata.mode() & 0o022 != 0 && !is_sticky && !metadata.is_symlink();
        if metadata.uid() != 0 || is_writable {
            return Ok(Some(here));
        }
        if metadata.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target = fs::read_link(&here)?;
            here.pop();
            left.extend(parts(&target));
        }
    }
    Ok(None)
}

/// As many links the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

    use super::*;

    #[test]
    fn a_program_that_is_none_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("probe");
        let fails = |path: &Path| check_program(path).unwrap_err().to_string();
        assert!(
            fails(&path).ends_with("cannot be started: No such file or directory (os error 2); put a program there")
        );
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(fails(&path).contains("is no program"));
        assert!(fails(directory.path()).contains("is no program"));
    }

    #[test]
    #[ignore = "needs root"]
    fn a_program_that_others_may_change_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("probe");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&path, 0o755);
        check_program(&path).unwrap();
        let fails = |what: &Path| {
            let told = format!("{} can be changed by others than root", what.display());
            let error = check_program(&path).unwrap_err().to_string();
            assert!(error.contains(&told), "{error}");
        };
        mode(&path, 0o775);
        fails(&path);
        mode(&path, 0o755);
        chown(&path, Some(1), None).unwrap();
        fails(&path);
        chown(&path, Some(0), None).unwrap();
        mode(directory.path(), 0o777);
        fails(directory.path());
        mode(directory.path(), 0o755);
        // Who may change a link puts another program in its place.
        let (open, link) = (directory.path().join("open"), directory.path().join("open/link"));
        fs::create_dir(&open).unwrap();
        symlink("../probe", &link).unwrap();
        check_program(&link).unwrap();
        chown(&open, Some(1), None).unwrap();
        assert!(check_program(&link).unwrap_err().to_string().contains("open can be changed"));
        chown(&open, Some(0), None).unwrap();
        lchown(&link, Some(1), None).unwrap();
        assert!(check_program(&link).unwrap_err().to_string().contains("link can be changed"));
        let round = directory.path().join("round");
        symlink("round", &round).unwrap();
        assert!(check_program(&round).is_err());
        check_program(Path::new("/bin/sh")).unwrap();
    }
}
