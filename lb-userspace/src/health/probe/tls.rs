//! Connects by TLS, and judges the certificate.

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use rustls::{
    CertificateError, ClientConfig,
    pki_types::{ServerName, UnixTime},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    question::{Failure, Question},
    socket::{self, Stream},
};

/// A TLS connection to the backend, which is asked for `name`, or else for the VIP's address; `protocol` is what is to
/// be spoken over it (RFC 7301), where that is to be said.
pub async fn connect(
    question: &Question,
    name: Option<&str>,
    protocol: Option<&[u8]>,
    stage: &mut &'static str,
) -> Result<TlsStream<Stream>, Failure> {
    let trusted = question.trusted.as_ref().ok_or_else(|| Failure::Unsent("it has no certificates".to_owned()))?;
    let mut client = ClientConfig::clone(&*trusted.client().map_err(Failure::Unsent)?);
    client.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
    let name = server_name(name, question.vip)?;
    let stream = socket::connect(question).await?;
    *stage = "in the TLS handshake";
    TlsConnector::from(Arc::new(client)).connect(name, stream).await.map_err(|error| failure(&error))
}

fn server_name(name: Option<&str>, vip: IpAddr) -> Result<ServerName<'static>, Failure> {
    match name {
        // A config has none that is no name.
        Some(name) => ServerName::try_from(name.to_owned()).map_err(|error| Failure::Unsent(error.to_string())),
        None => Ok(ServerName::from(vip)),
    }
}

fn failure(error: &io::Error) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(error)) => Failure::Certificate(words(error)),
        Some(rustls::Error::AlertReceived(alert)) => {
            Failure::Protocol("TLS", format!("the backend refuses ({alert:?})"))
        }
        Some(error) => Failure::Protocol("TLS", error.to_string()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Failure::Protocol("TLS", "the backend ends the connection".to_owned())
        }
        None => Failure::of_socket(error),
    }
}

/// What is wrong with a certificate.
fn words(error: &CertificateError) -> String {
    let date = |time: &UnixTime| humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs()));
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("has expired: it was good until {}", date(not_after))
        }
        CertificateError::Expired => "has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => format!("is good from {} on", date(not_before)),
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("is not for {}, but for {}", expected.to_str(), names(presented))
        }
        // Another authority may have the name of one that is believed.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "is of no authority in `ca`".to_owned(),
        other => format!("is not good: {other}"),
    }
}

