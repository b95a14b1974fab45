//! A server of every protocol that probes speak, which can be told to answer wrongly: for probes, and for nothing else.
//!
//! | port | asked by | a good answer | a wrong one |
//! | --- | --- | --- | --- |
//! | [`HTTP`] | HTTP/1.1 | status 200, the server's name | status 500 |
//! | [`HTTP2`] | HTTP/2 from the first byte on | the same | the same |
//! | [`HTTP2`] | gRPC, `grpc.health.v1.Health/Check` | `SERVING` | `NOT_SERVING` |
//! | [`HTTPS`] | HTTP/1.1 over TLS | status 200, by a certificate of the lab's authority | by one of its own |
//! | [`DNS`] | DNS over UDP | an address | `SERVFAIL` |
//! | [`ECHO`] | a datagram | the server's name, the same bytes | other bytes |

use std::{
    convert::Infallible,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use domain::{
    base::{Message, MessageBuilder, iana::Rcode},
    rdata::A,
};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UdpSocket},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::site::{ECHO, HTTP};

/// The port of HTTP/2 without TLS, and of gRPC.
pub const HTTP2: u16 = 8080;
/// The port of HTTP over TLS.
pub const HTTPS: u16 = 443;
/// The port of DNS.
pub const DNS: u16 = 53;
/// The name that certificates are for.
pub const NAME: &str = "www.example.org";

/// Who answers, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name that it answers with.
    pub name: String,
    /// The addresses, each with every port.
    pub addresses: Vec<IpAddr>,
    /// Where [`certify`] has been.
    pub certificates: PathBuf,
}

/// Makes an authority, whose certificate is in `ca.pem` of the directory, and a certificate for [`NAME`] by it.
///
/// # Errors
///
/// When a file cannot be written.
pub fn certify(dir: &Path) -> anyhow::Result<()> {
    let mut authority = CertificateParams::new([])?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    fs::write(dir.join("ca.pem"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new([NAME.to_owned()])?.signed_by(&key, &issuer)?;
    fs::write(dir.join("server.pem"), certificate.pem())?;
    Ok(fs::write(dir.join("server.key"), key.serialize_pem())?)
}

/// Answers until the process ends: wrongly after SIGUSR1, well again after SIGUSR2. `ready` runs once every socket is
/// bound.
///
/// # Errors
///
/// When an address cannot be bound, or the certificate cannot be read.
pub async fn serve(options: Options, ready: impl FnOnce()) -> anyhow::Result<Infallible> {
    let (mut wrong, mut well) = (signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?);
    let shared = Arc::new(Shared::new(&options)?);
    let mut tasks = JoinSet::new();
    for address in options.addresses {
        for port in [HTTP, HTTP2, HTTPS] {
            let at = SocketAddr::new(address, port);
            let listener = TcpListener::bind(at).await.with_context(|| format!("cannot listen on tcp {at}"))?;
            tasks.spawn(take_connections(listener, port, Arc::clone(&shared)));
        }
        for port in [DNS, ECHO] {
            let at = SocketAddr::new(address, port);
            let socket = UdpSocket::bind(at).await.with_context(|| format!("cannot bind udp {at}"))?;
            tasks.spawn(take_datagrams(socket, port, Arc::clone(&shared)));
        }
    }
    ready();
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended.context("nothing to serve: give an address")?? {},
            _ = wrong.recv() => shared.is_wrong.store(true, Ordering::Relaxed),
            _ = well.recv() => shared.is_wrong.store(false, Ordering::Relaxed),
        }
    }
}

struct Shared {
    name: String,
    is_wrong: AtomicBool,
    trusted: TlsAcceptor,
    strange: TlsAcceptor,
}

impl Shared {
    fn new(Options { name, certificates, .. }: &Options) -> anyhow::Result<Self> {
        let of = |name: &str| certificates.join(name);
        let certificate = CertificateDer::from_pem_file(of("server.pem")).context("server.pem")?;
        let trusted = acceptor(certificate, PrivateKeyDer::from_pem_file(of("server.key")).context("server.key")?)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([NAME.to_owned()])?.self_signed(&key)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(io::Error::other)?;
        let strange = acceptor(certificate.der().clone(), key)?;
        Ok(Self { name: name.clone(), is_wrong: AtomicBool::new(false), trusted, strange })
    }

    fn is_wrong(&self) -> bool {
        self.is_wrong.load(Ordering::Relaxed)
    }
}

fn acceptor(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> anyhow::Result<TlsAcceptor> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    Ok(TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate], key)?)))
}

async fn take_connections(listener: TcpListener, port: u16, shared: Arc<Shared>) -> Infallible {
    loop {
        // The client gave up while it was in the backlog.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve_connection(stream, port, Arc::clone(&shared)));
    }
}

async fn serve_connection(stream: TcpStream, port: u16, shared: Arc<Shared>) {
    match port {
        HTTP2 => {
            let answer = service_fn(move |request| answer(request, Arc::clone(&shared)));
            // A client that goes away is its own business.
            let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
        }
        HTTPS => {
            let acceptor = if shared.is_wrong() { &shared.strange } else { &shared.trusted };
            let Ok(stream) = acceptor.accept(stream).await else { return };
            serve_http1(stream, shared).await;
        }
        _ => serve_http1(stream, shared).await,
    }
}

async fn serve_http1(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let answer = service_fn(|request| answer(request, Arc::clone(&shared)));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    if request.uri().path() == "/grpc.health.v1.Health/Check" {
        return Ok(health(if shared.is_wrong() { NOT_SERVING } else { SERVING }));
    }
    let mut response = Response::new(Full::from(shared.name.clone()).boxed());
    if shared.is_wrong() {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
}

/// A `HealthCheckResponse` behind its length: field 1, a variable-length integer.
const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";
const NOT_SERVING: &[u8] = b"\0\0\0\0\x02\x08\x02";

fn health(message: &'static [u8]) -> Response<BoxBody<Bytes, Infallible>> {
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
    let body = Full::from(message).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

async fn take_datagrams(socket: UdpSocket, port: u16, shared: Arc<Shared>) -> Infallible {
    let mut buffer = [0; 2048];
    loop {
        // An error here is one that an ICMP message reported about an earlier answer.
        let Ok((len, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let question = &buffer[..len];
        let answer = match port {
            DNS => records(question, shared.is_wrong()),
            _ if shared.is_wrong() => Some([b"wrong ", question].concat()),
            _ => Some([shared.name.as_bytes(), b" ", question].concat()),
        };
        if let Some(answer) = answer {
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

/// One address, of whatever is asked for; none to what is no question.
fn records(question: &[u8], is_wrong: bool) -> Option<Vec<u8>> {
    let question = Message::from_slice(question).ok()?;
    let asked = question.sole_question().ok()?;
    let rcode = if is_wrong { Rcode::SERVFAIL } else { Rcode::NOERROR };
    let mut answer = MessageBuilder::new_vec().start_answer(question, rcode).ok()?;
    if !is_wrong {
        answer.push((asked.qname(), 60, A::from_octets(192, 0, 2, 1))).ok()?;
    }
    Some(answer.finish())
}
