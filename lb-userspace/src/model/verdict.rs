//! What probes say of backends: an overlay over what sources and operators want, which edits neither.
//!
//! It says which backends fail their probes. What follows is the VIP's to say (`on_failure`), and follows only for
//! backends that take flows otherwise: what an operator has drained stays so. Where all that would take flows fail, or so many
//! that the rest are fewer than the VIP's `panic`, it is more likely that the probes are at fault than all of them, or the
//! rest could not bear the load: all serve, unless the VIP wants to fail closed. Nor are more out at a time than `max_out`
//! allows. Backends of a tier stand by for as long as enough of those before it work.
//!
//! Of VIPs with `slow_start` it says besides how far backends are that were out and are back: those have a part of their
//! slots only, for as long as others bear the rest.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use lb_common::{BackendState, SlowStart};

use super::{
    Backend, Config, Fail, Health, OnFailure, Returns, Share, Vip,
    returns::{OfVip, slow_start_duration, slow_start_time},
};

/// Which backends fail their probes, by VIP, and how far those are that are back. Two are the same if the same backends fail, in
/// whatever order, and the same are equally far.
#[derive(Clone, Debug, Default)]
pub struct Verdicts {
    vips: BTreeMap<String, Failing>,
    /// How many have failed so far.
    count: u64,
    returns: Returns,
}

/// Backends that fail, each with its number in the order in which they have failed.
type Failing = BTreeMap<IpAddr, u64>;

impl PartialEq for Verdicts {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter()) && self.returns == other.returns
    }
}

impl Eq for Verdicts {}

impl Verdicts {
    /// Whether a backend fails.
    pub fn has(&self, vip: &str, backend: IpAddr) -> bool {
        self.vips.get(vip).is_some_and(|failing| failing.contains_key(&backend))
    }

    /// All that fail: name of the VIP and address of the backend.
    pub fn iter(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.vips.iter().flat_map(|(vip, failing)| failing.keys().map(move |backend| (vip.as_str(), *backend)))
    }

    /// Takes note that a backend fails, or does not any more.
    pub fn set(&mut self, vip: &str, backend: IpAddr, fails: bool) {
        if fails {
            self.count += 1;
            self.vips.entry(vip.to_owned()).or_default().entry(backend).or_insert(self.count);
        } else if let Some(failing) = self.vips.get_mut(vip) {
            failing.remove(&backend);
            if failing.is_empty() {
                self.vips.remove(vip);
            }
        }
    }

    /// How far backends are that are back.
    pub fn returns(&self) -> &Returns {
        &self.returns
    }

    /// Takes note of how far a backend is that is back.
    pub fn set_return(&mut self, vip: &str, backend: IpAddr, own: SlowStart) {
        self.returns.set(vip, backend, own);
    }

    /// Takes note that a backend has all of its slots; whether that is news.
    pub fn end_return(&mut self, vip: &str, backend: IpAddr) -> bool {
        self.returns.end(vip, backend)
    }

    /// These, after those that `before` says, which have led to `config`: who was out there and fails no more begins to get its
    /// slots back, and who does that already is as far as it is by `now`.
    pub fn after(mut self, before: &Self, config: &Config, now: u32) -> Self {
        let recovered: Vec<_> = before.iter().filter(|(vip, backend)| !self.has(vip, *backend)).collect();
        let mut returns = before.returns.clone();
        let names: HashSet<&str> =
            recovered.iter().map(|(vip, _)| *vip).chain(before.returns.iter().map(|(vip, ..)| vip)).collect();
        let times = times(config, &names);
        returns.advance(|vip, backend, own| own.at(now, times.get(vip)?.1).filter(|_| !self.has(vip, backend)));
        for (name, backend) in recovered {
            let Some((vip, _)) = times.get(name) else { continue };
            if vip.backends.iter().any(|own| own.address == backend && own.is_out) {
                returns.set(name, backend, SlowStart::new(now));
            }
        }
        self.returns = returns;
        self
    }

