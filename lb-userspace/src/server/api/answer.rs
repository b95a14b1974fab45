//! Answers to those who may only read. An answer is in memory until it is read: a few are made at a time
//! ([`super::reading`]), and a few that are large given out, in pieces, of which each user has one. A large answer
//! keeps the turn at which it was made until it has one at which it is given out, or is let go of: no more of them are
//! in memory than there are turns of both sorts. To who may change things answers of any size are given out at once.
//!
//! What somebody can do who may read: read slowly, or not at all. Small answers wait for no slow reader; large ones do,
//! for [`PATIENCE`], without being in memory. A slow reader has his turn until the server ends his connection
//! ([`crate::server::Limits::answer`]). With more users than there are turns he can have large answers of others
//! refused for as long as he goes on, and nothing else.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::request,
    middleware::Next,
    response::Response,
};
use futures_util::stream;
use hyper::body::Bytes;
use nix::unistd::Uid;

use super::{
    access::Access,
    failure::ApiError,
    peer::Peer,
    reading::Made,
    turns::{Turn, Turns},
};

/// From this size on an answer is large, in bytes.
const LARGE: usize = 1 << 20;

/// Large answers that are given out at a time, and to one user.
const GIVEN_OUT: (usize, usize) = (4, 1);

/// How long a large answer waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// Size of the pieces, in bytes.
const PIECE: usize = 64 << 10;

/// The turns at large answers.
pub struct Answers {
    giving_out: Turns,
    patience: Duration,
}

impl Default for Answers {
    fn default() -> Self {
        Self { giving_out: Turns::new(GIVEN_OUT.0, GIVEN_OUT.1), patience: PATIENCE }
    }
}

/// Gives out an answer, at a turn where it is large.
pub async fn bounded(
    State(answers): State<Arc<Answers>>,
    Extension(access): Extension<Access>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if access > Access::Read {
        return Ok(next.run(request).await);
    }
    // Who may only read has nothing to say in a body.
    let (head, _) = request.into_parts();
    Question { answers, user: peer.uid, head, next }.answer().await
}

/// What somebody asks who may only read.
struct Question {
    answers: Arc<Answers>,
    user: Uid,
    head: request::Parts,
    next: Next,
}

impl Question {
    async fn answer(&self) -> Result<Response, ApiError> {
        let (made, answer) = self.make().await;
        if answer.body().len() < LARGE {
            return Ok(answer.map(Body::from));
        }
        if let Some(turn) = self.answers.giving_out.try_take(self.user) {
            return Ok(in_pieces(answer, turn));
        }
        // What waits is not in memory; it is made anew.
        drop((answer, made));
        let turn = tokio::time::timeout(self.answers.patience, self.answers.giving_out.take(self.user)).await;
        let turn = turn.map_err(|_| self.crowded())?;
        let (_made, answer) = self.make().await;
        Ok(in_pieces(answer, turn))
    }

    /// The whole answer, and the turn at which it was made, where it took one.
    async fn make(&self) -> (Option<Made>, Response<Bytes>) {
        let request = Request::from_parts(self.head.clone(), Body::empty());
        let (mut head, body) = self.next.clone().run(request).await.into_parts();
        let made = head.extensions.remove();
        // It is in memory already: nothing is waited for.
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        (made, Response::from_parts(head, body))
    }

    fn crowded(&self) -> ApiError {
        let error = format!(
            "large answers are on their way to other users, or one to this user, and no turn came within {} s: try \
             again, or ask for less (one VIP, fewer flows)",
            self.answers.patience.as_secs()
        );
        ApiError::unavailable(error)
    }
}

