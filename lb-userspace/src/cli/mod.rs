//! The command line: reads it, does it, and ends with an exit code that scripts can rely on.

mod args;
mod change;
mod check;
mod daemon;
mod decap;
mod exit;
mod flows;
mod place;
mod seed;
mod show;
mod table;
mod wait;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use self::args::{Backend, Interface, Vip};
pub use self::{
    args::{Cli, Command, DEFAULT_CONFIG},
    exit::{EXIT_CODES, Exit, Failure},
    table::Output,
};
use crate::api::client::Client;

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
    let client = || place::socket(&global).map(Client::new);
    match command {
        Command::Run(run) => daemon::run(&global, run),
        Command::Check { file } => check::check(output, file.as_deref().unwrap_or(&global.config)),
        Command::Diff => wait(show::diff(client()?, output)),
        Command::Apply { force } => wait(change::apply(client()?, output, force)),
        Command::Status => wait(show::status(client()?, output)),
        Command::Stats { watch } => wait(show::stats(client()?, output, watch)),
        Command::Vip(Vip::List) => wait(show::vips(client()?, output)),
        Command::Vip(Vip::Show { name, ready: true }) => wait(show::ready(client()?, output, &name)),
        Command::Vip(Vip::Show { name, ready: false }) => wait(show::vip(client()?, output, &name)),
        Command::Vip(Vip::Edit(edit)) => wait(change::edit(client()?, output, edit.into())),
        Command::Backend(Backend::List { vip }) => wait(show::backends(client()?, output, vip.as_deref())),
        Command::Backend(Backend::Operate(operation)) => wait(change::operate(client()?, output, operation)),
        Command::Backend(Backend::Edit(edit)) => wait(change::edit_backend(client()?, output, edit)),
        Command::Health { vip } => wait(show::health(client()?, output, vip.as_deref())),
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
