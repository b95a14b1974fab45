//! Whether probes have what they need, before a config is in force.

use std::collections::HashSet;

use super::{
    probe::{PING_GROUPS, may_echo},
    trust::{self, TrustError},
};
use crate::model::{Check, Config};

/// What probes have not.
#[derive(Debug, thiserror::Error)]
pub enum MeansError {
    /// Files of probes over TLS.
    #[error(transparent)]
    Files(#[from] TrustError),
    /// The right to send echo requests.
    #[error("{PING_GROUPS}")]
    Echo,
}

/// The first VIP of a config whose probes have not what they need, and what that is.
///
/// # Errors
///
/// There is one.
pub fn check_means(config: &Config) -> Result<(), (String, MeansError)> {
    let mut seen = HashSet::new();
    for vip in &config.vips {
        let Some(health) = &vip.health else { continue };
        let fails = |error| (vip.name.clone(), error);
        match &health.check {
            // The daemon is root's; of others nothing follows.
            Check::Icmp(_) if nix::unistd::geteuid().is_root() && !may_echo() => return Err(fails(MeansError::Echo)),
            check => {
                if let Some(files) = check.trust().filter(|files| seen.insert(*files)) {
                    trust::check(files).map_err(|error| fails(error.into()))?;
                }
            }
        }
    }
    Ok(())
}
