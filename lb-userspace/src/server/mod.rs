//! HTTP: the [API](api) on the unix socket and [`/metrics`](metrics) on an address, both over
//! [connections](connections) that are bounded.

mod activity;
pub mod api;
pub mod connections;
pub mod metrics;
pub mod show;

pub use self::connections::{Class, Limits, Listener, Owner, serve};
