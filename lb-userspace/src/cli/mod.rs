//! The command line: reads it, does it, and ends with an exit code that scripts can rely on.

mod args;
mod change;
mod check;
mod daemon;
mod decap;
mod exit;
mod flows;
mod seed;
mod show;
mod table;
mod wait;

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _};

use self::args::{Backend, Global, Interface, Vip};
pub use self::{
    args::{Cli, Command, DEFAULT_CONFIG},
    exit::{EXIT_CODES, Exit, Failure},
    table::Output,
};
use crate::{
    api::client::Client,
    disk,
    model::Node,
    source::file::{self, ReadError},
};

/// Does what the process's arguments say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("naru: {failure}");
            failure.exit().into()
        }
    }
}

/// Does what `cli` says.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    let Cli { global, command } = cli;
    let output = global.output;
    let client = || socket(&global).map(Client::new);
    match command {
        Command::Run(run) => daemon::run(&global, run),
        Command::Check { file } => check::check(output, file.as_deref().unwrap_or(&global.config)),
        Command::Diff => wait(show::diff(client()?, output)),
        Command::Apply { force } => wait(change::apply(client()?, output, force)),
        Command::Status => wait(show::status(client()?, output)),
        Command::Stats { watch } => wait(show::stats(client()?, output, watch)),
        Command::Vip(Vip::List) => wait(show::vips(client()?, output)),
        Command::Vip(Vip::Show { name }) => wait(show::vip(client()?, output, &name)),
        Command::Vip(Vip::Edit(edit)) => wait(change::edit(client()?, output, edit.into())),
        Command::Backend(Backend::List { vip }) => wait(show::backends(client()?, output, vip.as_deref())),
        Command::Backend(Backend::Operate(operation)) => wait(change::operate(client()?, output, operation)),
        Command::Backend(Backend::Edit(edit)) => wait(change::edit_backend(client()?, output, edit)),
        Command::Flows(options) => wait(flows::flows(client()?, output, options)),
        Command::Interface(Interface::List) => wait(show::interfaces(client()?, output)),
        Command::Interface(Interface::Attach { interface }) => wait(change::attach(client()?, output, interface)),
        Command::Interface(Interface::Detach(detach)) => wait(change::detach(client()?, &global, detach)),
        Command::Decap(command) => decap::decap(output, command),
        Command::Seed(command) => seed::seed(output, &command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "naru", &mut script);
            table::print(&String::from_utf8_lossy(&script));
            Ok(Exit::Ok)
        }
    }
}

/// Runs a command that asks the daemon.
fn wait(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Exit::Failed, error))?.block_on(command)
}

/// The daemon's socket: as the command line says, else the config file, else the default.
fn socket(global: &Global) -> Result<PathBuf, Failure> {
    place(&global.socket, &global.config, |node| node.socket)
}

/// A place of the daemon: as the command line says, else as [`places`] says.
fn place(said: &Option<PathBuf>, config: &Path, of: impl FnOnce(Node) -> PathBuf) -> Result<PathBuf, Failure> {
    match said {
        Some(place) => Ok(place.clone()),
        None => places(config).map(of),
    }
}

/// Where a daemon of this config file is to be found, whatever else is wrong in the file. One that is not there, or
/// that this user may not read, leads to the daemon of the default config.
///
/// # Errors
///
/// The file cannot be read for another reason: what it says would be passed over without a word.
fn places(config: &Path) -> Result<Node, Failure> {
    let text = match disk::read(config) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => String::new(),
        Err(error) => return Err(Failure::new(Exit::Failed, ReadError::Unreadable { path: config.to_owned(), error })),
    };
    Ok(file::node(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_found_through_a_file_that_is_not_valid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("naru.toml");
        std::fs::write(&path, "[node]\nsocket = \"/run/x.sock\"\nxdp_mode = \"wrong\"\n[[vip]]\nnaem = 1\n").unwrap();
        let node = places(&path).unwrap();
        assert_eq!(node.socket, Path::new("/run/x.sock"));
        assert_eq!(node.bpffs, Node::default().bpffs);
        std::fs::write(&path, "[[vip]]\nname = 1\n[[vip]]\n[node]\nbpffs = \"/sys/fs/bpf/x\"\n").unwrap();
        assert_eq!(places(&path).unwrap().bpffs, Path::new("/sys/fs/bpf/x"), "[node] may stand last");
        assert_eq!(places(&dir.path().join("missing")).unwrap().socket, Node::default().socket);
        let error = places(dir.path()).unwrap_err();
        assert!(error.to_string().contains("it is not a file"), "{error}");
    }
}
