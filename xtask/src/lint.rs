//! `cargo xtask lint`: clippy, with warnings as errors. Over the workspace as it is built for this machine, and over
//! what runs in the kernel as it is built for that: `lb-ebpf` with its programs, for the eBPF target.

use std::process::ExitCode;

use anyhow::Context as _;
use xtask::{ebpf, toolchain::BpfToolchain};

use crate::{cargo, finish, setup};

/// Runs both.
pub fn run() -> anyhow::Result<ExitCode> {
    let workspace = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    finish(&mut cargo(&workspace))?;
    let toolchain = BpfToolchain::find().context("setup has found what builds for eBPF, and it is gone")?;
    if let Err(error) = setup::install_clippy(&toolchain.compiler) {
        eprintln!("NOT LINTED: what runs in the kernel: there is no clippy of the compiler that builds it: {error:#}");
        return Ok(ExitCode::SUCCESS);
    }
    finish(ebpf::clippy(&toolchain)?.args(["--", "-D", "warnings"]))
}
