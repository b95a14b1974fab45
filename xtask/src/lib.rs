//! What both `cargo xtask` and build scripts know of this workspace: where it is, and what builds eBPF on this machine.

use std::path::{Path, PathBuf};

pub mod ebpf;
pub mod toolchain;

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Where cargo builds.
pub fn target_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    workspace().join(target)
}

/// Where setup keeps what it builds for itself.
pub fn setup_dir() -> PathBuf {
    target_dir().join("setup")
}
