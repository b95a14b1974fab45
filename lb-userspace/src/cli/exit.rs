//! Exit codes that scripts can rely on, and the failure that carries one out of a command.

use std::fmt;

use crate::{
    api::{client::ClientError, types::ErrorKind},
    controller,
    server::api::{kind, socket::SocketError},
};

/// How a command ended, as the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; the answer is yes; there are no differences.
    Ok = 0,
    /// There are differences; nothing of that name.
    Negative = 1,
    /// The command line, the input or the config file is not valid.
    Invalid = 2,
    /// No daemon answers.
    NoDaemon = 3,
    /// Refused or failed, and what ran before runs on; or what was waited for did not come about.
    Failed = 4,
    /// This user may not ask for that.
    Forbidden = 5,
}

/// Every exit code with what it means, as `--help` prints it.
pub const EXIT_CODES: [(Exit, &str); 6] = [
    (Exit::Ok, "done; `diff`: the file is what runs"),
    (Exit::Negative, "`diff`: not applied; `vip show --ready`: it cannot serve; otherwise: nothing of that name"),
    (Exit::Invalid, "the command line, the input or the config file is not valid"),
    (Exit::NoDaemon, "no daemon answers on the socket"),
    (Exit::Failed, "refused or failed, what ran before runs on; `--wait`: not done within `--timeout`"),
    (Exit::Forbidden, "this user may not do that: who may is a matter of groups"),
];

/// Why a command did not do what it was asked: a message for the operator and the exit code.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// A failure that says `message` and ends the process with `exit`.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NoDaemon { .. } => Exit::NoDaemon,
            ClientError::Permission { .. } => Exit::Forbidden,
            ClientError::Timeout { .. } | ClientError::Broken { .. } => Exit::Failed,
            ClientError::Busy(body) | ClientError::Daemon(body) => body.kind.into(),
        };
        Self::new(exit, error)
    }
}

impl From<controller::Error> for Failure {
    fn from(error: controller::Error) -> Self {
        Self::new(kind(&error).into(), error)
    }
}

impl From<SocketError> for Failure {
    fn from(error: SocketError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::Negative,
            ErrorKind::Invalid => Self::Invalid,
            ErrorKind::Forbidden => Self::Forbidden,
            ErrorKind::Refused | ErrorKind::Failed => Self::Failed,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The table of exit codes for the end of `--help`.
pub fn help() -> String {
    let lines = EXIT_CODES.map(|(exit, meaning)| format!("  {}  {meaning}", exit as u8));
    format!("Exit codes:\n{}", lines.join("\n"))
}
