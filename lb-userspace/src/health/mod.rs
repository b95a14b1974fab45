//! Finds out whether backends work: asks each again and again, and tells whoever listens when one fails or works again.
//!
//! It knows what is to be asked (`health` of each VIP, [`crate::model::Health`]) and no data plane: what follows from a
//! verdict is an overlay ([`crate::model::Verdicts`]) that the controller puts over the config.
//!
//! Who attacks: a backend that answers slowly, a byte a second, or without an end, costs a probe's timeout and one
//! connection, and is read no further than 64 KiB. One that answers probes and serves nobody is not found out by a
//! `tcp` probe; a page that needs what the service needs tells. Probes to the backend's own address prove nothing about
//! the clients' path. Whoever sits on the way to a backend may answer in its place, but for probes over TLS with a `ca`.

mod asking;
mod judge;
mod means;
mod observer;
mod paths;
mod probe;
mod room;
mod rounds;
mod thread;
mod trust;
mod unverified;

pub use self::{
    asking::Punctuality,
    judge::Verdict,
    means::{MeansError, check_means, check_new_means},
    observer::{Flip, Last, Status},
    paths::Paths,
    rounds::{Probed, Probes, Rounds},
    trust::TrustError,
};
