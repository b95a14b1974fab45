//! Reads: answers that are made of what the controller published last, and written as JSON, on threads that may block.
//! The runtime's own threads, on which the daemon decides, do neither.
//!
//! What somebody can do who may only read: have answers made, [`READS`] at a time, [`FILES`] that look at the config
//! file and [`WALKS`] over the flow table, of which each user has fewer. That keeps as many threads busy, and others
//! waiting who may only read. Nobody else waits: who may change things has turns apart, and scrapes take none. A turn
//! goes with the work, which goes on when whoever asked has hung up, and then with the answer: who asks and hangs up in
//! a loop has no more than his share. Where reads do not end, as on a file system that hangs, no more threads hang than
//! there are turns.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{FromRef, FromRequestParts, rejection::ExtensionRejection},
    http::request::Parts,
    response::{IntoResponse as _, Response},
};
use nix::unistd::Uid;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{
    access::Access,
    failure::ApiError,
    peer::Peer,
    turns::{ByClass, Turn, Turns},
};
use crate::{
    controller::{Error, Handle, View},
    server::Class,
};

/// Reads that are made at a time, and of one user.
const READS: (usize, usize) = (4, 2);

/// Reads that look at the config file, made at a time, and of one user: they hang where its file system does, and have
/// turns apart so that the others do not.
const FILES: (usize, usize) = (4, 2);

/// Walks over the flow table that are made at a time, and of one user: each reads millions of entries.
const WALKS: (usize, usize) = (2, 1);

/// What all reads share.
#[derive(Clone)]
pub struct Reads {
    controller: Handle,
    turns: Arc<Costs>,
}

/// Turns, by what a read costs.
struct Costs {
    reads: ByClass,
    files: ByClass,
    walks: ByClass,
}

impl Reads {
    /// Reads from what `controller` publishes.
    pub fn of(controller: Handle) -> Self {
        let [reads, files, walks] = [READS, FILES, WALKS].map(ByClass::new);
        Self { controller, turns: Arc::new(Costs { reads, files, walks }) }
    }
}

/// Changes are asked of the controller itself.
impl FromRef<Reads> for Handle {
    fn from_ref(reads: &Reads) -> Self {
        reads.controller.clone()
    }
}

/// A read to be made for whoever asks.
pub struct Reading {
    reads: Reads,
    user: Uid,
    class: Class,
}

impl FromRequestParts<Reads> for Reading {
    type Rejection = ExtensionRejection;

    async fn from_request_parts(parts: &mut Parts, reads: &Reads) -> Result<Self, ExtensionRejection> {
        let Extension(access) = Extension::<Access>::from_request_parts(parts, reads).await?;
        let Extension(peer) = Extension::<Peer>::from_request_parts(parts, reads).await?;
        Ok(Self { reads: reads.clone(), user: peer.uid, class: access.class() })
    }
}

/// The turn at which an answer was made, as an extension of it: as long as somebody keeps this beside the answer, no
/// other one is made at that turn.
#[derive(Clone)]
pub struct Made {
    _turn: Arc<Turn>,
}

impl Reading {
    /// The answer that `read` makes of what was published last.
    pub async fn read<T: Serialize>(self, read: impl FnOnce(&View) -> Result<T, Error> + Send + 'static) -> Response {
        self.at_turn(|costs| &costs.reads, read).await
    }

    /// The same, where `read` looks at the config file.
    pub async fn read_file<T: Serialize>(
        self,
        read: impl FnOnce(&View) -> Result<T, Error> + Send + 'static,
    ) -> Response {
        self.at_turn(|costs| &costs.files, read).await
    }

    /// The same, where `walk` walks over the flow table.
    pub async fn walk<T: Serialize>(self, walk: impl FnOnce(&View) -> Result<T, Error> + Send + 'static) -> Response {
        self.at_turn(|costs| &costs.walks, walk).await
    }

    async fn at_turn<T: Serialize>(
        self,
        turns: fn(&Costs) -> &ByClass,
        read: impl FnOnce(&View) -> Result<T, Error> + Send + 'static,
    ) -> Response {
        let Self { reads: Reads { controller, turns: costs }, user, class } = self;
        made(turns(&costs).of(class), user, move || read(&*controller.view()?)).await
    }
}

