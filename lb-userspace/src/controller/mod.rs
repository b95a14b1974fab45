//! The daemon's one decision maker: config in, map writes out.
//!
//! One task owns the config, the data plane and what netlink says. Whatever is to be changed comes as a [`Request`].
//! Changes are done one after the other and never interleave; while one waits for a disk, the task follows the network.
//! An apply that fails anywhere leaves what ran before.
//!
//! What is only read is read beside it, from a [`View`] that the task publishes before it answers a change, and soon
//! after anything else: reads wait for no change and hold none up. How many there are at a time is for those who read to
//! bound ([`crate::server`]).

mod error;
mod file;
mod history;
mod interfaces;
mod log_reader;
mod look_back;
mod losses;
mod metrics;
mod next_hops;
mod node;
mod origin;
mod outcome;
mod own_macs;
mod problems;
mod record;
mod start;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    mem,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use lb_common::NextHop;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, block_in_place, spawn_blocking},
    time::{Interval, MissedTickBehavior},
};

pub use self::{
    error::Error,
    file::{ConfigFile, Overrides},
    history::applied_last,
    interfaces::{Interface, existing as existing_interfaces},
    metrics::MetricsListener,
    origin::Origin,
    outcome::{Applied, Applies},
    problems::Problem,
    view::{FileState, View},
};
use self::{
    file::Contents,
    history::History,
    interfaces::Interfaces,
    log_reader::LogReader,
    look_back::LookBack,
    losses::Losses,
    next_hops::{NextHops, Waiting},
    problems::Problems,
    record::{Order, Record},
    start::{Start, remove_leftovers},
};
use crate::{
    config::{
        Config, Node, ReadError, Readers,
        edit::{self, Edit},
    },
    dataplane::{self, Dataplane, LossInterfaces},
    model::ProblemKind,
    netlink::{self, Event, Target},
    plan::{Change, Destination, Removal, Served},
    tracking::{Sweeper, Turn, Upkeep},
};

/// Requests that may wait for the controller.
const QUEUE: usize = 64;

/// How often what could not be done is tried again: interfaces, listeners.
const RETRY: Duration = Duration::from_secs(5);

/// How long a change waits for the next answer about the ways to new backends: neighbours on a link that works answer
/// in milliseconds.
const RESOLVE: Duration = Duration::from_millis(500);

/// How soon what events have changed is published: not at each of thousands.
const PUBLISH: Duration = Duration::from_millis(100);

/// Changes of an apply that are logged one by one.
const TOLD: usize = 50;

/// Events that are handled as one.
const EVENTS: usize = 4096;

/// Asks the controller. Any number of these may be about.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    views: Views,
}

type Views = watch::Receiver<Option<Arc<View>>>;

type Reply<T> = oneshot::Sender<Result<T, Error>>;

enum Request {
    Apply { force: bool, origin: Origin, reply: Reply<Applied> },
    Edit(Box<Edit>, Origin, Reply<Applied>),
    Problem { kind: ProblemKind, what: String, reason: Option<String> },
    Stop { detach: bool, reply: Reply<()> },
}

impl Request {
    /// Whether it has to wait until the change before it is done.
    fn is_change(&self) -> bool {
        matches!(self, Self::Apply { .. } | Self::Edit(..) | Self::Stop { .. })
    }
}

impl Handle {
    fn new(requests: mpsc::Sender<Request>, views: Views) -> Self {
        Self { requests, views }
    }

    /// What was last published. To be read on a thread that may block: it reads maps and the config file.
    pub(crate) fn view(&self) -> Result<Arc<View>, Error> {
        if self.requests.is_closed() {
            return Err(Error::Stopped);
        }
        self.views.borrow().clone().ok_or(Error::Stopped)
    }

    /// Makes the file what runs; with `force`, whatever it takes away.
    pub async fn apply(&self, force: bool, origin: Origin) -> Result<Applied, Error> {
        self.ask(|reply| Request::Apply { force, origin, reply }).await
    }

