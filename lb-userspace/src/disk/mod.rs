//! Files that outlive crashes, full disks and other people's editors.
//!
//! A new text has [room](Reserved) taken for it first, beside the file that it is for, which is where a full or
//! read-only disk shows. Then it is written and flushed there ([`Staged`]), and putting it in place is one rename.
//! Where other people save the same file, [`Staged::replace`] sees to it that no save of theirs is lost. Everything
//! here may wait for a disk for seconds, and none of it belongs on the task that follows the network.

mod lease;
mod plain;
mod replace;
mod stable;
mod staged;

pub use self::{
    plain::{open, read},
    replace::{ReplaceError, Replaced, Rescue},
    stable::read_stable,
    staged::{Reserved, Staged, WriteError, leftovers},
};
