//! The thread that probes run in. One for all: most of a probe is waiting and calls of the kernel, and several threads
//! would wake each other for each of them. Probes take no more than one CPU so, and nothing from commands and changes.

use std::{io, thread};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// The thread, as long as this is there.
pub struct Thread {
    handle: Handle,
    _end: oneshot::Sender<()>,
}

impl Thread {
    /// Begins one.
    ///
    /// # Errors
    ///
    /// The system gives none.
    pub fn begin() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, is_over) = oneshot::channel::<()>();
        let run = move || drop(runtime.block_on(is_over));
        thread::Builder::new().name("probes".to_owned()).spawn(run)?;
        Ok(Self { handle, _end: end })
    }

    /// Where tasks of it are begun.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}
