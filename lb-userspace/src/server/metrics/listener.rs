//! The listener for scrapes: where the config wants it, moved without a gap, and there again after a failure.

use std::{io, net::SocketAddr};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{LIMITS, router};
use crate::{
    controller::{Handle, MetricsListener},
    server,
};

/// The listener for scrapes.
#[derive(Debug, Default)]
pub struct Listener {
    serving: Option<Server>,
    /// One has ended by itself, and nobody was told yet.
    has_failed: bool,
    prepared: Option<Prepared>,
}

/// A move of the listener that is not finished.
#[derive(Debug)]
struct Prepared {
    new: Option<Server>,
    /// Of the listener before.
    old: Option<SocketAddr>,
}

impl MetricsListener for Listener {
    fn prepare<'a>(
        &'a mut self,
        address: Option<SocketAddr>,
        controller: &'a Handle,
    ) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let old = self.serving.as_ref().map(Server::address);
            let new = match address {
                Some(address) => Some(self.move_to(address, controller).await.map_err(|error| error.to_string())?),
                None => None,
            };
            self.prepared = Some(Prepared { new, old });
            Ok(())
        }
        .boxed()
    }

    fn finish<'a>(&'a mut self, keep: bool, controller: &'a Handle) -> BoxFuture<'a, ()> {
        async move {
            let Some(Prepared { new, old }) = self.prepared.take() else { return };
            if keep {
                self.serving = new;
                return;
            }
            if let Some(new) = new {
                new.stop().await;
            }
            self.restore(old, controller).await;
        }
        .boxed()
    }

    fn serve<'a>(&'a mut self, address: SocketAddr, controller: &'a Handle) -> BoxFuture<'a, Result<(), String>> {
        async move {
            self.has_failed |= self.serving.take_if(|server| server.has_ended()).is_some();
            if self.serving.is_none() {
                self.serving = Some(start(address, controller).await.map_err(|error| error.to_string())?);
            }
            if std::mem::take(&mut self.has_failed) {
                return Err(format!(
                    "the listener for /metrics on {address} has failed: this is a bug, see the log before"
                ));
            }
            Ok(())
        }
        .boxed()
    }
}

impl Listener {
    /// Serves on `address`, beside the listener before where both can be. One on the same port may be in the way, as
    /// 127.0.0.1 and 0.0.0.0 are of each other: then that one ends first.
    async fn move_to(&mut self, address: SocketAddr, controller: &Handle) -> Result<Server, MetricsError> {
        match start(address, controller).await {
            Err(error) if error.is_taken() => {
                let in_the_way = |old: &mut Server| old.address().port() == address.port();
                let Some(old) = self.serving.take_if(in_the_way) else { return Err(error) };
                let old_address = old.address();
                old.stop().await;
                let moved = start(address, controller).await;
                if moved.is_err() {
                    self.restore(Some(old_address), controller).await;
                }
                moved
            }
            result => result,
        }
    }

    /// Serves on the address before again, where [`Self::move_to`] ended that.
    async fn restore(&mut self, address: Option<SocketAddr>, controller: &Handle) {
        let Some(address) = address.filter(|_| self.serving.is_none()) else { return };
        match start(address, controller).await {
            Ok(server) => self.serving = Some(server),
            Err(error) => log::error!("the address before is lost: {error}"),
        }
    }
}

async fn start(address: SocketAddr, controller: &Handle) -> Result<Server, MetricsError> {
    let server = Server::start(address, controller.clone()).await?;
    log::info!("metrics on http://{}/metrics", server.address());
    Ok(server)
}

/// Why there is no `/metrics`.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve /metrics on {address}: {source}; set another address as `metrics` in [node]")]
struct MetricsError {
    /// The address.
    address: SocketAddr,
    /// What the kernel said.
    source: io::Error,
}

impl MetricsError {
    /// Whether somebody listens there already, or on an address that overlaps.
    fn is_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// Listens for scrapes until it is dropped.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves `GET /metrics` on `address`. Scrapes ask `controller`.
    async fn start(address: SocketAddr, controller: Handle) -> Result<Self, MetricsError> {
        let failed = |source| MetricsError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let router = router(controller);
        let task = tokio::spawn(async move { match server::serve(listener, router, LIMITS).await {} });
        Ok(Self { address, task })
    }

    /// The address that is listened on, with the port that the kernel chose where the config says 0.
    fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether nobody listens any more although nobody stopped it: what it is made of has a fault.
    fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends the listener; the address is free when this returns.
    async fn stop(mut self) {
        self.task.abort();
        // Either it had ended or it was aborted, which is what was wanted.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