/// Waits for a turn of this user, and makes an answer of what `read` gives, all of it on a thread that may block.
pub(super) async fn made<T: Serialize>(
    turns: &Turns,
    user: Uid,
    read: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Response {
    let turn = turns.take(user).await;
    let work = move || {
        let mut answer = read().map(Json).map_err(ApiError::from).into_response();
        answer.extensions_mut().insert(Made { _turn: Arc::new(turn) });
        answer
    };
    spawn_blocking(work).await.unwrap_or_else(|_| ApiError::from(Error::Stopped).into_response())
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Mutex, mpsc},
        thread::{self, ThreadId},
        time::Duration,
    };

    use axum::{body::to_bytes, http::StatusCode};
    use serde::Serializer;

    use super::*;

    fn user(number: u32) -> Uid {
        Uid::from_raw(number)
    }

    /// Waits for what comes at once, or never.
    async fn soon<F: Future>(work: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(30), work).await.expect("it does not wait")
    }

    async fn is_refused_a_turn(turns: &Turns, number: u32) -> bool {
        let turn = turns.take(user(number));
        tokio::time::timeout(Duration::from_millis(20), turn).await.is_err()
    }

    /// Notes the thread that it is written on.
    struct Noted(Arc<Mutex<Option<ThreadId>>>);

    impl Serialize for Noted {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            *self.0.lock().unwrap() = Some(thread::current().id());
            serializer.serialize_str("x")
        }
    }

    #[tokio::test]
    async fn answers_are_written_on_no_thread_of_the_runtime() {
        let written = Arc::new(Mutex::new(None));
        let noted = Noted(Arc::clone(&written));
        let answer = soon(made(&Turns::new(1, 1), user(1), || Ok(noted))).await;
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(to_bytes(answer.into_body(), 10).await.unwrap(), "\"x\"");
        let written = written.lock().unwrap().expect("it was written");
        // This one is all that this runtime has.
        assert_ne!(written, thread::current().id());
    }

    #[tokio::test]
    async fn who_hangs_up_keeps_his_turn_as_long_as_the_work_lasts() {
        let turns = Arc::new(Turns::new(2, 1));
        let (begun, begins) = mpsc::channel();
        let (let_go, lets_go) = mpsc::channel::<()>();
        let asked = tokio::spawn({
            let turns = Arc::clone(&turns);
            let work = move || {
                begun.send(()).unwrap();
                // Ends when the other end goes.
                let _ = lets_go.recv();
                Ok("x")
            };
            async move { made(&turns, user(1), work).await }
        });
        soon(tokio::task::spawn_blocking(move || begins.recv().unwrap())).await.unwrap();
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        assert!(is_refused_a_turn(&turns, 1).await, "the work goes on");
        assert!(!is_refused_a_turn(&turns, 2).await);
        drop(let_go);
        drop(soon(turns.take(user(1))).await);
    }

    #[tokio::test]
    async fn an_answer_has_its_turn_beside_it() {
        let turns = Turns::new(1, 1);
        let mut answer = soon(made(&turns, user(1), || Ok("x"))).await;
        assert!(is_refused_a_turn(&turns, 2).await);
        answer.extensions_mut().remove::<Made>();
        assert!(!is_refused_a_turn(&turns, 2).await);
        // So has an answer that is an error.
        let error = || Err::<(), _>(Error::NoSuchVip { name: "x".into(), remedy: String::new() });
        let answer = soon(made(&turns, user(1), error)).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert!(is_refused_a_turn(&turns, 2).await);
        drop(answer);
        assert!(!is_refused_a_turn(&turns, 2).await);
    }

    #[tokio::test]
    async fn work_that_fails_keeps_no_turn() {
        let turns = Turns::new(1, 1);
        let answer = soon(made(&turns, user(1), || -> Result<(), Error> { panic!("a test has it fail") })).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!is_refused_a_turn(&turns, 2).await);
    }

    #[tokio::test]
    async fn who_may_change_things_waits_for_nobody_who_may_only_read() {
        let Reads { turns: costs, .. } = Reads::of(Handle::of_nobody());
        for turns in [&costs.reads, &costs.files, &costs.walks] {
            let taken: Vec<_> =
                (0..100).filter_map(|number| turns.of(Access::Read.class()).try_take(user(number))).collect();
            assert!(taken.len() < 100);
            assert!(turns.of(Access::Change.class()).try_take(user(1)).is_some());
        }
    }
}
