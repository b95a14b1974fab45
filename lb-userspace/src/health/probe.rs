//! One probe: asks a backend once.

use std::{
    ffi::OsString,
    fmt, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use lb_common::Via;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::Instant,
};

use crate::model::{Check, Page};

/// So much of a body is looked through, in bytes.
const LONGEST_BODY: usize = 64 << 10;

/// So much of an answer is kept at a time, in bytes: its head must fit.
const LONGEST_HEAD: usize = 16 << 10;

/// By how much a timeout may itself be late: later, this host was too busy to tell who was slow.
const LATE: Duration = Duration::from_millis(100);

/// What is asked of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where the backend is asked.
    pub server: SocketAddr,
    /// By which routing tables it is reached.
    pub via: Via,
    /// The address of the VIP.
    pub vip: IpAddr,
    /// What it is asked.
    pub check: Check,
    /// How long it may take.
    pub timeout: Duration,
}

/// Why an answer is no good one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There was none in time; and how far it came.
    TimedOut(&'static str),
    /// The connection was refused, or no way leads there: in the words of the system.
    Connection(String),
    /// It is not HTTP.
    Protocol(String),
    /// Another status than those of good answers.
    Status(u16),
    /// The body has not what it should.
    Body,
    /// The probe was not sent: in the words of the system.
    Unsent(String),
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A good answer.
    Good,
    /// None.
    Bad(Failure),
    /// This host was too busy for a verdict, or had no socket left: it says nothing about the backend.
    Void(Failure),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(stage) => write!(f, "no answer in time ({stage})"),
            Self::Connection(error) => f.write_str(error),
            Self::Protocol(error) => write!(f, "not HTTP: {error}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Body => f.write_str("the body has not what it should"),
            Self::Unsent(error) => write!(f, "the probe could not be sent: {error}"),
        }
    }
}

/// Asks once.
pub async fn ask(question: &Question) -> Outcome {
    let end = Instant::now() + question.timeout;
    let mut stage = "connecting";
    match tokio::time::timeout_at(end, answer(question, &mut stage)).await {
        Ok(Ok(())) => Outcome::Good,
        Ok(Err(failure @ Failure::Unsent(_))) => Outcome::Void(failure),
        Ok(Err(failure)) => Outcome::Bad(failure),
        Err(_) if end.elapsed() > LATE => Outcome::Void(Failure::TimedOut(stage)),
        Err(_) => Outcome::Bad(Failure::TimedOut(stage)),
    }
}

async fn answer(question: &Question, stage: &mut &'static str) -> Result<(), Failure> {
    let stream = connect(question).await?;
    // An end by RST: neither side keeps a connection that is over, of which there would be thousands.
    let _ = setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
    match &question.check {
        Check::Tcp => Ok(()),
        Check::Http(page) => {
            *stage = "waiting for the page";
            get(stream, page, question.vip).await
        }
    }
}

async fn connect(Question { server, via, .. }: &Question) -> Result<TcpStream, Failure> {
    let socket = socket(server, via).map_err(|error| Failure::Unsent(error.to_string()))?;
    socket.connect(*server).await.map_err(|error| match error.raw_os_error() {
        // No port, no memory.
        Some(libc::EADDRNOTAVAIL | libc::ENOBUFS | libc::ENOMEM) => Failure::Unsent(error.to_string()),
        _ => Failure::Connection(words(&error)),
    })
}

fn socket(server: &SocketAddr, via: &Via) -> io::Result<TcpSocket> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if !via.vrf.is_none() {
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(via.vrf.as_str()))?;
    }
    if via.mark != 0 {
        setsockopt(&socket, sockopt::Mark, &via.mark)?;
    }
    Ok(socket)
}

/// What the system says, without its number.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

