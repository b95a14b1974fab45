//! HTTP: the [API](api) on the unix socket and [`/metrics`](metrics) on an address, both over
//! [connections](connections) that are bounded.

mod activity;
pub mod api;
pub mod connections;
mod limits;
pub mod metrics;
pub mod show;

pub use self::{
    connections::{Class, Listener, Owner, serve},
    limits::Limits,
};
