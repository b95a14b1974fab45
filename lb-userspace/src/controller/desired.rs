//! All that is wanted at a moment: what the file says, what operators have done over it, and what comes of the two.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use lb_common::BackendState;

use super::file::Contents;
use crate::{
    model::{Config, Difference, Operation, Operations, Vip, Word as _},
    plan::Change,
};

/// All that is wanted at a moment.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The file as it was applied.
    pub file: Arc<Contents>,
    /// What operators have done over it.
    pub operations: Arc<Operations>,
    /// What comes of the two: what the data plane is to run.
    pub config: Config,
    /// Name of a VIP → its place in the file, once somebody has asked for that.
    places: OnceLock<HashMap<String, usize>>,
}

impl Desired {
    /// The file with what operators have done over it. Gives back besides what of that is forgotten, a line each: the
    /// file has no such backend.
    pub fn new(file: Contents, operations: &Arc<Operations>) -> (Self, Vec<String>) {
        let mut kept = Operations::clone(operations);
        let forgotten = kept.prune(&file.config);
        let operations = if kept == **operations { Arc::clone(operations) } else { Arc::new(kept) };
        let config = operations.over(&file.config);
        let desired = Self { file: Arc::new(file), operations, config, places: OnceLock::new() };
        (desired, forgotten.iter().map(forgotten_line).collect())
    }

    /// The same file with something else done over it.
    pub fn with(&self, operations: Operations) -> Self {
        let config = operations.over(&self.file.config);
        let (file, operations) = (Arc::clone(&self.file), Arc::new(operations));
        Self { file, operations, config, places: OnceLock::new() }
    }

    /// The state of a backend in the file.
    pub fn file_state(&self, vip: &str, backend: IpAddr) -> Option<BackendState> {
        let vips = &self.file.config.vips;
        let place = |(place, vip): (usize, &Arc<Vip>)| (vip.name.clone(), place);
        let places = self.places.get_or_init(|| vips.iter().enumerate().map(place).collect());
        state_of(&vips[*places.get(vip)?], backend)
    }

    /// What `after`, another config of the file, says of the state of backends that what operators have done goes
    /// before: no packet follows it, and it is a change of the file all the same.
    pub fn unheard(&self, after: &Config) -> Vec<Unheard<'_>> {
        // Only of VIPs that differ can the state.
        let Difference { gone, come } = self.file.config.difference(after);
        let [gone, come] = [gone, come]
            .map(|vips| vips.into_iter().map(|vip| (vip.name.as_str(), vip)).collect::<HashMap<&str, &Arc<Vip>>>());
        let unheard = self.operations.iter().filter_map(|(vip, backend, operation)| {
            let (from, to) = (state_of(gone.get(vip)?, backend)?, state_of(come.get(vip)?, backend)?);
            let [from, to] = [from, to].map(|state| state.word().to_owned());
            (from != to).then_some(Unheard { vip, backend, from, to, operation })
        });
        unheard.collect()
    }
}

/// A change of a backend's `state` in the file, which what an operator has done goes before.
#[derive(Debug)]
pub struct Unheard<'a> {
    vip: &'a str,
    backend: IpAddr,
    from: String,
    to: String,
    operation: &'a Operation,
}

impl Unheard<'_> {
    /// As a change of the file.
    pub fn change(&self) -> Change {
        Change::BackendChanged {
            vip: self.vip.to_owned(),
            backend: self.backend,
            key: "state".to_owned(),
            from: self.from.clone(),
            to: self.to.clone(),
        }
    }

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
