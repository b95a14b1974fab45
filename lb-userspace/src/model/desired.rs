//! All that is wanted at a moment: what the sources want together, the overlays over that, and what comes of both.
//!
//! A source says what there is to be, VIPs with their backends; an object belongs to the source that says it, and goes
//! when that source no longer does. An overlay says something of objects that are there (what operators have done,
//! what probes say), goes before what the sources say of them, edits no source, and makes no object. What it
//! says of an object that no source has is forgotten, but not before every source has spoken.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use lb_common::BackendState;

use super::{Config, Difference, Operation, Operations, Verdicts, Vip, Word as _};

/// The sources, each of which has spoken: today the config file is the only one.
pub trait Sources {
    /// What they want together.
    fn merged(&self) -> &Config;
}

/// All that is wanted at a moment.
#[derive(Clone, Debug)]
pub struct Desired<S> {
    /// The sources as they were taken over.
    pub sources: Arc<S>,
    /// What operators have done over them.
    pub operations: Arc<Operations>,
    /// What probes say of backends.
    pub verdicts: Arc<Verdicts>,
    /// What comes of all that: what the data plane is to run.
    pub config: Config,
    /// Name of a VIP → its place in what the sources want, once somebody has asked for that.
    places: OnceLock<HashMap<String, usize>>,
}

impl<S: Sources> Desired<S> {
    /// The sources with what operators have done and probes say over them. Gives back besides what operators have done and
    /// is forgotten, a line each: no source has such a backend.
    pub fn new(sources: S, operations: &Arc<Operations>, verdicts: &Arc<Verdicts>) -> (Self, Vec<String>) {
        let mut kept = Operations::clone(operations);
        let forgotten = kept.prune(sources.merged());
        let operations = if kept == **operations { Arc::clone(operations) } else { Arc::new(kept) };
        let desired = Self::of(Arc::new(sources), operations, Arc::clone(verdicts));
        (desired, forgotten.iter().map(forgotten_line).collect())
    }

    /// The same sources with something else done over them.
    pub fn with(&self, operations: Operations) -> Self {
        Self::of(Arc::clone(&self.sources), Arc::new(operations), Arc::clone(&self.verdicts))
    }

    /// The same with something else that probes say.
    pub fn judged(&self, verdicts: Verdicts) -> Self {
        Self::of(Arc::clone(&self.sources), Arc::clone(&self.operations), Arc::new(verdicts))
    }

    /// The same with a backend that has all of its slots, if that is something else.
    pub fn whole(&self, vip: &str, backend: IpAddr) -> Option<Self> {
        let mut verdicts = Verdicts::clone(&self.verdicts);
        verdicts.end_return(vip, backend).then(|| self.judged(verdicts))
    }

    fn of(sources: Arc<S>, operations: Arc<Operations>, verdicts: Arc<Verdicts>) -> Self {
        let mut kept = Verdicts::clone(&verdicts);
        kept.prune(sources.merged());
        let config = kept.over(operations.over(sources.merged()));
        kept.forget_whole(&config);
        let verdicts = if kept == *verdicts { verdicts } else { Arc::new(kept) };
        Self { sources, operations, verdicts, config, places: OnceLock::new() }
    }

    /// The state of a backend below what operators have done.
    pub fn state_below(&self, vip: &str, backend: IpAddr) -> Option<BackendState> {
        let vips = &self.sources.merged().vips;
        let place = |(place, vip): (usize, &Arc<Vip>)| (vip.name.clone(), place);
        let places = self.places.get_or_init(|| vips.iter().enumerate().map(place).collect());
        state_of(&vips[*places.get(vip)?], backend)
    }

    /// What `after`, another config of the sources, says of the state of backends that what operators have done goes
    /// before: no packet follows it, and it is a change of a source all the same.
    pub fn overridden(&self, after: &Config) -> Vec<Overridden<'_>> {
        // Only of VIPs that differ can the state.
        let Difference { gone, come } = self.sources.merged().difference(after);
        let [gone, come] = [gone, come]
            .map(|vips| vips.into_iter().map(|vip| (vip.name.as_str(), vip)).collect::<HashMap<&str, &Arc<Vip>>>());
        let overridden = self.operations.iter().filter_map(|(vip, backend, operation)| {
            let (from, to) = (state_of(gone.get(vip)?, backend)?, state_of(come.get(vip)?, backend)?);
            let [from, to] = [from, to].map(|state| state.word().to_owned());
            (from != to).then_some(Overridden { vip, backend, from, to, operation })
        });
        overridden.collect()
    }
}

/// A change of a backend's `state` in its source, which what an operator has done goes before.
#[derive(Debug)]
pub struct Overridden<'a> {
    /// Name of the VIP.
    pub vip: &'a str,
    /// The backend's address.
    pub backend: IpAddr,
    /// Its state before, in words.
    pub from: String,
    /// Its state after.
    pub to: String,
    operation: &'a Operation,
}

impl Overridden<'_> {
    /// What to tell whoever made it, if what he wants is not so.
    pub fn warning(&self) -> Option<String> {
        let Self { vip, backend, to, operation, .. } = self;
        let is = operation.state.word();
        (is != to).then(|| {
            format!(
                "vip {vip}: backend {backend} is {is} all the same ({operation}), until `naru backend restore {vip} \
                 {backend}`"
            )
        })
    }
}

fn state_of(vip: &Vip, backend: IpAddr) -> Option<BackendState> {
    vip.backends.iter().find(|known| known.address == backend).map(|known| known.state)
}

fn forgotten_line((vip, backend, operation): &(String, IpAddr, Operation)) -> String {
    format!("vip {vip}: the config has no backend {backend} any more: what was done to it is forgotten ({operation})")
}
