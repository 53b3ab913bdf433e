//! Resolves host names to addresses that deliveries may go to.
//!
//! The HTTP client of `attempt` connects to exactly the addresses that are answered
//! here. A name that resolves to another address the second time gains nothing,
//! because it isn't resolved again.
//!
//! A lookup by the operating system takes a thread and can't be cancelled. The attempt
//! that wanted it may time out, and the next attempt may come. So there is one lookup per
//! tenant and name at a time, and whoever wants that name for that tenant waits for it: a
//! lookup that hangs takes one thread.
//!
//! The operating system waits for half a minute for name servers that don't answer, and a tenant
//! can have any number of names there. So lookups take [`turns`]: each tenant has few at a time.
//! An attempt whose time ends while its lookup still waits for a turn never asked its endpoint:
//! [`Awaited`] tells.

mod turns;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, poll_fn};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::descriptors;
use crate::destination::{Destinations, Forbidden};
use crate::ids::Tenant;
use turns::Turns;

/// Looks up the addresses of a name, with any port.
type Lookup = Box<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

type Found = Result<Vec<SocketAddr>, Unresolved>;
/// For whom a name is looked up. Tenants don't wait for each other's lookups.
type Wanted = (Option<Tenant>, String);

tokio::task_local! {
    /// Whose attempt is made, and which lookup it waits for. The HTTP client tells the resolver
    /// nothing but a name.
    static ATTEMPT: (Tenant, Awaited);
}

/// Runs an attempt, or the fetch of its token. Its lookups count as this tenant's.
pub(crate) async fn for_tenant<T>(
    tenant: &Tenant,
    awaited: Awaited,
    attempt: impl Future<Output = T>,
) -> T {
    ATTEMPT.scope((tenant.clone(), awaited), attempt).await
}

/// The lookup that an attempt waits for, if any.
#[derive(Clone, Default)]
pub(crate) struct Awaited(Arc<Mutex<Option<WaitsForTurn>>>);

/// Whether a lookup waits for its turn.
type WaitsForTurn = Arc<AtomicBool>;

impl Awaited {
    /// Whether the attempt waits for a lookup that waits for its turn.
    pub(crate) fn waits_for_turn(&self) -> bool {
        let waits = lock(&self.0);
        waits.as_ref().is_some_and(|it| it.load(Ordering::Relaxed))
    }

    fn set(&self, waits: Option<WaitsForTurn>) {
        *lock(&self.0) = waits;
    }
}

/// A lookup that runs, for all that wait for it.
#[derive(Clone)]
struct UnderWay {
    found: Shared<BoxFuture<'static, Found>>,
    waits: WaitsForTurn,
}

/// Resolves names, but only to allowed addresses.
pub(crate) struct CheckedResolver {
    destinations: Arc<Destinations>,
    lookup: Lookup,
    under_way: Arc<Mutex<HashMap<Wanted, UnderWay>>>,
    turns: Arc<Turns>,
}

/// The reason why a name has no usable address.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unresolved {
    #[error("{0}")]
    Failed(String),
    /// It waited for other lookups of its tenant, or of this process, for too long.
    #[error("the lookup waited too long for other lookups, whose name servers don't answer")]
    TooMany,
    #[error("this process had no free file descriptor")]
    NoDescriptor,
}

