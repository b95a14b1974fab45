//! What probes say of backends: an overlay over what sources and operators want, which edits neither.
//!
//! It says which backends fail their probes. What follows is the VIP's to say (`on_failure`), and follows only for
//! backends that take flows otherwise: what an operator has drained stays so. Where all that would take flows fail, or so many
//! that the rest are fewer than the VIP's `panic`, it is more likely that the probes are at fault than all of them, or the
//! rest could not bear the load: all serve.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::BackendState;

use super::{Config, OnFailure, Vip};

/// Which backends fail their probes, by VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts(BTreeMap<String, BTreeSet<IpAddr>>);

impl Verdicts {
    /// Whether a backend fails.
    pub fn has(&self, vip: &str, backend: IpAddr) -> bool {
        self.0.get(vip).is_some_and(|failing| failing.contains(&backend))
    }

    /// All that fail: name of the VIP and address of the backend.
    pub fn iter(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.0.iter().flat_map(|(vip, failing)| failing.iter().map(move |backend| (vip.as_str(), *backend)))
    }

    /// Takes note that a backend fails, or does not any more.
    pub fn set(&mut self, vip: &str, backend: IpAddr, fails: bool) {
        if fails {
            self.0.entry(vip.to_owned()).or_default().insert(backend);
        } else if let Some(failing) = self.0.get_mut(vip) {
            failing.remove(&backend);
            if failing.is_empty() {
                self.0.remove(vip);
            }
        }
    }

    /// Forgets what it says of backends that `base` does not have, or does not have probed.
    pub fn prune(&mut self, base: &Config) {
        if self.0.is_empty() {
            return;
        }
        let probed = base.vips.iter().filter(|vip| vip.health.is_some());
        let vips: BTreeMap<&str, &Arc<Vip>> = probed.map(|vip| (vip.name.as_str(), vip)).collect();
        self.0.retain(|name, failing| {
            let vip = vips.get(name.as_str());
            failing.retain(|address| vip.is_some_and(|vip| vip.backends.iter().any(|own| own.address == *address)));
            !failing.is_empty()
        });
    }

    /// What is wanted: `config` with what follows from the probes.
    pub fn over(&self, mut config: Config) -> Config {
        if self.0.is_empty() {
            return config;
        }
        for vip in config.vips_mut() {
            let Some(failing) = self.0.get(&vip.name) else { continue };
            let Some((on_failure, panic)) = vip.health.as_ref().map(|health| (health.on_failure, health.panic)) else {
                continue;
            };
            let serving = || vip.backends.iter().filter(|own| own.effective_weight() > 0);
            let working = serving().filter(|own| !failing.contains(&own.address)).count();
            let all_serve = working == 0 || !panic.is_reached(working, serving().count());
            for own in &mut Arc::make_mut(vip).backends {
                own.fails = failing.contains(&own.address);
                own.is_out = own.fails && own.state == BackendState::Active && !all_serve;
                if own.is_out {
                    own.state = match on_failure {
                        OnFailure::Reset => BackendState::Down,
                        OnFailure::Drain => BackendState::Drain,
                    };
                }
            }
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Check, Health, ProbeVia},
        plan::fixtures::{config, vip},
    };

    fn probed(on_failure: OnFailure) -> Config {
        let mut vip = vip("web", "192.0.2.1", &["tcp/80"], &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        vip.health = Some(Arc::new(Health {
            check: Check::Tcp,
            via: ProbeVia::Path,
            port: None,
            interval: Health::INTERVAL,
            fast_interval: Health::FAST_INTERVAL,
            timeout: Health::TIMEOUT,
            rise: Health::RISE,
            fall: Health::FALL,
            on_failure,
            panic: Health::PANIC,
        }));
        config([vip])
    }

    fn failing(hosts: impl IntoIterator<Item = u8>) -> Verdicts {
        let mut verdicts = Verdicts::default();
        hosts.into_iter().for_each(|host| verdicts.set("web", IpAddr::from([10, 0, 0, host]), true));
        verdicts
    }

    fn states(config: &Config) -> Vec<(BackendState, bool)> {
        config.vips[0].backends.iter().map(|own| (own.state, own.fails)).collect()
    }

    #[test]
    fn what_follows_is_the_vips_to_say_and_not_for_those_that_operators_have_taken_out() {
        use BackendState::{Active, Down, Drain};
        for (on_failure, state) in [(OnFailure::Reset, Down), (OnFailure::Drain, Drain)] {
            let mut config = probed(on_failure);
            config.vip_mut(0).backends[1].state = Drain;
            let after = failing([1, 2]).over(config);
            assert_eq!(states(&after), [(state, true), (Drain, true), (Active, false)]);
        }
    }

    #[test]
    fn where_all_fail_all_serve() {
        use BackendState::{Active, Down};
        let all = failing([1, 2, 3]);
        assert_eq!(states(&all.over(probed(OnFailure::Reset))), [(Active, true); 3]);
        // Those that operators have taken out are not among them, nor those without weight.
        let mut config = probed(OnFailure::Reset);
        config.vip_mut(0).backends[1].state = Down;
        config.vip_mut(0).backends[2].weight = 0;
        let after = failing([1]).over(config);
        assert_eq!(states(&after), [(Active, true), (Down, false), (Active, false)]);
    }

    #[test]
    fn where_too_few_work_all_serve() {
        use BackendState::{Active, Down};
        let mut config = probed(OnFailure::Reset);
        let health = Health::clone(config.vips[0].health.as_ref().unwrap());
        config.vip_mut(0).health = Some(Arc::new(Health { panic: "60%".parse().unwrap(), ..health }));
        assert_eq!(states(&failing([1]).over(config.clone()))[0], (Down, true), "two of three are enough");
        let after = failing([1, 3]).over(config);
        assert_eq!(states(&after), [(Active, true), (Active, false), (Active, true)]);
        assert!(after.vips[0].is_in_panic());
    }

    #[test]
    fn what_is_not_probed_is_forgotten() {
        let mut verdicts = failing([1, 9]);
        verdicts.set("other", IpAddr::from([10, 0, 0, 1]), true);
        let mut config = probed(OnFailure::Reset);
        verdicts.prune(&config);
        assert_eq!(verdicts, failing([1]));
        assert_eq!(verdicts.iter().collect::<Vec<_>>(), [("web", IpAddr::from([10, 0, 0, 1]))]);
        config.vip_mut(0).health = None;
        assert_eq!(states(&verdicts.over(config.clone())), [(BackendState::Active, false); 3]);
        verdicts.prune(&config);
        assert_eq!(verdicts, Verdicts::default());
        let mut verdicts = failing([1]);
        verdicts.set("web", IpAddr::from([10, 0, 0, 1]), false);
        assert_eq!(verdicts, Verdicts::default());
    }
}