async fn get(stream: TcpStream, page: &Page, vip: IpAddr) -> Result<(), Failure> {
    let protocol = |error: hyper::Error| Failure::Protocol(error.to_string());
    let mut builder = http1::Builder::new();
    let handshake = builder.max_buf_size(LONGEST_HEAD).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(protocol)?;
    let host = page.host.clone().unwrap_or_else(|| match vip {
        IpAddr::V4(vip) => vip.to_string(),
        IpAddr::V6(vip) => format!("[{vip}]"),
    });
    let request = Request::get(page.path.as_str())
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("naru/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::Unsent(error.to_string()))?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(protocol)?;
        let status = response.status().as_u16();
        if !page.status.contain(status) {
            return Err(Failure::Status(status));
        }
        match &page.body {
            Some(wanted) => find(response.into_body(), wanted.as_bytes()).await,
            None => Ok(()),
        }
    };
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

/// Looks for `wanted` in a body, as far as it is looked through.
async fn find(mut body: hyper::body::Incoming, wanted: &[u8]) -> Result<(), Failure> {
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Protocol(error.to_string()))?;
        if let Some(data) = frame.data_ref() {
            let room = LONGEST_BODY - text.len();
            text.extend_from_slice(&data[..data.len().min(room)]);
            if text.windows(wanted.len().max(1)).any(|part| part == wanted) || wanted.is_empty() {
                return Ok(());
            }
            if text.len() == LONGEST_BODY {
                break;
            }
        }
    }
    Err(Failure::Body)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(500);

    fn page(status: &str, body: Option<&str>) -> Check {
        let body = body.map(str::to_owned);
        Check::Http(Page { path: "/healthz".into(), host: None, status: status.parse().unwrap(), body })
    }

    fn question(server: SocketAddr, check: Check) -> Question {
        Question { server, via: Via::default(), vip: [192, 0, 2, 1].into(), check, timeout: TIMEOUT }
    }

    /// A server that answers each connection's request with these parts, with a pause before each but the first, and what
    /// it was asked.
    async fn server(parts: &'static [&'static [u8]], pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    let len = stream.read(&mut request).await.unwrap_or(0);
                    let request = String::from_utf8_lossy(&request[..len]).to_lowercase();
                    assert!(
                        request.starts_with("get /healthz http/1.1\r\nhost: 192.0.2.1\r\n") || len == 0,
                        "{request}"
                    );
                    for (number, part) in parts.iter().enumerate() {
                        if number > 0 {
                            tokio::time::sleep(pause).await;
                        }
                        if stream.write_all(part).await.is_err() {
                            return;
                        }
                    }
                    let _ = stream.read(&mut [0; 1]).await;
                });
            }
        });
        address
    }

    async fn answer_to(check: Check, parts: &'static [&'static [u8]]) -> Outcome {
        ask(&question(server(parts, Duration::from_millis(20)).await, check)).await
    }

    #[tokio::test]
    async fn a_connection_is_all_that_tcp_wants() {
        assert_eq!(answer_to(Check::Tcp, &[]).await, Outcome::Good);
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let refused = Outcome::Bad(Failure::Connection("connection refused".into()));
        assert_eq!(ask(&question(gone, Check::Tcp)).await, refused);
    }

    #[tokio::test]
    async fn a_page_is_judged_by_status_and_body() {
        const OK: &[&[u8]] = &[b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nall ", b"good"];
        assert_eq!(answer_to(page("200-399", None), OK).await, Outcome::Good);
        assert_eq!(answer_to(page("200", Some("l good")), OK).await, Outcome::Good);
        assert_eq!(answer_to(page("200", Some("bad")), OK).await, Outcome::Bad(Failure::Body));
        assert_eq!(answer_to(page("201-399", None), OK).await, Outcome::Bad(Failure::Status(200)));
        // Without a length, until the end.
        const CLOSED: &[&[u8]] = &[b"HTTP/1.0 503 Away\r\n\r\n"];
        assert_eq!(answer_to(page("200-399", None), CLOSED).await, Outcome::Bad(Failure::Status(503)));
        assert_eq!(answer_to(page("503", None), CLOSED).await, Outcome::Good);
    }

    #[tokio::test]
    async fn what_is_slow_endless_or_no_http_is_a_failure_in_time() {
        let from = Instant::now();
        let never = answer_to(page("200", None), &[]).await;
        assert_eq!(never, Outcome::Bad(Failure::TimedOut("waiting for the page")));
        const HEADER: &[u8] = b"HTTP/1.1 200 OK\r\n";
        const TRICKLE: &[&[u8]] = &[HEADER; 1000];
        assert!(matches!(answer_to(page("200", None), TRICKLE).await, Outcome::Bad(_)));
        const SSH: &[&[u8]] = &[b"SSH-2.0-OpenSSH_9.6\r\n"];
        assert!(matches!(answer_to(page("200", None), SSH).await, Outcome::Bad(Failure::Protocol(_))));
        const ENDLESS: &[u8] = &[b'x'; 32 << 10];
        const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n";
        let endless = answer_to(page("200", Some("y")), &[HEAD, ENDLESS, ENDLESS, ENDLESS]).await;
        assert_eq!(endless, Outcome::Bad(Failure::Body), "a gigabyte is not read");
        const HEADS: &[u8] = &[b'h'; 64 << 10];
        let head = answer_to(page("200", None), &[b"HTTP/1.1 200 OK\r\nx: ", HEADS]).await;
        assert!(matches!(head, Outcome::Bad(Failure::Protocol(_))), "{head:?}");
        assert!(from.elapsed() < patience::LIMIT, "each ends by its timeout");
    }
}
