//! Connection consistency: which connections break when backends change, by real connections in a lab or by a model.

mod lab;
mod model;
mod report;
mod script;

use clap::Args;
use serde::Serialize;

/// What the bench takes.
#[derive(Args, Debug)]
pub struct Options {
    /// Connections to hold open: in the lab on each of three VIPs [default: 3000], in the model in all [default:
    /// 1000000]
    #[arg(long)]
    connections: Option<usize>,
    /// Compute it for a million connections instead, without packets
    #[arg(long)]
    model: bool,
    /// Of the model: number of changes
    #[arg(long, default_value_t = 1_000, requires = "model")]
    changes: usize,
    /// Of the model: seconds from one change to the next, each a run of its own
    #[arg(long, default_value = "5,60,600", value_delimiter = ',', requires = "model")]
    interval: Vec<f64>,
    /// Of the model: naru's tcp_idle, in seconds
    #[arg(long, default_value_t = 900, requires = "model")]
    tcp_idle: u32,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// Runs the lab or the model, reports, and says whether what was promised was kept.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let Options { connections, model, changes, ref interval, tcp_idle, json } = *options;
    if model {
        let connections = connections.unwrap_or(1_000_000);
        let report = model::run(&model::Options { connections, changes, intervals: interval.clone(), tcp_idle })?;
        show(&report, json, model::Report::print)?;
        report.verdict()
    } else {
        let report = lab::run(connections.unwrap_or(3_000))?;
        show(&report, json, report::Report::print)?;
        report.verdict()
    }
}

fn show<R: Serialize>(report: &R, json: bool, print: impl FnOnce(&R)) -> anyhow::Result<()> {
    match json {
        true => println!("{}", serde_json::to_string_pretty(report)?),
        false => print(report),
    }
    Ok(())
}
