//! Builds what runs in the kernel: `lb-ebpf` with its programs, for the eBPF target. The objects are the same in every
//! build of this workspace, and have one build directory.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context as _, bail};

use crate::{toolchain::BpfToolchain, workspace};

const TARGET: &str = "bpfel-unknown-none";

/// Builds the `programs` of `lb-ebpf` into the directory `out`, for a build script, whose output says when again.
///
/// # Errors
///
/// There is nothing on this machine that could, or they do not build; what is wrong with them is on standard error.
pub fn build(programs: &[&str], out: &Path) -> anyhow::Result<()> {
    let root = workspace();
    for path in ["lb-ebpf", "lb-common/src", "lb-common/Cargo.toml", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    let toolchain = BpfToolchain::find().context(
        "nothing on this machine can build for bpfel-unknown-none: run `cargo xtask setup`, which installs what is \
         missing",
    )?;
    let mut build = cargo(&toolchain, "build");
    let status = build.arg("--bins").status().with_context(|| format!("cannot run {build:?}"))?;
    if !status.success() {
        bail!("{build:?} failed ({status})");
    }
    for program in programs {
        let built = crate::target_dir().join("ebpf").join(TARGET).join("release").join(program);
        fs::copy(&built, out.join(program)).with_context(|| format!("cannot copy {}", built.display()))?;
    }
    Ok(())
}

/// A cargo of `toolchain` that does `verb` with `lb-ebpf`: `build`, or `clippy`.
pub fn cargo(toolchain: &BpfToolchain, verb: &str) -> Command {
    let mut cargo = toolchain.compiler.cargo();
    cargo.args([verb, "--release", "--package", "lb-ebpf", "--features", "bpf"]);
    cargo.args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"]);
    cargo.arg(crate::target_dir().join("ebpf"));
    // BTF describes the types of maps and programs to the kernel; it is made of debug information.
    let architecture = format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH);
    let flags = [architecture.as_str(), "-Cdebuginfo=2", "-Clink-arg=--btf"];
    // Nothing of the toolchain that this runs in is to be left.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    cargo.env_remove("RUSTC").env_remove("RUSTC_WORKSPACE_WRAPPER").env_remove("CARGO");
    cargo.envs(toolchain.environment()).current_dir(workspace().join("lb-ebpf"));
    cargo
}
