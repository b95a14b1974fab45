//! Large transfers in both directions, compared byte for byte with what was sent.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail, ensure};
use http_body_util::{BodyExt as _, Either, Empty};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1::handshake, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::{pattern, server::Pattern};

/// Downloads `len` bytes from `target` on a new connection.
///
/// # Errors
///
/// When a byte is wrong or missing, or the transfer takes longer than `limit`.
pub async fn download(target: SocketAddr, len: u64, limit: Duration) -> anyhow::Result<()> {
    timeout(limit, exchange(target, Direction::Down(len))).await.context(too_slow(target, limit))?
}

/// Uploads `len` bytes to `target` on a new connection: the direction in which every full-size packet passes the load
/// balancer.
///
/// # Errors
///
/// As with [`download`].
pub async fn upload(target: SocketAddr, len: u64, limit: Duration) -> anyhow::Result<()> {
    timeout(limit, exchange(target, Direction::Up(len))).await.context(too_slow(target, limit))?
}

#[derive(Clone, Copy)]
enum Direction {
    Down(u64),
    Up(u64),
}

async fn exchange(target: SocketAddr, direction: Direction) -> anyhow::Result<()> {
    let stream = TcpStream::connect(target).await.with_context(|| format!("cannot connect to {target}"))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().header(header::HOST, target.to_string());
    let (len, request) = match direction {
        Direction::Down(len) => (len, request.uri(format!("/bytes/{len}")).body(Either::Left(Empty::<Bytes>::new()))?),
        Direction::Up(len) => {
            (len, request.method("POST").uri("/upload").body(Either::Right(Pattern { offset: 0, len }))?)
        }
    };
    let response = sender.send_request(request).await.context("no response")?;
    let status = response.status();
    let mut body = response.into_body();
    if let (Direction::Down(_), StatusCode::OK) = (direction, status) {
        let mut offset = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.with_context(|| format!("the transfer broke off after {offset} of {len} bytes"))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if let Some(at) = pattern::first_difference(offset, &data) {
                bail!("byte {at} of {len} is not what was sent");
            }
            offset += data.len() as u64;
        }
        ensure!(offset == len, "{offset} bytes arrived of {len}");
        return Ok(());
    }
    let answer = body.collect().await?.to_bytes();
    let answer = String::from_utf8_lossy(&answer);
    ensure!(status == StatusCode::OK, "{target} answered {status}: {answer}");
    ensure!(answer == len.to_string(), "{answer} bytes arrived of {len}");
    Ok(())
}

fn too_slow(target: SocketAddr, limit: Duration) -> String {
    format!("the transfer with {target} did not end within {} s", limit.as_secs())
}
