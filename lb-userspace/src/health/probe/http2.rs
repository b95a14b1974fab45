//! One request by HTTP/2, of which nothing is left when it is answered or given up.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use hyper::{
    Request, Response, Uri,
    body::{Body, Bytes, Incoming},
    client::conn::http2,
    http::uri::Scheme,
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    task::AbortHandle,
};

use super::question::Failure;

/// Its name where connections say what is spoken (RFC 7301).
pub const ALPN: &[u8] = b"h2";

/// Who asks.
pub const USER_AGENT: &str = concat!("naru/", env!("CARGO_PKG_VERSION"));

/// A backend may send so much ahead of what was read, in bytes.
const WINDOW: u32 = 64 << 10;

/// So much is read of a connection, in bytes: frames that say nothing need not end.
const LONGEST: u64 = 256 << 10;

/// Headers of an answer are no larger, in bytes.
const LONGEST_HEAD: u32 = 16 << 10;

/// The name that a backend is asked by: `host`, or else the VIP's address.
pub fn authority(host: Option<&str>, vip: IpAddr) -> String {
    match (host, vip) {
        (Some(host), _) => host.to_owned(),
        (None, IpAddr::V4(vip)) => vip.to_string(),
        (None, IpAddr::V6(vip)) => format!("[{vip}]"),
    }
}

/// What is asked for, as HTTP/2 has it.
pub fn target(is_tls: bool, host: &str, path: &str) -> Result<Uri, Failure> {
    let scheme = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(path).build();
    uri.map_err(|error| Failure::Unsent(error.to_string()))
}

/// Sends a request, and has its answer judged.
pub async fn ask<S, B>(
    stream: S,
    request: Request<B>,
    judge: impl AsyncFnOnce(Result<Response<Incoming>, Failure>) -> Result<(), Failure>,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let tasks = Tasks::default();
    let mut builder = http2::Builder::new(tasks.executor());
    builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    builder.max_header_list_size(LONGEST_HEAD).max_concurrent_streams(0);
    let (reads, writes) = tokio::io::split(stream);
    let stream = tokio::io::join(reads.take(LONGEST), writes);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(protocol)?;
    let exchange = async move { judge(sender.send_request(request).await.map_err(protocol)).await };
    drive(exchange, connection).await
}

/// Waits for an exchange over a connection, which goes on beside it.
pub async fn drive(
    exchange: impl Future<Output = Result<(), Failure>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<(), Failure> {
    tokio::pin!(exchange, connection);
    tokio::select! {
        done = &mut exchange => done,
        // It may have ended because the server closes once it has answered.
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(protocol(error)),
        },
    }
}

/// What hyper says, and why.
pub fn protocol(error: hyper::Error) -> Failure {
    let why = std::error::Error::source(&error).map(|source| format!(": {source}"));
    Failure::Protocol("HTTP", format!("{error}{}", why.unwrap_or_default()))
}

/// What hyper does beside a request. It ends with this.
#[derive(Default)]
struct Tasks(Arc<Mutex<Vec<AbortHandle>>>);

#[derive(Clone)]
struct Spawn(Arc<Mutex<Vec<AbortHandle>>>);

impl Tasks {
    fn executor(&self) -> Spawn {
        Spawn(Arc::clone(&self.0))
    }
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Spawn {
    fn execute(&self, future: F) {
        let task = tokio::spawn(future).abort_handle();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(AbortHandle::abort);
    }
}

#[cfg(test)]
pub mod fixtures {
    use std::net::SocketAddr;

    use hyper::{server::conn::http2, service::service_fn};
    use hyper_util::rt::TokioExecutor;
    use tokio::net::TcpListener;

    use super::*;

    /// A server that speaks HTTP/2 from the first byte on.
    pub async fn server<B, F>(serve: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> SocketAddr
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
        F: Future<Output = Result<Response<B>, hyper::http::Error>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service_fn(serve.clone())));
            }
        });
        address
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::super::{Outcome, ask, fixtures::question};
    use crate::model::{Check, Service};

    /// A frame of this type, with these flags, of the only stream or of the connection.
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// What comes of a server that repeats a frame for ever, and how much of it it could send.
    async fn repeated(once: Vec<u8>, again: &[u8]) -> (Outcome, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let again = again.repeat((16 << 10) / again.len() + 1);
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut reads, mut writes) = stream.split();
            let mut sent = 0;
            let writes = async {
                writes.write_all(&frame(4, 0, 0, &[])).await?;
                writes.write_all(&once).await?;
                loop {
                    writes.write_all(&again).await?;
                    sent += again.len() as u64;
                }
            };
            let mut nowhere = tokio::io::sink();
            let reads = tokio::io::copy(&mut reads, &mut nowhere);
            // Both end when the probe does.
            let _: (std::io::Result<u64>, std::io::Result<()>) = tokio::join!(reads, writes);
            sent
        });
        let check = Check::Grpc { service: Service { service: None, host: None }, tls: None };
        let outcome = ask(&question(address, check)).await;
        (outcome, server.await.unwrap())
    }

    #[tokio::test]
    async fn a_server_without_an_end_is_read_to_one() {
        let from = Instant::now();
        let early = frame(1, 4, 1, &[&[0x08, 3][..], b"103"].concat());
        for (what, once, again) in [
            ("SETTINGS", vec![], frame(4, 0, 0, &[])),
            ("PING", vec![], frame(6, 0, 0, &[0; 8])),
            ("WINDOW_UPDATE", vec![], frame(8, 0, 0, &[0, 0, 0, 1])),
            ("early hints", vec![], early),
            ("CONTINUATION", frame(1, 0, 1, &[0x88]), frame(9, 0, 1, &[0, 1, b'a', 1, b'b'].repeat(100))),
            ("DATA", frame(1, 4, 1, &[0x88]), frame(0, 0, 1, &[0; 1024])),
            ("empty DATA", frame(1, 4, 1, &[0x88]), frame(0, 0, 1, &[])),
            ("PUSH_PROMISE", vec![], frame(5, 4, 1, &[0, 0, 0, 2, 0x82, 0x84, 0x86])),
            ("what nobody knows", vec![], frame(0xbb, 0, 0, &[0; 100])),
        ] {
            let (outcome, sent) = repeated(once, &again).await;
            assert!(matches!(outcome, Outcome::Bad(_)), "{what}: {outcome:?}");
            assert!(sent < 32 << 20, "{what}: {sent} bytes were sent");
        }
        assert!(from.elapsed() < patience::LIMIT);
    }
}