/// The names in a certificate, the first of them: a backend may write what it likes.
fn names(presented: &[String]) -> String {
    const LISTED: usize = 3;
    const LONGEST: usize = 64;
    // As rustls has them: `DnsName("www.example.org")`.
    let bare = |name: &str| match name.split_once('(') {
        Some((_, name)) => name.trim_end_matches(')').trim_matches('"').to_owned(),
        None => name.to_owned(),
    };
    let listed = presented.iter().take(LISTED).map(|name| bare(name).escape_debug().take(LONGEST).collect::<String>());
    let listed = listed.collect::<Vec<_>>().join(", ");
    match presented.len() {
        0 => "nobody".to_owned(),
        count if count > LISTED => format!("{listed} and {} more", count - LISTED),
        _ => listed,
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, fs, net::SocketAddr, path::PathBuf};

    use http_body_util::StreamBody;
    use hyper::{
        HeaderMap, Method, Request, Response,
        body::{Bytes, Frame, Incoming},
        header::{HeaderName, HeaderValue},
        server::conn::http2,
        service::service_fn,
    };
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
        server::WebPkiClientVerifier,
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::super::{Outcome, ask, fixtures};
    use super::*;
    use crate::{
        health::trust::Trusted,
        model::{Check, Identity, Page, Service, Tls, Trust, Version},
    };

    const NAME: &str = "www.example.org";

    /// An authority, and the files of who believes it.
    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        root: CertificateDer<'static>,
        files: tempfile::TempDir,
    }

    type Frames = futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;

    /// A certificate with its key.
    type Certified = (CertificateDer<'static>, KeyPair);

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new([]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let root = params.self_signed(&key).unwrap();
            let files = tempfile::tempdir().unwrap();
            fs::write(files.path().join("ca"), root.pem()).unwrap();
            Self { issuer: Issuer::new(params, key), root: root.der().clone(), files }
        }

        fn certify(&self, name: &str, adapt: impl FnOnce(&mut CertificateParams)) -> Certified {
            let mut params = CertificateParams::new([name.to_owned()]).unwrap();
            adapt(&mut params);
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            (certificate.der().clone(), key)
        }

        /// A certificate of a prober's own, in files.
        fn identity(&self) -> Identity {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(["probe".to_owned()]).unwrap();
            let path = |name: &str| self.files.path().join(name);
            fs::write(path("cert"), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
            let identity = Identity { client_cert: path("cert"), client_key: path("key") };
            fs::write(&identity.client_key, key.serialize_pem()).unwrap();
            std::process::Command::new("chmod").arg("600").arg(&identity.client_key).status().unwrap();
            identity
        }

        fn ca(&self) -> Option<PathBuf> {
            Some(self.files.path().join("ca"))
        }
    }

    fn tls(ca: Option<PathBuf>) -> Tls {
        Tls { sni: Some(NAME.into()), trust: Trust { ca, identity: None } }
    }

    fn https(tls: Tls) -> Check {
        let page = Page {
            path: "/".into(),
            host: None,
            version: Version::Http1,
            size: None,
            header: None,
            status: "200".parse().unwrap(),
            body: Some("good".into()),
        };
        Check::Https { page, tls }
    }

    fn by_http2(check: Check) -> Check {
        match check {
            Check::Https { page, tls } => Check::Https { page: Page { version: Version::H2, ..page }, tls },
            other => other,
        }
    }

    fn grpc(tls: Tls) -> Check {
        Check::Grpc { service: Service { service: None, host: None }, tls: Some(tls) }
    }

    /// What a server answers by HTTP/2: a page, or that a service serves.
    async fn serve(request: Request<Incoming>) -> Result<Response<StreamBody<Frames>>, hyper::http::Error> {
        assert_eq!(request.uri().scheme_str(), Some("https"));
        let (message, trailers) = match request.method() {
            &Method::POST => (
                &b"\0\0\0\0\x02\x08\x01"[..],
                HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]),
            ),
            _ => (&b"good"[..], HeaderMap::new()),
        };
        let frames = vec![Ok(Frame::data(Bytes::from_static(message))), Ok(Frame::trailers(trailers))];
        Response::builder()
            .header("content-type", "application/grpc")
            .body(StreamBody::new(futures_util::stream::iter(frames)))
    }

    /// A server that answers each request by a page; `clients` vouches for who may ask.
    async fn server((certificate, key): &Certified, clients: Option<&Authority>) -> SocketAddr {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.root.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.unwrap().with_client_cert_verifier(verifier.unwrap())
            }
            None => builder.unwrap().with_no_client_auth(),
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![certificate.clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    let connection = http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(connection.serve_connection(TokioIo::new(stream), service_fn(serve)));
                    continue;
                }
                let len = stream.read(&mut [0; 1024]).await.unwrap_or(0);
                if len > 0 {
                    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                    assert_eq!(stream.get_ref().1.server_name(), Some(NAME));
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood").await.unwrap();
                    let _ = stream.read(&mut [0; 1]).await;
                }
            }
        });
        address
    }

    async fn answer(server: SocketAddr, check: Check) -> Outcome {
        let trusted = check.trust().map(Trusted::of);
        ask(&Question { trusted, ..fixtures::question(server, check) }).await
    }

    fn certificate(what: &str) -> Outcome {
        Outcome::Bad(Failure::Certificate(what.into()))
    }

    #[tokio::test]
    async fn a_good_certificate_is_of_the_authority_for_the_name_and_in_time() {
        let authority = Authority::new();
        let good = server(&authority.certify(NAME, |_| ()), None).await;
        assert_eq!(answer(good, Check::Tls(tls(authority.ca()))).await, Outcome::Good);
        assert_eq!(answer(good, https(tls(authority.ca()))).await, Outcome::Good);
        assert_eq!(answer(good, by_http2(https(tls(authority.ca())))).await, Outcome::Good);
        assert_eq!(answer(good, grpc(tls(authority.ca()))).await, Outcome::Good);
        let strange = server(&Authority::new().certify(NAME, |_| ()), None).await;
        let unknown = certificate("is of no authority in `ca`");
        assert_eq!(answer(strange, https(tls(authority.ca()))).await, unknown);
        assert_eq!(answer(strange, grpc(tls(authority.ca()))).await, unknown);
        assert_eq!(answer(strange, https(tls(None))).await, Outcome::Good, "any is good");
        let expired = authority.certify(NAME, |params| params.not_after = rcgen::date_time_ymd(2020, 2, 1));
        let expired = answer(server(&expired, None).await, https(tls(authority.ca()))).await;
        assert_eq!(expired, certificate("has expired: it was good until 2020-02-01T00:00:00Z"));
        let early = authority.certify(NAME, |params| params.not_before = rcgen::date_time_ymd(2200, 1, 1));
        let early = answer(server(&early, None).await, https(tls(authority.ca()))).await;
        assert_eq!(early, certificate("is good from 2200-01-01T00:00:00Z on"));
        let other = server(&authority.certify("other.example.org", |_| ()), None).await;
        let other = answer(other, Check::Tls(tls(authority.ca()))).await;
        assert_eq!(other, certificate("is not for www.example.org, but for other.example.org"));
    }

    /// Without a name the certificate is for the address that clients dial.
    #[tokio::test]
    async fn without_a_name_it_is_the_address_of_the_vip() {
        let authority = Authority::new();
        let unnamed = || Check::Tls(Tls { sni: None, ..tls(authority.ca()) });
        let good = server(&authority.certify("192.0.2.1", |_| ()), None).await;
        assert_eq!(answer(good, unnamed()).await, Outcome::Good);
        let bad = server(&authority.certify("192.0.2.2", |_| ()), None).await;
        assert!(matches!(answer(bad, unnamed()).await, Outcome::Bad(Failure::Certificate(_))));
    }

    #[tokio::test]
    async fn who_asks_shows_who_it_is() {
        let authority = Authority::new();
        let address = server(&authority.certify(NAME, |_| ()), Some(&authority)).await;
        let unknown = answer(address, https(tls(authority.ca()))).await;
        assert!(
            matches!(&unknown, Outcome::Bad(Failure::Protocol("HTTP", why)) if why.contains("CertificateRequired")),
            "{unknown:?}"
        );
        let mut known = tls(authority.ca());
        known.trust.identity = Some(authority.identity());
        assert_eq!(answer(address, https(known)).await, Outcome::Good);
    }

    #[tokio::test]
    async fn what_is_no_tls_is_a_failure_and_what_cannot_be_judged_is_void() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut ssh, _) = listener.accept().await.unwrap();
            ssh.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await.unwrap();
            let (closes, _) = listener.accept().await.unwrap();
            drop(closes);
            let (_silent, _) = listener.accept().await.unwrap();
            std::future::pending::<()>().await;
        });
        let ssh = answer(address, Check::Tls(tls(None))).await;
        assert!(matches!(ssh, Outcome::Bad(Failure::Protocol("TLS", _))), "{ssh:?}");
        let closed = answer(address, Check::Tls(tls(None))).await;
        assert!(matches!(closed, Outcome::Bad(Failure::Protocol("TLS", _) | Failure::Connection(_))), "{closed:?}");
        let silent = answer(address, Check::Tls(tls(None))).await;
        assert_eq!(silent, Outcome::Bad(Failure::TimedOut("in the TLS handshake")));
        let missing = answer(address, Check::Tls(tls(Some("/no/such/file".into())))).await;
        assert!(
            matches!(&missing, Outcome::Void(Failure::Unsent(why)) if why.contains("/no/such/file")),
            "{missing:?}"
        );
    }
}
