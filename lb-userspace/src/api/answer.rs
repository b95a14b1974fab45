//! Large answers to those who may only read. An answer is in memory until it is read: a few at a time, given out in
//! pieces. Who may change things waits for no turn.

use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::Request,
    middleware::Next,
    response::Response,
};
use futures_util::stream;
use tokio::sync::Semaphore;

use super::access::Access;

/// From this size on an answer is large, in bytes.
const LARGE: usize = 1 << 20;

/// Large answers that may be on their way at a time. One that is not read is given up ([`crate::server`]).
const MANY: usize = 4;

/// Size of the pieces, in bytes.
const PIECE: usize = 64 << 10;

static TURNS: Semaphore = Semaphore::const_new(MANY);

/// Gives out an answer in pieces where it is large, and holds its turn until the last.
pub async fn bounded(Extension(access): Extension<Access>, request: Request, next: Next) -> Response {
    if access > Access::Read {
        return next.run(request).await;
    }
    let turn = TURNS.acquire().await;
    let (head, body) = next.run(request).await.into_parts();
    // It is in memory already: nothing is waited for.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    if body.len() < LARGE {
        drop(turn);
        return Response::from_parts(head, Body::from(body));
    }
    let pieces = stream::unfold((body, turn), |(mut rest, turn)| async {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then_some((Ok::<_, std::convert::Infallible>(piece), (rest, turn)))
    });
    Response::from_parts(head, Body::from_stream(pieces))
}
