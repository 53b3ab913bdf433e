//! How deliveries leave: directly, or through a proxy of the operator's.
//!
//! A proxy gives deliveries addresses that receivers can allow. It is told an address that was
//! checked here, never a name: a name would be resolved by the proxy, perhaps to an address
//! that deliveries may not go to. TLS goes through the proxy to the endpoint, so the proxy
//! sees no request.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use crate::descriptors;

/// The longest head of a proxy's answer, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// The most proxies with a name.
const MAX_NAMED: usize = 64;

/// The operator's proxies.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    /// `EGRESS_PROXY`: of all tenants that name none.
    default: Option<Proxy>,
    /// `EGRESS_PROXIES`: those that tenants can name.
    named: BTreeMap<String, Proxy>,
}

/// A proxy. It is never printed with its password.
#[derive(Clone)]
pub struct Proxy {
    kind: Kind,
    host: String,
    port: u16,
    /// User and password.
    login: Option<(String, SecretString)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// HTTP/1.1 CONNECT (RFC 9110, section 9.3.6).
    Http,
    /// SOCKS version 5 (RFC 1928), with user and password (RFC 1929).
    Socks5,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} proxy at {}:{}", self.kind, self.host, self.port)
    }
}

impl Egress {
    /// From `EGRESS_PROXY` and `EGRESS_PROXIES`.
    ///
    /// # Errors
    /// All problems. None repeats a value, which may have a password.
    pub fn parse(default: Option<&str>, named: &str) -> Result<Self, Vec<String>> {
        let mut egress = Self::default();
        let mut problems = Vec::new();
        if let Some(text) = default {
            match text.parse() {
                Ok(proxy) => egress.default = Some(proxy),
                Err(reason) => problems.push(format!("EGRESS_PROXY: {reason}")),
            }
        }
        let entries = named.split(',').map(str::trim);
        for entry in entries.filter(|entry| !entry.is_empty()) {
            let Some((name, proxy)) = entry.split_once('=').filter(|(name, _)| is_name(name))
            else {
                problems.push(
                    "EGRESS_PROXIES: must be names and proxies, as in \
                     `eu=http://proxy:3128,us=socks5://proxy:1080`"
                        .to_owned(),
                );
                break;
            };
            match proxy.parse() {
                Ok(proxy) => {
                    egress.named.insert(name.to_owned(), proxy);
                }
                Err(reason) => problems.push(format!("EGRESS_PROXIES: `{name}`: {reason}")),
            }
        }
        if egress.named.len() > MAX_NAMED {
            problems.push(format!("EGRESS_PROXIES: at most {MAX_NAMED} are allowed"));
        }
        match problems.is_empty() {
            true => Ok(egress),
            false => Err(problems),
        }
    }

    /// Whether tenants can name this proxy.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// The proxy of a tenant that names this one, or none; `None`: directly.
    ///
    /// # Errors
    /// If there is no such proxy. Its deliveries must not leave another way.
    pub(crate) fn route(&self, name: Option<&str>) -> Result<Option<&Proxy>, String> {
        match name {
            None => Ok(self.default.as_ref()),
            Some(name) => self.named.get(name).map(Some).ok_or_else(|| {
                format!(
                    "the tenant's egress proxy `{name}` is not in this process's EGRESS_PROXIES"
                )
            }),
        }
    }
}

/// Whether a proxy may be called this.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    (1..=63).contains(&text.len()) && text.bytes().all(plain)
}

impl FromStr for Proxy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str =
            "must be like http://user:password@proxy:3128 or socks5://user:password@proxy:1080";
        let url = Url::parse(text).map_err(|_| FORM)?;
        let (kind, port) = match url.scheme() {
            "http" => (Kind::Http, 3128),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            _ => return Err(FORM),
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(FORM);
        }
        let decoded = |text: &str| -> Result<String, &'static str> {
            let pair = format!("x={}", text.replace('+', "%2B"));
            let mut pairs = url::form_urlencoded::parse(pair.as_bytes());
            Ok(pairs.next().ok_or(FORM)?.1.into_owned())
        };
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => {
                let (user, password) = (decoded(user)?, decoded(password.unwrap_or_default())?);
                // SOCKS has one byte for each length.
                if user.len() > 255 || password.len() > 255 || user.is_empty() || user.contains(':')
                {
                    return Err(
                        "its user and password may have 1 to 255 bytes each, and the user no colon",
                    );
                }
                Some((user, password.into()))
            }
        };
        let after_login = text.rsplit('@').next().unwrap_or_default();
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(FORM)?;
        Ok(Self {
            kind,
            host: host.trim_matches(['[', ']']).to_owned(),
            // A URL parser leaves out the default port of http.
            port: match url.port() {
                Some(stated) => stated,
                None if kind == Kind::Http
                    && after_login.trim_end_matches('/').ends_with(":80") =>
                {
                    80
                }
                None => port,
            },
            login,
        })
    }
}