    /// Edits the file and makes it what runs; refused while the file has changes that are not applied.
    pub async fn edit(&self, edit: Edit, origin: Origin) -> Result<Applied, Error> {
        self.ask(|reply| Request::Edit(Box::new(edit), origin, reply)).await
    }

    /// Notes that something is not as the config wants it, or with no `reason` that it is.
    pub async fn note(&self, kind: ProblemKind, what: String, reason: Option<String>) {
        // A controller that has ended needs no notes.
        let _ = self.requests.send(Request::Problem { kind, what, reason }).await;
    }

    /// Who may read what the API tells.
    pub fn readers(&self) -> Result<Readers, Error> {
        Ok(self.view()?.readers().clone())
    }

    /// Waits until something else is published; never where nothing will be any more.
    pub async fn changed(&mut self) {
        if self.views.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Ends the controller; `detach` takes the data plane out of the kernel too.
    pub async fn stop(&self, detach: bool) -> Result<(), Error> {
        self.ask(|reply| Request::Stop { detach, reply }).await
    }

    /// The handle of a controller that has ended.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        Self::new(mpsc::channel(1).0, watch::channel(None).1)
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }
}

/// The state behind a [`Handle`].
pub struct Controller {
    file: ConfigFile,
    applied: Arc<Contents>,
    applied_at: SystemTime,
    applies: Applies,
    started: Instant,
    dataplane: Dataplane,
    netlink: netlink::Handle,
    events: mpsc::Receiver<Event>,
    next_hops: Arc<NextHops>,
    interfaces: Interfaces,
    losses: Losses,
    metrics: Box<dyn MetricsListener>,
    problems: Problems,
    log_reader: Option<LogReader>,
    upkeep: Upkeep,
    sweeper: Sweeper,
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
    history: History,
    /// Why the start did not begin from the file, until something is applied.
    because: Option<String>,
    look_back: LookBack,
}

