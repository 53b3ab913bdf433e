//! Endpoints behind walls: proxies on the way out, client certificates, OAuth 2.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use harness::receiver::{Reply, Script, answering};
use harness::world::{World, eventually};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A proxy that notes who asked for what.
struct Proxy {
    address: String,
    /// What it was asked for, such as `CONNECT 127.0.0.1:80` and its credentials.
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Copy)]
enum Kind {
    Http,
    Socks5,
}

impl Proxy {
    async fn start(kind: Kind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let noted = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let noted = noted.clone();
                tokio::spawn(async move {
                    let shaken = match kind {
                        Kind::Http => http(&mut stream).await,
                        Kind::Socks5 => socks5(&mut stream).await,
                    };
                    let Ok((to, said, answer)) = shaken else {
                        return;
                    };
                    noted.lock().unwrap().push(said);
                    if let Ok(mut endpoint) = TcpStream::connect(to).await {
                        let _ = stream.write_all(&answer).await;
                        let _ = copy_bidirectional(&mut stream, &mut endpoint).await;
                    }
                });
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Where to, what was said, and the answer.
type Shaken = std::io::Result<(String, String, Vec<u8>)>;

async fn http(stream: &mut TcpStream) -> Shaken {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let to = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec();
    Ok((to, head, answer))
}

async fn socks5(stream: &mut TcpStream) -> Shaken {
    let mut greeting = [0; 3];
    stream.read_exact(&mut greeting).await?;
    stream.write_all(&[5, 2]).await?;
    let mut login = [0; 2];
    stream.read_exact(&mut login).await?;
    let mut user = vec![0; usize::from(login[1])];
    stream.read_exact(&mut user).await?;
    let mut password = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut password).await?;
    stream.write_all(&[1, 0]).await?;
    let mut request = [0; 10];
    stream.read_exact(&mut request).await?;
    let [5, 1, 0, 1, a, b, c, d, high, low] = request else {
        return Err(std::io::Error::other("not a request for an IPv4 address"));
    };
    let to = format!("{a}.{b}.{c}.{d}:{}", u16::from_be_bytes([high, low]));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = format!("SOCKS5 {to} {} {}", text(&user), text(&password));
    Ok((to, said, vec![5, 0, 0, 1, 0, 0, 0, 0, 0, 0]))
}

#[tokio::test]
async fn deliveries_leave_through_the_operators_proxy_which_is_told_addresses_and_no_names() {
    let proxy = Proxy::start(Kind::Http).await;
    let url = format!("http://user:hunter2@{}", proxy.address);
    let world = World::with(&[("EGRESS_PROXY", url.as_str())]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let by_name = receiver.url("/named").replace("127.0.0.1", "localhost");
    let webhook = world
        .webhook(&ingest, &receiver, json!({"url": by_name}))
        .await;
    world.publish("order.created", "evt-1", &json!({})).await;
    let arrival = &receiver.receives(1).await[0];
    arrival.verify(&webhook.secret).unwrap();
    assert_eq!(arrival.path, "/named");
    let asked = proxy.asked();
    assert!(
        asked[0].starts_with("CONNECT 127.0.0.1:") && !asked[0].contains("localhost"),
        "{asked:?}"
    );
    assert!(
        asked[0].contains("Proxy-Authorization: Basic dXNlcjpodW50ZXIy"),
        "{asked:?}"
    );
    // A test delivery takes the same way.
    let test = format!("/api/v1/webhooks/{}/test", webhook.id);
    let tested = world.ask(&ingest, "POST", &test, None).await;
    assert_eq!(tested.body["success"], true, "{}", tested.body);
    assert_eq!(proxy.asked().len(), 2);
    assert!(!world.logs().contains("hunter2"));
    world.finish().await;
}

#[tokio::test]
async fn a_proxy_is_not_asked_for_a_forbidden_destination() {
    let proxy = Proxy::start(Kind::Http).await;
    let url = format!("http://{}", proxy.address);
    let world = World::with(&[
        ("EGRESS_PROXY", url.as_str()),
        ("ALLOWED_NETWORKS", "192.0.2.0/24"),
    ])
    .await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let by_name = receiver.url("/").replace("127.0.0.1", "localhost");
    let made = json!({"url": by_name, "retries": 0});
    let webhook = world.webhook(&ingest, &receiver, made).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    world.accepts(1).await;
    world.settles().await;
    let delivery = &world.deliveries(&ingest, &webhook).await[0];
    assert_eq!(delivery["status"], "failed");
    assert!(
        delivery["error"]
            .as_str()
            .unwrap()
            .contains("forbidden destination"),
        "{delivery}"
    );
    assert_eq!(proxy.asked(), Vec::<String>::new());
    world.finish().await;
}

#[tokio::test]
async fn a_tenants_own_proxy_may_be_another_and_no_other_way_is_taken() {
    let (all, eu) = (
        Proxy::start(Kind::Http).await,
        Proxy::start(Kind::Socks5).await,
    );
    let default = format!("http://{}", all.address);
    let named = format!("eu=socks5://u:p%40ss@{}", eu.address);
    let settings = [
        ("EGRESS_PROXY", default.as_str()),
        ("EGRESS_PROXIES", named.as_str()),
    ];
    let world = World::with(&settings).await;
    let ingest = world.ingest().await;
    let receiver = world.receiver(answering(200)).await;
    let tenant = "/api/v1/admin/tenants/acme";
    let unknown = json!({"egress_proxy": "asia"});
    let refused = world
        .ask_as_operator(&ingest, "PATCH", tenant, Some(unknown))
        .await;
    assert_eq!(
        (refused.status, &refused.body["field"]),
        (422, &json!("egress_proxy"))
    );
    // With everything else that is wrong.
    let unknown = json!({"egress_proxy": "asia", "limits": {"webhooks": -1}});
    let refused = world
        .ask_as_operator(&ingest, "PATCH", tenant, Some(unknown))
        .await;
    let blamed = refused.body["errors"].as_array().unwrap().iter();
    let blamed: Vec<_> = blamed.map(|error| error["field"].clone()).collect();
    assert_eq!(blamed, [json!("limits.webhooks"), json!("egress_proxy")]);
    let change = json!({"egress_proxy": "eu"});
    let changed = world
        .ask_as_operator(&ingest, "PATCH", tenant, Some(change))
        .await;
    assert_eq!(changed.body["egress_proxy"], "eu", "{}", changed.body);
    let webhook = world
        .webhook(&ingest, &receiver, json!({"retries": 0}))
        .await;

    // A dispatcher that doesn't know the proxy sends nothing by another way.
    let ignorant = world
        .service("posthorn-dispatcher", &[("EGRESS_PROXIES", "")])
        .await;
    world.publish("order.created", "evt-1", &json!({})).await;
    world.accepts(1).await;
    world.settles().await;
    let delivery = &world.deliveries(&ingest, &webhook).await[0];
    assert!(
        delivery["error"].as_str().unwrap().contains("`eu`"),
        "{delivery}"
    );
    assert_eq!(
        (
            all.asked().len(),
            eu.asked().len(),
            receiver.arrivals().len()
        ),
        (0, 0, 0)
    );
    ignorant.stop().await.unwrap();

    let _dispatcher = world.dispatcher().await;
    world.publish("order.created", "evt-2", &json!({})).await;
    receiver.receives(1).await;
    let asked = eu.asked();
    assert!(
        asked[0].starts_with("SOCKS5 127.0.0.1:") && asked[0].ends_with(" u p@ss"),
        "{asked:?}"
    );
    assert_eq!(all.asked().len(), 0);
    world.finish().await;
}

/// Certificates that openssl makes for one test.
struct Certificates(PathBuf);

impl Certificates {
    fn new() -> Self {
        let folder =
            std::env::temp_dir().join(format!("posthorn-mtls-{}", harness::world::unique()));
        std::fs::create_dir_all(&folder).unwrap();
        let script = r#"
            set -e
            key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1.key"; }
            key ca; openssl req -x509 -new -key ca.key -subj /CN=ca -days 2 -out ca.pem
            for name in server client; do
              key $name
              openssl req -new -key $name.key -subj /CN=$name -out $name.csr
              printf 'subjectAltName=DNS:localhost
' > $name.ext
              openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2                 -extfile $name.ext -out $name.pem
            done"#;
        let made = Command::new("sh")
            .args(["-c", script])
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }

    /// What a server needs that insists on a certificate of this CA.
    fn server(&self) -> TlsAcceptor {
        // A provider may be installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let read = |name: &str| CertificateDer::from_pem_slice(self.read(name).as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(read("ca.pem")).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .build()
            .unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.read("server.key").as_bytes()).unwrap();
        let config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![read("server.pem")], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        // Leftovers are in the temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn an_endpoint_that_asks_for_a_client_certificate_gets_the_webhooks() {
    let certificates = Certificates::new();
    let acceptor = certificates.server();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counted) = (acceptor.clone(), counted.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut head = vec![0; 16 * 1024];
                let _ = stream.read(&mut head).await;
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = b"HTTP/1.1 200 OK
content-length: 0
connection: close

";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    let trusted = certificates.path("ca.pem");
    let world = World::with(&[("SSL_CERT_FILE", trusted.as_str())]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let url = json!({"url": format!("https://localhost:{port}/"), "retries": 0});
    let without = world.webhook(&ingest, &receiver, url.clone()).await;
    let key = certificates.read("client.key");
    let mut more = url;
    more["client_certificate"] =
        json!({"certificate": certificates.read("client.pem"), "private_key": key});
    let with = world.webhook(&ingest, &receiver, more.clone()).await;
    world.publish("order.created", "evt-1", &json!({})).await;
    world.accepts(1).await;
    world.settles().await;
    let status = async |webhook| world.deliveries(&ingest, webhook).await[0]["status"].clone();
    assert_eq!(
        (status(&with).await, status(&without).await),
        (json!("delivered"), json!("failed"))
    );
    assert_eq!(taken.load(Ordering::SeqCst), 1);

    // The key is in no answer, log or row; another one doesn't fit.
    let path = format!("/api/v1/webhooks/{}", with.id);
    let shown = world.ask(&ingest, "GET", &path, None).await;
    assert_eq!(
        shown.body["client_certificate"]["sha256"]
            .as_str()
            .unwrap()
            .len(),
        64
    );
    let secret = key.lines().nth(1).unwrap();
    assert!(!shown.body.to_string().contains(secret) && !world.logs().contains(secret));
    let sealed = "webhooks WHERE position(convert_to('PRIVATE', 'UTF8') IN client_certificate) > 0";
    assert_eq!(world.count(sealed).await, 0);
    more["client_certificate"]["private_key"] = json!(certificates.read("server.key"));
    more["events"] = json!(["*"]);
    let refused = world
        .ask(&ingest, "POST", "/api/v1/webhooks", Some(more))
        .await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert_eq!(refused.body["field"], "client_certificate.private_key");
    let off = json!({"client_certificate": null});
    let changed = world.ask(&ingest, "PATCH", &path, Some(off)).await;
    assert_eq!(changed.body["client_certificate"], Value::Null);
    world.finish().await;
}

#[tokio::test]
async fn an_endpoint_that_wants_oauth_gets_a_token_that_is_kept_and_fetched_anew_after_a_401() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let issued = Arc::new(AtomicUsize::new(0));
    let count = issued.clone();
    let script: Script = Arc::new(move |_, _| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        let body = json!({"access_token": format!("the-token-{n}"), "token_type": "Bearer", "expires_in": 3600});
        Reply::status(200)
            .with("content-type", "application/json")
            .saying(body.to_string())
    });
    let login = world.receiver(script).await;
    // The endpoint takes the second token only.
    let endpoint = world
        .receiver(Arc::new(|_, arrival| {
            let good = arrival.header("authorization") == "Bearer the-token-1";
            Reply::status(if good { 200 } else { 401 })
        }))
        .await;
    let oauth2 = json!({
        "token_url": login.url("/token"), "client_id": "post:horn", "client_secret": "s3cret of ours", "scope": "a b",
    });
    let delays = json!({"delays": [1000, 1000]});
    let more = json!({"oauth2": oauth2, "retry_policy": delays, "debug_mode": true});
    let webhook = world.webhook(&ingest, &endpoint, more).await;
    for n in 0..10 {
        world
            .publish("order.created", &format!("evt-{n}"), &json!({}))
            .await;
        if n == 0 {
            // The first delivery finds out that the first token isn't good.
            endpoint.receives(2).await;
        }
    }
    world.accepts(10).await;
    world.settles().await;
    let delivered = world.deliveries(&ingest, &webhook).await;
    assert!(
        delivered
            .iter()
            .all(|delivery| delivery["status"] == "delivered"),
        "{delivered:?}"
    );
    assert_eq!(issued.load(Ordering::SeqCst), 2);
    let asked = &login.arrivals()[0];
    assert_eq!(&asked.body[..], b"grant_type=client_credentials&scope=a+b");
    // RFC 6749, section 2.3.1: both are encoded as in a form.
    use base64::Engine;
    let expected = base64::engine::general_purpose::STANDARD.encode("post%3Ahorn:s3cret+of+ours");
    assert_eq!(asked.header("authorization"), format!("Basic {expected}"));

    // Neither the secret nor a token is in an answer, a log or a row.
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let shown = world.ask(&ingest, "GET", &path, None).await;
    assert_eq!(shown.body["oauth2"]["client_secret"], "…", "{}", shown.body);
    let detail = world.delivery(&ingest, &delivered[9]["id"]).await;
    let headers = detail["attempt_log"].to_string();
    assert!(headers.contains("authorization"), "{detail}");
    let logs = world.logs();
    for secret in ["the-token", "s3cret"] {
        for text in [shown.body.to_string(), detail.to_string(), logs.clone()] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    let rows = "attempts WHERE request_headers::text LIKE '%the-token%'";
    assert_eq!(world.count(rows).await, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_token_endpoint_is_held_to_the_rules_for_destinations() {
    let world = World::with(&[("ALLOWED_NETWORKS", "127.0.0.0/8")]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let endpoint = world.receiver(answering(200)).await;
    let with = |token_url: &str| {
        json!({
            "url": endpoint.url("/"), "events": ["*"], "retries": 0,
            "oauth2": {"token_url": token_url, "client_id": "a", "client_secret": "hunter2-hunter2"},
        })
    };
    for bad in [
        "https://10.0.0.1/token",
        "ftp://example.com/",
        "https://u:p@example.com/",
        "nonsense",
    ] {
        let refused = world
            .ask(&ingest, "POST", "/api/v1/webhooks", Some(with(bad)))
            .await;
        assert_eq!(
            (refused.status, &refused.body["field"]),
            (422, &json!("oauth2.token_url"))
        );
        assert!(!refused.body.to_string().contains("hunter2"));
    }
    // A redirect is not followed, and nothing is sent without a token.
    let elsewhere = world.receiver(answering(200)).await;
    let to = elsewhere.url("/");
    let redirecting = world
        .receiver(Arc::new(move |_, _| {
            Reply::status(307).with("location", to.clone())
        }))
        .await;
    let made = world
        .ask(
            &ingest,
            "POST",
            "/api/v1/webhooks",
            Some(with(&redirecting.url("/"))),
        )
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    world.publish("order.created", "evt-1", &json!({})).await;
    redirecting.receives(1).await;
    eventually("the delivery has failed", async || {
        world
            .count("deliveries WHERE state = 'failed' AND error LIKE '%OAuth 2 token%307%'")
            .await
            == 1
    })
    .await;
    assert_eq!(
        (elsewhere.arrivals().len(), endpoint.arrivals().len()),
        (0, 0)
    );
    world.finish().await;
}
