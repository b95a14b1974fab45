//! Failures of the controller, by sort: it decides the status of an answer and the exit code of a command.

use crate::{
    api::types::ErrorKind,
    controller::Error,
    dataplane,
    disk::ReplaceError,
    model::OperateError,
    source::file::{ReadError, edit::EditError},
};

/// What sort of failure this is.
pub fn kind(error: &Error) -> ErrorKind {
    match error {
        Error::Read(ReadError::Invalid(_)) | Error::Edited(_) | Error::NoSuchInterface { .. } => ErrorKind::Invalid,
        Error::Edit(error) => edit_kind(error),
        Error::Dataplane(error) => dataplane_kind(error),
        Error::Operate(OperateError::UnknownVip { .. } | OperateError::UnknownBackend { .. })
        | Error::NoSuchVip { .. }
        | Error::NoSuchBackend { .. } => ErrorKind::NotFound,
        Error::Operate(OperateError::Why) => ErrorKind::Invalid,
        Error::FileAhead { .. }
        | Error::NeedsRestart { .. }
        | Error::TakesAway { .. }
        | Error::TakesAwayAtStart { .. } => ErrorKind::Refused,
        Error::Unreplaced { error: ReplaceError::Saved { .. } | ReplaceError::Busy { .. } } => ErrorKind::Refused,
        Error::Read(ReadError::Unreadable { .. } | ReadError::Seed { .. })
        | Error::Unwritten(_)
        | Error::Unreplaced { error: ReplaceError::Write(_) }
        | Error::Netlink(_)
        | Error::Metrics(_)
        | Error::Stopped => ErrorKind::Failed,
    }
}

fn edit_kind(error: &EditError) -> ErrorKind {
    match error {
        EditError::UnknownVip { .. } | EditError::UnknownBackend { .. } | EditError::UnknownInterface { .. } => {
            ErrorKind::NotFound
        }
        EditError::VipExists(_) | EditError::BackendExists { .. } | EditError::InterfaceExists(_) => ErrorKind::Refused,
        EditError::Syntax(_) | EditError::Shape(_) | EditError::NothingToSet => ErrorKind::Invalid,
    }
}

fn dataplane_kind(error: &dataplane::Error) -> ErrorKind {
    match error {
        dataplane::Error::Held { .. } | dataplane::Error::Occupied { .. } => ErrorKind::Refused,
        _ => ErrorKind::Failed,
    }
}
