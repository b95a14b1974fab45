//! Builds the eBPF objects of `lb-ebpf` into `OUT_DIR`, with whatever on this machine can build them.

use std::{env, path::Path};

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let out = env::var_os("OUT_DIR").context("this is run by cargo, which says where to build")?;
    xtask::ebpf::build(&["forwarder", "decap", "jiffies", "losses", "lab"], Path::new(&out))
}
