//! What the daemon and its clients tell each other over the socket: types that are JSON, and a client.

pub mod client;
pub mod flows;
mod line;
pub mod types;
