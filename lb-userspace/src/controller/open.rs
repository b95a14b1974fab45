//! How a controller begins: from the file or what was applied last, with the data plane that runs.

use std::{
    collections::VecDeque,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    task::block_in_place,
    time::MissedTickBehavior,
};

use super::{
    Applies, ConfigFile, Controller, Error, MetricsListener,
    change::{log_ended, seconds_since_1970},
    file::Desired,
    handle::Handle,
    interfaces::Interfaces,
    look_back::LookBack,
    losses::Losses,
    probing::Probing,
    problems::Problems,
    start::Start,
    state_directory::StateDirectory,
    verdicts::{self, Health},
};
use crate::{
    dataplane::{self, Dataplane},
    model::{Config, Node, Operations, ProblemKind},
    network,
    plan::{Removal, Served},
    prober::{self, Namespace},
    tracking::{Sweeper, Upkeep},
};

/// Requests that may wait for the controller.
const QUEUE: usize = 64;

/// How often what could not be done is tried again: interfaces, listeners.
const RETRY: Duration = Duration::from_secs(5);

impl Controller {
    /// Reads the config and takes the data plane's lock; nothing is changed yet. Fails where another daemon has it.
    /// `state` is the directory of what the daemon before left word of.
    /// `namespace` is where probes over the clients' path come from, if they do.
    pub async fn open(
        file: ConfigFile,
        state: &Path,
        metrics: Box<dyn MetricsListener>,
        namespace: Result<Namespace, prober::Error>,
    ) -> Result<Self, Error> {
        let mut state_directory = block_in_place(|| StateDirectory::open(state, &file.path));
        let Start { mut contents, because, is_known } =
            block_in_place(|| Start::choose(&file, &mut state_directory, dataplane::attached))?;
        let seed = block_in_place(|| file.seed(&contents.config));
        *contents.config.local().hash_seed = seed.as_ref().copied().unwrap_or_default();
        let mut dataplane = block_in_place(|| Dataplane::begin(&contents.config.node.bpffs, &contents.config))?;
        if !is_known && let Some(removal) = taken_away(&dataplane, &contents.config) {
            return Err(Error::TakesAwayAtStart { path: file.path, removal });
        }
        block_in_place(|| dataplane.resume(&contents.config))?;
        keep_attached(&mut contents.config, &dataplane);
        let mut problems = Problems::default();
        let adopted = dataplane.state().seed;
        let refused = match seed {
            Ok(seed) if seed == adopted || because.is_none() && state_directory.was_stopped_cleanly() => None,
            Ok(seed) => Some(format!("the hash seed is another one (fingerprint {seed}), which nobody applied")),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = refused {
            *contents.config.local().hash_seed = adopted;
            note_seed(&mut problems, &contents.config.node, &reason);
        }
        let mut operations = block_in_place(|| state_directory.operations());
        take_ended(&mut operations);
        let verdicts = Arc::new(verdicts::kept(dataplane.state()));
        let (applied, forgotten) = Desired::new(contents, &operations, &verdicts);
        forgotten.iter().for_each(|line| log::warn!("{line}"));
        if let count @ 1.. = applied.operations.iter().count() {
            log::info!("{count} backends have a state that was set by command: see `naru backend list`");
        }
        let applied = Arc::new(applied);
        let (mut next_hops, netlink, events) = network::start()?;
        let (sender, requests) = mpsc::channel(QUEUE);
        let (views, viewer) = watch::channel(None);
        let upkeep = block_in_place(|| Upkeep::of(&mut dataplane));
        next_hops.adopt(dataplane.next_hops(), dataplane.removed_targets());
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            file,
            applied,
            applied_at: SystemTime::now(),
            applies: Applies::default(),
            started: Instant::now(),
            dataplane,
            netlink,
            events,
            next_hops,
            interfaces: Interfaces::default(),
            losses: Losses::default(),
            metrics,
            problems,
            log_reader: None,
            upkeep,
            sweeper: Sweeper::default(),
            health: Health::new(&verdicts),
            probing: Probing::new(namespace),
            views,
            publish_at: None,
            handle: Handle::new(sender, viewer),
            requests,
            changes: VecDeque::new(),
            retry,
            is_retry_due: false,
            state_directory,
            because,
            look_back: LookBack::default(),
            keeping: None,
        })
    }
}

/// Takes out what operators have done for a time that is over.
fn take_ended(operations: &mut Arc<Operations>) {
    let mut left = Operations::clone(operations);
    let ended = left.end(seconds_since_1970());
    if !ended.is_empty() {
        ended.iter().for_each(log_ended);
        *operations = Arc::new(left);
    }
}

/// Says why the hash seed in the file is not in force, and which one is. A later apply tries again: a start that did
/// so would move every flow at a time that nobody chose.
fn note_seed(problems: &mut Problems, node: &Node, reason: &str) {
    let kept = match node.hash_seed {
        seed if seed.is_secret() => format!("the seed with the fingerprint {seed} stays in force"),
        _ => "packets are hashed without a seed".to_owned(),
    };
    let reason = format!("{reason}; {kept} until `naru apply`");
    log::error!("{reason}");
    let what = node.hash_seed_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    problems.follow(ProblemKind::HashSeed, &[(what, reason)].into());
}

/// What `config` would take away from a data plane that an unknown daemon left.
fn taken_away(dataplane: &Dataplane, config: &Config) -> Option<Removal> {
    Served::by_maps(dataplane.state()).lost_by(config, config.node.max_removed)
}

/// A file that does not name interfaces lets none go.
fn keep_attached(config: &mut Config, dataplane: &Dataplane) {
    if config.node.names_interfaces {
        return;
    }
    let interfaces = config.local().interfaces;
    for attachment in dataplane.attachments() {
        if !interfaces.contains(&attachment.name) {
            interfaces.push(attachment.name);
        }
    }
}
