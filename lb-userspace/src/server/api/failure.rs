//! Answers that are no success, and failures of the controller by sort: it decides the status of an answer and the exit
//! code of a command.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{
    api::types::{ErrorBody, ErrorKind},
    controller::Error,
    dataplane,
    disk::ReplaceError,
    model::OperateError,
    source::file::{ReadError, edit::EditError},
};

/// An answer that is not a success.
pub struct ApiError {
    pub(super) status: StatusCode,
    pub(super) body: ErrorBody,
}

impl ApiError {
    /// That a request is not valid.
    pub fn invalid(status: StatusCode, error: String) -> Self {
        Self { status, body: ErrorBody { error, kind: ErrorKind::Invalid } }
    }

    /// That there is no place for another one at the moment.
    pub fn unavailable(error: String) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, body: ErrorBody { error, kind: ErrorKind::Failed } }
    }

    /// As it goes over a connection on which nobody has asked yet, with which that ends.
    pub fn unasked(&self) -> String {
        let body = serde_json::to_string(&self.body).unwrap_or_default();
        format!(
            "HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.status,
            body.len()
        )
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let kind = kind(&error);
        let status = match kind {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::Refused => StatusCode::CONFLICT,
            ErrorKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, body: ErrorBody { error: error.to_string(), kind } }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// What sort of failure this is.
pub fn kind(error: &Error) -> ErrorKind {
    match error {
        Error::Read(ReadError::Invalid(_)) | Error::Edited(_) | Error::NoSuchInterface { .. } => ErrorKind::Invalid,
        Error::Edit(error) => edit_kind(error),
        Error::Dataplane(error) => dataplane_kind(error),
        Error::Operate(OperateError::UnknownVip { .. } | OperateError::UnknownBackend { .. })
        | Error::NoSuchVip { .. }
        | Error::NoSuchBackend { .. } => ErrorKind::NotFound,
        Error::Operate(OperateError::Why | OperateError::Deadline | OperateError::Lasting) => ErrorKind::Invalid,
        Error::FileAhead { .. }
        | Error::NeedsRestart { .. }
        | Error::TakesAway { .. }
        | Error::TakesAwayAtStart { .. } => ErrorKind::Refused,
        Error::Unreplaced { error: ReplaceError::Saved { .. } | ReplaceError::Busy { .. } } => ErrorKind::Refused,
        Error::Read(ReadError::Unreadable { .. } | ReadError::Seed { .. })
        | Error::Probes { .. }
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
        EditError::Syntax(_) | EditError::Shape(_) | EditError::NothingToSet | EditError::NoHealth(_) => {
            ErrorKind::Invalid
        }
    }
}

fn dataplane_kind(error: &dataplane::Error) -> ErrorKind {
    match error {
        dataplane::Error::Held { .. } | dataplane::Error::Occupied { .. } => ErrorKind::Refused,
        _ => ErrorKind::Failed,
    }
}
