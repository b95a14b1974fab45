//! `naru check`: a config file and this machine, without a daemon and without changing anything.

use std::path::{Path, PathBuf};

use nix::net::if_::if_nametoindex;
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    table::Output,
};
use crate::{
    controller::{applied_last, existing_interfaces},
    model::Config,
    plan::Removal,
    seed::HashSeed,
    source::file::ReadError,
};

/// The oldest kernel that the data plane runs on: the first with long-term support that has compare-and-swap for programs
/// (5.12), bpf_link for XDP and memory-mapped arrays.
const KERNEL_FLOOR: (u32, u32) = if cfg!(target_arch = "aarch64") { (5, 18) } else { (5, 15) };

/// Since this kernel, XDP programs take frames of more than one buffer (`xdp.frags`).
const KERNEL_FRAGS: (u32, u32) = (5, 18);

/// What a check found of a valid config, as JSON.
#[derive(Debug, Serialize)]
struct Checked {
    /// The file.
    file: PathBuf,
    /// Number of VIPs.
    vips: usize,
    /// Number of backends over all VIPs.
    backends: usize,
    /// What the operator should look at although it is allowed.
    warnings: Vec<String>,
}

/// Checks `file`, then whether this machine has what it needs.
pub fn check(output: Output, file: &Path) -> Result<Exit, Failure> {
    let config = Config::read(file).map_err(|error| {
        let exit = match error {
            ReadError::Unreadable { .. } | ReadError::Seed { .. } => Exit::Failed,
            ReadError::Invalid(_) => Exit::Invalid,
        };
        Failure::new(exit, format!("the config is not valid:\n{error}"))
    })?;
    let mut problems = missing_interfaces(&config, &existing_interfaces());
    problems.extend(HashSeed::load(config.node.hash_seed_file.as_deref()).err().map(|error| error.to_string()));
    let mut warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    // Of what was applied last, if that can be read: a check may be anybody's.
    if let Some(applied) = applied_last(&config.node.state, file)
        && let Some(removal) = Removal::between(&applied, &config)
    {
        warnings.push(format!("`naru apply` would refuse this: {removal}"));
    }
    let release = kernel_release();
    match version(&release) {
        Some(kernel) if kernel < KERNEL_FLOOR => problems
            .push(format!("kernel {release} is too old: naru needs {}.{} or newer", KERNEL_FLOOR.0, KERNEL_FLOOR.1)),
        Some(kernel) if kernel < KERNEL_FRAGS => warnings.push(format!(
            "kernel {release}: interfaces with an MTU above 3506 bytes can be attached in generic mode only; native \
             mode needs {}.{} or newer",
            KERNEL_FRAGS.0, KERNEL_FRAGS.1
        )),
        Some(_) => {}
        None => warnings.push(format!(
            "the kernel's version `{release}` cannot be read: is it {}.{} or newer?",
            KERNEL_FLOOR.0, KERNEL_FLOOR.1
        )),
    }
    if !problems.is_empty() {
        return Err(Failure::new(Exit::Invalid, format!("{}: {}", file.display(), problems.join("\n"))));
    }
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    let backends = config.vips.iter().map(|vip| vip.backends.len()).sum();
    let checked = Checked { file: file.to_owned(), vips: config.vips.len(), backends, warnings };
    output.print(&checked, |Checked { file, vips, backends, .. }| {
        format!("{} is valid: {vips} VIPs, {backends} backends\n", file.display())
    });
    Ok(Exit::Ok)
}

fn missing_interfaces(config: &Config, existing: &[String]) -> Vec<String> {
    let missing = config.node.interfaces.iter().filter(|name| if_nametoindex(name.as_str()).is_err());
    let existing = existing.join(", ");
    missing.map(|name| format!("`interfaces` in [node]: there is no {name} here; there are {existing}")).collect()
}

fn kernel_release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Major and minor version of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert_eq!(version("6.18-rc1"), Some((6, 18)));
        assert_eq!(version("linux"), None);
        assert!(version("5.14.16").unwrap() < KERNEL_FLOOR && version("5.18.0").unwrap() >= KERNEL_FRAGS);
    }

    #[test]
    fn missing_interfaces_are_told_with_those_that_exist() {
        let mut config = Config::default();
        config.node.interfaces = vec!["lo".into(), "no-such-if".into()];
        let missing = missing_interfaces(&config, &["eth0".into(), "eth1".into()]);
        assert_eq!(missing, ["`interfaces` in [node]: there is no no-such-if here; there are eth0, eth1"]);
    }
}
