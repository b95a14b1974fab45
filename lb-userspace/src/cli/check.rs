//! `naru check`: a config file and this machine, without a daemon and without changing anything.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use nix::net::if_::if_nametoindex;
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    table::Output,
};
use crate::{
    controller::{applied_last, existing_interfaces, lost_answers},
    dataplane::{Mode, kernel},
    health,
    model::{Backend, Config, ProbeVia, Target, XdpMode},
    network::{self, interface_named, takes_tags},
    plan::Removal,
    prober::{interfaces_of, likely_source_of},
    seed::HashSeed,
    source::file::ReadError,
};

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
    if let Err((vip, error)) = health::check_means(&config) {
        problems.push(format!("`health` of vip {vip}: {error}"));
    }
    let mut warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    warnings.extend(unseen_answers(&config));
    // Of what was applied last, if that can be read: a check may be anybody's.
    if let Some(applied) = applied_last(&config.node.state, file)
        && let Some(removal) = Removal::between(&applied, &config)
    {
        warnings.push(format!("`naru apply` would refuse this: {removal}"));
    }
    let release = kernel::release();
    problems.extend(kernel::too_old(&release));
    match kernel::version(&release) {
        Some(version) if (kernel::OLDEST..kernel::FRAGS).contains(&version) => warnings.push(format!(
            "kernel {release}: interfaces with an MTU above 3506 bytes can be attached in generic mode only; native \
             mode needs {}.{} or newer",
            kernel::FRAGS.0,
            kernel::FRAGS.1
        )),
        Some(_) => {}
        None => warnings.push(format!(
            "the kernel's version `{release}` cannot be read: is it {}.{} or newer?",
            kernel::OLDEST.0,
            kernel::OLDEST.1
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

/// What to say of answers to probes that the data plane will not see, as this host routes now.
fn unseen_answers(config: &Config) -> Vec<String> {
    let addresses: HashSet<_> = config.vips.iter().map(|vip| vip.address).collect();
    let ways = config.vips.iter().flat_map(|vip| {
        let is_probed = |own: &&Backend| vip.health_of(own.address).is_some_and(|health| health.via == ProbeVia::Path);
        vip.backends.iter().filter(is_probed).map(|own| (vip.address, Target::of(&config.node, vip, own)))
    });
    // A server is asked for once for all VIPs of a family.
    let ways: HashMap<_, _> = ways.map(|(vip, target)| ((vip.is_ipv4(), target), vip)).collect();
    let is_vip = |own| addresses.contains(&own);
    let sources = ways.iter().filter_map(|((_, target), vip)| likely_source_of(*vip, target, is_vip));
    let generic = config.node.xdp_mode == XdpMode::Generic;
    let mode = if generic { Mode::Generic } else { Mode::Native };
    let named = config.node.interfaces.iter().filter_map(|name| interface_named(name).ok());
    let attached: Vec<_> = named.map(|(ifindex, _)| (ifindex, mode)).collect();
    match network::interfaces() {
        // That none is attached is said by itself.
        Ok(links) if !attached.is_empty() => {
            let links: Vec<_> = links.iter().collect();
            lost_answers(&interfaces_of(&sources.collect()), &links, &attached, takes_tags)
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_interfaces_are_told_with_those_that_exist() {
        let mut config = Config::default();
        config.node.interfaces = vec!["lo".into(), "no-such-if".into()];
        let missing = missing_interfaces(&config, &["eth0".into(), "eth1".into()]);
        assert_eq!(missing, ["`interfaces` in [node]: there is no no-such-if here; there are eth0, eth1"]);
    }
}
