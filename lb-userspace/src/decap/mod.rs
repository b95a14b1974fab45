//! Backend side: puts the decapsulation on an interface, takes it off, and says what it does. No daemon: everything is
//! pinned under `<bpffs>/decap-v<ABI>/<interface>/` and stays when the command ends.

mod accepted;
mod attach;
mod place;
mod status;
#[cfg(test)]
mod tests;

pub use self::{
    attach::{Options, attach, detach},
    status::{Outcome, Status, status},
};
