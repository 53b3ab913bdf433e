//! Names become addresses that deliveries may go to.
//!
//! For `attempt`'s client, which opens its connections to the very addresses that
//! are answered here. So a name that answers otherwise when it is asked again
//! gains nothing: it isn't asked again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::destination::{Destinations, Forbidden};

/// Answers a name's addresses, with any port.
type Lookup = Box<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Resolves names to allowed addresses only.
pub(crate) struct CheckedResolver {
    destinations: Arc<Destinations>,
    lookup: Lookup,
}

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unresolved(pub(crate) io::Error);

impl CheckedResolver {
    /// Asks as the system does.
    pub(crate) fn new(destinations: Arc<Destinations>) -> Self {
        let lookup = |name: String| {
            let found = async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) };
            found.boxed()
        };
        Self {
            destinations,
            lookup: Box::new(lookup),
        }
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let destinations = self.destinations.clone();
        let found = (self.lookup)(name.as_str().to_owned());
        Box::pin(async move {
            let found = found.await.map_err(Unresolved)?;
            let allowed = allowed(&destinations, found)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Those that may be connected to; if there is none, why not.
fn allowed(
    destinations: &Destinations,
    found: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, Forbidden> {
    let mut refused = None;
    let mut allowed = Vec::new();
    for address in found {
        match destinations.check_address(address.ip()) {
            Ok(()) => allowed.push(address),
            Err(forbidden) => refused = Some(forbidden),
        }
    }
    match refused {
        Some(forbidden) if allowed.is_empty() => Err(forbidden),
        _ => Ok(allowed),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::time::Duration;

    use time::OffsetDateTime;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::attempt::{Attempt, Failure, Keep, Purpose, Report, Sender};
    use crate::dialect::{Dialects, Message};
    use crate::ids::{DeliveryId, EventUid, WebhookId};
    use crate::secret::{Secret, Secrets};
    use crate::webhook::{Status, Webhook};

    fn at(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 0)
    }

    #[test]
    fn of_a_names_addresses_only_the_public_ones_are_left() {
        let strict = Destinations::default();
        let (public, private) = (at("93.184.216.34"), at("10.0.0.1"));
        let both = allowed(&strict, vec![private, public, at("::1")]).unwrap();
        assert_eq!(both, [public]);
        let none = allowed(&strict, vec![private]).unwrap_err();
        assert_eq!(none, Forbidden::NotPublic(private.ip()));
        assert!(allowed(&strict, vec![]).unwrap().is_empty());
    }

    /// Answers what was prepared, one answer a question.
    fn scripted(answers: &'static [&'static [&'static str]]) -> (Lookup, Arc<Mutex<usize>>) {
        let asked = Arc::new(Mutex::new(0));
        let left = Mutex::new(answers.iter().collect::<VecDeque<_>>());
        let lookup: Lookup = Box::new({
            let asked = asked.clone();
            move |_| {
                *asked.lock().unwrap() += 1;
                let next = left.lock().unwrap().pop_front();
                let found = next.map(|answer| answer.iter().map(|address| at(address)).collect());
                async move { found.ok_or_else(|| io::Error::other("asked once more")) }.boxed()
            }
        });
        (lookup, asked)
    }

    async fn attempt(sender: &Sender, port: u16) -> Report {
        let dialects = Dialects::embedded();
        let uid = EventUid::generate();
        let webhook = Webhook {
            id: WebhookId::generate(),
            tenant: "acme".parse().unwrap(),
            url: format!("http://rebinding.example:{port}/"),
            patterns: Vec::new(),
            filter: None,
            dialect: None,
            secrets: Secrets::of(Secret::generate(), None),
            headers: Vec::new(),
            timeout: None,
            retry: None,
            rate: None,
            debug_mode: false,
            operational: false,
            status: Status::Active,
        };
        let message = Message {
            event_id: &uid.into(),
            event_type: &"order.created".parse().unwrap(),
            occurred_at: OffsetDateTime::now_utc(),
            data: "{}",
            attributes: None,
            tenant: &webhook.tenant,
            webhook_id: webhook.id,
            delivery_id: DeliveryId::of(uid),
        };
        let attempt = Attempt {
            message: &message,
            webhook: &webhook,
            dialect: dialects.default(),
            timeout: Duration::from_secs(5),
            purpose: Purpose::Delivery,
            keep: Keep::Excerpt,
        };
        sender.attempt(attempt).await
    }

    /// Answers every request and ends its connection, so that none is used twice.
    async fn serve(listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    }

    #[tokio::test]
    async fn a_name_that_changes_its_mind_gains_nothing() {
        // One address stands for what is public, its neighbour for what isn't.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let forbidden = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let serving = tokio::spawn(serve(listener));
        let destinations = Arc::new(Destinations {
            allow_http: true,
            allowed: vec!["127.0.0.1/32".parse().unwrap()],
        });
        let (lookup, asked) = scripted(&[
            &["127.0.0.1"],
            &["127.0.0.2"],
            &["127.0.0.2", "127.0.0.1"],
            &[],
        ]);
        let resolver = CheckedResolver {
            destinations: destinations.clone(),
            lookup,
        };
        let sender = Sender::resolving(destinations, resolver).unwrap();

        for (questions, expected) in [(1, true), (2, false), (3, true)] {
            let report = attempt(&sender, port).await;
            assert_eq!(*asked.lock().unwrap(), questions, "asked once an attempt");
            match report.result {
                Ok(_) => assert_eq!(report.remote.unwrap().ip(), at("127.0.0.1").ip()),
                Err(ref failure) => {
                    assert!(matches!(failure, Failure::Forbidden(_)), "{failure}");
                }
            }
            assert_eq!(report.result.is_ok(), expected, "{:?}", report.result);
        }
        let nobody = attempt(&sender, port).await;
        assert!(nobody.result.is_err());
        let arrived = tokio::time::timeout(Duration::from_millis(100), forbidden.accept()).await;
        assert!(arrived.is_err(), "something went where nothing may");
        serving.abort();
    }
}
