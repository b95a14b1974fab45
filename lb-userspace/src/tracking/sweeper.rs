//! When sweeps over the flow table are made: one at a time, on a thread of their own, and never for more than a small
//! share of a CPU.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Error, Sweep, Swept};

/// Least time between two sweeps.
const INTERVAL: Duration = Duration::from_secs(1);

/// The time between two sweeps is at least so many times what the last one took: sweeps use 2.5 % of a CPU at most.
const REST: u32 = 40;

/// But no longer than this: a machine that stood still for a while is not to do without sweeps for forty times as long.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Makes sweeps.
pub struct Sweeper {
    /// The one that is being made.
    running: Option<oneshot::Receiver<Result<Swept, Error>>>,
    begun: Instant,
    /// When the next one is due.
    due: Instant,
}

impl Default for Sweeper {
    fn default() -> Self {
        let now = Instant::now();
        Self { running: None, begun: now, due: now + INTERVAL }
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
        let Some(running) = &mut self.running else {
            tokio::time::sleep_until(self.due.into()).await;
            return Turn::Begin;
        };
        let result = running.await.unwrap_or(Err(Error::BrokeOff));
        self.running = None;
        self.due = Instant::now() + (self.begun.elapsed() * REST).clamp(INTERVAL, LONGEST_REST);
        Turn::End(Box::new(result))
    }

    /// Makes a sweep.
    pub fn begin(&mut self, sweep: Sweep) {
        let (sender, result) = oneshot::channel();
        let run = move || {
            // Whoever wanted it may have gone.
            let _ = sender.send(sweep.run());
        };
        self.begun = Instant::now();
        match thread::Builder::new().name("sweep".to_owned()).spawn(run) {
            Ok(_) => self.running = Some(result),
            Err(error) => self.put_off(&error),
        }
    }

    /// Tries again later.
    pub fn put_off(&mut self, reason: &dyn std::error::Error) {
        log::error!("the flow table could not be swept: {reason}");
        self.due = Instant::now() + 10 * INTERVAL;
    }
}
