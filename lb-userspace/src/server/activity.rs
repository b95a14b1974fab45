//! What goes on on a connection, as far as it says whether the connection may be ended: when bytes last went over it,
//! whether its peer waits for an answer, and whether he reads the one that he gets.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use hyper::body::{Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Limits;

/// Stands for no moment.
const NEVER: u64 = u64::MAX;

/// What goes on on a connection. Moments are milliseconds after its beginning.
pub struct Activity {
    begun: Instant,
    /// When bytes last went over it, or an answer was there.
    last: AtomicU64,
    /// Whether a request is being worked on. HTTP/1 has one at a time.
    waits: AtomicBool,
    /// Whether bytes wait for the peer to read.
    stalls: AtomicBool,
    /// Since when the peer has an answer to read.
    answered: AtomicU64,
    /// Whether this end gives up what the peer has not read.
    is_cut: AtomicBool,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            last: AtomicU64::new(0),
            waits: AtomicBool::default(),
            stalls: AtomicBool::default(),
            answered: AtomicU64::new(NEVER),
            is_cut: AtomicBool::default(),
        }
    }
}

impl Activity {
    /// Waits for the answer to a request, and notes when it comes, and when all of it is given out.
    pub fn answer<F>(self: &Arc<Self>, answer: F) -> impl Future<Output = F::Output> + use<F>
    where
        F: Future<Output = Result<Response, Infallible>>,
    {
        let waiting = Waiting::begin(Arc::clone(self));
        async move { Ok(answer.await?.map(|body| Body::new(waiting.end(body)))) }
    }

    /// How well the connection can be missed: before all, whether nobody waits on it; then, how long it was silent.
    pub fn dispensable(&self) -> (bool, Duration) {
        (!self.waits.load(Ordering::Relaxed), self.silence())
    }

    /// Whether the peer takes longer to read an answer than he may.
    pub fn is_slow(&self, limits: &Limits) -> bool {
        let stalls = self.stalls.load(Ordering::Relaxed) && self.silence() >= limits.stall;
        stalls || self.since(&self.answered).is_some_and(|reading| reading >= limits.answer)
    }

    /// Has the kernel let go of what the peer has not read when the stream is dropped.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    fn note(&self, moment: &AtomicU64) {
        moment.store(self.begun.elapsed().as_millis().try_into().unwrap_or(NEVER), Ordering::Relaxed);
    }

    fn since(&self, moment: &AtomicU64) -> Option<Duration> {
        let moment = Some(moment.load(Ordering::Relaxed)).filter(|moment| *moment != NEVER);
        moment.map(|moment| self.begun.elapsed().saturating_sub(Duration::from_millis(moment)))
    }

    fn silence(&self) -> Duration {
        self.since(&self.last).unwrap_or_default()
    }
}

/// A request is being worked on, until this is dropped.
struct Waiting(Arc<Activity>);

impl Waiting {
    fn begin(activity: Arc<Activity>) -> Self {
        activity.waits.store(true, Ordering::Relaxed);
        Self(activity)
    }

    /// The answer is there.
    fn end(self, body: Body) -> Answer {
        let activity = Arc::clone(&self.0);
        activity.note(&activity.answered);
        Answer { body, activity }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waits.store(false, Ordering::Relaxed);
        // Whoever had to wait was not silent of his own accord.
        self.0.note(&self.0.last);
    }
}

/// An answer that is being read, until this is dropped.
struct Answer {
    body: Body,
    activity: Arc<Activity>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.activity.answered.store(NEVER, Ordering::Relaxed);
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose activity is noted.
pub struct Watched<S> {
    stream: S,
    cut: fn(&S),
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    /// Notes what goes over `stream`; by `cut`, the kernel lets go of what is not read of it.
    pub fn new(stream: S, cut: fn(&S), activity: Arc<Activity>) -> Self {
        Self { stream, cut, activity }
    }

    /// Notes what became of an attempt to write.
    fn written(&self, attempt: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.stalls.store(attempt.is_pending(), Ordering::Relaxed);
        if attempt.is_ready() {
            self.activity.note(&self.activity.last);
        }
        attempt
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        if self.activity.is_cut.load(Ordering::Relaxed) {
            (self.cut)(&self.stream);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.activity.note(&self.activity.last);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
