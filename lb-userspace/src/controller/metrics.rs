//! Who serves `/metrics` for the controller, which says where and knows nothing of HTTP.

use std::net::SocketAddr;

use futures_util::future::BoxFuture;

use super::Handle;

/// The listener for scrapes, which ask `controller`.
pub trait MetricsListener: Send {
    /// Begins to serve on another address, or nowhere: beside the listener before where both can be. What becomes of
    /// the two is said by [`Self::finish`]. Where it cannot be served, with the reason, everything is as before.
    fn prepare<'a>(
        &'a mut self,
        address: Option<SocketAddr>,
        controller: &'a Handle,
    ) -> BoxFuture<'a, Result<(), String>>;

    /// Keeps what was prepared, and ends the listener before; or the other way round.
    fn finish<'a>(&'a mut self, keep: bool, controller: &'a Handle) -> BoxFuture<'a, ()>;

    /// Serves on `address`, if it does not yet or not any more. Fails, with the reason, where it cannot, and once more
    /// after the listener has ended by itself: that may happen again as soon as somebody connects.
    fn serve<'a>(&'a mut self, address: SocketAddr, controller: &'a Handle) -> BoxFuture<'a, Result<(), String>>;
}
