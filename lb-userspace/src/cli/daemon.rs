//! `naru run`: brings the daemon up in an order in which nothing is changed before all that can be refused is, and
//! takes it down leaving the data plane as it is.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    args::{Global, Run},
    exit::{Exit, Failure},
    place::place,
};
use crate::{
    controller::{ConfigFile, Controller, Error, Handle, Origin, Overrides},
    dataplane, memory, privileges,
    prober::{self, Namespace},
    server::{
        api::{
            self, access,
            socket::{Socket, SocketError},
        },
        metrics::Listener,
    },
};

/// How long the end may wait for a change that is under way. What is cut short is completed by the next start,
/// or taken back.
const STOP: Duration = Duration::from_secs(5);

/// Runs the daemon until a signal ends it.
pub fn run(global: &Global, options: Run) -> Result<Exit, Failure> {
    let filter = env_logger::Env::default().default_filter_or(options.log_level.as_str());
    env_logger::Builder::from_env(filter).format_timestamp_millis().format_target(false).init();
    // Before there are other threads: each has capabilities of its own.
    memory::share_few_arenas();
    dataplane::prepare_host();
    privileges::join_group(access::GROUP);
    // Whether backends are probed the config says, which is read with less privileges than this takes.
    let namespace = Namespace::make();
    privileges::reduce().map_err(|error| Failure::new(Exit::Failed, error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, error))?;
    let result = runtime.block_on(serve(global, options, namespace));
    // A change that is under way is not waited for any longer.
    runtime.shutdown_background();
    result
}

async fn serve(global: &Global, options: Run, namespace: Result<Namespace, prober::Error>) -> Result<Exit, Failure> {
    // First of all: a signal that comes early must not end the process by its default action.
    let signals = Signals::new().map_err(|error| Failure::new(Exit::Failed, error))?;
    // Where the daemon before left word must be known even if the file is not valid.
    let state = place(&options.state_dir, &global.config, |node| node.state)?;
    let overrides = Overrides { bpffs: options.bpffs, socket: global.socket.clone(), state: options.state_dir };
    let file = ConfigFile { path: global.config.clone(), overrides };
    let controller = Controller::open(file, &state, Box::<Listener>::default(), namespace).await?;
    let bpffs = controller.config().node.bpffs.clone();
    let socket = Arc::new(Socket::new(controller.config().node.socket.clone()));
    listen(&socket).await?;
    let started = controller.start().await;
    if started.is_err() {
        socket.give_up().await;
    }
    let (handle, controller) = started?;
    let api = tokio::spawn(api::serve(Arc::clone(&socket), handle.clone()));
    let (version, path) = (env!("CARGO_PKG_VERSION"), socket.path().display());
    if socket.is_listening() {
        log::info!("naru {version} serves on {path}");
    } else {
        log::warn!("naru {version} serves, and takes no commands while it cannot listen on {path}");
    }
    notify(&[sd_notify::NotifyState::Ready]);

    let result = tokio::select! {
        () = signals.follow(&handle) => Ok(()),
        result = api => Err(Failure::new(Exit::Failed, format!("the API on {path} ended: {result:?}"))),
        result = controller => Err(Failure::new(Exit::Failed, format!("the controller ended: {result:?}"))),
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    socket.give_up().await;
    let stopped = stop(&handle, options.detach_on_exit.then_some(&bpffs)).await;
    if let (Err(_), Err(failure)) = (&result, &stopped) {
        log::error!("{failure}");
    }
    // Why the daemon ended comes before how.
    result.and(stopped).map(|()| Exit::Ok)
}

/// Listens on the socket before anything is changed, for another daemon may serve there. Whatever else is in the way is
/// told and tried again once this one serves.
async fn listen(socket: &Socket) -> Result<(), SocketError> {
    match socket.listen().await {
        Err(error @ SocketError::InUse { .. }) => Err(error),
        Ok(()) | Err(SocketError::NotASocket { .. } | SocketError::Io { .. }) => Ok(()),
    }
}

/// The signals that a daemon heeds.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// SIGHUP applies the file; SIGTERM and SIGINT return.
    async fn follow(mut self, handle: &Handle) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    log::info!("SIGHUP: applying the config file");
                    let handle = handle.clone();
                    // The controller logs what becomes of it.
                    tokio::spawn(async move { handle.apply(false, Origin::signal("SIGHUP")).await });
                }
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
            }
        }
    }
}

/// Ends the controller; with `detach`, takes the data plane pinned there out of the kernel, even where the controller
/// has died and only the pins are left.
async fn stop(handle: &Handle, detach: Option<&PathBuf>) -> Result<(), Failure> {
    match (tokio::time::timeout(STOP, handle.stop(detach.is_some())).await, detach) {
        (Ok(Err(Error::Stopped)), Some(bpffs)) => {
            let failed = |error| Failure::new(Exit::Failed, format!("cannot detach: {error}"));
            dataplane::detach_everything(bpffs).map_err(failed)?;
        }
        (Ok(Err(Error::Stopped)), None) => {}
        (Ok(result), _) => result?,
        (Err(_), Some(_)) => {
            let message = "stopped amid a change, and not detached: run `naru interface detach --all`";
            return Err(Failure::new(Exit::Failed, message));
        }
        (Err(_), None) => log::warn!("a change is under way: the next start completes it, or takes it back"),
    }
    log::info!("stopped; the data plane {}", if detach.is_some() { "is detached" } else { "goes on forwarding" });
    Ok(())
}

/// Tells the service manager, where there is one.
fn notify(state: &[sd_notify::NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("cannot notify the service manager: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_controller_that_has_died_is_no_reason_to_stay_attached() {
        let directory = tempfile::tempdir().unwrap();
        let (bpffs, handle) = (directory.path().to_owned(), Handle::of_nobody());
        let links = bpffs.join("v1/links");
        fs::create_dir_all(&links).unwrap();
        stop(&handle, None).await.unwrap();
        assert!(links.exists(), "nobody asked to detach");
        stop(&handle, Some(&bpffs)).await.unwrap();
        assert!(!links.exists());
    }

    #[tokio::test]
    async fn what_cannot_be_detached_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let bpffs = directory.path().to_owned();
        fs::create_dir_all(bpffs.join("v1/links")).unwrap();
        fs::write(bpffs.join("v1/links/eth0"), "no link").unwrap();
        let failure = stop(&Handle::of_nobody(), Some(&bpffs)).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Failed);
        assert!(failure.to_string().starts_with("cannot detach: "), "{failure}");
    }
}
