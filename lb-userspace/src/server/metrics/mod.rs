//! `/metrics` in the OpenMetrics text format, for whoever can reach its address.
//!
//! A scrape never meets the controller: it reads counters from what the controller published ([`Snapshot::of`]), one at
//! a time and beside the reads of the API, and scrapes within a second share what was read. What a stranger who can
//! connect can do: take all [`LIMITS`] connections and read nothing, or little. They are ended after that, and drive
//! each other out before. Each costs a thread that waits and [`page::CHUNK`] bytes of text, and all of them together
//! [`SNAPSHOTS`] snapshots of some hundred bytes a backend; while they hold these, others get the last of them. Text is
//! made for one scrape at a time, and nobody's while a reader is waited for, so that scrapes keep at most one CPU busy
//! and none waits for another's reader. Nothing is logged.

mod encode;
mod listener;
mod page;
mod snapshot;

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{sync::Mutex, task::spawn_blocking};

pub use self::listener::Listener;
use self::{encode::CONTENT_TYPE, page::Pen, snapshot::Snapshot};
use crate::{
    controller::{Error, Handle},
    server::Limits,
};

/// What the listener bears: a few scrapers, which hold their connections between two scrapes that are seldom more than
/// a minute apart, and give up on an answer after ten seconds (Prometheus by default).
const LIMITS: Limits = Limits {
    connections: 16,
    idle: Duration::from_secs(120),
    stall: Duration::from_secs(10),
    answer: Duration::from_secs(60),
};

/// How long scrapes share what was read.
const FRESH: Duration = Duration::from_secs(1);

/// Snapshots that slow readers keep; while they do, others get the last of these, which is no older than
/// an answer may take.
const SNAPSHOTS: usize = 3;

/// What all scrapes share.
struct Scrapes {
    controller: Handle,
    pen: Pen,
    read: Mutex<Read>,
}

/// Snapshots that were read.
#[derive(Default)]
struct Read {
    last: Option<(Instant, Arc<Snapshot>)>,
    /// Those before it, which somebody may have still.
    before: Vec<Weak<Snapshot>>,
}

/// The routes of the listener. Scrapes ask `controller`.
fn router(controller: Handle) -> Router {
    let scrapes = Arc::new(Scrapes { controller, pen: Pen::default(), read: Mutex::default() });
    Router::new().route("/metrics", get(scrape)).with_state(scrapes)
}

impl Scrapes {
    /// What is so now, or was a moment ago.
    async fn snapshot(&self) -> Result<Arc<Snapshot>, Error> {
        let mut read = self.read.lock().await;
        read.before.retain(|snapshot| snapshot.strong_count() > 0);
        if let Some((at, snapshot)) = &read.last
            && (at.elapsed() < FRESH || read.before.len() + 1 >= SNAPSHOTS)
        {
            return Ok(Arc::clone(snapshot));
        }
        let view = self.controller.view()?;
        let snapshot = spawn_blocking(move || Snapshot::of(&view)).await.map_err(|_| Error::Stopped)?;
        let snapshot = Arc::new(snapshot?);
        let before = read.last.replace((Instant::now(), Arc::clone(&snapshot)));
        read.before.extend(before.map(|(_, snapshot)| Arc::downgrade(&snapshot)));
        Ok(snapshot)
    }
}

async fn scrape(State(scrapes): State<Arc<Scrapes>>) -> Response {
    // A task of its own: what is read for a scraper that has gone serves the next one.
    let snapshot = tokio::spawn({
        let scrapes = Arc::clone(&scrapes);
        async move { scrapes.snapshot().await }
    });
    match snapshot.await.unwrap_or(Err(Error::Stopped)) {
        Ok(snapshot) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], scrapes.pen.page(snapshot)).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}
