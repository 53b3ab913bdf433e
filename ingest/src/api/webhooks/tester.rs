//! Sends test deliveries, and says in words what an endpoint's answer means.
//!
//! The requests are those that a dispatcher would send. Tests wait for endpoints,
//! so a process sends few at a time and a tenant fewer.

use std::sync::Arc;
use std::time::Duration;

use shared::attempt::{Answer, Attempt, Failure, Report, Sender};
use shared::dialect::{Dialect, Meaning};
use shared::excerpt::{MAX_ERROR, excerpt};
use shared::ids::Tenant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::http::problem::{Problem, Result};
use crate::tenant_permits::TenantPermits;

/// Tests under way in a process.
const AT_ONCE: usize = 32;
/// Tests of one tenant under way.
const OF_A_TENANT: usize = 4;

/// Sends tests like a dispatcher.
pub struct Tester {
    sender: Sender,
    /// `WEBHOOK_TIMEOUT`.
    pub default_timeout: Option<Duration>,
    permits: TestPermits,
}

impl Tester {
    /// `default_timeout` is `WEBHOOK_TIMEOUT`, if it is set.
    pub fn new(sender: Sender, default_timeout: Option<Duration>) -> Self {
        Self {
            sender,
            default_timeout,
            permits: TestPermits::default(),
        }
    }

    /// Sends one test of a tenant's.
    ///
    /// # Errors
    /// 503 if too many are under way.
    pub async fn send(&self, tenant: &Tenant, attempt: Attempt<'_>) -> Result<Report> {
        let _permit = self.permits.acquire(tenant)?;
        Ok(self.sender.attempt(attempt).await)
    }
}

struct TestPermits {
    all: Arc<Semaphore>,
    own: TenantPermits,
}

impl Default for TestPermits {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(AT_ONCE)),
            own: TenantPermits::new(OF_A_TENANT),
        }
    }
}

impl TestPermits {
    fn acquire(&self, tenant: &Tenant) -> Result<[OwnedSemaphorePermit; 2]> {
        let own = self.own.try_acquire(tenant).ok_or_else(|| {
            Problem::unavailable(format!(
                "this tenant has {OF_A_TENANT} tests under way, which is the most at a time; try again"
            ))
        })?;
        let all = self.all.clone().try_acquire_owned().map_err(|_| {
            Problem::unavailable(format!(
                "{AT_ONCE} tests are under way, which is the most at a time; try again"
            ))
        })?;
        Ok([own, all])
    }
}

/// Whether the delivery would be delivered, and what to make of it otherwise.
pub fn judge(report: &Report, dialect: &Dialect) -> (bool, String) {
    let answer = match &report.result {
        Err(failure) => return (false, explain(failure, report.took)),
        Ok(answer) => answer,
    };
    let status = answer.status;
    let said = match (dialect.policy().answers.meaning(status), status) {
        (Meaning::Delivered, _) => return (true, "The endpoint took it.".to_owned()),
        (Meaning::Disable, _) => {
            "it says that it is gone: a delivery would disable this webhook".to_owned()
        }
        (_, 300..=399) => match header(answer, "location") {
            Some(location) => format!(
                "it redirects to {}, and redirects are not followed: make that the webhook's URL",
                excerpt(location, MAX_ERROR)
            ),
            None => "it redirects, and redirects are not followed".to_owned(),
        },
        (_, 400 | 422) => {
            "it could not make sense of the body: is this the dialect that it expects?".to_owned()
        }
        (_, 401 | 403) => {
            "it refused: does it verify the signature with this webhook's secret, over the \
                           body's exact bytes, and does it want a header of its own?"
                .to_owned()
        }
        (_, 404) => "nothing is served at this path".to_owned(),
        (_, 405) => "it does not take POST at this path".to_owned(),
        (_, 413) => "the body is too large for it".to_owned(),
        (_, 415) => "it does not take this content type".to_owned(),
        (_, 429) => "it wants to be asked less often: give the webhook a rate limit".to_owned(),
        (_, 500..) => "it failed: its own log should say why".to_owned(),
        _ => "that does not count as delivered".to_owned(),
    };
    let end = if said.ends_with('?') { "" } else { "." };
    (
        false,
        format!("The endpoint answered {status}: {said}{end}"),
    )
}

