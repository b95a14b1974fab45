//! The task: a start, then changes one after the other, and everything else beside them.

use std::{
    collections::BTreeMap,
    mem,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::task::{JoinHandle, block_in_place};

use super::{
    Controller, Error,
    change::{log_change, moves_everything},
    due::due,
    follow::{EVENTS, missing},
    handle::{Handle, Reply, Request},
    keep,
    log_reader::LogReader,
    losses::Losses,
    start::remove_leftovers,
};
use crate::{
    dataplane,
    model::{Config, ProblemKind, Target},
    network::Waiting,
    tracking::Turn,
};

/// How soon what events have changed is published: not at each of thousands.
const PUBLISH: Duration = Duration::from_millis(100);

impl Controller {
    /// Makes the config what runs, attaches the interfaces, and serves whoever has the handle. What cannot be had, an
    /// interface or the address of `/metrics`, is a problem that is told and tried again, and in the way of nothing
    /// else.
    pub async fn start(mut self) -> Result<(Handle, JoinHandle<()>), Error> {
        block_in_place(|| {
            self.state_directory.begin();
            remove_leftovers(&self.file, &self.applied.sources.text);
        });
        self.interfaces.update_all(self.netlink.interfaces());
        self.follow_attachments();
        let record = match self.reserve(None, &Arc::clone(&self.applied.sources.text)).await {
            Err(Error::Unwritten(error)) => {
                self.state_directory.note(Err(error));
                None
            }
            reserved => Some(reserved?),
        };
        // With the verdicts of the time for which the disk was waited.
        let config = self.applied.config.clone();
        let targets = self.resolve(&Config::default(), &config).await?;
        let done = block_in_place(|| self.dataplane.apply(&config))?;
        self.next_hops.follow(Target::changed(&Config::default(), &config));
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
        let reported = self.because.iter().cloned().chain(self.state_directory.problem()).chain(self.view().warnings());
        for warning in reported.chain(missing(self.next_hops.ways(), &config, &targets)) {
            log::warn!("{warning}");
        }
        self.read_logs(config.node.log_packets);
        if let Some(record) = record {
            self.put(record).await?;
        }
        self.keep(keep::PATIENCE).await;
        self.retry_metrics().await;
        self.applied_at = SystemTime::now() - done.finished.elapsed();
        self.applies.succeeded += 1;
        self.publish();
        Ok((self.handle.clone(), tokio::spawn(self.run())))
    }

    pub(super) async fn run(mut self) {
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
    pub(super) async fn attend(&mut self) {
        let mut events = Vec::new();
        tokio::select! {
            Some(request) = self.requests.recv() => match request {
                change if change.is_change() => self.changes.push_back(change),
                other => self.answer(other),
            },
            1.. = self.events.recv_many(&mut events, EVENTS) => self.observe(&mut events, &mut Waiting::default()),
            turn = self.sweeper.turn() => self.sweep(turn),
            () = self.health.next() => self.note_due(),
            () = self.netlink.health_changed() => {}
            _ = self.retry.tick() => self.is_retry_due = true,
            () = due(self.publish_at) => return self.publish(),
        }
        self.publish_at.get_or_insert_with(|| tokio::time::Instant::now() + PUBLISH);
    }

    /// Waits for work that may take long, and attends to everything but changes meanwhile. Verdicts are put in force: a
    /// backend that dies waits for no disk.
    pub(super) async fn meanwhile<T>(&mut self, mut work: JoinHandle<T>) -> Result<T, Error> {
        loop {
            self.judge_if_due();
            tokio::select! {
                done = &mut work => return done.map_err(|_| Error::Stopped),
                () = self.attend() => {}
            }
        }
    }

    /// Puts verdicts in force that wait behind the change that is being made.
    pub(super) fn judge_if_due(&mut self) {
        if let Some(at) = self.changes.iter().position(|change| matches!(change, Request::Judge)) {
            drop(self.changes.remove(at));
            self.judge();
        }
    }

    /// As [`Self::meanwhile`], for work before anything has begun: operations are done beside it as well; they wait for no
    /// change that was asked for before them.
    pub(super) async fn meanwhile_operating<T>(&mut self, mut work: JoinHandle<T>) -> Result<T, Error> {
        loop {
            while let Some(at) = self.changes.iter().position(Request::is_of_overlay) {
                match self.changes.remove(at) {
                    Some(Request::Operate(operate, origin, reply)) => {
                        self.serve_operation(&operate, &origin, reply).await;
                    }
                    Some(Request::Judge) => self.judge(),
                    _ => {}
                }
            }
            tokio::select! {
                done = &mut work => return done.map_err(|_| Error::Stopped),
                () = self.attend() => {}
            }
        }
    }

    /// Makes a change; gives back the one to stop.
    pub(super) async fn serve(&mut self, change: Request) -> Option<(bool, Reply<()>)> {
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
            Request::Operate(operate, origin, reply) => self.serve_operation(&operate, &origin, reply).await,
            Request::Judge => self.judge(),
            Request::Stop { detach, reply } => return Some((detach, reply)),
            other => self.answer(other),
        }
        None
    }

    /// Does what a request wants that is no change.
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::Problem { kind, what, reason: Some(reason) } => self.problems.note(kind, &what, &reason),
            Request::Problem { kind, what, reason: None } => self.problems.mend(kind, &what),
            change @ (Request::Apply { .. }
            | Request::Edit(..)
            | Request::Operate(..)
            | Request::Judge
            | Request::Stop { .. }) => {
                self.changes.push_back(change);
            }
        }
    }

    pub(super) async fn stop(mut self, detach: bool, reply: Reply<()>) {
        self.keep(keep::PATIENCE).await;
        if !self.state_directory.has_kept(&self.applied.operations) {
            log::error!("what was drained or taken down by command is not kept: the next start does not know of it");
        }
        let bpffs = self.applied.config.node.bpffs.clone();
        if let Some(look) = self.look_back.end() {
            let _ = look.await;
        }
        let Self { state_directory, dataplane, probing, health, .. } = self;
        block_in_place(|| probing.end(health.paths()));
        // The data plane's lock and file descriptors go first.
        drop(dataplane);
        let result = if detach { dataplane::detach_everything(&bpffs).map(drop) } else { Ok(()) };
        if result.is_ok() {
            block_in_place(|| state_directory.end());
        }
        drop(reply.send(result.map_err(Error::from)));
    }

    /// Tries again what could not be done.
    pub(super) async fn retry(&mut self) {
        block_in_place(|| self.interfaces.retry(&mut self.dataplane, &self.applied.config.node));
        self.follow_attachments();
        self.note_punctuality();
        self.note_void();
        self.note_answers();
        self.end_operations().await;
        self.log_reader.take_if(|reader| reader.has_ended());
        if self.log_reader.is_none() {
            self.read_logs(self.applied.config.node.log_packets);
        }
        self.retry_metrics().await;
        self.keep(keep::MOMENT).await;
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

    /// Follows the program whose messages are wanted: an apply may have loaded another.
    pub(super) fn read_logs(&mut self, wanted: bool) {
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

    /// Begins a sweep over the flow table, or acts on what one found.
    fn sweep(&mut self, turn: Turn) {
        let lingering = self.dataplane.removed_targets().count();
        let done = match turn {
            Turn::Begin => {
                let sweep = block_in_place(|| self.upkeep.sweep(&mut self.dataplane));
                self.sweeper.begin(sweep);
                Ok(())
            }
            Turn::End(result) => {
                (*result).and_then(|swept| block_in_place(|| self.upkeep.apply_sweep(&mut self.dataplane, swept)))
            }
        };
        if let Err(error) = done {
            self.sweeper.put_off(&error);
        }
        if self.dataplane.removed_targets().count() != lingering {
            self.resolve_only_applied();
        }
    }
}
