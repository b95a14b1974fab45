//! A UDP echo client: what came back, and from whom.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::{net::UdpSocket, time::timeout};

/// What became of the datagrams.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that were not answered in time.
    pub lost: u64,
    /// Answers by the backend that sent them.
    pub backends: BTreeMap<String, u64>,
}

/// Sends `count` datagrams of `size` bytes to `target`, each from a port of its own and after the answer to the one
/// before; waits for each answer for at most `wait`.
///
/// # Errors
///
/// When no socket can be opened, or an answer is not the name of a backend followed by what was sent.
pub async fn echo(target: SocketAddr, count: u64, size: usize, wait: Duration) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let any: SocketAddr = if target.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let mut buffer = vec![0; size + 64];
    for number in 0..count {
        let mut payload = format!("datagram {number} ").into_bytes();
        payload.resize(size, b'.');
        let socket = UdpSocket::bind(any).await.context("no UDP socket")?;
        // Connected, so that only answers from the address that was asked count.
        socket.connect(target).await?;
        socket.send(&payload).await?;
        report.sent += 1;
        match timeout(wait, socket.recv(&mut buffer)).await {
            Ok(Ok(len)) => {
                let Some(backend) = buffer[..len].strip_suffix(&payload[..]) else {
                    bail!("{target} answered something else than what was sent: {:?}", &buffer[..len]);
                };
                let backend = String::from_utf8_lossy(backend).trim_end().to_owned();
                *report.backends.entry(backend).or_default() += 1;
            }
            Ok(Err(_)) | Err(_) => report.lost += 1,
        }
    }
    Ok(report)
}
