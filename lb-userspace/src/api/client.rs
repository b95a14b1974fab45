//! The API's client: one connection, one request, one answer. The CLI is made of it.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{
    flows::{FlowCount, FlowQuery, Flows},
    line::Line,
    types::{Applied, Apply, Backend, Diff, ErrorBody, ErrorKind, Interface, Stats, Status, Vip},
};
use crate::{model::Operate, source::file::edit::Edit};

/// How long a request may take: an apply that loads thousands of VIPs takes seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(5);

/// Why there is no answer, or not the one hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens on the socket.
    #[error(
        "no daemon answers at {}: start it with `naru run`, or name its socket with `--socket` ({source})",
        socket.display()
    )]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// This user may not talk to the daemon.
    #[error(
        "{} may not be opened by this user: be root or a member of the group `naru`, or of one of `readers` in [node] \
         to read",
        socket.display()
    )]
    Permission {
        /// The socket.
        socket: PathBuf,
    },
    /// The daemon did not answer in time.
    #[error("the daemon at {} did not answer within {} s: see its log", socket.display(), TIMEOUT.as_secs())]
    Timeout {
        /// The socket.
        socket: PathBuf,
    },
    /// The connection broke, or the answer is not what the API promises.
    #[error("the daemon at {} broke off: {source}; see its log", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon has its hands full (503): the same may be done a moment later.
    #[error("{}", .0.error)]
    Busy(ErrorBody),
    /// The daemon answered with an error.
    #[error("{}", .0.error)]
    Daemon(ErrorBody),
}

/// A client of the daemon that listens on one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon that listens on `socket`; nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1/status`
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.read("/v1/status").await
    }

    /// `GET /v1/stats`
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        self.read("/v1/stats").await
    }

    /// `GET /v1/vips`
    pub async fn vips(&self) -> Result<Vec<Vip>, ClientError> {
        self.read("/v1/vips").await
    }

    /// `GET /v1/vips/{name}`
    pub async fn vip(&self, name: &str) -> Result<Vip, ClientError> {
        self.read(&format!("/v1/vips/{}", percent_encoded(name))).await
    }

    /// `GET /v1/backends`, of one VIP or of all.
    pub async fn backends(&self, vip: Option<&str>) -> Result<Vec<Backend>, ClientError> {
        match vip {
            Some(vip) => self.read(&format!("/v1/backends?vip={}", percent_encoded(vip))).await,
            None => self.read("/v1/backends").await,
        }
    }

    /// `GET /v1/interfaces`
    pub async fn interfaces(&self) -> Result<Vec<Interface>, ClientError> {
        self.read("/v1/interfaces").await
    }

    /// `GET /v1/flows`
    pub async fn flows(&self, query: &FlowQuery) -> Result<Flows, ClientError> {
        self.read(&format!("/v1/flows?{}", self.query(query)?)).await
    }

    /// `GET /v1/flows/counts`
    pub async fn flow_counts(&self, query: &FlowQuery) -> Result<Vec<FlowCount>, ClientError> {
        self.read(&format!("/v1/flows/counts?{}", self.query(query)?)).await
    }

    /// `GET /v1/diff`
    pub async fn diff(&self) -> Result<Diff, ClientError> {
        self.read("/v1/diff").await
    }

    /// `POST /v1/apply`
    pub async fn apply(&self, force: bool) -> Result<Applied, ClientError> {
        self.request(Method::POST, "/v1/apply", self.json(&Apply { force })?).await
    }

    /// `POST /v1/edit`
    pub async fn edit(&self, edit: &Edit) -> Result<Applied, ClientError> {
        self.request(Method::POST, "/v1/edit", self.json(edit)?).await
    }

    /// `POST /v1/operate`
    pub async fn operate(&self, operate: &Operate) -> Result<Applied, ClientError> {
        self.request(Method::POST, "/v1/operate", self.json(operate)?).await
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    fn json(&self, body: &impl Serialize) -> Result<Bytes, ClientError> {
        serde_json::to_vec(body).map(Bytes::from).map_err(|error| self.broken(error))
    }

    /// `fields`, a struct of plain values, as a query: what is not there is left out.
    fn query(&self, fields: &impl Serialize) -> Result<String, ClientError> {
        let fields = serde_json::to_value(fields).map_err(|error| self.broken(error))?;
        let fields = fields.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let pair = |(name, value): (&String, &serde_json::Value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{name}={}", percent_encoded(&value))
        };
        Ok(fields.map(pair).collect::<Vec<_>>().join("&"))
    }

    async fn request<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let exchange = tokio::time::timeout(TIMEOUT, self.exchange(method, path, body));
        let (status, body) = exchange.await.map_err(|_| ClientError::Timeout { socket: self.socket.clone() })??;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.broken(error));
        }
        let error = serde_json::from_slice(&body).unwrap_or_else(|_| ErrorBody {
            error: format!("the daemon answered {status} to {path}: is it another version of naru?"),
            kind: ErrorKind::Failed,
        });
        Err(if status == StatusCode::SERVICE_UNAVAILABLE {
            ClientError::Busy(error)
        } else {
            ClientError::Daemon(error)
        })
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ClientError> {
        let line = Line::new(self.connect().await?);
        self.exchange_over(line, method, path, body).await
    }

    async fn exchange_over(
        &self,
        line: Line,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(line)).await.map_err(|error| self.broken(error))?;
        // The connection only has to be driven; what goes wrong with it shows in the request's own result.
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "naru")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.broken(error))?.to_bytes();
        driver.abort();
        Ok((status, body))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let socket = || self.socket.clone();
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                // The daemon is there, and others connect faster than it can take them.
                Err(source) if source.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(PAUSE).await,
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(ClientError::Permission { socket: socket() });
                }
                Err(source) => return Err(ClientError::NoDaemon { socket: socket(), source }),
            }
        }
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), source: source.into() }
    }
}

