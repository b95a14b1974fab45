//! Whether probes have what they need, before a config is in force.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    probe::{PING_GROUPS, may_echo},
    trust::{self, TrustError},
};
use crate::model::{Check, Config, Difference, Health, Vip};

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
    check(config.vips.iter().flat_map(|vip| vip.healths().map(move |health| (vip, health))))
}

/// The same, of what VIPs of `after` ask that they do not in `before`: what has gone bad since is in the way of no other
/// change.
///
/// # Errors
///
/// There is one.
pub fn check_new_means(before: &Config, after: &Config) -> Result<(), (String, MeansError)> {
    let Difference { gone, come } = before.difference(after);
    let gone: HashMap<&str, &Arc<Vip>> = gone.into_iter().map(|vip| (vip.name.as_str(), vip)).collect();
    let is_new = |(vip, health): &(&Arc<Vip>, &Arc<Health>)| {
        let old = gone.get(vip.name.as_str()).into_iter().flat_map(|old| old.healths());
        old.into_iter().all(|old| old.check != health.check)
    };
    check(come.into_iter().flat_map(|vip| vip.healths().map(move |health| (vip, health))).filter(is_new))
}

fn check<'a>(asked: impl Iterator<Item = (&'a Arc<Vip>, &'a Arc<Health>)>) -> Result<(), (String, MeansError)> {
    let mut seen = HashSet::new();
    for (vip, health) in asked {
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
    use crate::{
        model::Program,
        plan::fixtures::{config, vip},
    };

    #[test]
    fn what_was_asked_before_is_in_the_way_of_no_other_change() {
        let asked = |path: &str, weight| {
            let mut vip = vip("web", "192.0.2.1", &["tcp/80"], &["10.0.0.1"]);
            vip.health = Some(Arc::new(Health::new(Check::Exec(Program { command: vec![path.to_owned()] }))));
            vip.backends[0].weight = weight;
            config([vip])
        };
        let before = asked("/nowhere/probe", 1);
        assert!(check_means(&before).is_err());
        check_new_means(&before, &asked("/nowhere/probe", 2)).unwrap();
        check_new_means(&before, &asked("/bin/sh", 1)).unwrap();
        let (vip, error) = check_new_means(&before, &asked("/nowhere/other", 1)).unwrap_err();
        assert_eq!(vip, "web");
        assert!(error.to_string().starts_with("/nowhere/other cannot be started"), "{error}");
        check_new_means(&Config::default(), &before).unwrap_err();
    }

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
