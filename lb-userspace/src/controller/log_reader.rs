//! Brings the data plane's own log messages into the daemon's log.

use aya_log::EbpfLogger;
use log::Log;
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
};

/// Reads the data plane's log messages until it is dropped.
#[derive(Debug)]
pub struct LogReader {
    program_id: u32,
    task: JoinHandle<()>,
}

impl LogReader {
    /// Reads the messages of the program with this id by `logger`.
    pub fn start(program_id: u32, logger: EbpfLogger<&'static dyn Log>) -> Self {
        let task = tokio::spawn(async move {
            if let Err(error) = read(logger).await {
                log::error!("messages of the data plane can no longer be read: {error}");
            }
        });
        Self { program_id, task }
    }

    /// Whether it reads no more although nobody dropped it.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// The program whose messages are read.
    pub fn program_id(&self) -> u32 {
        self.program_id
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(logger: EbpfLogger<&'static dyn Log>) -> std::io::Result<()> {
    // SAFETY: the logger owns its ring buffer's descriptor, always returns that one, and closes it when it is dropped,
    // which is with the `AsyncFd` that owns it.
    let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE)? };
    loop {
        let mut guard = logger.readable_mut().await?;
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}
