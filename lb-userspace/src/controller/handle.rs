//! How others ask the controller.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{Applied, Error, Origin, View};
use crate::{
    model::{Operate, ProblemKind, Readers},
    source::file::edit::Edit,
};

/// Asks the controller. Any number of these may be about.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    views: Views,
}

pub(super) type Views = watch::Receiver<Option<Arc<View>>>;

pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the controller is asked for.
pub(super) enum Request {
    Apply {
        force: bool,
        origin: Origin,
        reply: Reply<Applied>,
    },
    Edit(Box<Edit>, Origin, Reply<Applied>),
    Operate(Operate, Origin, Reply<Applied>),
    /// To put in force what probes have said.
    Judge,
    Problem {
        kind: ProblemKind,
        what: String,
        reason: Option<String>,
    },
    Stop {
        detach: bool,
        reply: Reply<()>,
    },
}

impl Request {
    /// Whether it changes what is over the file, and nothing on disk before packets follow it.
    pub(super) fn is_of_overlay(&self) -> bool {
        matches!(self, Self::Operate(..) | Self::Judge)
    }

    /// Whether it has to wait until the change before it is done.
    pub(super) fn is_change(&self) -> bool {
        matches!(self, Self::Apply { .. } | Self::Edit(..) | Self::Stop { .. }) || self.is_of_overlay()
    }
}

impl Handle {
    pub(super) fn new(requests: mpsc::Sender<Request>, views: Views) -> Self {
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

    /// Does something to a backend, whatever the file says, and remembers that.
    pub async fn operate(&self, operate: Operate, origin: Origin) -> Result<Applied, Error> {
        self.ask(|reply| Request::Operate(operate, origin, reply)).await
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
