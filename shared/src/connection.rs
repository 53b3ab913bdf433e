//! One request on a connection of its own: through a proxy, or with a client certificate.
//!
//! The shared client of [`attempt`](crate::attempt) can do neither: it hands names to proxies, and
//! has one identity for all connections. So these requests open a connection, send, and close
//! it. The same rules hold as there: only checked addresses, no redirect, HTTP/1.1, the
//! system's certificates.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, Request, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use reqwest::{Body, Response};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use url::{Host, Url};

use crate::client_certificate::ClientCertificate;
use crate::destination::Destinations;
use crate::egress::Proxy;
use crate::failure::{Failure, bounded};
use crate::resolver::{CheckedResolver, NotFound};

/// What requests say of who sends them.
pub(crate) const USER_AGENT: &str = concat!("Posthorn/", env!("CARGO_PKG_VERSION"));
/// How many addresses of a name are tried.
const TRIED: usize = 4;

/// Opens connections.
pub(crate) struct Connector {
    destinations: Arc<Destinations>,
    resolver: Arc<CheckedResolver>,
    roots: Arc<RootCertStore>,
    /// The time limit for all that comes before the request.
    connect_timeout: Duration,
}

/// An answer, and the connection that it is still read from.
pub(crate) struct Answered {
    pub(crate) response: Response,
    pub(crate) remote: SocketAddr,
    pub(crate) connection: AbortOnDropHandle<()>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Connector {
    pub(crate) fn new(
        destinations: Arc<Destinations>,
        resolver: Arc<CheckedResolver>,
        connect_timeout: Duration,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self {
            destinations,
            resolver,
            roots: Arc::new(roots),
            connect_timeout,
        }
    }

    /// Sends a request to its URL, which was checked.
    pub(crate) async fn send(
        &self,
        url: &Url,
        request: reqwest::Request,
        proxy: Option<&Proxy>,
        identity: Option<&ClientCertificate>,
    ) -> Result<Answered, Failure> {
        let connecting = async {
            let (stream, remote) = self.open(url, proxy).await?;
            let stream: Box<dyn Stream> = match url.scheme() {
                "https" => Box::new(self.encrypt(url, stream, identity).await?),
                _ => Box::new(stream),
            };
            Ok::<_, Failure>((stream, remote))
        };
        let connected = tokio::time::timeout(self.connect_timeout, connecting).await;
        let (stream, remote) = connected.map_err(|_| Failure::Timeout)??;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whoever waits for the answer is told what went wrong.
            let _ = connection.await;
        }));
        let request = prepared(url, request)?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| broken(&error))?;
        Ok(Answered {
            response: response.map(Body::wrap).into(),
            remote,
            connection,
        })
    }

    /// A TCP connection to one of the URL's addresses. Each is checked before it is used.
    async fn open(
        &self,
        url: &Url,
        proxy: Option<&Proxy>,
    ) -> Result<(TcpStream, SocketAddr), Failure> {
        let port = url.port_or_known_default().unwrap_or(443);
        let addresses = match url.host() {
            Some(Host::Domain(name)) => {
                self.resolver
                    .addresses(name)
                    .await
                    .map_err(|error| match error {
                        NotFound::Forbidden(forbidden) => {
                            Failure::Forbidden(bounded(&forbidden.to_string()))
                        }
                        NotFound::Unresolved(unresolved) => unresolved.into(),
                    })?
            }
            Some(Host::Ipv4(address)) => vec![(address, port).into()],
            Some(Host::Ipv6(address)) => vec![(address, port).into()],
            None => Vec::new(),
        };
        let mut last = Failure::Dns("no address was found".to_owned());
        for mut address in addresses.into_iter().take(TRIED) {
            address.set_port(port);
            // Once more, here, where nothing can come in between.
            self.destinations
                .check_address(address.ip())
                .map_err(|forbidden| Failure::Forbidden(bounded(&forbidden.to_string())))?;
            let opened = match proxy {
                Some(proxy) => proxy.connect(address).await,
                None => TcpStream::connect(address).await,
            };
            match opened {
                Ok(stream) => {
                    // An endpoint that can't take small packets at once is slower, and no worse.
                    let _ = stream.set_nodelay(true);
                    return Ok((stream, address));
                }
                Err(error) => last = Failure::of_connecting(&error),
            }
        }
        Err(last)
    }

    async fn encrypt(
        &self,
        url: &Url,
        stream: TcpStream,
        identity: Option<&ClientCertificate>,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
        let tls = |why: String| Failure::Tls(bounded(&why));
        let builder = ClientConfig::builder().with_root_certificates(self.roots.clone());
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.parts();
                let config = builder.with_client_auth_cert(chain, key);
                config.map_err(|error| tls(format!("the client certificate: {error}")))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|error| tls(error.to_string()))?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        connecting.await.map_err(|error| {
            let cause = error
                .get_ref()
                .and_then(|cause| cause.downcast_ref::<rustls::Error>());
            match cause {
                Some(cause) => tls(cause.to_string()),
                None => Failure::Connect(bounded(&error.to_string())),
            }
        })
    }
}

/// As HTTP/1.1 wants it: the path alone, and the host in a header.
fn prepared(url: &Url, request: reqwest::Request) -> Result<Request<Body>, Failure> {
    let unusable = |why: String| Failure::Broken(bounded(&why));
    let mut request =
        Request::<Body>::try_from(request).map_err(|error| unusable(error.to_string()))?;
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    *request.uri_mut() = path
        .parse::<Uri>()
        .map_err(|error| unusable(error.to_string()))?;
    let host = url.host_str().unwrap_or_default();
    let host = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let host = HeaderValue::from_str(&host).map_err(|error| unusable(error.to_string()))?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, host);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers
        .entry(header::ACCEPT)
        .or_insert(HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

fn broken(error: &hyper::Error) -> Failure {
    Failure::Broken(bounded(&error.to_string()))
}
