//! `naru run`: brings the daemon up in an order in which nothing is changed before all that can be refused is, and
//! takes it down leaving the data plane as it is.

use std::{fs, path::Path, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    args::{Global, Run},
    exit::{Exit, Failure},
};
use crate::{
    api::{self, socket},
    controller::{ConfigFile, Controller, Handle, Overrides},
};

/// How long the end may wait for a change that is under way. What is cut short is completed by the next start.
const STOP: Duration = Duration::from_secs(5);

/// Runs the daemon until a signal ends it.
pub fn run(global: &Global, options: Run) -> Result<Exit, Failure> {
    let filter = env_logger::Env::default().default_filter_or(options.log_level.as_str());
    env_logger::Builder::from_env(filter).format_timestamp_millis().format_target(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, error))?;
    let result = runtime.block_on(serve(global, options));
    // A change that is under way is not waited for any longer.
    runtime.shutdown_background();
    result
}

async fn serve(global: &Global, options: Run) -> Result<Exit, Failure> {
    // First of all: a signal that comes early must not end the process by its default action.
    let signals = Signals::new().map_err(|error| Failure::new(Exit::Failed, error))?;
    let overrides = Overrides { bpffs: options.bpffs, socket: global.socket.clone() };
    let controller = Controller::open(ConfigFile { path: global.config.clone(), overrides }).await?;
    let path = controller.config().node.socket.clone();
    let listener = socket::listen(&path)?;
    let (handle, controller) = controller.start().await.inspect_err(|_| remove(&path))?;
    let api = tokio::spawn(api::serve(listener, handle.clone()));
    log::info!("naru {} serves on {}", env!("CARGO_PKG_VERSION"), path.display());
    notify(&[sd_notify::NotifyState::Ready]);

    let result = tokio::select! {
        () = signals.follow(&handle) => Ok(()),
        result = api => Err(Failure::new(Exit::Failed, format!("the API on {} ended: {result:?}", path.display()))),
        result = controller => Err(Failure::new(Exit::Failed, format!("the controller ended: {result:?}"))),
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    remove(&path);
    stop(&handle, options.detach_on_exit).await?;
    result.map(|()| Exit::Ok)
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
                    tokio::spawn(async move { handle.apply().await });
                }
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
            }
        }
    }
}

async fn stop(handle: &Handle, detach: bool) -> Result<(), Failure> {
    match tokio::time::timeout(STOP, handle.stop(detach)).await {
        Ok(result) => result?,
        Err(_) if detach => {
            let message = "stopped amid a change, and not detached: run `naru interface detach --all`";
            return Err(Failure::new(Exit::Failed, message));
        }
        Err(_) => log::warn!("a change is under way: the next start completes it"),
    }
    log::info!("stopped; the data plane {}", if detach { "is detached" } else { "goes on forwarding" });
    Ok(())
}

/// Removes the socket. It may have gone already: then there is nothing to do.
fn remove(socket: &Path) {
    let _ = fs::remove_file(socket);
}

/// Tells the service manager, where there is one.
fn notify(state: &[sd_notify::NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("cannot notify the service manager: {error}");
    }
}
