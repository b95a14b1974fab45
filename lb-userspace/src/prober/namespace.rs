//! A network namespace without a name, in which one thread lives: it makes sockets there for all others. The namespace
//! goes with the process, however that ends, once no socket of it is left.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};

use super::error::Error;
use crate::privileges;

/// How often what is to be done now and then is done.
pub const TICK: Duration = Duration::from_millis(200);

/// A network namespace, as long as this or a socket of it is there.
pub struct Namespace {
    orders: mpsc::Sender<Order>,
    file: File,
}

/// What the thread in the namespace is to do.
enum Order {
    Once(Box<dyn FnOnce() + Send>),
    /// Every [`TICK`], as long as it says so.
    Often(Box<dyn FnMut() -> bool + Send>),
}

impl Namespace {
    /// Makes one. It takes CAP_SYS_ADMIN, of which its thread keeps nothing ([`privileges::reduce`]): call this before
    /// the process gives that up.
    ///
    /// # Errors
    ///
    /// The kernel does not let this process make one, or take less than it has.
    pub fn make() -> Result<Self, Error> {
        let (orders, received) = mpsc::channel();
        let (made, is_made) = mpsc::channel();
        let live = move || {
            let file = settle();
            let is_settled = file.is_ok();
            // Whoever waits for it is there until it has come.
            let _ = made.send(file);
            if is_settled {
                serve(&received);
            }
        };
        let no_thread = |source| Error::Namespace { source };
        thread::Builder::new().name("prober".to_owned()).spawn(live).map_err(no_thread)?;
        let file = is_made.recv().unwrap_or_else(|_| Err(Error::Namespace { source: died() }))?;
        Ok(Self { orders, file })
    }

    /// The namespace, to move interfaces to.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Does `work` there, and waits for it: not for long.
    ///
    /// # Errors
    ///
    /// Those of `work`; and its thread is gone.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let (done, is_done) = mpsc::channel();
        let work = move || drop(done.send(work()));
        self.orders.send(Order::Once(Box::new(work))).map_err(|_| died())?;
        is_done.recv().unwrap_or_else(|_| Err(died()))
    }

    /// Has `work` done there, some time soon.
    pub fn order(&self, work: impl FnOnce() + Send + 'static) {
        // A thread that is gone does nothing any more.
        let _ = self.orders.send(Order::Once(Box::new(work)));
    }

    /// Has `work` done every [`TICK`], until it says that it need not be done any more.
    pub fn every_tick(&self, work: impl FnMut() -> bool + Send + 'static) {
        // A thread that is gone does nothing any more.
        let _ = self.orders.send(Order::Often(Box::new(work)));
    }
}

/// The calling thread goes to a namespace of its own, and gives up what that took.
fn settle() -> Result<File, Error> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Namespace { source: errno.into() })?;
    let file = File::open("/proc/thread-self/ns/net").map_err(|source| Error::Namespace { source })?;
    privileges::reduce()?;
    Ok(file)
}

/// Does what comes, until nobody is there any more who could order something.
fn serve(orders: &mpsc::Receiver<Order>) {
    let mut often: Vec<Box<dyn FnMut() -> bool + Send>> = Vec::new();
    let mut next = Instant::now() + TICK;
    loop {
        match orders.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Order::Once(work)) => work(),
            Ok(Order::Often(work)) => often.push(work),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if Instant::now() >= next {
            often.retain_mut(|work| work());
            next = Instant::now() + TICK;
        }
    }
}

fn died() -> io::Error {
    io::Error::other("the thread in the namespace of probes is gone")
}
