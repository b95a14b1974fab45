//! Asks for the health of a service by gRPC: `grpc.health.v1.Health/Check`.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, and for what it looks like on the wire
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>. Of the two messages each has one field: they are
//! written and read here, without what reads protocol buffers in general.

use std::net::IpAddr;

use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request, Response, body::Incoming, header};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    http2::{self, USER_AGENT, authority, protocol},
    question::Failure,
};
use crate::model::Service;

const METHOD: &str = "/grpc.health.v1.Health/Check";

/// So much of an answer is read, in bytes.
const LONGEST: usize = 1024;

/// So much of what a backend says is told, in characters.
const TOLD: usize = 64;

/// The names of a service's states, each in its place; the second is the good one.
const STATES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;

/// The names of status codes, each in its place.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Asks over a connection, which may be one by TLS, whether the service serves.
pub async fn check<S>(stream: S, is_tls: bool, service: &Service, vip: IpAddr) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let host = authority(service.host.as_deref(), vip);
    let request = Request::post(http2::target(is_tls, &host, METHOD)?)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::from(request(service.service.as_deref().unwrap_or_default())))
        .map_err(|error| Failure::Unsent(error.to_string()))?;
    http2::ask(stream, request, async |answer| judge(answer?).await).await
}

async fn judge(response: Response<Incoming>) -> Result<(), Failure> {
    let status = response.status().as_u16();
    if status != 200 {
        return Err(Failure::Status(status));
    }
    let content = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content.is_some_and(|content| content.starts_with("application/grpc")) {
        return Err(malformed("the answer has another content type"));
    }
    // Where there is no message, the status may be in the headers.
    let early = code(response.headers())?;
    let mut body = response.into_body();
    let (mut message, mut late) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(protocol)?.into_data() {
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => late = frame.trailers_ref().map(code).transpose()?.flatten(),
        }
        if message.len() > LONGEST {
            return Err(malformed("the answer is too long"));
        }
    }
    if late.or(early).is_none() {
        return Err(malformed("the answer has no grpc-status"));
    }
    match state(&message).ok_or_else(|| malformed("the answer cannot be read"))? {
        SERVING => Ok(()),
        state => Err(Failure::Answer(match STATES.get(state as usize) {
            Some(name) => (*name).to_owned(),
            None => format!("state {state}"),
        })),
    }
}

/// That the call was done, if that is said; a failure if it was not.
fn code(headers: &HeaderMap) -> Result<Option<()>, Failure> {
    let Some(code) = headers.get("grpc-status") else { return Ok(None) };
    let code = code.to_str().ok().and_then(|code| code.parse().ok());
    match code.ok_or_else(|| malformed("its grpc-status is no number"))? {
        0 => Ok(Some(())),
        code => {
            let name = CODES.get(code).map_or_else(|| code.to_string(), |name| (*name).to_owned());
            let message = headers.get("grpc-message").map(|message| String::from_utf8_lossy(message.as_bytes()));
            let message = message.map(|message| message.escape_debug().take(TOLD).collect::<String>());
            Err(Failure::Answer(match message.filter(|message| !message.is_empty()) {
                Some(message) => format!("grpc-status {name}: {message}"),
                None => format!("grpc-status {name}"),
            }))
        }
    }
}

fn malformed(what: &str) -> Failure {
    Failure::Protocol("gRPC", what.to_owned())
}

/// `HealthCheckRequest { string service = 1; }`, not compressed, with its length before it.
fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        let mut len = service.len();
        while len >= 0x80 {
            message.push(len as u8 | 0x80);
            len >>= 7;
        }
        message.push(len as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let len = u32::try_from(message.len()).expect("a line of a config");
    [&[0], &len.to_be_bytes()[..], &message].concat()
}

