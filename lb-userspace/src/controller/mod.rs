//! The daemon's one decision maker: config in, map writes out.
//!
//! One task owns the config, the data plane and what netlink says. Whatever is to be changed comes as a
//! [request](handle::Handle). Changes are done one after the other and never interleave; while one waits for a disk,
//! the task follows the network. An apply that fails anywhere leaves what ran before.
//!
//! What is only read is read beside it, from a [`View`] that the task publishes before it answers a change, and soon
//! after anything else: reads wait for no change and hold none up. How many there are at a time is for those who read
//! to bound ([`crate::server`]).

mod answers;
mod book;
mod change;
mod directory;
mod due;
mod error;
mod file;
mod follow;
mod handle;
mod interfaces;
mod keep;
mod log_reader;
mod look_back;
mod losses;
mod metrics;
mod node;
mod open;
mod origin;
mod outcome;
mod own_macs;
mod page;
mod probing;
mod problems;
mod record;
mod run;
mod start;
mod state_directory;
mod unkept;
mod verdicts;
mod view;

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::Arc,
    time::{Instant, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, block_in_place},
    time::Interval,
};

pub use self::{
    answers::lost_answers,
    error::Error,
    file::{ConfigFile, Overrides},
    handle::Handle,
    interfaces::{Interface, existing as existing_interfaces},
    metrics::MetricsListener,
    origin::Origin,
    outcome::{Applied, Applies, Diff},
    problems::Problem,
    state_directory::applied_last,
    view::{FileState, View},
};
use self::{
    file::Desired, handle::Request, interfaces::Interfaces, log_reader::LogReader, look_back::LookBack, losses::Losses,
    probing::Probing, problems::Problems, state_directory::StateDirectory, unkept::Kept, verdicts::Health,
};
use crate::{
    dataplane::Dataplane,
    model::Config,
    model::ProblemKind,
    network::{self, Event, NextHops},
    tracking::{Sweeper, Upkeep},
};

/// The state behind a [`Handle`].
pub struct Controller {
    file: ConfigFile,
    applied: Arc<Desired>,
    applied_at: SystemTime,
    applies: Applies,
    started: Instant,
    dataplane: Dataplane,
    netlink: network::Handle,
    events: mpsc::Receiver<Event>,
    next_hops: NextHops,
    interfaces: Interfaces,
    losses: Losses,
    metrics: Box<dyn MetricsListener>,
    problems: Problems,
    log_reader: Option<LogReader>,
    upkeep: Upkeep,
    sweeper: Sweeper,
    health: Health,
    probing: Probing,
    views: watch::Sender<Option<Arc<View>>>,
    /// When what has changed since is published.
    publish_at: Option<tokio::time::Instant>,
    handle: Handle,
    requests: mpsc::Receiver<Request>,
    /// Changes that wait for the one that is under way.
    changes: VecDeque<Request>,
    retry: Interval,
    /// What could not be done is to be tried again once no change is under way.
    is_retry_due: bool,
    state_directory: StateDirectory,
    /// Why the start did not begin from the file, until something is applied.
    because: Option<String>,
    look_back: LookBack,
    /// Something is being kept for the next start.
    keeping: Option<JoinHandle<Kept>>,
}

impl Controller {
    /// The config that was read.
    pub fn config(&self) -> &Config {
        &self.applied.config
    }

    /// Shows those who read what is so now.
    fn publish(&mut self) {
        block_in_place(|| self.upkeep.follow(&mut self.dataplane));
        block_in_place(|| self.follow_paths());
        self.note_problems();
        self.health.follow(&self.applied);
        self.views.send_replace(Some(Arc::new(self.view())));
        self.publish_at = None;
    }

    /// Takes note of the interfaces that are in trouble, and of what is wrong with the files.
    fn note_problems(&mut self) {
        self.problems.follow(ProblemKind::Interface, self.interfaces.problems());
        let one = |what: &Path, reason: &Option<String>| -> BTreeMap<String, String> {
            reason.iter().map(|reason| (what.display().to_string(), reason.clone())).collect()
        };
        self.problems.follow(ProblemKind::Config, &one(&self.file.path, &self.because));
        self.problems
            .follow(ProblemKind::State, &one(&self.applied.config.node.state, &self.state_directory.problem()));
        let reason = |why| format!("next hops and interfaces are not followed, packets go where they went: {why}");
        let trouble = self.netlink.health().trouble.map(|why| ("netlink".to_owned(), reason(why)));
        self.problems.follow(ProblemKind::Netlink, &trouble.into_iter().collect());
    }
}