/// An answer that is let go of as it is read; holds its turn until the last piece.
fn in_pieces(answer: Response<Bytes>, turn: Turn) -> Response {
    answer.map(|body| {
        Body::from_stream(stream::unfold((body, turn), |(mut rest, turn)| async {
            let piece = rest.split_to(rest.len().min(PIECE));
            (!piece.is_empty()).then_some((Ok::<_, std::convert::Infallible>(piece), (rest, turn)))
        }))
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::{Router, http::StatusCode, middleware, routing::get};
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use serde_json::Value;

    use super::{super::reading::made, *};

    /// Routes with a small and a large answer, for users who may only read.
    struct Bench {
        router: Router,
    }

    impl Bench {
        fn new(patience: Duration) -> Self {
            let answers = Arc::new(Answers { patience, ..Answers::default() });
            let making = Arc::new(Turns::new(4, 2));
            let make = |answer: fn() -> Value| {
                let making = Arc::clone(&making);
                get(async move |Extension(peer): Extension<Peer>| made(&making, peer.uid, move || Ok(answer())).await)
            };
            let router = Router::new()
                .route("/small", make(|| 1.into()))
                // In quotation marks.
                .route("/large", make(|| "x".repeat(2 * LARGE - 2).into()))
                .layer(middleware::from_fn_with_state(answers, bounded))
                .layer(Extension(Access::Read));
            Self { router }
        }

        async fn ask(&self, user: u32, path: &str) -> Response {
            let peer = Peer { uid: Uid::from_raw(user), groups: Vec::new(), pid: 1 };
            let request = Request::get(path).body(Body::empty()).unwrap();
            let service = TowerToHyperService::new(self.router.clone().layer(Extension(peer)));
            let asked: Result<_, Infallible> = tokio::time::timeout(Duration::from_secs(30), service.call(request))
                .await
                .expect("an answer comes, whatever it is");
            asked.unwrap()
        }
    }

    /// Small answers are made at four turns, of which a user has two.
    #[tokio::test]
    async fn who_waits_for_large_answers_is_given_small_ones() {
        let bench = Bench::new(Duration::from_secs(60));
        let unread = bench.ask(1, "/large").await;
        let read = async || size(bench.ask(1, "/large").await).await;
        let (first, second, ()) = tokio::join!(read(), read(), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(size(bench.ask(1, "/small").await).await, 1);
            drop(unread);
        });
        assert_eq!((first, second), (2 * LARGE, 2 * LARGE));
    }

    async fn size(answer: Response) -> usize {
        to_bytes(answer.into_body(), usize::MAX).await.unwrap().len()
    }

    #[tokio::test]
    async fn slow_readers_of_large_answers_keep_no_small_one_from_anybody() {
        let bench = Bench::new(Duration::from_millis(1));
        let mut unread = Vec::new();
        for user in 1..=4 {
            unread.push(bench.ask(user, "/large").await);
        }
        for user in 1..=5 {
            assert_eq!(size(bench.ask(user, "/small").await).await, 1);
        }
        assert_eq!(bench.ask(5, "/large").await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(size(unread.pop().unwrap()).await, 2 * LARGE);
        assert_eq!(size(bench.ask(5, "/large").await).await, 2 * LARGE);
    }

    #[tokio::test]
    async fn a_user_is_given_one_large_answer_at_a_time() {
        let bench = Bench::new(Duration::from_millis(1));
        let unread = bench.ask(1, "/large").await;
        let refused = bench.ask(1, "/large").await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let error = to_bytes(refused.into_body(), LARGE).await.unwrap();
        assert!(String::from_utf8_lossy(&error).contains("try again, or ask for less"), "{error:?}");
        assert_eq!(size(bench.ask(2, "/large").await).await, 2 * LARGE);
        drop(unread);
        assert_eq!(size(bench.ask(1, "/large").await).await, 2 * LARGE);
    }

    #[tokio::test]
    async fn a_large_answer_waits_for_the_one_before() {
        let bench = Bench::new(Duration::from_secs(60));
        let unread = bench.ask(1, "/large").await;
        let (second, ()) = tokio::join!(bench.ask(1, "/large"), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(unread);
        });
        assert_eq!(size(second).await, 2 * LARGE);
    }
}