/// The state in `HealthCheckResponse { ServingStatus status = 1; }`, not compressed, with its length before it.
fn state(framed: &[u8]) -> Option<u64> {
    let (&[compressed, ref len @ ..], mut message) = framed.split_first_chunk::<5>()?;
    if compressed != 0 || u32::from_be_bytes(*len) as usize != message.len() {
        return None;
    }
    // What is not there is 0.
    let mut state = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => state = varint(&mut message)?,
            // Fields of later versions.
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => drop(message.split_off(..8)?),
            (_, 2) => {
                let len = usize::try_from(varint(&mut message)?).ok()?;
                message.split_off(..len)?;
            }
            (_, 5) => drop(message.split_off(..4)?),
            _ => return None,
        }
    }
    Some(state)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *message.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::{Bytes, Frame};

    use super::super::{Outcome, ask, fixtures::question};
    use super::*;
    use crate::model::Check;

    fn check(service: Option<&str>) -> Check {
        let service = Service { service: service.map(str::to_owned), host: None };
        Check::Grpc { service, tls: None }
    }

    /// What a server answers that has these: `grpc-status` in headers, a message, and `grpc-status` in trailers.
    async fn answer(early: Option<&'static str>, message: &'static [u8], late: Option<&'static str>) -> Outcome {
        let serve = move |request: Request<Incoming>| async move {
            assert_eq!((request.method().as_str(), request.uri().path()), ("POST", METHOD));
            assert_eq!(request.headers()["te"], "trailers");
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(asked, &b"\0\0\0\0\x05\x0a\x03a.B"[..]);
            let headers = |code: Option<&str>| {
                let mut headers = HeaderMap::new();
                if let Some(code) = code {
                    headers.insert("grpc-status", code.parse().unwrap());
                    headers.insert("grpc-message", "no\tway".parse().unwrap());
                }
                headers
            };
            let mut response = Response::builder().header("content-type", "application/grpc+proto");
            response.headers_mut().unwrap().extend(headers(early));
            let data = (!message.is_empty()).then(|| Frame::data(Bytes::from_static(message)));
            let trailers = late.map(|late| Frame::trailers(headers(Some(late))));
            let frames = data.into_iter().chain(trailers).map(Ok::<_, std::convert::Infallible>);
            response.body(StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>())))
        };
        let address = http2::fixtures::server(serve).await;
        ask(&question(address, check(Some("a.B")))).await
    }

    #[tokio::test]
    async fn a_service_is_good_if_it_serves() {
        let bad = |what: &str| Outcome::Bad(Failure::Answer(what.into()));
        assert_eq!(answer(None, b"\0\0\0\0\x02\x08\x01", Some("0")).await, Outcome::Good);
        assert_eq!(answer(None, b"\0\0\0\0\x02\x08\x02", Some("0")).await, bad("NOT_SERVING"));
        assert_eq!(answer(None, b"\0\0\0\0\0", Some("0")).await, bad("UNKNOWN"));
        assert_eq!(answer(None, b"\0\0\0\0\x02\x08\x09", Some("0")).await, bad("state 9"));
        // The code goes before the message.
        assert_eq!(answer(None, b"\0\0\0\0\x02\x08\x01", Some("14")).await, bad("grpc-status UNAVAILABLE: no\\tway"));
        // A service that nobody knows there, and a server that knows nothing of health.
        assert_eq!(answer(Some("5"), b"", None).await, bad("grpc-status NOT_FOUND: no\\tway"));
        assert_eq!(answer(Some("12"), b"", None).await, bad("grpc-status UNIMPLEMENTED: no\\tway"));
        assert_eq!(answer(Some("99"), b"", None).await, bad("grpc-status 99: no\\tway"));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_a_failure() {
        const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";
        for (early, message, late) in [
            (None, SERVING, None),
            (None, SERVING, Some("good")),
            (None, &b"\x01\0\0\0\x02\x08\x01"[..], Some("0")),
            (None, b"\0\0\0\0\x03\x08\x01", Some("0")),
            (None, b"\0\0", Some("0")),
            (Some("0"), b"", None),
            // Longer than is read, and longer than anything is.
            (None, &[0; LONGEST + 1], Some("0")),
            (None, b"\0\xff\xff\xff\xff\x08\x01", Some("0")),
        ] {
            let outcome = answer(early, message, late).await;
            assert!(matches!(outcome, Outcome::Bad(Failure::Protocol("gRPC", _))), "{outcome:?}");
        }
        let page = async |_| Ok(Response::new(Full::<Bytes>::from("a page")));
        let page = ask(&question(http2::fixtures::server(page).await, check(None))).await;
        assert!(matches!(page, Outcome::Bad(Failure::Protocol("gRPC", _))), "{page:?}");
    }

    #[tokio::test]
    async fn who_never_answers_is_given_up() {
        let never = async |_| std::future::pending::<Result<Response<Full<Bytes>>, hyper::http::Error>>().await;
        let never = ask(&question(http2::fixtures::server(never).await, check(None))).await;
        assert_eq!(never, Outcome::Bad(Failure::TimedOut("waiting for the answer")));
        // One that begins to, and never ends.
        let begins = async |_| {
            let frames =
                futures_util::stream::repeat_with(|| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::new())));
            let frames = futures_util::StreamExt::chain(
                futures_util::StreamExt::take(frames, 3),
                futures_util::stream::pending(),
            );
            Response::builder().header("content-type", "application/grpc").body(StreamBody::new(frames))
        };
        let begins = ask(&question(http2::fixtures::server(begins).await, check(None))).await;
        assert_eq!(begins, Outcome::Bad(Failure::TimedOut("waiting for the answer")));
    }

    #[test]
    fn messages_are_as_protocol_buffers_have_them() {
        assert_eq!(request(""), [0; 5]);
        let long = request(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
        let framed = |message: &[u8]| [&[0, 0, 0, 0, message.len() as u8], message].concat();
        // The last counts, and fields of later versions are passed over.
        let later = b"\x08\x02\x10\x96\x01\x1a\x02ab\x25\0\0\0\0\x29\0\0\0\0\0\0\0\0\x08\x01";
        assert_eq!(state(&framed(later)), Some(1));
        for broken in [
            &b"\x08"[..],
            b"\x08\x80",
            b"\x1a\x05ab",
            b"\x0b",
            b"\x25\0",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert_eq!(state(&framed(broken)), None, "{broken:?}");
        }
    }
}
