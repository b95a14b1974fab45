//! `naru flows`: what the flow table holds.

use std::{net::SocketAddr, time::Duration};

use super::{
    args,
    exit::{Exit, Failure},
    table::{Align::*, Output, table},
};
use crate::api::{
    client::Client,
    flows::{Flow, FlowCount, FlowQuery, Flows},
};

/// `naru flows`
pub async fn flows(client: Client, output: Output, options: args::Flows) -> Result<Exit, Failure> {
    let args::Flows { vip, backend, client: clients, client_port, table, state, limit, count } = options;
    let query = FlowQuery { vip, backend, client: clients, client_port, table, state, limit: None };
    if count {
        output.print(&client.flow_counts(&query).await?, |counts| counts_text(counts));
        return Ok(Exit::Ok);
    }
    let flows = client.flows(&FlowQuery { limit: Some(limit), ..query }).await?;
    output.print(&flows, |flows| flows_text(&flows.flows));
    let Flows { flows, matched } = flows;
    if matched > flows.len() as u64 {
        eprintln!("{} of {matched} flows: narrow down which, raise `--limit`, or see `--count`", flows.len());
    }
    Ok(Exit::Ok)
}

fn flows_text(flows: &[Flow]) -> String {
    let header = [
        ("CLIENT", Left),
        ("VIP", Left),
        ("PORT", Left),
        ("BACKEND", Left),
        ("TABLE", Left),
        ("STATE", Left),
        ("IDLE", Right),
    ];
    table(
        header,
        flows.iter().map(|Flow { client, client_port, vip, port, backend, table, state, idle_seconds }| {
            let client = SocketAddr::new(*client, *client_port).to_string();
            let idle = humantime::format_duration(Duration::from_secs(*idle_seconds)).to_string();
            let [table, state] = [table.name(), state.name()].map(str::to_owned);
            [client, vip.clone(), port.clone(), backend.to_string(), table, state, idle]
        }),
    )
}

fn counts_text(counts: &[FlowCount]) -> String {
    let header = [("VIP", Left), ("BACKEND", Left), ("ESTABLISHED", Right), ("EMBRYONIC", Right)];
    table(
        header,
        counts.iter().map(|FlowCount { vip, backend, established, embryonic }| {
            [vip.clone(), backend.to_string(), established.to_string(), embryonic.to_string()]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::flows::{FlowState, FlowTable};

    #[test]
    fn a_flow_is_a_line() {
        let flow = |client: &str, idle_seconds| Flow {
            client: client.parse().unwrap(),
            client_port: 40_000,
            vip: "web".into(),
            port: "tcp/80".into(),
            backend: "10.0.1.12".parse().unwrap(),
            table: FlowTable::Established,
            state: FlowState::Open,
            idle_seconds,
        };
        assert_eq!(
            flows_text(&[flow("198.51.100.7", 0), flow("2001:db8::7", 72)]),
            "CLIENT                VIP   PORT     BACKEND     TABLE         STATE     IDLE\n\
             198.51.100.7:40000    web   tcp/80   10.0.1.12   established   open        0s\n\
             [2001:db8::7]:40000   web   tcp/80   10.0.1.12   established   open    1m 12s\n"
        );
    }

    #[test]
    fn counts_are_by_backend() {
        let backend = "10.0.1.12".parse().unwrap();
        assert_eq!(
            counts_text(&[FlowCount { vip: "web".into(), backend, established: 1203, embryonic: 7 }]),
            "VIP   BACKEND     ESTABLISHED   EMBRYONIC\n\
             web   10.0.1.12          1203           7\n"
        );
    }
}
