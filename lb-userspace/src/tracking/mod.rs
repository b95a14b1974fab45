//! Flow tracking: keeps the flow table and the slots that move in order, beside the packets that use them.
//!
//! [`Sweeper`] says when a [`Sweep`] walks over the flow table, by the pure [`rules`]. [`Upkeep`] applies what it
//! found between two changes: slots age and settle, and ids that no flow needs any more are freed. Flow entries are
//! written here, and what sweeps count; slots and all else are the data plane's to write.

mod clients;
mod error;
mod moving;
pub mod rules;
mod shares;
mod sweep;
mod sweeper;
mod swept;
#[cfg(test)]
mod tests;
mod upkeep;
mod view;

pub use self::{
    error::Error,
    moving::{Held, MovingSlots},
    rules::after_sweep,
    sweep::{GIVEN_UP_AFTER, Sweep},
    sweeper::{Sweeper, Turn},
    swept::Swept,
    upkeep::Upkeep,
    view::{Backend, Usage, View},
};