    /// How long it is from `now` until some backend of `config` gets more of its slots back.
    pub fn until_next(&self, config: &Config, now: u32) -> Option<Duration> {
        let times = times(config, &self.returns.iter().map(|(vip, ..)| vip).collect());
        let left = self.returns.iter().filter_map(|(vip, _, own)| Some(own.until_next(now, times.get(vip)?.1)));
        left.min().map(slow_start_duration)
    }

    /// Forgets how far backends are that have all of their slots or none in `config`, which has these verdicts over it. Those that stand
    /// by have a part when they serve again.
    pub(super) fn forget_whole(&mut self, config: &Config) {
        if self.returns.is_empty() {
            return;
        }
        let mut returns = Returns::default();
        for vip in config.vips.iter().filter(|vip| self.returns.of_vip(&vip.name).is_some()) {
            let slow = vip.backends.iter().filter_map(|own| Some((own.address, own.slow_start?)));
            slow.for_each(|(backend, own)| returns.set(&vip.name, backend, own));
        }
        self.returns = returns;
    }

    /// Forgets what it says of backends that `base` does not have, or does not have probed.
    pub fn prune(&mut self, base: &Config) {
        if self.vips.is_empty() {
            return;
        }
        let is_probed = probed_in(base);
        self.vips.retain(|vip, failing| {
            failing.retain(|backend, _| is_probed(vip, *backend));
            !failing.is_empty()
        });
    }

    /// These, of backends that `base` has probed, and of all others those from `before`.
    pub fn with_others_of(mut self, before: &Self, base: &Config) -> Self {
        let is_probed = probed_in(base);
        self.prune(base);
        for (vip, failing) in &before.vips {
            let others = failing.iter().filter(|(backend, _)| !is_probed(vip, **backend));
            let mut others = others.map(|(backend, number)| (*backend, *number)).peekable();
            if others.peek().is_some() {
                self.vips.entry(vip.clone()).or_default().extend(others);
            }
        }
        self.count = self.count.max(before.count);
        self.returns.advance(|vip, backend, own| is_probed(vip, backend).then_some(own));
        let others = before.returns.iter().filter(|(vip, backend, _)| !is_probed(vip, *backend));
        others.for_each(|(vip, backend, own)| self.returns.set(vip, backend, own));
        self
    }

    /// What is wanted: `config` with what follows from the probes.
    pub fn over(&self, mut config: Config) -> Config {
        if self.vips.is_empty() && self.returns.is_empty() && !config.vips.iter().any(|vip| vip.has_tiers) {
            return config;
        }
        let (none_fail, none_return) = Default::default();
        for vip in config.vips_mut() {
            let (failing, returning) = (self.vips.get(&vip.name), self.returns.of_vip(&vip.name));
            let is_judged = failing.is_some() || returning.is_some() || vip.has_tiers;
            let Some(health) = vip.health.clone().filter(|_| is_judged) else { continue };
            let returning = returning.filter(|_| health.slow_start.is_some());
            judge(Arc::make_mut(vip), &health, failing.unwrap_or(&none_fail), returning.unwrap_or(&none_return));
        }
        config
    }
}

/// Whether a config has a backend, and has it probed: by name of the VIP and address of the backend.
fn probed_in(config: &Config) -> impl Fn(&str, IpAddr) -> bool {
    let probed = config.vips.iter().filter(|vip| vip.health.is_some());
    let vips: HashMap<&str, &Arc<Vip>> = probed.map(|vip| (vip.name.as_str(), vip)).collect();
    move |vip, backend| {
        let has = |vip: &Vip| vip.backends.iter().any(|own| own.address == backend);
        vips.get(vip).is_some_and(|vip| has(vip) && vip.health_of(backend).is_some())
    }
}

/// Those VIPs of `config` with these names that have a `slow_start`, and how long that takes.
fn times<'c>(config: &'c Config, names: &HashSet<&str>) -> HashMap<&'c str, (&'c Vip, u32)> {
    if names.is_empty() {
        return HashMap::new();
    }
    let vips = config.vips.iter().filter(|vip| names.contains(vip.name.as_str()));
    let time = |vip: &'c Arc<Vip>| {
        let time = vip.health.as_ref()?.slow_start?;
        Some((vip.name.as_str(), (&**vip, slow_start_time(time))))
    };
    vips.filter_map(time).collect()
}

