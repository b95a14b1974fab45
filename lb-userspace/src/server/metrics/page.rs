//! The text of a scrape, written as it is read: no more than a chunk is ever waiting for its reader.

use std::{
    fmt, io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::body::Body;
use futures_util::stream;
use hyper::body::Bytes;
use tokio::sync::mpsc;

use super::{encode, snapshot::Snapshot};

/// How much text is made at a time, in bytes.
pub const CHUNK: usize = 64 << 10;

/// Writes pages, one chunk of one page at a time.
#[derive(Clone, Default)]
pub struct Pen(Arc<Mutex<()>>);

impl Pen {
    /// The page of a snapshot. A thread makes it while it is read; one that is not read to its end is not made to its
    /// end.
    pub fn page(&self, snapshot: Arc<Snapshot>) -> Body {
        // One chunk is being read, one is ready.
        let (sender, receiver) = mpsc::channel(1);
        let pen = self.clone();
        tokio::task::spawn_blocking(move || pen.write(snapshot, &sender));
        Body::from_stream(stream::unfold(receiver, |mut receiver| async move {
            let chunk = receiver.recv().await?;
            Some((chunk, receiver))
        }))
    }

    fn write(&self, snapshot: Arc<Snapshot>, reader: &mpsc::Sender<io::Result<Bytes>>) {
        let mut page = Page { text: String::new(), turn: None, pen: &self.0, reader };
        let written = encode::encode(snapshot, &mut page).and_then(|()| page.pass_on());
        if written.is_err() {
            // Breaks the page off, so that nobody takes it for a whole one. Whoever read it may have gone.
            let _ = reader.blocking_send(Err(io::Error::other("the metrics cannot be written")));
        }
    }
}

/// Text on its way to a reader.
struct Page<'a> {
    text: String,
    /// Held while text is made, and not while a reader is waited for.
    turn: Option<MutexGuard<'a, ()>>,
    pen: &'a Mutex<()>,
    reader: &'a mpsc::Sender<io::Result<Bytes>>,
}

impl Page<'_> {
    fn pass_on(&mut self) -> fmt::Result {
        self.turn = None;
        let text = mem::take(&mut self.text);
        self.reader.blocking_send(Ok(text.into())).map_err(|_| fmt::Error)
    }
}

impl fmt::Write for Page<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.len() + text.len() > CHUNK {
            self.pass_on()?;
        }
        if self.turn.is_none() {
            self.turn = Some(self.pen.lock().unwrap_or_else(PoisonError::into_inner));
            if self.reader.is_closed() {
                return Err(fmt::Error);
            }
            self.text.reserve(CHUNK);
        }
        self.text.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, sync::atomic::Ordering};

    use super::*;

    #[test]
    fn a_page_waits_for_its_reader_without_the_pen() {
        use std::sync::atomic::AtomicUsize;
        let pen = Mutex::new(());
        let (sender, mut receiver) = mpsc::channel(1);
        let written = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut page = Page { text: String::new(), turn: None, pen: &pen, reader: &sender };
                let line = "x".repeat(1000);
                while page.write_str(&line).is_ok() {
                    written.fetch_add(line.len(), Ordering::Relaxed);
                }
            });
            assert!(receiver.blocking_recv().unwrap().unwrap().len() <= CHUNK);
            // It fills what there is room for, and then waits: others have the pen meanwhile.
            while written.load(Ordering::Relaxed) < 2 * CHUNK {
                std::thread::yield_now();
            }
            drop(pen.lock().unwrap());
            assert!(written.load(Ordering::Relaxed) <= 4 * CHUNK);
            drop(receiver);
            writer.join().unwrap();
        });
    }
}
