//! `naru decap`: the backend's side, without a daemon.

use super::{
    args::Decap,
    exit::{Exit, Failure},
    table::{Align::*, Output, table},
};
use crate::decap::{self, Outcome, Status};

/// Does what `command` says.
pub fn decap(output: Output, command: Decap) -> Result<Exit, Failure> {
    // The causes stand behind the error, on the same line.
    let failed = |error: anyhow::Error| Failure::new(Exit::Failed, format!("{error:#}"));
    match command {
        Decap::Attach { interface, from, to, vips, mode, bpffs } => {
            let options = decap::Options { interface, from, to, vips, mode, bpffs };
            let attachment = decap::attach(&options).map_err(failed)?;
            output.print(&attachment, |attachment| {
                let reason = attachment.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                format!("decapsulating on {} in {} mode{reason}\n", attachment.name, attachment.mode)
            });
        }
        Decap::Detach { interface, bpffs } => {
            decap::detach(&interface, &bpffs).map_err(failed)?;
            output.print(&interface, |interface| format!("no longer decapsulating on {interface}\n"));
        }
        Decap::Status { bpffs } => output.print(&decap::status(&bpffs).map_err(failed)?, |all| status_text(all)),
    }
    Ok(Exit::Ok)
}

fn status_text(all: &[Status]) -> String {
    let header = [("INTERFACE", Left), ("XDP", Left), ("FROM", Left), ("TO", Left), ("VIPS", Left)];
    let interfaces = all.iter().map(|Status { interface, mode, problem: _, from, to, vips, outcomes: _ }| {
        let mode = mode.map_or("not attached".to_owned(), |mode| mode.to_string());
        let vips = if vips.is_empty() { "what is local".to_owned() } else { joined(vips) };
        [interface.clone(), mode, joined(from), joined(to), vips]
    });
    let mut interfaces = table(header, interfaces);
    for Status { interface, problem, .. } in all {
        interfaces.extend(problem.iter().map(|problem| format!("{interface} {problem}\n")));
    }
    if all.is_empty() {
        return interfaces;
    }
    let header = [("INTERFACE", Left), ("OUTCOME", Left), ("PACKETS", Right), ("BYTES", Right)];
    let outcomes = all.iter().flat_map(|status| {
        status.outcomes.iter().map(|Outcome { outcome, packets, bytes }| {
            [status.interface.clone(), outcome.clone(), packets.to_string(), bytes.to_string()]
        })
    });
    format!("{interfaces}\n{}", table(header, outcomes))
}

fn joined<T: ToString>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}