/// What becomes of the backends of a VIP.
fn judge(vip: &mut Vip, health: &Health, failing: &Failing, returning: &OfVip) {
    let Health { on_failure, panic, fail, max_out, spare_below, .. } = *health;
    for own in &mut vip.backends {
        own.fails = failing.contains_key(&own.address);
        let takes_flows = own.effective_weight() > 0 && !own.fails;
        own.slow_start = returning.get(&own.address).copied().filter(|_| takes_flows);
    }
    let mut last = last_tier(&vip.backends, spare_below);
    // Others must bear what those do not that have a part of their slots.
    let working = || vip.backends.iter().filter(|own| own.effective_weight() > 0 && own.tier <= last && !own.fails);
    let whole = working().filter(|own| own.slow_start.is_none()).count();
    let all = vip.backends.iter().filter(|own| own.effective_weight() > 0 && own.tier <= last).count();
    if 2 * whole < working().count() || !panic.is_reached(whole, all) {
        vip.backends.iter_mut().filter(|own| own.tier <= last).for_each(|own| own.slow_start = None);
        last = last_tier(&vip.backends, spare_below);
    }
    for own in vip.backends.iter_mut().filter(|own| own.tier > last && own.effective_weight() > 0) {
        (own.state, own.stands_by) = (BackendState::Drain, true);
    }
    let serving = || vip.backends.iter().filter(|own| own.effective_weight() > 0);
    let (all, working) = (serving().count(), serving().filter(|own| !own.fails).count());
    if fail == Fail::Open && (working == 0 || !panic.is_reached(working, all)) {
        return;
    }
    // Who has failed first is out, and stays so.
    let mut out: Vec<_> = serving().filter_map(|own| Some((*failing.get(&own.address)?, own.address))).collect();
    out.sort_unstable();
    let most = if max_out == Share(0) { 0 } else { max_out.of(all).max(1) };
    out.truncate(most);
    let out: BTreeSet<_> = out.into_iter().map(|(_, address)| address).collect();
    for own in vip.backends.iter_mut().filter(|own| out.contains(&own.address)) {
        own.is_out = true;
        own.state = match on_failure {
            OnFailure::Reset => BackendState::Down,
            OnFailure::Drain => BackendState::Drain,
        };
    }
}

