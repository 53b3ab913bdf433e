//! Where deliveries may go: public addresses, over HTTPS.
//!
//! The same rules are checked twice. The URL is checked when a webhook is created
//! and before each attempt: its scheme, its user info, its address if it has a
//! literal one. Each resolved address is checked when a connection is opened. So a
//! name that resolves to another address the second time gains nothing.
//!
//! Any port is allowed. Over HTTPS, a service that doesn't speak TLS sees only a
//! TLS handshake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use url::{Host, Url};

/// The longest URL, in bytes.
pub const MAX_URL: usize = 2048;

/// The operator's rules for destinations.
#[derive(Debug, Clone, Default)]
pub struct Destinations {
    /// `http:` URLs too, for development (`ALLOW_HTTP`).
    pub allow_http: bool,
    /// Networks that are allowed although they aren't public (`ALLOWED_NETWORKS`).
    pub allowed: Vec<IpNet>,
}

/// Why a URL or an address isn't an allowed destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    #[error("is not a URL such as `https://example.com/hooks`")]
    NotAUrl(url::ParseError),
    /// The URL is longer than [`MAX_URL`].
    #[error("is {0} bytes long; at most {MAX_URL} are allowed")]
    TooLong(usize),
    /// The scheme is neither `https` nor an allowed `http`.
    #[error("must use https")]
    NotHttps,
    /// The URL has a user name or password: `https://user:password@…`
    #[error("must not contain a user name or password; use a header")]
    UserInfo,
    /// An address in the URL, or one that its name resolved to, isn't public.
    #[error("points to {0}, which is not a public address")]
    NotPublic(IpAddr),
}

impl Destinations {
    /// Parses and checks a webhook's URL.
    ///
    /// # Errors
    /// Says which rule the URL violates.
    pub fn check(&self, url: &str) -> Result<Url, Forbidden> {
        if url.len() > MAX_URL {
            return Err(Forbidden::TooLong(url.len()));
        }
        let url = Url::parse(url).map_err(Forbidden::NotAUrl)?;
        // Check the length of the normalised URL, which is stored and checked again:
        // parsing may turn one byte into nine.
        if url.as_str().len() > MAX_URL {
            return Err(Forbidden::TooLong(url.as_str().len()));
        }
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            _ => return Err(Forbidden::NotHttps),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Forbidden::UserInfo);
        }
        // The parser has normalised decimal, octal and hexadecimal addresses.
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into())?,
            Some(Host::Ipv6(address)) => self.check_address(address.into())?,
            Some(Host::Domain(_)) | None => {}
        }
        Ok(url)
    }

    /// Checks an address before a connection to it is opened.
    ///
    /// # Errors
    /// If the address is neither public nor in an allowed network.
    pub fn check_address(&self, address: IpAddr) -> Result<(), Forbidden> {
        let plain = address.to_canonical();
        if is_public(plain) || self.allowed.iter().any(|network| network.contains(&plain)) {
            Ok(())
        } else {
            Err(Forbidden::NotPublic(address))
        }
    }
}

/// Whether an address is globally reachable, by the IANA special-purpose
/// registries (RFC 6890 and its updates).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match (a, b, c) {
        (0 | 10 | 127 | 224.., ..) => true, // this network, private, loopback, multicast, reserved
        (100, 64..=127, _) => true,         // carrier-grade NAT
        (169, 254, _) => true,              // link-local, where clouds keep their metadata
        (172, 16..=31, _) => true,          // private
        (192, 0, 0 | 2) => true,            // protocol assignments, documentation
        (192, 31, 196) | (192, 52, 193) | (192, 175, 48) => true, // AS112, AMT
        (192, 88, 99) => true,              // 6to4 relays
        (192, 168, _) => true,              // private
        (198, 18..=19, _) => true,          // benchmarks
        (198, 51, 100) | (203, 0, 113) => true, // documentation
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // Only 2000::/3 is assigned to the public. Addresses with an embedded IPv4
    // address are excluded like the rest, because they lead to that address.
    let special = match (a, b) {
        (0x2001, 0..=0x01ff) => true, // protocol assignments, Teredo, benchmarks, ORCHID
        (0x2001, 0x0db8) => true,     // documentation
        (0x2002, _) => true,          // 6to4
        (0x3fff, 0..=0x0fff) => true, // documentation
        (0x2000..=0x3fff, _) => false,
        _ => true,
    };
    !special
}

#[cfg(test)]
mod tests;
