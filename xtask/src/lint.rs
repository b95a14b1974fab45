//! `cargo xtask lint`: clippy, with warnings as errors. Over the workspace as it is built for this machine, and over
//! what runs in the kernel as it is built for that: `lb-ebpf` with its programs, for the eBPF target.

use std::{
    env,
    process::{Command, ExitCode},
};

use anyhow::Context as _;
use xtask::toolchain::BpfToolchain;

use crate::{cargo, finish, setup};

/// Runs both.
pub fn run() -> anyhow::Result<ExitCode> {
    let workspace = ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    finish(&mut cargo(&workspace))?;
    let toolchain = BpfToolchain::find().context("setup has found what builds for eBPF, and it is gone")?;
    if let Err(error) = setup::install_clippy(&toolchain.compiler) {
        eprintln!("NOT LINTED: what runs in the kernel: there is no clippy of the compiler that builds it: {error:#}");
        return Ok(ExitCode::SUCCESS);
    }
    finish(&mut ebpf(&toolchain))
}

/// Clippy of the compiler that builds for eBPF, over what `lb-userspace/build.rs` builds.
fn ebpf(toolchain: &BpfToolchain) -> Command {
    let mut clippy = setup::cargo_of(&toolchain.compiler);
    clippy.args(["clippy", "--release", "--package", "lb-ebpf", "--lib", "--bins", "--features", "bpf"]);
    clippy.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"]);
    clippy.arg(xtask::target_dir().join("lint")).args(["--", "-D", "warnings"]);
    // As aya-build does. Nothing of the toolchain that this runs in is to be left.
    let architecture = format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH);
    clippy.env("CARGO_ENCODED_RUSTFLAGS", architecture).env_remove("RUSTC").env_remove("CARGO");
    clippy.envs(toolchain.environment()).current_dir(xtask::workspace().join("lb-ebpf"));
    clippy
}
