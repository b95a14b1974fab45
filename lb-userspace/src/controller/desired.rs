//! All that is wanted at a moment: what the file says, what operators have done over it, and what comes of the two.

use std::{net::IpAddr, sync::Arc};

use super::file::Contents;
use crate::{
    model::{Config, Operation, Operations, Word as _},
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
}

impl Desired {
    /// The file with what operators have done over it. Gives back besides what of that is forgotten, a line each: the
    /// file has no such backend.
    pub fn new(file: Contents, operations: &Arc<Operations>) -> (Self, Vec<String>) {
        let mut kept = Operations::clone(operations);
        let forgotten = kept.prune(&file.config);
        let operations = if kept == **operations { Arc::clone(operations) } else { Arc::new(kept) };
        let config = operations.over(&file.config);
        (Self { file: Arc::new(file), operations, config }, forgotten.iter().map(forgotten_line).collect())
    }

    /// The same file with something else done over it.
    pub fn with(&self, operations: Operations) -> Self {
        let config = operations.over(&self.file.config);
        Self { file: Arc::clone(&self.file), operations: Arc::new(operations), config }
    }

    /// What `after`, another config of the file, says of the state of backends that what operators have done goes
    /// before: no packet follows it, and it is a change of the file all the same.
    pub fn unheard(&self, after: &Config) -> Vec<Unheard<'_>> {
        let state = |config: &Config, vip: &str, address: IpAddr| {
            let backends = &config.vip(vip)?.backends;
            backends.iter().find(|backend| backend.address == address).map(|backend| backend.state)
        };
        let unheard = self.operations.iter().filter_map(|(vip, backend, operation)| {
            let (from, to) = (state(&self.file.config, vip, backend)?, state(after, vip, backend)?);
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

fn forgotten_line((vip, backend, operation): &(String, IpAddr, Operation)) -> String {
    format!("vip {vip}: the config has no backend {backend} any more: what was done to it is forgotten ({operation})")
}