impl CheckedResolver {
    /// A resolver that uses the operating system's lookup.
    pub(crate) fn new(destinations: Arc<Destinations>) -> Self {
        let lookup = |name: String| {
            let found = async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) };
            found.boxed()
        };
        Self::by(destinations, Box::new(lookup))
    }

    fn by(destinations: Arc<Destinations>, lookup: Lookup) -> Self {
        Self {
            destinations,
            lookup,
            under_way: Arc::default(),
            turns: Turns::new(),
        }
    }

    /// Starts a lookup of this name, or joins the one that runs already for this tenant.
    fn find(&self, name: &str) -> Shared<BoxFuture<'static, Found>> {
        let (tenant, awaited) = ATTEMPT.try_with(Clone::clone).ok().unzip();
        let UnderWay { found, waits } = self.join(tenant, name);
        if let Some(awaited) = awaited {
            awaited.set(Some(waits));
        }
        found
    }

    fn join(&self, tenant: Option<Tenant>, name: &str) -> UnderWay {
        let wanted = (tenant, name.to_owned());
        let mut under_way = lock(&self.under_way);
        if let Some(lookup) = under_way.get(&wanted) {
            return lookup.clone();
        }
        let waits = Arc::new(AtomicBool::new(true));
        let lookup = (self.lookup)(name.to_owned());
        // The lookup goes on even if nobody waits for it any more.
        let task = tokio::spawn({
            let (under_way, turns) = (self.under_way.clone(), self.turns.clone());
            let (wanted, waits) = (wanted.clone(), waits.clone());
            async move {
                let turn = turns.take(wanted.0.as_ref()).await;
                waits.store(false, Ordering::Relaxed);
                let found = match turn {
                    Some(_turn) => lookup.await.map_err(Unresolved::from),
                    None => Err(Unresolved::TooMany),
                };
                lock(&under_way).remove(&wanted);
                found
            }
        });
        let found = async { task.await? };
        let lookup = UnderWay {
            found: found.boxed().shared(),
            waits,
        };
        under_way.insert(wanted, lookup.clone());
        lookup
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<tokio::task::JoinError> for Unresolved {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<io::Error> for Unresolved {
    fn from(error: io::Error) -> Self {
        match descriptors::are_exhausted(&error) {
            true => Self::NoDescriptor,
            false => Self::Failed(error.to_string()),
        }
    }
}

/// Why a name leads nowhere.
pub(crate) enum NotFound {
    Forbidden(Forbidden),
    Unresolved(Unresolved),
}

impl CheckedResolver {
    /// The allowed addresses of a name, with any port.
    pub(crate) async fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, NotFound> {
        let found = self.find(name).await.map_err(NotFound::Unresolved)?;
        allowed(&self.destinations, found).map_err(NotFound::Forbidden)
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let destinations = self.destinations.clone();
        let mut found = self.find(name.as_str());
        let awaited = ATTEMPT.try_with(|(_, awaited)| awaited.clone()).ok();
        // The client opens a connection in a task of its own once the attempt has got another.
        // Then the attempt doesn't wait for this lookup any more.
        let found = poll_fn(move |context| {
            if let Some(awaited) = &awaited
                && ATTEMPT.try_with(|_| ()).is_err()
            {
                awaited.set(None);
            }
            found.poll_unpin(context)
        });
        Box::pin(async move {
            let allowed = allowed(&destinations, found.await?)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// The allowed addresses; if there is none, the reason.
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

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::attempt::tests::attempt_to;
    use crate::attempt::{Report, Sender};
    use crate::egress::Egress;
    use crate::failure::Failure;
    use crate::oauth::ClientCredentials;
    use crate::webhook::Webhook;

    fn at(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 0)
    }

    #[test]
    fn only_the_public_addresses_of_a_name_are_used() {
        let strict = Destinations::default();
        let (public, private) = (at("93.184.216.34"), at("10.0.0.1"));
        let both = allowed(&strict, vec![private, public, at("::1")]).unwrap();
        assert_eq!(both, [public]);
        let none = allowed(&strict, vec![private]).unwrap_err();
        assert_eq!(none, Forbidden::NotPublic(private.ip()));
        assert!(allowed(&strict, vec![]).unwrap().is_empty());
    }

    /// Gives prepared answers, one per lookup.
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
        attempt_for(sender, port, Duration::from_secs(5)).await
    }

    async fn attempt_for(sender: &Sender, port: u16, timeout: Duration) -> Report {
        let url = format!("http://rebinding.example:{port}/");
        let webhook = Webhook::plain("acme".parse().unwrap(), url);
        attempt_to(sender, &webhook, timeout).await
    }

    /// Answers every request and closes its connection, so that none is used twice.
    async fn serve(listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_another_address_the_second_time_gains_nothing() {
        // One loopback address stands for public addresses, its neighbour for
        // forbidden ones.
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
        let resolver = CheckedResolver::by(destinations.clone(), lookup);
        let sender = Sender::resolving(destinations, resolver, Egress::default()).unwrap();

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

    #[tokio::test]
    async fn a_lookup_that_hangs_is_one_for_all_attempts_until_it_ends() {
        let destinations = Arc::new(Destinations {
            allow_http: true,
            allowed: Vec::new(),
        });
        let asked = Arc::new(Mutex::new(0));
        let (end, ended) = tokio::sync::watch::channel(false);
        let lookup: Lookup = Box::new({
            let asked = asked.clone();
            move |_| {
                *asked.lock().unwrap() += 1;
                let mut ended = ended.clone();
                let hang = async move {
                    let _ = ended.wait_for(|ended| *ended).await;
                    Err(io::Error::other("nobody knows"))
                };
                hang.boxed()
            }
        });
        let resolver = CheckedResolver::by(destinations.clone(), lookup);
        let sender = Sender::resolving(destinations, resolver, Egress::default()).unwrap();
        for _ in 0..5 {
            let report = attempt_for(&sender, 1, Duration::from_millis(20)).await;
            assert!(matches!(report.result, Err(Failure::Timeout)), "{report:?}");
        }
        assert_eq!(*asked.lock().unwrap(), 1);
        // An attempt that comes later waits for the same lookup.
        let waiting = attempt(&sender, 1);
        let (report, ()) = tokio::join!(waiting, async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            end.send(true).unwrap();
        });
        assert!(matches!(report.result, Err(Failure::Dns(_))), "{report:?}");
        assert_eq!(*asked.lock().unwrap(), 1);
        attempt(&sender, 1).await;
        assert_eq!(*asked.lock().unwrap(), 2);
    }

    #[tokio::test]
    async fn names_of_one_tenant_that_hang_keep_no_other_tenant_from_a_lookup() {
        let lookup: Lookup = Box::new(|name: String| {
            let found = async move {
                if name.ends_with(".black-hole.example") {
                    std::future::pending::<()>().await;
                }
                Ok(vec![at("93.184.216.34")])
            };
            found.boxed()
        });
        let resolver = Arc::new(CheckedResolver::by(Arc::default(), lookup));
        let find = |tenant: &str, name: String| {
            let (resolver, tenant) = (resolver.clone(), tenant.parse::<Tenant>().unwrap());
            async move {
                let lookup = async { resolver.find(&name).await };
                for_tenant(&tenant, Awaited::default(), lookup).await
            }
        };
        // More than all tenants together may look up at a time.
        let hanging: Vec<_> = (0..1_000)
            .map(|n| tokio::spawn(find("acme", format!("{n}.black-hole.example"))))
            .collect();
        tokio::task::yield_now().await;
        let begun = std::time::Instant::now();
        let others = find("globex", "example.com".to_owned()).await;
        assert!(others.is_ok(), "{others:?}");
        assert!(begun.elapsed() < turns::LONGEST_WAIT / 2);
        // The same name, but for the tenant whose names hang.
        let own = find("acme", "example.com".to_owned()).await;
        assert!(matches!(own, Err(Unresolved::TooMany)), "{own:?}");
        assert!(begun.elapsed() >= turns::LONGEST_WAIT);
        for lookup in hanging {
            lookup.abort();
        }
    }

    #[tokio::test]
    async fn an_attempt_whose_time_ends_before_its_lookups_turn_is_not_the_endpoints_failure() {
        let destinations = Arc::new(Destinations {
            allow_http: true,
            allowed: Vec::new(),
        });
        let lookup: Lookup = Box::new(|_| std::future::pending().boxed());
        let resolver = CheckedResolver::by(destinations.clone(), lookup);
        let turns = resolver.turns.clone();
        let sender = Sender::resolving(destinations, resolver, Egress::default()).unwrap();
        let acme: Tenant = "acme".parse().unwrap();
        let brief = Duration::from_millis(50);
        let mut held = Vec::new();
        while let Ok(Some(turn)) = tokio::time::timeout(brief, turns.take(Some(&acme))).await {
            held.push(turn);
        }
        let url = || "http://endpoint.example:1/".to_owned();
        let plain = Webhook::plain(acme.clone(), url());
        let mut with_token = Webhook::plain(acme, url());
        with_token.oauth2 = Some(ClientCredentials {
            token_url: "http://tokens.example:1/".to_owned(),
            client_id: "id".to_owned(),
            client_secret: "secret".to_owned(),
            scope: None,
            audience: None,
        });
        // The second attempt joins the first one's lookup, or its fetch.
        for webhook in [&plain, &plain, &with_token, &with_token] {
            let report = attempt_to(&sender, webhook, brief).await;
            assert!(matches!(report.result, Err(Failure::NoTurn)), "{report:?}");
        }
        drop(held);
        tokio::time::sleep(brief).await;
        // The lookups have their turns now, and hang.
        for webhook in [&plain, &with_token] {
            let report = attempt_to(&sender, webhook, brief).await;
            assert!(matches!(report.result, Err(Failure::Timeout)), "{report:?}");
        }
    }
}
