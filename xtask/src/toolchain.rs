//! Finds what can build for `bpfel-unknown-none`: a compiler with the source of its library, and a bpf-linker made with
//! the compiler's LLVM. Looks only; `cargo xtask setup` installs.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use crate::setup_dir;

/// The bpf-linker that setup installs.
pub const BPF_LINKER_VERSION: &str = "0.13.0";

/// A compiler whose library can be built for eBPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// What `rustup run` takes: a toolchain's name, or the prefix of a distribution's compiler.
    pub toolchain: String,
    /// Whether unstable features need `RUSTC_BOOTSTRAP=1`.
    pub bootstrap: bool,
    /// Release of rustc, such as `1.96.0`.
    pub release: String,
    /// Major version of its LLVM.
    pub llvm: u32,
}

/// A compiler and the linker that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpfToolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// Path of bpf-linker.
    pub linker: PathBuf,
}

impl BpfToolchain {
    /// The first compiler of this machine for which it has a linker as well.
    pub fn find() -> Option<Self> {
        Compiler::all().find_map(|compiler| Some(Self { linker: compiler.linker()?, compiler }))
    }

    /// The environment that a `cargo build` for eBPF needs.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut variables = vec![("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", self.linker.clone().into_os_string())];
        if self.compiler.bootstrap {
            variables.push(("RUSTC_BOOTSTRAP", "1".into()));
        }
        variables
    }
}

impl Compiler {
    /// Those that this machine has of: rustup's nightly with rust-src, the distribution's rustc with its source.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::nightly as fn() -> _, Self::distribution].into_iter().filter_map(|probe| probe())
    }

    /// The cargo that goes with it.
    pub fn cargo(&self) -> Command {
        if in_path("rustup") { rustup(&["run", &self.toolchain, "cargo"]) } else { Command::new("cargo") }
    }

    fn nightly() -> Option<Self> {
        Self::probe(|| rustup(&["run", "nightly", "rustc"]), "nightly", false)
    }

    fn distribution() -> Option<Self> {
        Self::probe(|| Command::new("/usr/bin/rustc"), "/usr", true)
    }

    /// The bpf-linker that reads what this compiler writes: the one that setup built, else one in `PATH`.
    fn linker(&self) -> Option<PathBuf> {
        let in_path = env::var_os("PATH").unwrap_or_default();
        std::iter::once(linker_root(self.llvm).join("bin"))
            .chain(env::split_paths(&in_path))
            .map(|dir| dir.join("bpf-linker"))
            .find(|path| linker_fits(path, self))
    }

    /// Asks the compiler what it is; `None` where there is none, it has no library source, or it is too old for this
    /// workspace.
    fn probe(rustc: impl Fn() -> Command, toolchain: &str, bootstrap: bool) -> Option<Self> {
        let text = stdout(rustc().arg("-vV"))?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let sysroot = stdout(rustc().args(["--print", "sysroot"]))?;
        let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
        let release = field("release:")?;
        (library.exists() && version(release) >= version(env!("CARGO_PKG_RUST_VERSION"))).then_some(())?;
        Some(Self {
            toolchain: toolchain.into(),
            bootstrap,
            release: release.into(),
            llvm: field("LLVM version:")?.split('.').next()?.parse().ok()?,
        })
    }
}

/// Major and minor version of a release such as `1.96.0-nightly`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// Whether the shell of root would find `program`.
pub fn in_path(program: &str) -> bool {
    let sbin = ["/usr/sbin", "/sbin"].map(Into::into);
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(sbin).any(|dir| dir.join(program).exists())
}

/// Where setup installs the bpf-linker for this LLVM.
pub fn linker_root(llvm: u32) -> PathBuf {
    setup_dir().join(format!("bpf-linker-{BPF_LINKER_VERSION}-llvm-{llvm}"))
}

/// Whether this bpf-linker can read what `compiler` writes. It does not say by itself; a dynamically linked one names
/// its LLVM library. One that carries its LLVM within (a prebuilt release) is made for nightly.
fn linker_fits(path: &Path, compiler: &Compiler) -> bool {
    let Ok(binary) = std::fs::read(path) else { return false };
    let names = |needle: String| binary.windows(needle.len()).any(|window| window == needle.as_bytes());
    let llvm = compiler.llvm;
    let is_static = !names("libLLVM".into());
    names(format!("libLLVM.so.{llvm}")) || names(format!("libLLVM-{llvm}")) || is_static && !compiler.bootstrap
}

/// A rustup command that installs nothing by itself.
pub fn rustup(args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(args).env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// Standard output of a command that succeeded.
fn stdout(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}
