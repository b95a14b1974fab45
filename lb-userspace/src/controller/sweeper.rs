//! When sweeps over the flow tables are made: one at a time, on a thread of their own, and never for more than a small share of
//! a CPU.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::dataplane::{Error, Sweep, Swept};

/// Least time between two sweeps.
const INTERVAL: Duration = Duration::from_secs(1);

/// The time between two sweeps is at least so many times what the last one took: sweeps use 2.5 % of a CPU at most.
const REST: u32 = 40;

/// Makes sweeps.
pub struct Sweeper {
    sender: mpsc::Sender<Result<Swept, Error>>,
    results: mpsc::Receiver<Result<Swept, Error>>,
    /// When the next one is due; `None` while one is being made.
    due: Option<Instant>,
    begun: Instant,
}

impl Default for Sweeper {
    fn default() -> Self {
        let (sender, results) = mpsc::channel(1);
        let now = Instant::now();
        Self { sender, results, due: Some(now + INTERVAL), begun: now }
    }
}

/// What there is to do.
pub enum Turn {
    /// A sweep is to be begun.
    Begin,
    /// A sweep has ended.
    End(Box<Result<Swept, Error>>),
}

impl Sweeper {
    /// Waits for the next thing to do.
    pub async fn turn(&mut self) -> Turn {
        match self.due {
            Some(due) => {
                tokio::time::sleep_until(due.into()).await;
                Turn::Begin
            }
            None => {
                let result = self.results.recv().await.expect("this has a sender as well");
                self.due = Some(Instant::now() + INTERVAL.max(self.begun.elapsed() * REST));
                Turn::End(Box::new(result))
            }
        }
    }

    /// Makes a sweep.
    pub fn begin(&mut self, sweep: Sweep) {
        let sender = self.sender.clone();
        let run = move || {
            // Whoever wanted it may have gone.
            let _ = sender.blocking_send(sweep.run());
        };
        self.begun = Instant::now();
        match thread::Builder::new().name("sweep".to_owned()).spawn(run) {
            Ok(_) => self.due = None,
            Err(error) => self.put_off(&error),
        }
    }

    /// Tries again later.
    pub fn put_off(&mut self, reason: &dyn std::error::Error) {
        log::error!("the flow tables could not be swept: {reason}");
        self.due = Some(Instant::now() + 10 * INTERVAL);
    }
}
