//! What sends probes the way of clients' packets: begun when a config wants it first, and kept to the maps in use.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::Features;

use super::Controller;
use crate::{
    dataplane::Dataplane,
    health::Paths,
    model::ProblemKind,
    prober::{self, Namespace, Prober},
};

/// How long until what could not begin is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What sends probes the way of clients' packets.
pub struct Probing {
    /// Where they come from, or why there is no such place.
    namespace: Result<Arc<Namespace>, String>,
    prober: Option<Arc<Prober>>,
    /// When it was tried last to begin, and what came of it.
    failed: Option<(Instant, String)>,
}

impl Probing {
    /// Nothing is sent yet.
    pub fn new(namespace: Result<Namespace, prober::Error>) -> Self {
        let namespace = namespace.map(Arc::new).map_err(|error| error.to_string());
        Self { namespace, prober: None, failed: None }
    }

    /// The addresses of this host that probes have come from since then.
    pub fn sources(&self, since: Instant) -> BTreeSet<IpAddr> {
        self.prober.as_ref().map(|prober| prober.sources(since)).unwrap_or_default()
    }

    /// Sends by what the data plane holds now.
    fn follow(&mut self, dataplane: &Dataplane, paths: &Paths) -> Result<(), String> {
        paths.follow(dataplane.state());
        if let Some(broken) = self.prober.take_if(|prober| !prober.is_whole()) {
            log::warn!("somebody has changed or removed the interface {}: it is made anew", prober::NAME);
            paths.set_prober(Err(format!("the interface {} is made anew", prober::NAME)));
            broken.end();
        }
        let follows = match &self.prober {
            Some(prober) => prober.follow(dataplane).map(|()| Arc::clone(prober)).map_err(|error| error.to_string()),
            None => self.begin(dataplane),
        };
        // Where it does not follow, what it sent would go by maps that are not in use: nobody sends by it.
        paths.set_prober(follows.clone());
        self.prober = Some(follows?);
        Ok(())
    }

    fn begin(&mut self, dataplane: &Dataplane) -> Result<Arc<Prober>, String> {
        let namespace = self.namespace.clone()?;
        if let Some((at, reason)) = &self.failed
            && at.elapsed() < AGAIN
        {
            return Err(reason.clone());
        }
        let begun = Prober::start(namespace, dataplane).map(Arc::new).map_err(|error| error.to_string());
        self.failed = begun.as_ref().err().map(|reason| (Instant::now(), reason.clone()));
        begun
    }

    /// Nothing is sent any more, and nothing of it is left in the maps, which another daemon may have from now on.
    pub fn end(self, paths: &Paths) {
        if let Some(prober) = self.prober {
            paths.set_prober(Err("the daemon ends".to_owned()));
            prober.end();
        }
    }
}

impl Controller {
    /// Sends probes by what the data plane holds now, where the config wants that.
    pub(super) fn follow_paths(&mut self) {
        const WHAT: &str = "path";
        if !self.dataplane.features().contains(Features::PROBES) {
            return self.problems.mend(ProblemKind::Health, WHAT);
        }
        match self.probing.follow(&self.dataplane, self.health.paths()) {
            Ok(()) => self.problems.mend(ProblemKind::Health, WHAT),
            Err(reason) => {
                let reason = format!("backends are not probed over the clients' path: {reason}");
                self.problems.note(ProblemKind::Health, WHAT, &reason);
            }
        }
    }
}