impl Controller {
    /// Reads the config and takes the data plane's lock; nothing is changed yet. Fails where another daemon has it.
    /// `state` is the directory of what the daemon before left word of.
    pub async fn open(file: ConfigFile, state: &Path, metrics: Box<dyn MetricsListener>) -> Result<Self, Error> {
        let mut history = block_in_place(|| History::open(state, &file.path));
        let Start { mut contents, because, is_known } =
            block_in_place(|| Start::choose(&file, &mut history, dataplane::attached))?;
        let seed = block_in_place(|| file.seed(&contents.config));
        contents.config.node.hash_seed = seed.as_ref().copied().unwrap_or_default();
        let mut dataplane = block_in_place(|| Dataplane::open(&contents.config.node.bpffs, &contents.config))?;
        if !is_known && let Some(removal) = taken_away(&dataplane, &contents.config) {
            return Err(Error::TakesAwayAtStart { path: file.path, removal });
        }
        keep_attached(&mut contents.config.node, &dataplane);
        let mut problems = Problems::default();
        let adopted = dataplane.state().seed;
        let refused = match seed {
            Ok(seed) if seed == adopted || because.is_none() && history.was_stopped_cleanly() => None,
            Ok(seed) => Some(format!("the hash seed is another one (fingerprint {seed}), which nobody applied")),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = refused {
            contents.config.node.hash_seed = adopted;
            note_seed(&mut problems, &contents.config.node, &reason);
        }
        let applied = Arc::new(contents);
        let (netlink, events) = netlink::start()?;
        let (sender, requests) = mpsc::channel(QUEUE);
        let (views, viewer) = watch::channel(None);
        let adopted = dataplane
            .backends()
            .into_iter()
            .filter_map(|backend| Some((target(backend.destination()), backend.next_hop?)));
        let upkeep = block_in_place(|| Upkeep::of(&mut dataplane));
        let next_hops = Arc::new(NextHops::adopted(adopted));
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
            views,
            publish_at: None,
            handle: Handle::new(sender, viewer),
            requests,
            changes: VecDeque::new(),
            retry,
            is_retry_due: false,
            history,
            because,
            look_back: LookBack::default(),
        })
    }

    /// The config that was read.
    pub fn config(&self) -> &Config {
        &self.applied.config
    }

    /// Makes the config what runs, attaches the interfaces, and serves whoever has the handle. What cannot be had, an
    /// interface or the address of `/metrics`, is a problem that is told and tried again, and in the way of nothing else.
    pub async fn start(mut self) -> Result<(Handle, JoinHandle<()>), Error> {
        let config = self.applied.config.clone();
        block_in_place(|| {
            self.history.begin();
            remove_leftovers(&self.file, &self.applied.text);
        });
        self.interfaces.learn_all(self.netlink.interfaces());
        self.follow_attachments();
        let record = match self.stage(None, self.applied.text.clone()).await {
            Err(Error::Unwritten(error)) => {
                self.history.note(Err(error));
                None
            }
            staged => Some(staged?),
        };
        let targets = self.resolve(&config, &self.lingering()).await?;
        let done = block_in_place(|| self.dataplane.apply(&config))?;
        let path = self.file.path.display();
        let what = if self.because.is_some() { "what was applied last of " } else { "" };
        let (elapsed, changes) = (done.elapsed, done.changes.len());
        log::info!("applied {what}{path} in {elapsed:?}: changes {changes}, writes {}", done.writes);
        self.resolve_only_applied();
        self.follow_moved(&done.changes);
        done.changes.iter().filter(|change| moves_everything(change)).for_each(log_change);
        block_in_place(|| self.interfaces.follow(&mut self.dataplane, None, &config.node))?;
        self.losses = block_in_place(|| Losses::open(&config.node.bpffs));
        self.follow_attachments();
        let told = self.because.iter().cloned().chain(self.history.problem()).chain(self.view().warnings());
        for warning in told.chain(self.next_hops.missing(&config, &targets)) {
            log::warn!("{warning}");
        }
        self.read_logs(config.node.log_packets);
        if let Some(record) = record {
            self.put(record).await?;
        }
        self.retry_metrics().await;
        self.applied_at = SystemTime::now() - done.finished.elapsed();
        self.applies.succeeded += 1;
        self.publish();
        Ok((self.handle.clone(), tokio::spawn(self.run())))
    }

    async fn run(mut self) {
        loop {
            match self.changes.pop_front() {
                None => self.attend().await,
                Some(change) => {
                    if let Some((detach, reply)) = self.serve(change).await {
                        return self.stop(detach, reply).await;
                    }
                }
            }
            if mem::take(&mut self.is_retry_due) {
                self.retry().await;
            }
        }
    }

    /// Does what is to be done next that is no change: answers, takes a change into the queue, follows the network.
    async fn attend(&mut self) {
        let mut events = Vec::new();
        tokio::select! {
            Some(request) = self.requests.recv() => match request {
                change if change.is_change() => self.changes.push_back(change),
                other => self.answer(other),
            },
            1.. = self.events.recv_many(&mut events, EVENTS) => self.learn(&mut events, &mut Waiting::default()),
            turn = self.sweeper.turn() => self.sweep(turn),
            () = self.netlink.health_changed() => {}
            _ = self.retry.tick() => self.is_retry_due = true,
            () = due(self.publish_at) => return self.publish(),
        }
        self.publish_at.get_or_insert_with(|| tokio::time::Instant::now() + PUBLISH);
    }

    /// Waits for work that may take long, and attends to everything but changes meanwhile.
    async fn meanwhile<T>(&mut self, mut work: JoinHandle<T>) -> Result<T, Error> {
        loop {
            tokio::select! {
                done = &mut work => return done.map_err(|_| Error::Stopped),
                () = self.attend() => {}
            }
        }
    }

    /// Makes a change; gives back the one to stop.
    async fn serve(&mut self, change: Request) -> Option<(bool, Reply<()>)> {
        // Whoever asked may have gone: an answer that nobody waits for is no failure.
        match change {
            // What begins is completed, what has not begun is not begun for nobody.
            Request::Apply { origin, reply, .. } if reply.is_closed() => {
                log::info!("apply by {origin} dropped: whoever asked for it has gone");
            }
            Request::Edit(edit, origin, reply) if reply.is_closed() => {
                log::info!("edit `{edit}` by {origin} dropped: whoever asked for it has gone");
            }
            Request::Apply { force, origin, reply } => {
                let result = self.apply(force).await;
                drop(reply.send(self.count(&format!("apply by {origin}"), result)));
            }
            Request::Edit(edit, origin, reply) => {
                let result = self.edit(&edit).await;
                drop(reply.send(self.count(&format!("edit `{edit}` by {origin}"), result)));
            }
            Request::Stop { detach, reply } => return Some((detach, reply)),
            other => self.answer(other),
        }
        None
    }

    /// Tries again what could not be done.
    async fn retry(&mut self) {
        block_in_place(|| self.interfaces.retry(&mut self.dataplane, &self.applied.config.node));
        self.follow_attachments();
        self.log_reader.take_if(|reader| reader.has_ended());
        if self.log_reader.is_none() {
            self.read_logs(self.applied.config.node.log_packets);
        }
        self.retry_metrics().await;
    }

    /// Shows those who read what is so now.
    fn publish(&mut self) {
        self.upkeep.follow(&mut self.dataplane);
        self.note_problems();
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
        self.problems.follow(ProblemKind::State, &one(&self.applied.config.node.state, &self.history.problem()));
        let reason = |why| format!("next hops and interfaces are not followed, packets go where they went: {why}");
        let trouble = self.netlink.health().trouble.map(|why| ("netlink".to_owned(), reason(why)));
        self.problems.follow(ProblemKind::Netlink, &trouble.into_iter().collect());
    }

    /// Does what a request wants that is no change.
    fn answer(&mut self, request: Request) {
        match request {
            Request::Problem { kind, what, reason: Some(reason) } => self.problems.note(kind, &what, &reason),
            Request::Problem { kind, what, reason: None } => self.problems.mend(kind, &what),
            change @ (Request::Apply { .. } | Request::Edit(..) | Request::Stop { .. }) => {
                self.changes.push_back(change);
            }
        }
    }

    async fn stop(mut self, detach: bool, reply: Reply<()>) {
        let bpffs = self.applied.config.node.bpffs.clone();
        if let Some(look) = self.look_back.end() {
            let _ = look.await;
        }
        let Self { history, dataplane, .. } = self;
        // The data plane's lock and file descriptors go first.
        drop(dataplane);
        let result = if detach { dataplane::detach_everything(&bpffs).map(drop) } else { Ok(()) };
        if result.is_ok() {
            block_in_place(|| history.end());
        }
        drop(reply.send(result.map_err(Error::from)));
    }

    async fn apply(&mut self, force: bool) -> Result<Applied, Error> {
        let from = Instant::now();
        let wanted = self.read_file().await?;
        if let Some(removal) = Removal::between(&self.applied.config, &wanted.config).filter(|_| !force) {
            return Err(Error::TakesAway { path: self.file.path.clone(), removal });
        }
        let wanted = block_in_place(|| self.file.with_seed(wanted))?;
        let applied = self.change_to(wanted, None, from).await?;
        self.problems.follow(ProblemKind::HashSeed, &BTreeMap::new());
        Ok(applied)
    }

    async fn edit(&mut self, edit: &Edit) -> Result<Applied, Error> {
        let from = Instant::now();
        // An edit leaves the hash seed alone: what moves every flow is applied by who asks for it.
        let before = self.read_file().await?;
        if !self.view().changes_to(&before.config)?.is_empty() {
            return Err(Error::FileAhead { path: self.file.path.clone() });
        }
        let text = edit::apply_edit(&with_interfaces(&before, edit)?, edit)?;
        let wanted = self.file.parse(text, Some(&before)).map_err(Error::Edited)?;
        self.change_to(wanted, Some(before.text), from).await
    }

    async fn read_file(&mut self) -> Result<Contents, Error> {
        let file = self.file.clone();
        let text = self.meanwhile(spawn_blocking(move || file.settled_text())).await??;
        Ok(self.file.parse(text, Some(&self.applied)).map_err(ReadError::from)?)
    }

    /// Makes `wanted` what runs; with `before`, writes it to the file, whose text must still be that.
    async fn change_to(&mut self, wanted: Contents, before: Option<String>, from: Instant) -> Result<Applied, Error> {
        let (old, new) = (&self.applied.config.node, &wanted.config.node);
        node::refuse_restart_keys(old, new)?;
        Interfaces::refuse_missing(old, new)?;
        if new.metrics == old.metrics {
            return self.resolve_and_switch(wanted, before, from).await;
        }
        self.metrics.prepare(new.metrics, &self.handle).await.map_err(Error::Metrics)?;
        let result = self.resolve_and_switch(wanted, before, from).await;
        self.metrics.finish(result.is_ok(), &self.handle).await;
        if result.is_ok() {
            self.problems.follow(ProblemKind::Metrics, &BTreeMap::new());
        }
        result
    }

    async fn resolve_and_switch(
        &mut self,
        wanted: Contents,
        before: Option<String>,
        from: Instant,
    ) -> Result<Applied, Error> {
        let record = self.stage(before, wanted.text.clone()).await?;
        let known = self.view().warnings();
        let new = self.resolve(&wanted.config, &self.targets()).await?;
        let (done, old) = match block_in_place(|| self.switch(wanted)) {
            Ok(done) => done,
            Err(error) => {
                self.resolve_only_applied();
                return Err(error);
            }
        };
        if let Err(error) = self.put(record).await {
            block_in_place(|| self.switch_back(old));
            self.resolve_only_applied();
            return Err(error);
        }
        self.resolve_only_applied();
        self.read_logs(self.applied.config.node.log_packets);
        self.follow_moved(&done.changes);

        self.because = None;
        self.applied_at = SystemTime::now() - done.finished.elapsed();
        let changes = merged(node::changes(&old.config, &self.applied.config), done.changes);
        let warnings = self.view().warnings().into_iter().filter(|warning| !known.contains(warning));
        let warnings = warnings.chain(self.next_hops.missing(&self.applied.config, &new));
        let warnings = warnings.chain(self.history.problem()).collect();
        let to_maps = done.finished.saturating_duration_since(from);
        Ok(Applied { changes, writes: done.writes, to_maps, elapsed: from.elapsed(), warnings })
    }

    /// Writes to disk what [`Self::put`] will put in place: `text` for the config file if that is to be replaced, whose
    /// text must be `before` then, and for the next start.
    async fn stage(&mut self, before: Option<String>, text: String) -> Result<Record, Error> {
        let file = before.map(|before| (self.file.path.clone(), before));
        let order = Order { file, page: self.history.page(&text), text };
        Ok(self.meanwhile(spawn_blocking(|| order.stage())).await??)
    }

    async fn put(&mut self, record: Record) -> Result<(), Error> {
        if let Some(look) = self.look_back.end() {
            self.meanwhile(look).await?;
        }
        let recorded = self.meanwhile(spawn_blocking(|| record.put())).await??;
        if let Some(applied) = recorded.applied {
            self.history.note(applied);
        }
        if let Some(replaced) = recorded.replaced {
            self.look_back.begin(replaced);
        }
        Ok(())
    }

    /// Has the data plane run `wanted`, and gives back what it ran before; takes back what was done if a step fails.
    fn switch(&mut self, wanted: Contents) -> Result<(dataplane::Applied, Arc<Contents>), Error> {
        let old = mem::replace(&mut self.applied, Arc::new(wanted));
        let result = self.try_switch(&old.config.node);
        match result {
            Ok(done) => Ok((done, old)),
            Err(error) => {
                self.switch_back(old);
                Err(error)
            }
        }
    }

    fn try_switch(&mut self, old: &Node) -> Result<dataplane::Applied, Error> {
        let config = &self.applied.config;
        let done = self.dataplane.apply(config)?;
        self.interfaces.follow(&mut self.dataplane, Some(old), &config.node)?;
        self.follow_attachments();
        Ok(done)
    }

    fn switch_back(&mut self, old: Arc<Contents>) {
        let failed = mem::replace(&mut self.applied, old);
        let config = &self.applied.config;
        if let Err(error) = self.dataplane.apply(config) {
            log::error!("the config before could not be put in force again: {error}; restart the daemon");
        }
        if let Err(error) = self.interfaces.follow(&mut self.dataplane, Some(&failed.config.node), &config.node) {
            log::error!("the interfaces are not attached as before: {error}; restart the daemon");
        }
        self.follow_attachments();
    }

    /// Serves metrics where the config wants them and they are not served, or not any more.
    async fn retry_metrics(&mut self) {
        let Some(address) = self.applied.config.node.metrics else {
            return self.problems.follow(ProblemKind::Metrics, &BTreeMap::new());
        };
        let what = address.to_string();
        match self.metrics.serve(address, &self.handle).await {
            Ok(()) => self.problems.mend(ProblemKind::Metrics, &what),
            Err(reason) => self.problems.note(ProblemKind::Metrics, &what, &reason),
        }
    }

    /// Finds the ways to those backends of `config` that are not among `old` before any packet is sent to them; waits
    /// for the answers as long as they keep coming. Gives back what it looked for, found or not.
    async fn resolve(&mut self, config: &Config, old: &HashSet<Target>) -> Result<HashSet<Target>, Error> {
        let new: HashSet<_> = next_hops::targets(config).difference(old).copied().collect();
        if new.is_empty() {
            return Ok(new);
        }
        self.netlink.set_targets(new.union(old).copied().collect());
        let mut waiting = self.next_hops.waiting(new.clone());
        let mut events = Vec::new();
        let mut deadline = tokio::time::Instant::now() + RESOLVE;
        while waiting.unsettled() > 0 {
            let unsettled = waiting.unsettled();
            match tokio::time::timeout_at(deadline, self.events.recv_many(&mut events, EVENTS)).await {
                Ok(1..) => self.learn(&mut events, &mut waiting),
                // What is not found in time is found later: the backend is then without a way for as long.
                Ok(0) | Err(_) => break,
            }
            if waiting.unsettled() < unsettled {
                deadline = tokio::time::Instant::now() + RESOLVE;
            }
        }
        let heard = new.iter().filter_map(|target| Some((destination(target), self.next_hops.heard(target)?)));
        self.dataplane.set_next_hops(heard.collect::<Vec<_>>())?;
        Ok(new)
    }

    /// Lets go of the ways that only a change needed that did not happen, or that the last change no longer needs.
    fn resolve_only_applied(&mut self) {
        let targets = self.targets();
        Arc::make_mut(&mut self.next_hops).prune(&targets);
        self.netlink.set_targets(targets.into_iter().collect());
    }

    /// Puts the ways in use that a change has made others of backends that stay. One whose neighbour is still asked for
    /// comes later, and until then the way before serves.
    fn follow_moved(&mut self, changes: &[Change]) {
        if changes.iter().any(Change::moves_ways) {
            let heard = |target: &Target| Some((destination(target), self.next_hops.heard(target)?));
            let news = self.targets().iter().filter_map(heard).collect();
            self.tell(news);
        }
    }

    /// What ways are followed to: the backends of the config, and those that it does not have any more and that have
    /// flows.
    fn targets(&self) -> HashSet<Target> {
        next_hops::targets(&self.applied.config).into_iter().chain(self.lingering()).collect()
    }

    fn lingering(&self) -> HashSet<Target> {
        self.dataplane.removed_destinations().map(target).collect()
    }

    /// Begins a sweep over the flow tables, or acts on what one found.
    fn sweep(&mut self, turn: Turn) {
        let lingering = self.dataplane.removed_destinations().count();
        let done = match turn {
            Turn::Begin => {
                let sweep = block_in_place(|| self.upkeep.sweep(&mut self.dataplane));
                sweep.map(|sweep| self.sweeper.begin(sweep))
            }
            Turn::End(result) => {
                (*result).and_then(|swept| block_in_place(|| self.upkeep.apply_sweep(&mut self.dataplane, swept)))
            }
        };
        if let Err(error) = done {
            self.sweeper.put_off(&error);
        }
        if self.dataplane.removed_destinations().count() != lingering {
            self.resolve_only_applied();
        }
    }

    /// Takes note of what netlink says, and passes it to the data plane; what is said of `waiting` later. An adopted
    /// data plane thereby keeps the ways that it has while their neighbours are asked again.
    fn learn(&mut self, events: &mut Vec<Event>, waiting: &mut Waiting) {
        let mut news = HashMap::new();
        let mut interfaces_changed = false;
        for event in events.drain(..) {
            match event {
                // What was found out about it before it was let go of.
                Event::NextHop { target, asking, .. } if !self.netlink.is_current(&target, asking) => {}
                Event::NextHop { target, result, .. } => {
                    let is_awaited = waiting.hear(&target, &result);
                    if let Some(next_hop) = Arc::make_mut(&mut self.next_hops).learn(target, result)
                        && !is_awaited
                    {
                        news.insert(destination(&target), next_hop);
                    }
                }
                Event::Interface(change) => {
                    interfaces_changed = true;
                    let node = &self.applied.config.node;
                    block_in_place(|| self.interfaces.learn(&mut self.dataplane, node, change));
                }
                Event::Restarted => {
                    interfaces_changed = true;
                    let (links, node) = (self.netlink.interfaces(), &self.applied.config.node);
                    block_in_place(|| self.interfaces.learn_anew(&mut self.dataplane, node, links));
                }
            }
        }
        self.tell(news);
        if interfaces_changed {
            self.follow_attachments();
        }
    }

    /// Counts losses at the interfaces that packets come in and leave by.
    fn follow_losses(&mut self, ingress: BTreeSet<u32>) {
        let interfaces = LossInterfaces { ingress, egress: self.next_hops.interfaces() };
        block_in_place(|| self.losses.follow(interfaces, |ifindex| self.interfaces.exists(ifindex)));
    }

    /// Takes frames for the addresses, and uses the ways that packets can leave by, as the data plane is attached now;
    /// and no others.
    fn follow_attachments(&mut self) {
        let ingress = self.interfaces.ingress(&self.dataplane);
        self.interfaces.follow_macs(&mut self.dataplane, &ingress);
        self.follow_losses(ingress);
        let news = Arc::make_mut(&mut self.next_hops).bar(self.interfaces.barred(&self.dataplane));
        self.tell(news.into_iter().map(|(target, next_hop)| (destination(&target), next_hop)).collect());
    }

    fn tell(&mut self, news: HashMap<Destination, Option<NextHop>>) {
        if news.is_empty() {
            return;
        }
        let egress = news.values().flatten().map(|next_hop| next_hop.ifindex).collect();
        block_in_place(|| self.losses.follow_egress(&egress, |ifindex| self.interfaces.exists(ifindex)));
        if let Err(error) = block_in_place(|| self.dataplane.set_next_hops(news)) {
            log::error!("next hops could not be written: {error}");
        }
    }

    /// Follows the program whose messages are wanted: an apply may have loaded another.
    fn read_logs(&mut self, wanted: bool) {
        const WHAT: &str = "log_packets";
        if !wanted {
            self.log_reader = None;
            return self.problems.follow(ProblemKind::PacketLog, &BTreeMap::new());
        }
        let started = self.dataplane.program_id().and_then(|id| match &self.log_reader {
            Some(reader) if reader.program_id() == id => Ok(None),
            _ => Ok(Some(LogReader::start(id, self.dataplane.logger()?))),
        });
        match started {
            Ok(None) => {}
            Ok(reader) => {
                self.log_reader = reader;
                self.problems.mend(ProblemKind::PacketLog, WHAT);
            }
            Err(error) => {
                let reason = format!("messages of the data plane cannot be read: {error}");
                self.problems.note(ProblemKind::PacketLog, WHAT, &reason);
            }
        }
    }

    /// Counts, publishes and logs what became of an apply, before whoever asked is told.
    fn count(&mut self, what: &str, result: Result<Applied, Error>) -> Result<Applied, Error> {
        match &result {
            Ok(applied) => {
                self.applies.succeeded += 1;
                let Applied { changes, writes, elapsed, .. } = applied;
                let elapsed = elapsed.as_micros();
                log::info!("{what} done in {elapsed} µs: changes {}, writes {writes}", changes.len());
                for change in changes.iter().take(TOLD) {
                    log_change(change);
                }
                if let more @ 1.. = changes.len().saturating_sub(TOLD) {
                    log::info!("{more} more changes");
                }
            }
            Err(error) => {
                self.applies.failed += 1;
                log::warn!("{what} refused: {error}");
            }
        }
        self.publish();
        result
    }
}