/// What to make of there being no answer.
fn explain(failure: &Failure, took: Duration) -> String {
    match failure {
        Failure::Dns(cause) => format!("The name of the URL's host does not resolve: {cause}."),
        Failure::NoDescriptor => {
            "Posthorn has too many connections at the moment. Ask again in a minute.".to_owned()
        }
        Failure::NoTurn => {
            "Posthorn looks up too many names at the moment. Ask again in a minute.".to_owned()
        }
        Failure::Connect(cause) => format!("Nothing accepts connections there: {cause}."),
        Failure::Tls(cause) => format!(
            "There is no trusted TLS connection: {cause}. Is the certificate valid, for this name, and sent \
             with its intermediates?"
        ),
        Failure::Timeout => format!(
            "There was no answer within {:.1} s. Answer first and work afterwards, or raise the webhook's timeout.",
            took.as_secs_f64()
        ),
        Failure::Broken(cause) => {
            format!("The connection was made, but what came back is no HTTP answer: {cause}.")
        }
        Failure::Forbidden(cause) => format!("Posthorn does not send there: the URL {cause}."),
    }
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let mut headers = answer.headers.iter();
    headers
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use shared::dialect::Dialects;

    use super::*;

    fn verdict(dialect: &str, result: std::result::Result<Answer, Failure>) -> (bool, String) {
        let report = Report {
            request: None,
            started_at: time::OffsetDateTime::UNIX_EPOCH,
            took: Duration::from_secs(3),
            remote: None,
            result,
        };
        judge(&report, Dialects::embedded().get(dialect).unwrap())
    }

    fn answered(status: u16) -> std::result::Result<Answer, Failure> {
        Ok(Answer {
            status,
            headers: vec![("location".to_owned(), "https://example.org/".to_owned())],
            ..Answer::default()
        })
    }

    #[test]
    fn one_tenants_tests_leave_permits_for_others() {
        let tester = TestPermits::default();
        let tenants: Vec<Tenant> = (0..9).map(|n| format!("t{n}").parse().unwrap()).collect();
        let mut held = Vec::new();
        for tenant in &tenants[..8] {
            held.extend((0..OF_A_TENANT).map(|_| tester.acquire(tenant).unwrap()));
            assert!(tester.acquire(tenant).is_err());
        }
        assert!(tester.acquire(&tenants[8]).is_err(), "all are taken");
        held.pop();
        drop(tester.acquire(&tenants[8]).unwrap());
        drop(tester.acquire(&tenants[7]).unwrap());
    }

    #[test]
    fn what_came_back_is_put_into_words() {
        for (result, success, words) in [
            (answered(204), true, "took it"),
            (answered(302), false, "https://example.org/"),
            (answered(401), false, "secret"),
            (answered(404), false, "path"),
            (answered(410), false, "disable"),
            (answered(503), false, "503"),
            (Err(Failure::Timeout), false, "within 3.0 s"),
            (Err(Failure::Dns("no such host".into())), false, "resolve"),
            (Err(Failure::NoTurn), false, "too many names"),
            (
                Err(Failure::Tls("UnknownIssuer".into())),
                false,
                "certificate",
            ),
            (Err(Failure::Connect("refused".into())), false, "refused"),
        ] {
            let (delivered, said) = verdict("standard", result);
            assert_eq!(delivered, success, "{said}");
            assert!(said.contains(words), "{said} lacks {words}");
        }
        for status in 100..600 {
            let (_, said) = verdict("standard", answered(status));
            assert!(!said.ends_with("?."), "{said}");
        }
        let (_, said) = verdict("rishi", answered(410));
        assert!(!said.contains("disable"), "{said}");
    }
}