/// The last tier that serves: up to there so many work, and have all of their slots, that no other need.
fn last_tier(backends: &[Backend], spare_below: Share) -> u8 {
    let tiers: BTreeSet<u8> = backends.iter().filter(|own| own.effective_weight() > 0).map(|own| own.tier).collect();
    let is_enough = |tier: &u8| {
        let members = || backends.iter().filter(|own| own.effective_weight() > 0 && own.tier <= *tier);
        let working = members().filter(|own| !own.fails && own.slow_start.is_none()).count();
        working > 0 && spare_below.is_reached(working, members().count())
    };
    tiers.iter().copied().find(is_enough).or(tiers.last().copied()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Check, Health},
        plan::fixtures::{config, vip},
    };

    fn probed(on_failure: OnFailure) -> Config {
        let mut vip = vip("web", "192.0.2.1", &["tcp/80"], &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        vip.health = Some(Arc::new(Health { on_failure, ..Health::new(Check::Tcp) }));
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
        let mut waived = config.clone();
        waived.vip_mut(0).asked_otherwise.insert(IpAddr::from([10, 0, 0, 1]), None);
        let mut verdicts_of_waived = verdicts.clone();
        verdicts_of_waived.prune(&waived);
        assert_eq!(verdicts_of_waived, Verdicts::default());
        config.vip_mut(0).health = None;
        assert_eq!(states(&verdicts.over(config.clone())), [(BackendState::Active, false); 3]);
        verdicts.prune(&config);
        assert_eq!(verdicts, Verdicts::default());
        let mut verdicts = failing([1]);
        verdicts.set("web", IpAddr::from([10, 0, 0, 1]), false);
        assert_eq!(verdicts, Verdicts::default());
    }

    /// As where a change is taken back that has removed 10.0.0.3, and does without the probes of 10.0.0.2.
    #[test]
    fn of_what_another_config_does_not_have_probed_what_was_said_before_stands() {
        let address = |host| IpAddr::from([10, 0, 0, host]);
        let mut base = probed(OnFailure::Reset);
        base.vip_mut(0).backends.pop();
        base.vip_mut(0).asked_otherwise.insert(address(2), None);
        let mut before = failing([3, 1]);
        before.set("other", address(1), true);
        before.set_return("web", address(2), SlowStart::new(7));
        let mut now = before.clone();
        now.prune(&base);
        now.set("web", address(1), false);
        now.set_return("web", address(1), SlowStart::new(9));
        now.set_return("web", address(2), SlowStart::new(9));
        let mut expected = failing([3]);
        expected.set("other", address(1), true);
        expected.set_return("web", address(1), SlowStart::new(9));
        expected.set_return("web", address(2), SlowStart::new(7));
        assert_eq!(now.clone().with_others_of(&before, &base), expected);
        // Who has failed first has still, and whoever fails next comes after all of them.
        let mut news = Verdicts::default();
        news.set("web", address(1), true);
        let mut with = news.with_others_of(&before, &base);
        with.set("web", address(2), true);
        let numbers = &with.vips["web"];
        assert!(numbers[&address(3)] < numbers[&address(2)] && numbers[&address(1)] < numbers[&address(2)]);
        assert!(!now.with_others_of(&before, &probed(OnFailure::Reset)).has("web", address(3)));
    }

    /// Backends 10.0.0.1 and on, by tier; of them fail those with these last numbers.
    fn judged(health: impl Fn(&mut Health), tiers: &[u8], failing: &[u8]) -> String {
        let mut config = probed(OnFailure::Reset);
        let vip = config.vip_mut(0);
        let mut own = Health::clone(vip.health.as_ref().unwrap());
        health(&mut own);
        vip.health = Some(Arc::new(own));
        let address = |host: usize| IpAddr::from([10, 0, 0, host as u8]);
        let backend = |(at, tier): (usize, &u8)| Backend { tier: *tier, ..Backend::plain(address(at + 1)) };
        vip.backends = tiers.iter().enumerate().map(backend).collect();
        vip.has_tiers = tiers.iter().any(|tier| *tier > 0);
        let name = vip.name.clone();
        let mut verdicts = Verdicts::default();
        failing.iter().for_each(|host| verdicts.set(&name, address(usize::from(*host)), true));
        let letter = |own: &Backend| match own {
            own if own.is_out => 'x',
            own if own.stands_by => 's',
            own if own.fails => 'f',
            _ => '.',
        };
        verdicts.over(config).vips[0].backends.iter().map(letter).collect()
    }

    /// Backends 10.0.0.1 to 10.0.0.6 of which some fail; the eighths that each has of its slots, `x` of those that are out.
    fn eighths(config: &Config) -> String {
        let letter = |own: &Backend| match own {
            own if own.is_out => 'x',
            own if own.stands_by => 's',
            own => own.slow_start.map_or('8', |slow| char::from_digit(slow.eighths(), 10).unwrap()),
        };
        config.vips[0].backends.iter().map(letter).collect()
    }

    /// What follows from these hosts that fail, one step after the other, each at its time in tenths of a second.
    fn told(health: impl Fn(&mut Health), tiers: &[u8], steps: &[(u32, &[u8])]) -> Vec<String> {
        let mut base = probed(OnFailure::Reset);
        let vip = base.vip_mut(0);
        let mut own =
            Health { slow_start: Some(Duration::from_secs(30)), ..Health::clone(vip.health.as_ref().unwrap()) };
        health(&mut own);
        vip.health = Some(Arc::new(own));
        let address = |at: usize| IpAddr::from([10, 0, 0, at as u8 + 1]);
        let backend = |(at, tier): (usize, &u8)| Backend { tier: *tier, ..Backend::plain(address(at)) };
        vip.backends = tiers.iter().enumerate().map(backend).collect();
        vip.has_tiers = tiers.iter().any(|tier| *tier > 0);
        let (mut verdicts, mut config) = (Verdicts::default(), base.clone());
        let mut told = Vec::new();
        for (now, hosts) in steps {
            verdicts = failing(hosts.iter().copied()).after(&verdicts, &config, *now);
            verdicts.prune(&base);
            config = verdicts.over(base.clone());
            verdicts.forget_whole(&config);
            told.push(eighths(&config));
        }
        told
    }

    #[test]
    fn who_was_out_gets_its_slots_back_in_parts() {
        let steps: &[(u32, &[u8])] =
            &[(0, &[]), (1, &[2]), (100, &[]), (199, &[]), (200, &[]), (300, &[]), (399, &[]), (400, &[])];
        let expected = ["888", "8x8", "818", "818", "828", "848", "848", "888"];
        assert_eq!(told(|_| {}, &[0; 3], steps), expected);
        // It begins anew where it fails once more, and each has a time of its own.
        let steps: &[(u32, &[u8])] =
            &[(0, &[2, 3]), (100, &[3]), (250, &[]), (300, &[2]), (301, &[]), (601, &[]), (999, &[])];
        assert_eq!(told(|_| {}, &[0; 4], steps), ["8xx8", "81x8", "8218", "8x18", "8118", "8888", "8888"]);
        // Without the key it has all at once.
        assert_eq!(told(|health| health.slow_start = None, &[0; 3], &[(0, &[2]), (1, &[])]), ["8x8", "888"]);
    }

    #[test]
    fn who_has_served_all_along_goes_on_so() {
        // It failed and served, as all did, or as no more might be out.
        assert_eq!(told(|_| {}, &[0; 3], &[(0, &[1, 2, 3]), (1, &[2, 3]), (2, &[3])]), ["888", "8xx", "81x"]);
        let most = |health: &mut Health| health.max_out = "34%".parse().unwrap();
        assert_eq!(told(most, &[0; 3], &[(0, &[2]), (1, &[2, 3]), (2, &[2])]), ["8x8", "8x8", "8x8"]);
    }

    #[test]
    fn who_has_a_part_is_whole_where_nobody_bears_the_rest() {
        let steps: &[(u32, &[u8])] = &[(0, &[1]), (10, &[]), (20, &[2, 3]), (30, &[2]), (40, &[])];
        assert_eq!(told(|_| {}, &[0; 3], steps), ["x88", "188", "8xx", "8x1", "888"]);
        // Or too few.
        let panic = |health: &mut Health| health.panic = "60%".parse().unwrap();
        assert_eq!(told(panic, &[0; 3], &[(0, &[1]), (10, &[]), (20, &[2])]), ["x88", "188", "8x8"]);
        let closed = |health: &mut Health| health.fail = Fail::Closed;
        assert_eq!(told(closed, &[0; 3], &[(0, &[1, 2, 3]), (10, &[2]), (20, &[])]), ["xxx", "8x8", "818"]);
    }

    /// All fail and come back, a few before the others: those alone would have nearly all of the load.
    #[test]
    fn who_comes_back_first_does_not_bear_what_all_others_do_not() {
        let all: Vec<u8> = (1..=20).collect();
        let steps: &[(u32, &[u8])] = &[(0, &all), (10, &all[2..]), (15, &all[4..]), (20, &[])];
        let out = |count: usize| "x".repeat(count);
        let open = ["8".repeat(20), format!("88{}", out(18)), format!("8811{}", out(16)), "8".repeat(20)];
        assert_eq!(told(|_| {}, &[0; 20], steps), open);
        let closed = [out(20), format!("88{}", out(18)), format!("8811{}", out(16)), "8".repeat(20)];
        assert_eq!(told(|health| health.fail = Fail::Closed, &[0; 20], steps), closed);
    }

    #[test]
    fn a_tier_stands_by_once_those_before_it_are_whole() {
        let all = |health: &mut Health| health.spare_below = "100%".parse().unwrap();
        let steps: &[(u32, &[u8])] = &[(0, &[]), (1, &[1]), (10, &[]), (210, &[]), (310, &[])];
        assert_eq!(told(all, &[0, 0, 1], steps), ["88s", "x88", "188", "488", "88s"]);
        // One that stands by has all of its slots, should it be asked.
        let steps: &[(u32, &[u8])] = &[(0, &[1, 2, 3]), (1, &[1, 2]), (2, &[1]), (302, &[1]), (303, &[1, 2])];
        assert_eq!(told(|_| {}, &[0, 0, 1, 1], steps), ["xxx8", "xx18", "x8ss", "x8ss", "xx88"]);
    }

    #[test]
    fn the_next_step_is_the_first_of_any() {
        let mut config = probed(OnFailure::Reset);
        let health = Health::clone(config.vips[0].health.as_ref().unwrap());
        config.vip_mut(0).health = Some(Arc::new(Health { slow_start: Some(Duration::from_secs(30)), ..health }));
        let mut verdicts = Verdicts::default();
        assert_eq!(verdicts.until_next(&config, 0), None);
        let address = |host| IpAddr::from([10, 0, 0, host]);
        verdicts.set_return("web", address(1), SlowStart::new(100));
        verdicts.set_return("web", address(2), SlowStart::new(150));
        assert_eq!(verdicts.until_next(&config, 170), Some(Duration::from_secs(3)));
        let after = verdicts.clone().after(&verdicts, &config, 210);
        let eighths =
            |after: &Verdicts| [1, 2].map(|host| after.returns().of("web", address(host)).map(SlowStart::eighths));
        assert_eq!(eighths(&after), [Some(2), Some(1)]);
        assert_ne!(after, verdicts);
        assert_eq!(after.until_next(&config, 210), Some(Duration::from_secs(4)));
        // Without the key nothing is left of it.
        config.vip_mut(0).health = Some(Arc::new(Health::new(Check::Tcp)));
        let over = after.over(config.clone());
        let mut after = after;
        after.forget_whole(&over);
        assert_eq!(after, Verdicts::default());
    }

    #[test]
    fn where_it_fails_closed_all_are_out() {
        let closed = |health: &mut Health| health.fail = Fail::Closed;
        assert_eq!(judged(closed, &[0; 3], &[1, 2]), "xx.");
        assert_eq!(judged(closed, &[0; 3], &[1, 2, 3]), "xxx");
        assert_eq!(judged(|_| {}, &[0; 3], &[1, 2, 3]), "fff");
    }

    #[test]
    fn no_more_are_out_than_may_be_and_those_that_failed_first() {
        let third = |health: &mut Health| health.max_out = "34%".parse().unwrap();
        assert_eq!(judged(third, &[0; 6], &[5, 2, 3]), ".xf.x.");
        assert_eq!(judged(third, &[0; 6], &[2, 3, 5]), ".xx.f.");
        assert_eq!(judged(third, &[0; 6], &[1, 2, 3, 4, 5, 6]), "ffffff", "all serve where none works");
        assert_eq!(judged(third, &[0; 2], &[1]), "x.", "one may be in any case");
        assert_eq!(judged(|health| health.max_out = "0%".parse().unwrap(), &[0; 2], &[1]), "f.");
    }

    #[test]
    fn a_tier_serves_while_too_few_of_those_before_it_work() {
        let default = |_: &mut Health| {};
        assert_eq!(judged(default, &[0, 0, 1, 1], &[]), "..ss");
        assert_eq!(judged(default, &[0, 0, 1, 1], &[1]), "x.ss", "half is enough");
        assert_eq!(judged(default, &[0, 0, 1, 1], &[1, 2]), "xx..");
        assert_eq!(judged(default, &[0, 0, 1, 1], &[3]), "..ss", "one that stands by is not out as well");
        assert_eq!(judged(default, &[0, 0, 1, 1], &[1, 2, 3]), "xxx.");
        assert_eq!(judged(default, &[0, 0, 1, 1], &[1, 2, 3, 4]), "ffff");
        assert_eq!(judged(default, &[0, 0, 1, 2], &[1, 2, 3]), "xxx.");
        assert_eq!(judged(|health| health.spare_below = "100%".parse().unwrap(), &[0, 0, 1, 1], &[1]), "x...");
        assert_eq!(judged(default, &[3, 3, 7], &[]), "..s", "the first that there is serves");
        let closed = |health: &mut Health| health.fail = Fail::Closed;
        assert_eq!(judged(closed, &[0, 1], &[1, 2]), "xx");
    }
}
