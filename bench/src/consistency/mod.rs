//! Connection consistency: which connections break when backends change, by real connections in a lab or by a model.

mod lab;
mod report;
mod script;

use clap::Args;

/// What the bench takes.
#[derive(Args, Debug)]
pub struct Options {
    /// Connections to hold open on each of the three VIPs
    #[arg(long, default_value_t = 3_000)]
    connections: usize,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// Runs the lab or the model, and reports.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let report = lab::run(options.connections)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    report.verdict()
}