/// Waits for a moment, if there is one.
async fn due(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
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

/// Whether a change moves every flow.
fn moves_everything(change: &Change) -> bool {
    matches!(change, Change::HashSeedChanged { .. })
}

/// What moves every flow is told however little is logged.
fn log_change(change: &Change) {
    let level = if moves_everything(change) { log::Level::Warn } else { log::Level::Info };
    log::log!(level, "{change}");
}

/// Changes of `[node]` and those that the data plane found, each once.
fn merged(mut node: Vec<Change>, dataplane: Vec<Change>) -> Vec<Change> {
    let new: Vec<_> = dataplane.into_iter().filter(|change| !node.contains(change)).collect();
    node.extend(new);
    node
}

/// What `config` would take away from a data plane that an unknown daemon left.
fn taken_away(dataplane: &Dataplane, config: &Config) -> Option<Removal> {
    Served::by_maps(dataplane.state()).lost_by(config, config.node.max_removed)
}

/// A file that does not name interfaces lets none go.
fn keep_attached(node: &mut Node, dataplane: &Dataplane) {
    if node.names_interfaces {
        return;
    }
    for attachment in dataplane.attachments() {
        if !node.interfaces.contains(&attachment.name) {
            node.interfaces.push(attachment.name);
        }
    }
}

/// The text with its `interfaces` written out where an edit is about to name one, from when on they are all that there
/// are, or removes the last VIP, without which a text must name them.
fn with_interfaces(before: &Contents, edit: &Edit) -> Result<String, edit::EditError> {
    let mut text = before.text.clone();
    let node = &before.config.node;
    let is_last_vip = matches!(edit, Edit::VipRemove { .. }) && before.config.vips.len() == 1;
    let names_one = matches!(edit, Edit::InterfaceAdd { .. } | Edit::InterfaceRemove { .. });
    if node.names_interfaces || !(names_one || is_last_vip) {
        return Ok(text);
    }
    for name in &node.interfaces {
        text = edit::apply_edit(&text, &Edit::InterfaceAdd { name: name.clone() })?;
    }
    Ok(text)
}

fn destination(target: &Target) -> Destination {
    let Target { address, on_link, via, mac } = *target;
    Destination { address, on_link, via, mac }
}

fn target(destination: Destination) -> Target {
    let Destination { address, on_link, via, mac } = destination;
    Target { address, on_link, via, mac }
}
