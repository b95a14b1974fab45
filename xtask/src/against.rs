//! Binaries of another commit, built in a work tree of its own: the bench of `cargo xtask bench packet --against
//! REVISION`, and the version before this one, from which `cargo xtask test` upgrades.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

const FLAG: &str = "--against";

/// The version before this one: upgrades are from it. To be moved when a version is released, and never past a change
/// of a map's layout that a released version does not have.
const BEFORE: &str = "33d673a";

/// The arguments with the path of a built `naru-bench` in the place of the revision, where they name one.
///
/// # Errors
///
/// There is no such revision, or it does not build.
pub fn resolve(mut arguments: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    for index in 0..arguments.len() {
        let Some(argument) = arguments[index].to_str() else { continue };
        if let Some(revision) = argument.strip_prefix("--against=") {
            arguments[index] = [FLAG.into(), bench(revision)?.into_os_string()].join("=".as_ref());
        } else if argument == FLAG
            && let Some(revision) = arguments.get(index + 1)
        {
            let revision = revision.to_str().context("the name of a revision is not UTF-8")?;
            arguments[index + 1] = bench(revision)?.into();
        }
    }
    Ok(arguments)
}

/// Builds `naru-bench` of a revision. It is kept: a second run over the same commit has nothing to build.
fn bench(revision: &str) -> anyhow::Result<PathBuf> {
    let tree = tree(&commit(revision)?)?;
    let target = tree.join("target");
    let options = ["--quiet", "--release", "--locked", "--bin", "naru-bench"];
    build("naru-bench", &options, &tree, &target)?;
    Ok(target.join("release/naru-bench"))
}

/// Builds `naru` of the version before this one, with the profile of the tests. It is kept.
///
/// # Errors
///
/// Git does not know the version, or it does not build.
pub fn naru_before() -> anyhow::Result<PathBuf> {
    let commit = commit(BEFORE)?;
    let kept = xtask::target_dir().join("before").join(&commit);
    if kept.exists() {
        return Ok(kept);
    }
    // In a place of its own: cargo takes the crates of one workspace in two places for the same.
    let tree = tree(&commit)?;
    let target = tree.join("target");
    lend(&target);
    // By the profile of this workspace, so that the crates which are not its own are the same.
    let profile = xtask::workspace().join("Cargo.toml");
    let profile = profile.to_str().context("the path of the workspace is not UTF-8")?;
    let options = ["--quiet", "--locked", "--workspace", "--bin", "naru", "--config", profile];
    build("naru", &options, &tree, &target)?;
    let directory = kept.parent().expect("it lies in a directory");
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let half = kept.with_extension("half");
    let copied = fs::copy(target.join("debug/naru"), &half).and_then(|_| fs::rename(&half, &kept));
    copied.with_context(|| format!("cannot make {}", kept.display()))?;
    // A gigabyte that nobody needs any more.
    for directory in ["debug", "ebpf"] {
        fs::remove_dir_all(target.join(directory)).with_context(|| format!("cannot remove {}", target.display()))?;
    }
    Ok(kept)
}

/// Gives a work tree what is built here of the crates that are not this workspace's, for either target: most of a build
/// is those. Where that cannot be, they are built once more.
fn lend(target: &Path) {
    type Copy = fn(&Path) -> anyhow::Result<()>;
    for (directory, copy) in [("debug", copy_foreign as Copy), ("ebpf", copy_ebpf)] {
        let theirs = target.join(directory);
        if theirs.exists() {
            continue;
        }
        // Whole or not at all.
        let half = target.join("half");
        let _ = fs::remove_dir_all(&half);
        if let Err(error) = copy(&half).and_then(|()| Ok(fs::rename(half.join(directory), &theirs)?)) {
            eprintln!("building every crate of {directory} anew: {error:#}");
        }
        let _ = fs::remove_dir_all(&half);
    }
}

/// A copy, in another target directory, of what is built here for the kernel. What of it is this workspace's is built
/// anew, as it lies in another place.
fn copy_ebpf(target: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(target)?;
    succeed(archive().arg(xtask::target_dir().join("ebpf")).arg(target))
}

/// A copy, in another target directory, of what is built here of crates that are not this workspace's.
fn copy_foreign(target: &Path) -> anyhow::Result<()> {
    let (own, copy) = (xtask::target_dir().join("debug"), target.join("debug"));
    let is_of_a_crate = |path: &PathBuf| {
        path.extension().and_then(OsStr::to_str).is_some_and(|it| matches!(it, "rlib" | "rmeta" | "so" | "d"))
    };
    let crates = fs::read_dir(own.join("deps"))?.flatten().map(|entry| entry.path()).filter(is_of_a_crate);
    fs::create_dir_all(copy.join("deps"))?;
    succeed(archive().args(crates).arg(copy.join("deps")))?;
    succeed(archive().args([".fingerprint", "build"].map(|part| own.join(part))).arg(&copy))?;
    let mut clean = super::cargo(&["clean", "--quiet", "--workspace", "--target-dir"]);
    succeed(clean.arg(target).env_remove("CARGO_TARGET_DIR"))
}

/// Copies files with their times, by which cargo sees what is fresh.
fn archive() -> Command {
    let mut cp = Command::new("cp");
    cp.arg("--archive");
    cp
}

/// A work tree of a commit, under the target directory.
fn tree(commit: &str) -> anyhow::Result<PathBuf> {
    let tree = xtask::target_dir().join("against").join(commit);
    if !tree.join("Cargo.toml").exists() {
        // Forced, as git may remember a tree that went with an earlier target directory.
        let mut add = git(&["worktree", "add", "--force", "--detach"]);
        succeed(add.arg(&tree).arg(commit))?;
    }
    let target = tree.join("target");
    fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    // What setup built for itself serves both.
    let setup = target.join("setup");
    // The link, wherever it leads.
    if setup.symlink_metadata().is_err() {
        symlink(xtask::setup_dir(), &setup).with_context(|| format!("cannot make {}", setup.display()))?;
    }
    Ok(tree)
}

fn build(what: &str, options: &[&str], tree: &Path, target: &Path) -> anyhow::Result<()> {
    eprintln!("building {what} of {} …", tree.display());
    let mut build = super::cargo(&["build"]);
    let build = build.args(options).arg("--target-dir").arg(target);
    build.env("CARGO_INCREMENTAL", "0");
    succeed(build.env_remove("CARGO_TARGET_DIR").current_dir(tree))
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
