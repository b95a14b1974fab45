//! Builds the eBPF objects of `lb-ebpf` into `OUT_DIR`, with whatever on this machine can build them.

use anyhow::Context as _;
use aya_build::{Package, Toolchain, build_ebpf};
use xtask::toolchain::BpfToolchain;

fn main() -> anyhow::Result<()> {
    let root = xtask::workspace();
    for dir in ["lb-common/src", "lb-common/Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(dir).display());
    }
    let toolchain = BpfToolchain::find().context(
        "nothing on this machine can build for bpfel-unknown-none: run `cargo xtask setup`, which installs what is \
         missing",
    )?;
    // aya-build turns every line that the inner cargo prints into a warning.
    let quiet = ("CARGO_TERM_QUIET", "true".into());
    for (name, value) in toolchain.environment().into_iter().chain([quiet]) {
        // SAFETY: a build script has one thread here.
        unsafe { std::env::set_var(name, value) };
    }
    let lb_ebpf = root.join("lb-ebpf");
    build_ebpf(
        [Package {
            name: "lb-ebpf",
            root_dir: lb_ebpf.to_str().context("the path of the workspace is not UTF-8")?,
            features: &["bpf"],
            ..Package::default()
        }],
        Toolchain::Custom(&toolchain.compiler.toolchain),
    )
}
