//! Every address range that isn't public is refused, in every form in which it can be written.

use proptest::prelude::*;

use super::*;

/// The ranges of the IANA special-purpose registries that aren't globally
/// reachable, or that embed an address that may not be.
const FORBIDDEN: [(&str, &str); 45] = [
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local, cloud metadata"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "protocol assignments"),
    ("192.0.2.0/24", "documentation"),
    ("192.31.196.0/24", "AS112"),
    ("192.52.193.0/24", "AMT"),
    ("192.88.99.0/24", "6to4 relays"),
    ("192.168.0.0/16", "private"),
    ("192.175.48.0/24", "AS112"),
    ("198.18.0.0/15", "benchmarks"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("255.255.255.255/32", "broadcast"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::/96", "IPv4-compatible"),
    ("64:ff9b::/96", "NAT64"),
    ("64:ff9b:1::/48", "local NAT64"),
    ("100::/64", "discard"),
    ("100:0:0:1::/64", "dummy"),
    ("2001::/32", "Teredo"),
    ("2001::/23", "protocol assignments"),
    ("2001:2::/48", "benchmarks"),
    ("2001:10::/28", "ORCHID"),
    ("2001:20::/28", "ORCHIDv2"),
    ("2001:30::/28", "drone remote id"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "6to4"),
    ("3fff::/20", "documentation"),
    ("4000::/3", "not handed out"),
    ("5f00::/16", "segment routing"),
    ("6000::/3", "not handed out"),
    ("8000::/1", "not handed out, and what follows"),
    ("f000::/5", "not handed out"),
    ("fc00::/7", "unique local"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
    ("::ffff:0:0:0/96", "IPv4-translated"),
];

const PUBLIC: [&str; 12] = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.1",
    "198.17.255.255",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450:4001:80b::200e",
];

fn strict() -> Destinations {
    Destinations::default()
}

fn forbidden() -> Vec<IpNet> {
    let networks = FORBIDDEN.iter();
    networks
        .map(|(network, _)| network.parse().unwrap())
        .collect()
}

fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

fn refuses(host: &str) -> bool {
    let refused = strict().check(&format!("https://{host}/hook"));
    matches!(refused, Err(Forbidden::NotPublic(_)))
}

/// The nth address of a network, modulo its size.
fn pick(network: IpNet, n: u128) -> IpAddr {
    match network {
        IpNet::V4(network) => {
            let hosts = u32::from(network.hostmask());
            Ipv4Addr::from(u32::from(network.network()) | (n as u32 & hosts)).into()
        }
        IpNet::V6(network) => {
            let hosts = u128::from(network.hostmask());
            Ipv6Addr::from(u128::from(network.network()) | (n & hosts)).into()
        }
    }
}

#[test]
fn no_range_that_is_not_public_is_a_destination_from_its_first_address_to_its_last() {
    for (network, what) in FORBIDDEN {
        let parsed: IpNet = network.parse().unwrap();
        for n in [0, 1, u128::MAX >> 1, u128::MAX - 1, u128::MAX] {
            let address = pick(parsed, n);
            assert!(parsed.contains(&address));
            assert!(refuses(&in_url(address)), "{address} of {network}, {what}");
            assert!(strict().check_address(address).is_err(), "{address}");
        }
    }
    for address in PUBLIC {
        let address: IpAddr = address.parse().unwrap();
        assert!(strict().check_address(address).is_ok(), "{address}");
        assert!(
            strict()
                .check(&format!("https://{}/", in_url(address)))
                .is_ok()
        );
    }
}

#[test]
fn an_address_is_recognised_in_every_notation() {
    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "2130706433",
        "2130706433.",
        "0x7f000001",
        "0X7F.1",
        "0x7f.0x0.0x0.0x1",
        "017700000001",
        "0177.0.0.1",
        "0177.0x0.0.1",
        "127.1",
        "127.0.1",
        "0",
        "0x",
        "0x0",
        "１２７.０.０.１",
        "127。0。0。1",
        "①②⑦.0.0.①",
        "127.0.0.%31",
        "%31%32%37.0.0.1",
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[0000::0001]",
        "[::ffff:127.0.0.1]",
        "[::FFFF:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:0001]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::10.0.0.1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
    ] {
        assert!(
            refuses(host),
            "{host}: {:?}",
            strict().check(&format!("https://{host}/"))
        );
    }
}

#[test]
fn a_url_with_a_misleading_host_is_refused() {
    for url in [
        "https://user@10.0.0.1/",
        "https://user:pw@example.com/",
        "https://:pw@example.com/",
        "https://example.com:80@10.0.0.1/",
        "https://example.com@10.0.0.1/",
        "https://example.com%40@10.0.0.1/",
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[::1",
        "https://[::1].example.com/",
        "https://127.0.0.1.1/",
        "https://256.0.0.1/",
        "https://0x100000000/",
        "https://1.2.3.4.5/",
        "https://09.0.0.1/",
        "https://a b/",
        "https://exa\u{0}mple.com/",
        "https://example.com:65536/",
        "https://example.com:x/",
        "https://",
        "https:///",
        "//example.com/",
        "example.com",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "data:text/plain,x",
        "unix:/run/x.sock",
        "wss://example.com/",
    ] {
        assert!(
            strict().check(url).is_err(),
            "{url}: {:?}",
            strict().check(url)
        );
    }
    // Browsers and HTTP clients treat a backslash like a slash, so this URL has one
    // host.
    let url = strict().check("https://example.com\\@10.0.0.1/").unwrap();
    assert_eq!(url.host_str(), Some("example.com"));
    // A fragment or a query contains no host.
    for url in [
        "https://example.com/?@10.0.0.1/",
        "https://example.com#@10.0.0.1/",
    ] {
        assert_eq!(strict().check(url).unwrap().host_str(), Some("example.com"));
    }
    let long = format!("https://example.com/{}", "a".repeat(MAX_URL));
    assert!(matches!(strict().check(&long), Err(Forbidden::TooLong(_))));
    // The URL is stored in its normalised form, which is longer.
    let grows = format!("https://example.com/{}", "é".repeat(MAX_URL / 4));
    assert!(grows.len() < MAX_URL);
    assert!(matches!(strict().check(&grows), Err(Forbidden::TooLong(_))));
}

#[test]
fn any_port_of_a_public_address_is_a_destination() {
    for port in [1, 25, 443, 5672, 8443, 65535] {
        let url = format!("https://93.184.216.34:{port}/");
        assert!(strict().check(&url).is_ok(), "{url}");
    }
}

#[test]
fn http_and_private_networks_have_to_be_allowed() {
    assert_eq!(
        strict().check("http://example.com/"),
        Err(Forbidden::NotHttps)
    );
    let local = Destinations {
        allow_http: true,
        allowed: vec!["127.0.0.0/8".parse().unwrap()],
    };
    assert!(local.check("http://127.0.0.1:9000/").is_ok());
    assert!(local.check("http://[::ffff:127.0.0.1]:9000/").is_ok());
    assert!(local.check("http://10.0.0.1/").is_err());
    // An address is allowed in its own form only, not embedded in another address.
    assert!(local.check("http://[64:ff9b::7f00:1]/").is_err());
    assert!(local.check("http://[::1]/").is_err());
}

/// The notations in which inet_aton, browsers and curl accept an IPv4 address.
fn spelled(address: Ipv4Addr, way: u32) -> String {
    let [a, b, c, d] = address.octets();
    let whole = u32::from(address);
    match way % 9 {
        0 => address.to_string(),
        1 => format!("{whole}"),
        2 => format!("0x{whole:x}"),
        3 => format!("0{whole:o}"),
        4 => format!("0{a:o}.0x{b:X}.{c}.0{d:o}"),
        5 => format!("{a}.{}", whole & 0x00ff_ffff),
        6 => format!("{a}.{b}.{}", whole & 0xffff),
        7 => format!("{a}.{b}.{c}.{d}."),
        _ => {
            let wide = |digit: char| match digit {
                '0'..='9' => char::from_u32(digit as u32 + 0xfee0).unwrap_or(digit),
                other => other,
            };
            address.to_string().chars().map(wide).collect()
        }
    }
}

/// The IPv6 addresses that lead to an IPv4 address.
fn embedding(address: Ipv4Addr, way: u32) -> Ipv6Addr {
    let v4 = u128::from(u32::from(address));
    Ipv6Addr::from(match way % 7 {
        0 => address.to_ipv6_mapped().into(),
        1 => v4,
        2 => (0x0064_ff9b_u128 << 96) | v4,
        3 => (0x0064_ff9b_0001_u128 << 80) | v4,
        4 => (0x2002_u128 << 112) | (v4 << 80),
        // Teredo embeds the server's address, and the client's address inverted.
        5 => (0x2001_u128 << 112) | (v4 << 64),
        _ => (0x2001_u128 << 112) | (!v4 & 0xffff_ffff),
    })
}

proptest! {
    #[test]
    fn no_spelling_of_a_forbidden_address_is_a_destination(
        network in proptest::sample::select(forbidden()), n: u128, way: u32,
    ) {
        let address = pick(network, n);
        let host = match address {
            IpAddr::V4(address) => spelled(address, way),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        prop_assert!(refuses(&host), "{host}");
    }

    #[test]
    fn no_embedding_of_a_forbidden_address_is_a_destination(
        network in proptest::sample::select(forbidden()), n: u128, way: u32,
    ) {
        if let IpAddr::V4(address) = pick(network, n) {
            let embedding = embedding(address, way);
            prop_assert!(refuses(&format!("[{embedding}]")), "{embedding}");
        }
    }

    /// The host that passes the check is the host that will be connected to.
    #[test]
    fn a_checked_url_has_one_meaning(host in "[0-9a-fA-FxX.:@%\\[\\]]{1,20}") {
        if let Ok(url) = strict().check(&format!("https://{host}/")) {
            let again = Url::parse(url.as_str()).unwrap();
            prop_assert_eq!(&again, &url);
            prop_assert!(strict().check(url.as_str()).is_ok());
            if let Ok(address) = url.host_str().unwrap().trim_matches(['[', ']']).parse::<IpAddr>() {
                prop_assert!(strict().check_address(address).is_ok());
            }
        }
    }

    #[test]
    fn no_text_panics(url in ".{0,80}") {
        let _ = strict().check(&url);
        let _ = strict().check(&format!("https://{url}/"));
    }
}