/// `text` as a segment of a path or a value of a query (RFC 3986 §2.1): whatever is not unreserved is escaped.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use nix::{sys::socket::accept, unistd::close};

    use super::*;
    use crate::server::api::socket::tests::full;

    #[test]
    fn only_unreserved_characters_stand_for_themselves() {
        assert_eq!(percent_encoded("web-1.example_x~"), "web-1.example_x~");
        assert_eq!(percent_encoded("a b/ü?%"), "a%20b%2F%C3%BC%3F%25");
    }

    #[test]
    fn a_query_is_what_is_given() {
        let client = Client::new("/nonexistent");
        let query = FlowQuery { vip: Some("a&b".into()), client_port: Some(80), ..FlowQuery::default() };
        assert_eq!(client.query(&query).unwrap(), "client_port=80&vip=a%26b");
        let query = FlowQuery { client: Some("2001:db8::/32".parse().unwrap()), ..FlowQuery::default() };
        assert_eq!(client.query(&query).unwrap(), "client=2001%3Adb8%3A%3A%2F32");
    }

    #[tokio::test]
    async fn nobody_on_the_socket_is_said_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("naru.sock");
        let error = Client::new(&socket).status().await.unwrap_err();
        assert!(matches!(error, ClientError::NoDaemon { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(socket.to_str().unwrap()) && text.contains("naru run"), "{text}");
    }

    #[tokio::test]
    async fn a_daemon_that_others_keep_busy_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("naru.sock");
        let (listener, _first) = full(&socket).await;
        let asked = tokio::spawn(async move { Client::new(&socket).status().await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!asked.is_finished(), "{:?}", asked.await);
        // Both are let in, and hear nothing.
        let let_in = move || (0..2).for_each(|_| close(accept(listener.as_raw_fd()).unwrap()).unwrap());
        tokio::task::spawn_blocking(let_in).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(30), asked).await.expect("it connects").unwrap();
        assert!(matches!(ended.unwrap_err(), ClientError::Broken { .. }));
    }

    /// What a client makes of a daemon that answers and closes before it is asked, or before it reads what it is asked.
    #[tokio::test]
    async fn an_answer_that_comes_unasked_is_heard() {
        const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        for body in ["", &"x".repeat(1 << 20)] {
            let (near, far) = UnixStream::pair().unwrap();
            far.writable().await.unwrap();
            assert_eq!(far.try_write(ANSWER).unwrap(), ANSWER.len());
            drop(far);
            near.readable().await.unwrap();
            let client = Client::new("/nonexistent");
            let exchange = client.exchange_over(Line::new(near), Method::POST, "/v1/edit", body.to_owned().into());
            let heard = tokio::time::timeout(Duration::from_secs(30), exchange).await.expect("it ends");
            assert_eq!(heard.unwrap(), (StatusCode::SERVICE_UNAVAILABLE, "{}".into()));
        }
        let (near, far) = UnixStream::pair().unwrap();
        let client = Client::new("/nonexistent");
        let exchange = client.exchange_over(Line::new(near), Method::GET, "/v1/status", Bytes::new());
        let (heard, ()) = tokio::join!(exchange, async {
            far.readable().await.unwrap();
            assert_eq!(far.try_write(ANSWER).unwrap(), ANSWER.len());
            drop(far);
        });
        assert_eq!(heard.unwrap().0, StatusCode::SERVICE_UNAVAILABLE, "what it was asked lay unread");
    }

    #[tokio::test]
    async fn a_dead_daemons_socket_is_no_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("naru.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let error = Client::new(&socket).status().await.unwrap_err();
        assert!(matches!(error, ClientError::NoDaemon { .. }), "{error:?}");
    }
}
