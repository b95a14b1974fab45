//! naru's daemon and CLI: keeps the maps of the data plane equal to a config file.
//!
//! One config change walks these rooms in one direction: `source` → `plan` → `dataplane`. `tracking` keeps in order
//! what packets leave in its maps. `controller` is the one that sends it on its way, `disk` is how it keeps it;
//! `network` tells it where backends are. From `prober` backends are probed over the path of clients. `server` answers
//! over HTTP what it knows, `cli` asks by the client in `api`.

pub mod api;
pub mod cli;
pub mod controller;
pub mod cpus;
pub mod dataplane;
pub mod decap;
pub mod disk;
pub mod fault;
pub mod health;
pub mod memory;
pub mod mix;
pub mod model;
pub mod network;
pub mod objects;
pub mod plan;
pub mod privileges;
pub mod prober;
pub mod seed;
pub mod server;
pub mod source;
pub mod tracking;
