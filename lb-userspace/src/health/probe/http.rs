//! Asks for a page by HTTP/1.1 or HTTP/2, and judges it.

use std::net::IpAddr;

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
    http::request::Builder,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    http2::{self, USER_AGENT, authority, drive, protocol},
    question::Failure,
};
use crate::model::{Header, Page, Version};

/// Its name where connections say what is spoken (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// So much of a body is looked through, in bytes.
const LONGEST_BODY: usize = 64 << 10;

/// So much of an answer is kept at a time, in bytes: its head must fit.
const LONGEST_HEAD: usize = 16 << 10;

/// The header that makes a request longer.
const PADDING: &str = "x-naru-padding";

/// The name of the protocol of a page, where connections say what is spoken.
pub fn alpn(page: &Page) -> &'static [u8] {
    match page.version {
        Version::Http1 => ALPN,
        Version::H2c | Version::H2 => http2::ALPN,
    }
}

/// Asks for the page over a connection.
pub async fn get<S>(stream: S, page: &Page, vip: IpAddr) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let host = authority(page.host.as_deref(), vip);
    match page.version {
        Version::Http1 => get_by_http1(stream, page, &host).await,
        Version::H2c | Version::H2 => {
            let request = Request::get(http2::target(page.version == Version::H2, &host, &page.path)?)
                .header(header::USER_AGENT, USER_AGENT);
            let request = padded(request, page)
                .body(Empty::<Bytes>::new())
                .map_err(|error| Failure::Unsent(error.to_string()))?;
            http2::ask(stream, request, async |answer| judge(page, answer?).await).await
        }
    }
}

async fn get_by_http1<S>(stream: S, page: &Page, host: &str) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = http1::Builder::new();
    let handshake = builder.max_buf_size(LONGEST_HEAD).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(protocol)?;
    let request = Request::get(page.path.as_str())
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close");
    let request =
        padded(request, page).body(Empty::<Bytes>::new()).map_err(|error| Failure::Unsent(error.to_string()))?;
    let exchange = async move { judge(page, sender.send_request(request).await.map_err(protocol)?).await };
    drive(exchange, connection).await
}

/// With as many bytes more as the page is to be asked for by.
fn padded(request: Builder, page: &Page) -> Builder {
    match page.size {
        // HTTP/2 has no shorter code for it (RFC 7541, appendix B).
        Some(size) => request.header(PADDING, "X".repeat(size.into())),
        None => request,
    }
}

async fn judge(page: &Page, response: Response<Incoming>) -> Result<(), Failure> {
    let status = response.status().as_u16();
    if !page.status.contain(status) {
        return Err(Failure::Status(status));
    }
    if let Some(Header { name, value }) = &page.header {
        let mut values = response.headers().get_all(name).iter();
        match value {
            None if values.next().is_none() => return Err(Failure::Answer(format!("no header `{name}`"))),
            Some(value) if !values.any(|found| found == value) => {
                let value = value.to_str().unwrap_or_default();
                return Err(Failure::Answer(format!("no header `{name}: {value}`")));
            }
            _ => {}
        }
    }
    match &page.body {
        Some(wanted) => find(response.into_body(), wanted.as_bytes()).await,
        None => Ok(()),
    }
}

