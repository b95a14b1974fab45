//! One change: read, judge, take room on disk, resolve, write maps, put the file in place; or back to what was.

use std::{
    collections::BTreeMap,
    mem,
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use tokio::task::{block_in_place, spawn_blocking};

use super::{
    Applied, Controller, Error, Origin,
    file::{Contents, Desired, Text},
    follow::missing,
    handle::Reply,
    interfaces::Interfaces,
    keep, node,
    record::{Order, Record},
};
use crate::{
    dataplane,
    health::{self, MeansError},
    model::{Operate, Operation, Operations, Overridden, ProblemKind, Target, Verb, Verdicts},
    plan::{Change, Removal},
    source::file::{
        ReadError,
        edit::{self, Edit, EditError},
    },
};

/// Changes of an apply that are logged one by one.
const LISTED: usize = 50;

impl Controller {
    pub(super) async fn apply(&mut self, force: bool) -> Result<Applied, Error> {
        let from = Instant::now();
        let wanted = self.read_file().await?;
        if let Some(removal) = Removal::between(&self.applied.sources.config, &wanted.config).filter(|_| !force) {
            return Err(Error::TakesAway { path: self.file.path.clone(), removal });
        }
        let wanted = block_in_place(|| self.file.with_seed(wanted))?;
        block_in_place(|| health::check_means(&wanted.config)).map_err(|means| self.probes_error(means))?;
        let applied = self.change_file_to(wanted, None, from).await?;
        self.problems.follow(ProblemKind::HashSeed, &BTreeMap::new());
        self.health.renew();
        Ok(applied)
    }

    pub(super) async fn edit(&mut self, edit: &Edit) -> Result<Applied, Error> {
        let from = Instant::now();
        // An edit leaves the hash seed alone: what moves every flow is applied by who asks for it.
        let before = self.read_file().await?;
        let is_ahead = before.config != self.applied.sources.config;
        if is_ahead && !self.view().changes_to(before.clone()).is_empty() {
            return Err(Error::FileAhead { path: self.file.path.clone() });
        }
        let text = edited(&before, edit)?;
        let wanted = self.file.parse(text, Some(&before)).map_err(Error::Edited)?;
        let applied = &self.applied.sources.config;
        block_in_place(|| health::check_new_means(applied, &wanted.config))
            .map_err(|means| self.probes_error(means))?;
        self.change_file_to(wanted, Some(before.text), from).await
    }

    /// Does something to a backend, over what the file says of it: the file is neither read nor written.
    pub(super) async fn operate(&mut self, operate: &Operate, origin: &Origin) -> Result<Applied, Error> {
        let from = Instant::now();
        let mut operations = Operations::clone(&self.applied.operations);
        operations.operate(&self.applied.sources.config, operate, origin.user(), seconds_since_1970())?;
        let mut wanted = self.applied.with(operations);
        if operate.op == Verb::Restore
            && let Some(whole) = wanted.whole(&operate.vip, operate.address)
        {
            wanted = whole;
        }
        let mut applied = self.resolve_and_switch(wanted, None, from).await?;
        // It is done. That it is remembered takes no longer than whoever asked waits.
        self.keep(keep::PATIENCE).await;
        applied.warnings.extend(self.state_directory.problem());
        applied.elapsed = from.elapsed();
        Ok(applied)
    }

    /// Takes back what operators have done for a time that is over.
    pub(super) async fn end_operations(&mut self) {
        let from = Instant::now();
        let mut operations = Operations::clone(&self.applied.operations);
        let ended = operations.end(seconds_since_1970());
        if ended.is_empty() {
            return;
        }
        let wanted = self.applied.with(operations);
        match self.resolve_and_switch(wanted, None, from).await {
            Ok(_) => ended.iter().for_each(log_ended),
            Err(error) => log::error!("what operators have done for a time that is over stays so: {error}"),
        }
        // Whoever reads finds it so before it is kept: slots have moved by now.
        self.publish();
        self.keep(keep::MOMENT).await;
        self.publish();
    }

    /// Does what is asked for, and answers.
    pub(super) async fn serve_operation(&mut self, operate: &Operate, origin: &Origin, reply: Reply<Applied>) {
        if reply.is_closed() {
            return log::info!("{operate} by {origin} dropped: whoever asked for it has gone");
        }
        let result = self.operate(operate, origin).await;
        drop(reply.send(self.report(&format!("{operate} by {origin}"), result)));
    }

    /// Makes `wanted` what the file says, and what comes of that what runs.
    async fn change_file_to(
        &mut self,
        wanted: Contents,
        before: Option<Text>,
        from: Instant,
    ) -> Result<Applied, Error> {
        node::refuse_restart_keys(&self.applied.config.node, &wanted.config.node)?;
        Interfaces::refuse_missing(&self.applied.config.node, &wanted.config.node)?;
        // What is written in the background to the same place comes first, if that can be.
        if self.keeping.is_some() {
            self.keep(keep::PATIENCE).await;
        }
        let record = self.reserve(before, &wanted.text).await?;
        // Operations that were done while the disk was waited for are among these.
        let (wanted, forgotten) = Desired::new(wanted, &self.applied.operations, &self.applied.verdicts);
        let overridden = self.applied.overridden(&wanted.sources.config);
        let changes: Vec<_> = overridden.iter().map(node::overridden_change).collect();
        let warnings: Vec<_> = overridden.iter().filter_map(Overridden::warning).chain(forgotten).collect();
        let mut applied = self.change_to(wanted, record, from).await?;
        self.because = None;
        self.applied_at = SystemTime::now() - from.elapsed().saturating_sub(applied.to_maps);
        if !self.state_directory.has_kept(&self.applied.operations) {
            self.keep(keep::PATIENCE).await;
        }
        applied.changes = node::merged(applied.changes, changes);
        applied.warnings.extend(warnings.into_iter().chain(self.state_directory.problem()));
        applied.elapsed = from.elapsed();
        Ok(applied)
    }

    fn probes_error(&self, (vip, error): (String, MeansError)) -> Error {
        Error::Probes { path: self.file.path.clone(), vip, error }
    }

    async fn read_file(&mut self) -> Result<Contents, Error> {
        let file = self.file.clone();
        // Nothing has begun yet: what is done to a backend does not wait for somebody's save.
        let text = self.meanwhile_operating(spawn_blocking(move || file.settled_text())).await??;
        Ok(self.file.parse(text, Some(&self.applied.sources)).map_err(ReadError::from)?)
    }

    /// Makes `wanted` what runs, and puts the record of it in place.
    async fn change_to(&mut self, wanted: Desired, record: Record, from: Instant) -> Result<Applied, Error> {
        let metrics = wanted.config.node.metrics;
        if metrics == self.applied.config.node.metrics {
            return self.resolve_and_switch(wanted, Some(record), from).await;
        }
        self.metrics.prepare(metrics, &self.handle).await.map_err(Error::Metrics)?;
        let result = self.resolve_and_switch(wanted, Some(record), from).await;
        self.metrics.finish(result.is_ok(), &self.handle).await;
        if result.is_ok() {
            self.problems.follow(ProblemKind::Metrics, &BTreeMap::new());
        }
        result
    }

    /// Makes `wanted` what runs; with a record, puts that in place.
    pub(super) async fn resolve_and_switch(
        &mut self,
        wanted: Desired,
        record: Option<Record>,
        from: Instant,
    ) -> Result<Applied, Error> {
        let before_view = self.view();
        let applied = Arc::clone(&self.applied);
        let new = self.resolve(&applied.config, &wanted.config).await?;
        let (done, old) = match block_in_place(|| self.switch(wanted)) {
            Ok(done) => done,
            Err(error) => {
                self.resolve_only_applied();
                return Err(error);
            }
        };
        if let Some(record) = record
            && let Err(error) = self.put(record).await
        {
            // What probes have said meanwhile stays in force, and so does what they had said of backends that the change took
            // out of them.
            let Desired { verdicts, sources, .. } = &*self.applied;
            let verdicts = Verdicts::clone(verdicts).with_others_of(&old.verdicts, &sources.config);
            self.health.take_back(&verdicts);
            block_in_place(|| self.switch_back(Arc::new(old.judged(verdicts))));
            self.resolve_only_applied();
            return Err(error);
        }
        self.resolve_only_applied();
        self.read_logs(self.applied.config.node.log_packets);
        self.follow_moved(&done.changes);

        let changes = node::merged(node::changes(&old.config, &self.applied.config), done.changes);
        // Packets follow the change by now: what takes a look at everything may take its time.
        let known = before_view.warnings();
        let warnings = self.view().warnings().into_iter().filter(|warning| !known.contains(warning));
        let warnings = warnings.chain(missing(self.next_hops.ways(), &self.applied.config, &new)).collect();
        let to_maps = done.finished.saturating_duration_since(from);
        Ok(Applied { changes, writes: done.writes, to_maps, elapsed: from.elapsed(), warnings })
    }

    /// Takes room on disk for what [`Self::put`] will write: `text` for the config file if that is to be replaced,
    /// whose text must be `before` then, and for the next start. Operations are done meanwhile.
    pub(super) async fn reserve(&mut self, before: Option<Text>, text: &Text) -> Result<Record, Error> {
        let file = before.map(|before| (self.file.path.clone(), before));
        let text = Arc::clone(text);
        let order = Order { file, page: self.state_directory.page(&text), text };
        Ok(self.meanwhile_operating(spawn_blocking(|| order.reserve())).await??)
    }

    pub(super) async fn put(&mut self, record: Record) -> Result<(), Error> {
        if record.is_edit()
            && let Some(look) = self.look_back.end()
        {
            self.meanwhile(look).await?;
        }
        let recorded = self.meanwhile(spawn_blocking(|| record.put())).await??;
        if let Some(applied) = recorded.applied {
            self.state_directory.note(applied);
        }
        if let Some(replaced) = recorded.replaced {
            self.look_back.begin(replaced);
        }
        Ok(())
    }

    /// Has the data plane run `wanted`, and gives back what it ran before; takes back what was done if a step fails.
    pub(super) fn switch(&mut self, wanted: Desired) -> Result<(dataplane::Applied, Arc<Desired>), Error> {
        let old = mem::replace(&mut self.applied, Arc::new(wanted));
        let result = self.try_switch(&old);
        match result {
            Ok(done) => Ok((done, old)),
            Err(error) => {
                self.switch_back(old);
                Err(error)
            }
        }
    }

    fn try_switch(&mut self, old: &Desired) -> Result<dataplane::Applied, Error> {
        let config = &self.applied.config;
        self.next_hops.follow(Target::changed(&old.config, config));
        let done = self.dataplane.apply(config)?;
        if old.config.node != config.node {
            self.interfaces.follow(&mut self.dataplane, Some(&old.config.node), &config.node)?;
            self.follow_attachments();
        }
        Ok(done)
    }

    fn switch_back(&mut self, old: Arc<Desired>) {
        let failed = mem::replace(&mut self.applied, old);
        let config = &self.applied.config;
        self.next_hops.follow(Target::changed(&failed.config, config));
        if let Err(error) = self.dataplane.apply(config) {
            log::error!("the config before could not be put in force again: {error}; restart the daemon");
        }
        if failed.config.node != config.node
            && let Err(error) = self.interfaces.follow(&mut self.dataplane, Some(&failed.config.node), &config.node)
        {
            log::error!("the interfaces are not attached as before: {error}; restart the daemon");
        }
        self.follow_attachments();
    }

    /// Counts, publishes and logs what became of an apply or an edit, before whoever asked is told.
    pub(super) fn count(&mut self, what: &str, result: Result<Applied, Error>) -> Result<Applied, Error> {
        match &result {
            Ok(_) => self.applies.succeeded += 1,
            Err(_) => self.applies.failed += 1,
        }
        self.report(what, result)
    }

    /// Publishes and logs what became of a change.
    fn report(&mut self, what: &str, result: Result<Applied, Error>) -> Result<Applied, Error> {
        match &result {
            Ok(applied) => {
                let Applied { changes, writes, elapsed, .. } = applied;
                let elapsed = elapsed.as_micros();
                log::info!("{what} done in {elapsed} µs: changes {}, writes {writes}", changes.len());
                for change in changes.iter().take(LISTED) {
                    log_change(change);
                }
                if let more @ 1.. = changes.len().saturating_sub(LISTED) {
                    log::info!("{more} more changes");
                }
            }
            Err(error) => log::warn!("{what} refused: {error}"),
        }
        self.publish();
        result
    }
}

/// What time it is, in seconds since 1970.
pub(super) fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Tells that the time is over of what an operator has done.
pub(super) fn log_ended((vip, backend, operation): &(String, IpAddr, Operation)) {
    log::info!(
        "vip {vip}: backend {backend} is as the config file says again, for the time is over of its {operation}"
    );
}

/// Whether a change moves every flow.
pub(super) fn moves_everything(change: &Change) -> bool {
    matches!(change, Change::HashSeedChanged { .. })
}

/// What moves every flow is told however little is logged.
pub(super) fn log_change(change: &Change) {
    let level = if moves_everything(change) { log::Level::Warn } else { log::Level::Info };
    log::log!(level, "{change}");
}

/// The text after an edit. Its `interfaces` are written out where the edit is about to name one, from when on they are
/// all that there are, or removes the last VIP, without which a text must name them.
fn edited(before: &Contents, edit: &Edit) -> Result<String, EditError> {
    let node = &before.config.node;
    let is_last_vip = matches!(edit, Edit::VipRemove { .. }) && before.config.vips.len() == 1;
    let names_one = matches!(edit, Edit::InterfaceAdd { .. } | Edit::InterfaceRemove { .. });
    if node.names_interfaces || !(names_one || is_last_vip) {
        return before.edited(edit);
    }
    let mut text = before.text.to_string();
    for name in &node.interfaces {
        text = edit::apply_edit(&text, &Edit::InterfaceAdd { name: name.clone() })?;
    }
    edit::apply_edit(&text, edit)
}
