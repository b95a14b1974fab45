//! `cargo xtask bench packet --against REVISION`: the bench of another commit, built in a work tree of its own.

use std::{ffi::OsString, os::unix::fs::symlink, path::PathBuf, process::Command};

use anyhow::{Context as _, bail};

const FLAG: &str = "--against";

/// The arguments with the path of a built `naru-bench` in the place of the revision, where they name one.
///
/// # Errors
///
/// There is no such revision, or it does not build.
pub fn resolve(mut arguments: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    for index in 0..arguments.len() {
        let Some(argument) = arguments[index].to_str() else { continue };
        if let Some(revision) = argument.strip_prefix("--against=") {
            arguments[index] = [FLAG.into(), build(revision)?.into_os_string()].join("=".as_ref());
        } else if argument == FLAG
            && let Some(revision) = arguments.get(index + 1)
        {
            let revision = revision.to_str().context("the name of a revision is not UTF-8")?;
            arguments[index + 1] = build(revision)?.into();
        }
    }
    Ok(arguments)
}

/// Builds `naru-bench` of a revision. It lies in a work tree under the target directory, by the name of its commit, and
/// is kept: a second run over the same commit has nothing to build.
fn build(revision: &str) -> anyhow::Result<PathBuf> {
    let commit = commit(revision)?;
    let tree = xtask::target_dir().join("against").join(&commit);
    if !tree.join("Cargo.toml").exists() {
        // Forced, as git may remember a tree that went with an earlier target directory.
        let mut add = git(&["worktree", "add", "--force", "--detach"]);
        succeed(add.arg(&tree).arg(&commit))?;
    }
    let target = tree.join("target");
    std::fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    // What setup built for itself serves both.
    let setup = target.join("setup");
    if !setup.exists() {
        symlink(xtask::setup_dir(), &setup).with_context(|| format!("cannot make {}", setup.display()))?;
    }
    eprintln!("building naru-bench of {commit} in {} …", tree.display());
    let mut build = super::cargo(&["build", "--quiet", "--release", "--locked", "--bin", "naru-bench", "--target-dir"]);
    succeed(build.arg(&target).env_remove("CARGO_TARGET_DIR").current_dir(&tree))?;
    Ok(target.join("release/naru-bench"))
}

/// The full name of the commit that a revision is.
fn commit(revision: &str) -> anyhow::Result<String> {
    let output = git(&["rev-parse", "--verify", "--quiet", "--end-of-options"])
        .arg(format!("{revision}^{{commit}}"))
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!("git knows no revision {revision:?} here: `git log --oneline` lists those of this branch");
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn git(arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(xtask::workspace());
    command
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}
