//! `cargo xtask setup`: installs what is missing to build and run naru here. What it builds for itself goes under the
//! target directory; what a distribution packages comes from the distribution; toolchains come from rustup.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context as _, bail};
use xtask::toolchain::{BPF_LINKER_VERSION, BpfToolchain, Compiler, in_path, linker_root, rustup};

/// Programs that the tests run, and the Debian package of each.
const TOOLS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("nft", "nftables"),
    ("setpriv", "util-linux"),
    ("systemd-analyze", "systemd"),
];

/// Debian's compiler with its library source, from the line of packages that follows the current release.
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// What makes rustup install a compiler with library source.
const NIGHTLY: [&str; 7] = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];

/// Installs what is missing. `verbose` says what is there as well.
pub fn run(verbose: bool) -> anyhow::Result<()> {
    install_tools()?;
    let toolchain = match BpfToolchain::find() {
        Some(toolchain) => toolchain,
        None => install_toolchain()?,
    };
    if verbose {
        let BpfToolchain { compiler, linker } = toolchain;
        let Compiler { toolchain, release, llvm, bootstrap: _ } = compiler;
        println!("eBPF compiler: rustc {release} of toolchain `{toolchain}`, LLVM {llvm}");
        println!("eBPF linker:   {}", linker.display());
        println!("test tools:    {}", TOOLS.map(|(program, _)| program).join(", "));
    }
    Ok(())
}

/// Installs clippy for `compiler`, where that has none.
pub fn install_clippy(compiler: &Compiler) -> anyhow::Result<()> {
    let version = compiler.cargo().args(["clippy", "--version"]).output();
    if version.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    if compiler.bootstrap {
        return apt_install(&["rust-web-clippy"]);
    }
    run_quietly(&mut rustup(&["component", "add", "clippy", "--toolchain", &compiler.toolchain]))
}

fn install_tools() -> anyhow::Result<()> {
    let missing: Vec<&str> =
        TOOLS.into_iter().filter(|(program, _)| !in_path(program)).map(|(_, package)| package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt_install(&missing).with_context(|| format!("the tests need {}", missing.join(" and ")))
}

/// Makes a pair of what is there already, or else installs one: the distribution's compiler where there is one, since
/// the distribution has its LLVM as well; rustup's nightly otherwise.
fn install_toolchain() -> anyhow::Result<BpfToolchain> {
    let mut tried = BTreeMap::new();
    for compiler in Compiler::all() {
        if let Some(toolchain) = with_linker(&compiler, &mut tried) {
            return Ok(toolchain);
        }
    }
    for (what, install) in [
        ("the distribution's compiler and its library source", &(|| apt_install(&DEBIAN_COMPILER)) as &dyn Fn() -> _),
        ("rustup's nightly with rust-src", &install_nightly),
    ] {
        say(&format!("installing {what}"));
        if let Err(error) = install() {
            say(&format!("{what}: not to be had here"));
            tried.insert(what.to_owned(), format!("{error:#}"));
            continue;
        }
        for compiler in Compiler::all() {
            if let Some(toolchain) = with_linker(&compiler, &mut tried) {
                return Ok(toolchain);
            }
        }
    }
    bail!(
        "nothing that can build for eBPF could be installed; it takes `rustup {}` and a bpf-linker for its LLVM \
         (`cargo binstall bpf-linker`), or the distribution's rustc with its source and LLVM. Tried:\n{}",
        NIGHTLY.join(" "),
        tried.iter().map(|(what, error)| format!("{what}: {error}")).collect::<Vec<_>>().join("\n")
    )
}

fn install_nightly() -> anyhow::Result<()> {
    if !in_path("rustup") {
        bail!("there is no rustup");
    }
    run_quietly(&mut rustup(&NIGHTLY))
}

/// The compiler with a linker made for it, if one can be made. What was tried once is not tried again.
fn with_linker(compiler: &Compiler, tried: &mut BTreeMap<String, String>) -> Option<BpfToolchain> {
    let what = format!("a bpf-linker for LLVM {}", compiler.llvm);
    if !tried.contains_key(&what)
        && let Err(error) = install_linker(compiler.llvm)
    {
        say(&format!("{what}: not to be had here"));
        tried.insert(what, format!("{error:#}"));
    }
    BpfToolchain::find()
}

/// Builds the bpf-linker for this LLVM, whose development files come from the distribution.
fn install_linker(llvm: u32) -> anyhow::Result<()> {
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("include/llvm-c").exists() {
        say(&format!("bpf-linker must be made with LLVM {llvm}; installing its development files"));
        apt_install(&[&format!("llvm-{llvm}-dev")]).with_context(|| {
            format!(
                "no bpf-linker for LLVM {llvm} in PATH, and none can be built: install one (`cargo binstall \
                 bpf-linker` or the release of the linker's project), or LLVM {llvm} with its development files"
            )
        })?;
    }
    let root = linker_root(llvm);
    say(&format!("building bpf-linker {BPF_LINKER_VERSION} into {} (under a minute)", root.display()));
    let bin = format!("{prefix}/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let feature = format!("llvm-{llvm}");
    // Unoptimised, as it spends its time in LLVM.
    let arguments = ["install", "bpf-linker", "--debug", "--locked", "--quiet", "--version", BPF_LINKER_VERSION];
    run_quietly(
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(arguments)
            .args(["--no-default-features", "--features", &feature, "--root"])
            .arg(&root)
            .env("LLVM_PREFIX", &prefix)
            .env("PATH", format!("{bin}:{path}")),
    )
}

/// Installs Debian packages. The package lists are brought up to date first: old ones name an old compiler.
fn apt_install(packages: &[&str]) -> anyhow::Result<()> {
    if !in_path("apt-get") {
        bail!("this is not a Debian system: install what provides {} yourself", packages.join(", "));
    }
    say(&format!("apt-get install {}", packages.join(" ")));
    let updated = run_quietly(Command::new("apt-get").arg("update"));
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    // A mirror that is out of reach matters only where the packages are not there either.
    run_quietly(&mut install).or_else(|error| updated.and(Err(error)))
}

fn say(what: &str) {
    println!("setup: {what}");
}

/// Runs a command and keeps its output for the error.
fn run_quietly(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = errors.lines().rev().take(15).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        bail!("{command:?} failed ({}):\n{}", output.status, last.join("\n"));
    }
    Ok(())
}
