//! Builds what runs in the kernel: `lb-ebpf` with its programs, for the eBPF target. One toolchain makes the same objects
//! for every build of this workspace, and they have one build directory.

use std::{env, ffi::OsString, fs, path::Path, process::Command};

use anyhow::{Context as _, bail};

use crate::{target_dir, toolchain::BpfToolchain, workspace};

const TARGET: &str = "bpfel-unknown-none";

/// Builds the `programs` of `lb-ebpf` into the directory `out`, for a build script, whose output says when again.
///
/// # Errors
///
/// There is nothing on this machine that could, or they do not build; what is wrong with them is on standard error.
pub fn build(programs: &[&str], out: &Path) -> anyhow::Result<()> {
    let root = workspace();
    let toolchain = BpfToolchain::find().context(
        "nothing on this machine can build for bpfel-unknown-none: run `cargo xtask setup`, which installs what is \
         missing",
    )?;
    let inputs = ["lb-ebpf", "lb-common/src", "lb-common/Cargo.toml", "Cargo.toml", "Cargo.lock"];
    for path in inputs.map(|path| root.join(path)).iter().chain([&toolchain.linker]) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    let shared = target_dir().join("ebpf");
    // A checkout that may not be written to is built elsewhere.
    let directory = if fs::create_dir_all(&shared).is_ok() { shared } else { out.join("ebpf") };
    let mut build = cargo(&toolchain, "build", &directory)?;
    let status = build.args(programs.iter().flat_map(|program| ["--bin", program])).status();
    let status = status.with_context(|| format!("cannot run {build:?}"))?;
    if !status.success() {
        bail!("{build:?} failed ({status})");
    }
    for program in programs {
        let built = directory.join(TARGET).join("release").join(program);
        fs::copy(&built, out.join(program)).with_context(|| format!("cannot copy {}", built.display()))?;
    }
    Ok(())
}

/// Clippy of `toolchain`, over all of `lb-ebpf`.
///
/// # Errors
///
/// The linker has gone.
pub fn clippy(toolchain: &BpfToolchain) -> anyhow::Result<Command> {
    let mut clippy = cargo(toolchain, "clippy", &target_dir().join("ebpf"))?;
    clippy.args(["--lib", "--bins"]);
    Ok(clippy)
}

/// A cargo of `toolchain` that does `verb` with `lb-ebpf`, in the build directory `directory`.
fn cargo(toolchain: &BpfToolchain, verb: &str, directory: &Path) -> anyhow::Result<Command> {
    let mut cargo = toolchain.compiler.cargo();
    cargo.args([verb, "--release", "--package", "lb-ebpf", "--features", "bpf"]);
    cargo.args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"]).arg(directory);
    // Not one that the cargo which runs this may have locked.
    cargo.env("CARGO_BUILD_BUILD_DIR", directory);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain)?);
    // Nothing of the toolchain that this runs in is to be left.
    cargo.env_remove("RUSTC").env_remove("RUSTC_WORKSPACE_WRAPPER").env_remove("CARGO");
    cargo.envs(toolchain.environment()).current_dir(workspace().join("lb-ebpf"));
    Ok(cargo)
}

fn flags(toolchain: &BpfToolchain) -> anyhow::Result<OsString> {
    let linker = &toolchain.linker;
    let metadata = fs::metadata(linker).with_context(|| format!("cannot look at {}", linker.display()))?;
    let changed = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.to_owned());
    let flags = [
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
        // BTF describes the types of maps and programs to the kernel; it is made of debug information.
        "-Cdebuginfo=2".to_owned(),
        // Arithmetic and comparisons of 32 bits (kernel 5.1), without which every such value is cleared by two shifts.
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Cargo tells linkers apart by their path alone.
        format!("-Cmetadata=linker-{}-{}", metadata.len(), changed.as_secs()),
    ];
    Ok(flags.join("\x1f").into())
}