impl Proxy {
    /// A connection to this address, which was checked, through the proxy.
    ///
    /// # Errors
    /// If the proxy can't be reached, or refuses.
    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| match descriptors::are_exhausted(&error) {
                true => error,
                false => refused(format!("the egress proxy: {error}")),
            })?;
        stream.set_nodelay(true)?;
        match self.kind {
            Kind::Http => self.http(&mut stream, to).await?,
            Kind::Socks5 => self.socks5(&mut stream, to).await?,
        }
        Ok(stream)
    }

    async fn http(&self, stream: &mut TcpStream, to: SocketAddr) -> io::Result<()> {
        let login = self
            .login
            .as_ref()
            .map_or(String::new(), |(user, password)| {
                let both = BASE64.encode(format!("{user}:{}", password.expose_secret()));
                format!("Proxy-Authorization: Basic {both}\r\n")
            });
        let head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{login}\r\n");
        stream.write_all(head.as_bytes()).await?;
        // The endpoint says nothing before we do, so no byte of it follows the head.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == MAX_HEAD {
                return Err(refused("the egress proxy's answer is too long".to_owned()));
            }
            answer.push(stream.read_u8().await?);
        }
        let line = answer
            .split(|byte| *byte == b'\r')
            .next()
            .unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split(' ');
        let version = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
        match words.next().and_then(|status| status.parse::<u16>().ok()) {
            Some(200..=299) if version => Ok(()),
            Some(status) if version => Err(refused(format!(
                "the egress proxy answered CONNECT with {status}"
            ))),
            _ => Err(refused("the egress proxy doesn't speak HTTP".to_owned())),
        }
    }

    async fn socks5(&self, stream: &mut TcpStream, to: SocketAddr) -> io::Result<()> {
        const NO_LOGIN: u8 = 0;
        const LOGIN: u8 = 2;
        let method = match &self.login {
            Some(_) => LOGIN,
            None => NO_LOGIN,
        };
        stream.write_all(&[5, 1, method]).await?;
        let mut chosen = [0; 2];
        stream.read_exact(&mut chosen).await?;
        if chosen != [5, method] {
            let why = "the egress proxy doesn't speak SOCKS 5, or wants another login";
            return Err(refused(why.to_owned()));
        }
        if let Some((user, password)) = &self.login {
            let password = password.expose_secret();
            let mut login = vec![1, user.len() as u8];
            login.extend_from_slice(user.as_bytes());
            login.push(password.len() as u8);
            login.extend_from_slice(password.as_bytes());
            stream.write_all(&login).await?;
            let mut answer = [0; 2];
            stream.read_exact(&mut answer).await?;
            if answer[1] != 0 {
                return Err(refused(
                    "the egress proxy refused user and password".to_owned(),
                ));
            }
        }
        let mut request = vec![5, 1, 0];
        match to {
            SocketAddr::V4(to) => {
                request.push(1);
                request.extend_from_slice(&to.ip().octets());
            }
            SocketAddr::V6(to) => {
                request.push(4);
                request.extend_from_slice(&to.ip().octets());
            }
        }
        request.extend_from_slice(&to.port().to_be_bytes());
        stream.write_all(&request).await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        if answer[..2] != [5, 0] {
            let code = answer[1];
            return Err(refused(format!(
                "the egress proxy refused to connect (SOCKS reply {code})"
            )));
        }
        let rest = match answer[3] {
            1 => 4,
            4 => 16,
            3 => usize::from(stream.read_u8().await?),
            _ => {
                return Err(refused(
                    "the egress proxy's reply is not SOCKS 5".to_owned(),
                ));
            }
        };
        let mut bound = vec![0; rest + 2];
        stream.read_exact(&mut bound).await?;
        Ok(())
    }
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_url_and_never_printed_with_its_password() {
        let proxy: Proxy = "http://u:p%40ss@proxy.example".parse().unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 3128));
        let (user, password) = proxy.login.as_ref().unwrap();
        assert_eq!((user.as_str(), password.expose_secret()), ("u", "p@ss"));
        assert!(!format!("{proxy:?}").contains("p@ss"));
        let proxy: Proxy = "http://proxy.example:80".parse().unwrap();
        assert_eq!(proxy.port, 80);
        let proxy: Proxy = "http://u:80@proxy.example".parse().unwrap();
        assert_eq!(proxy.port, 3128);
        let proxy: Proxy = "socks5://[::1]".parse().unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("::1", 1080));
        for bad in [
            "",
            "proxy:3128",
            "https://proxy",
            "http://proxy/path",
            "ftp://proxy",
            "http://:p@x",
        ] {
            assert!(bad.parse::<Proxy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn problems_of_the_settings_repeat_no_password() {
        let egress = Egress::parse(None, "eu=http://u:hunter2@a, us=socks5://b").unwrap();
        assert!(egress.has("eu") && egress.has("us"));
        assert!(egress.route(Some("asia")).is_err());
        assert!(egress.route(None).unwrap().is_none());
        for (default, named) in [
            (Some("https://u:hunter2@a"), ""),
            (None, "http://u:hunter2@a"),
            (None, "EU=http://u:hunter2@a"),
            (None, "eu=ftp://u:hunter2@a"),
        ] {
            let problems = Egress::parse(default, named).unwrap_err();
            let all = problems.join("\n");
            assert!(
                all.contains("EGRESS_PROX") && !all.contains("hunter2"),
                "{all}"
            );
        }
    }
}