/// Looks for `wanted` in a body, as far as it is looked through.
async fn find(mut body: hyper::body::Incoming, wanted: &[u8]) -> Result<(), Failure> {
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(protocol)?;
        if let Some(data) = frame.data_ref() {
            // Where it may begin that was not whole before.
            let from = text.len().saturating_sub(wanted.len());
            let room = LONGEST_BODY - text.len();
            text.extend_from_slice(&data[..data.len().min(room)]);
            if text[from..].windows(wanted.len().max(1)).any(|part| part == wanted) || wanted.is_empty() {
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
    use std::{net::SocketAddr, time::Duration};

    use http_body_util::Full;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::Instant,
    };

    use super::super::{Outcome, ask, fixtures::question};
    use super::*;
    use crate::model::Check;

    fn page(status: &str, body: Option<&str>) -> Check {
        let body = body.map(str::to_owned);
        Check::Http(Page {
            path: "/healthz".into(),
            host: None,
            version: Version::Http1,
            size: None,
            status: status.parse().unwrap(),
            header: None,
            body,
        })
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
    async fn a_page_may_have_to_have_a_header() {
        const OK: &[&[u8]] = &[b"HTTP/1.1 200 OK\r\nX-Role: replica\r\nx-role: primary\r\ncontent-length: 0\r\n\r\n"];
        let bad = |what: &str| Outcome::Bad(Failure::Answer(what.into()));
        for (header, expected) in [
            ("x-role", Outcome::Good),
            ("X-Role: primary", Outcome::Good),
            ("X-Role: prim", bad("no header `x-role: prim`")),
            ("X-Rule", bad("no header `x-rule`")),
        ] {
            let Check::Http(page) = page("200", None) else { unreachable!() };
            let page = Page { header: Some(header.parse().unwrap()), ..page };
            assert_eq!(answer_to(Check::Http(page), OK).await, expected, "{header}");
        }
    }

    #[tokio::test]
    async fn a_request_is_as_long_as_it_is_to_be() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut lens = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                lens.push(request.len());
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
            lens
        });
        for size in [None, Some(8000)] {
            let Check::Http(page) = page("200", None) else { unreachable!() };
            assert_eq!(ask(&question(address, Check::Http(Page { size, ..page }))).await, Outcome::Good);
        }
        let lens = server.await.unwrap();
        assert_eq!(lens[1] - lens[0], "x-naru-padding: \r\n".len() + 8000);
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
        assert!(matches!(answer_to(page("200", None), SSH).await, Outcome::Bad(Failure::Protocol("HTTP", _))));
        const ENDLESS: &[u8] = &[b'x'; 32 << 10];
        const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n";
        let endless = answer_to(page("200", Some("y")), &[HEAD, ENDLESS, ENDLESS, ENDLESS]).await;
        assert_eq!(endless, Outcome::Bad(Failure::Body), "a gigabyte is not read");
        const HEADS: &[u8] = &[b'h'; 64 << 10];
        let head = answer_to(page("200", None), &[b"HTTP/1.1 200 OK\r\nx: ", HEADS]).await;
        assert!(matches!(head, Outcome::Bad(Failure::Protocol("HTTP", _))), "{head:?}");
        assert!(from.elapsed() < patience::LIMIT, "each ends by its timeout");
    }

    /// By HTTP/2, which a real server speaks.
    #[tokio::test]
    async fn a_page_is_judged_by_http2_as_well() {
        let served = async |request: Request<Incoming>| {
            let host = request.uri().authority().map(ToString::to_string);
            assert_eq!(request.headers()[PADDING].len(), 8000);
            assert_eq!((request.uri().path(), host.as_deref()), ("/healthz", Some("192.0.2.1")));
            Response::builder().status(503).body(Full::from("all good"))
        };
        let address = http2::fixtures::server(served).await;
        let page = |status: &str, body: &str| match page(status, Some(body)) {
            Check::Http(page) => Check::Http(Page { version: Version::H2c, size: Some(8000), ..page }),
            other => other,
        };
        assert_eq!(ask(&question(address, page("503", "l good"))).await, Outcome::Good);
        assert_eq!(ask(&question(address, page("503", "bad"))).await, Outcome::Bad(Failure::Body));
        assert_eq!(ask(&question(address, page("200", "good"))).await, Outcome::Bad(Failure::Status(503)));
        // Who speaks HTTP/1.1 only.
        const OK: &[&[u8]] = &[b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(OK[0]).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        let old = ask(&question(address, page("200", "good"))).await;
        assert!(matches!(old, Outcome::Bad(Failure::Protocol("HTTP", _))), "{old:?}");
    }
}
