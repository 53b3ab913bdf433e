//! `posthorn-ingest doctor`: looks for what makes an installation lose messages, stand still or
//! be open to strangers.
//!
//! Each line is `ok`, `WRONG` with a command that fixes it, or `unknown` with what would have to
//! be known. It changes nothing but what every process does when it starts: RabbitMQ's queues
//! are declared. The checks are independent of each other: a server that is away leaves the
//! other's to be seen.

mod delivery;
mod management;
mod postgres;
mod rabbitmq;

use std::fmt;

use ipnet::IpNet;
use url::Url;

use crate::settings::Settings;
use management::Management;

/// What was found about one thing.
#[derive(Debug)]
pub struct Finding {
    what: String,
    is: Is,
}

#[derive(Debug)]
enum Is {
    /// With what there is to say about it.
    Fine(String),
    Wrong {
        problem: String,
        fix: String,
    },
    /// It couldn't be looked at.
    Unknown {
        reason: String,
        fix: String,
    },
}

impl Finding {
    fn fine(what: impl Into<String>, detail: impl Into<String>) -> Self {
        let (what, is) = (what.into(), Is::Fine(detail.into()));
        Self { what, is }
    }

    fn wrong(what: impl Into<String>, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        let (problem, fix) = (problem.into(), fix.into());
        let (what, is) = (what.into(), Is::Wrong { problem, fix });
        Self { what, is }
    }

    fn unknown(what: impl Into<String>, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        let (reason, fix) = (reason.into(), fix.into());
        let (what, is) = (what.into(), Is::Unknown { reason, fix });
        Self { what, is }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match &self.is {
            Is::Fine(detail) => write!(f, "ok       {what}: {detail}"),
            Is::Wrong { problem, fix } => {
                write!(f, "WRONG    {what}: {problem}\n         fix: {fix}")
            }
            Is::Unknown { reason, fix } => {
                write!(f, "unknown  {what}: {reason}\n         to know: {fix}")
            }
        }
    }
}

/// All findings, in the order in which they were made.
#[derive(Debug)]
pub struct Report(Vec<Finding>);

impl Report {
    /// Whether nothing is wrong. What is unknown doesn't count.
    pub fn is_healthy(&self) -> bool {
        let mut findings = self.0.iter();
        !findings.any(|finding| matches!(finding.is, Is::Wrong { .. }))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |is: fn(&Is) -> bool| self.0.iter().filter(|one| is(&one.is)).count();
        let wrong = count(|is| matches!(is, Is::Wrong { .. }));
        let unknown = count(|is| matches!(is, Is::Unknown { .. }));
        for finding in &self.0 {
            writeln!(f, "{finding}")?;
        }
        write!(f, "{wrong} wrong, {unknown} unknown, of {}", self.0.len())
    }
}

/// Looks at everything. `management`: RabbitMQ's management API, with its user and password;
/// by default port 15672 of the broker, with `AMQP_URL`'s.
pub async fn examine(settings: &Settings, management: Option<Url>) -> Report {
    let mut found = vec![
        destinations(&settings.common.destinations),
        delivery::authorities(),
    ];
    found.push(delivery::to_itself(settings).await);
    postgres::examine(settings, &mut found).await;
    let management = Management::new(&settings.common.amqp_url, management);
    rabbitmq::examine(settings, &management, &mut found).await;
    Report(found)
}

/// Networks of which only this machine, or a cloud's metadata, is a part.
const NEVER: [&str; 4] = ["127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10"];

fn destinations(destinations: &shared::destination::Destinations) -> Finding {
    let what = "destinations";
    if destinations.allow_http {
        return Finding::wrong(
            what,
            "ALLOW_HTTP is set: payloads may be sent without TLS",
            "unset ALLOW_HTTP",
        );
    }
    let never: Vec<IpNet> = NEVER
        .iter()
        .filter_map(|network| network.parse().ok())
        .collect();
    let overlap = |network: &&IpNet| {
        let is_within = |never: &IpNet| never.contains(*network) || network.contains(never);
        never.iter().any(is_within)
    };
    if let Some(network) = destinations.allowed.iter().find(overlap) {
        return Finding::wrong(
            what,
            format!(
                "ALLOWED_NETWORKS has {network}: tenants' webhooks may reach this machine's own services, \
                 or a cloud's metadata"
            ),
            format!("remove {network} from ALLOWED_NETWORKS"),
        );
    }
    let allowed: Vec<_> = destinations
        .allowed
        .iter()
        .map(ToString::to_string)
        .collect();
    Finding::fine(
        what,
        match allowed.is_empty() {
            true => "public addresses, over TLS".to_owned(),
            false => format!("public addresses and {}, over TLS", allowed.join(", ")),
        },
    )
}

/// `3.10.8` and the like, as far as they are compared.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', ' ', '-']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use shared::destination::Destinations;

    use super::*;

    fn is_wrong(finding: &Finding) -> bool {
        matches!(finding.is, Is::Wrong { .. })
    }

    #[test]
    fn destinations_that_only_development_needs_are_wrong() {
        for (allow_http, network, wrong) in [
            (false, None, false),
            (true, None, true),
            (false, Some("10.0.0.0/8"), false),
            (false, Some("127.0.0.1/32"), true),
            (false, Some("0.0.0.0/0"), true),
            (false, Some("169.254.169.254/32"), true),
            (false, Some("::/0"), true),
        ] {
            let allowed = network.map(|network| network.parse().unwrap());
            let destinations = Destinations {
                allow_http,
                allowed: allowed.into_iter().collect(),
            };
            let finding = super::destinations(&destinations);
            assert_eq!(is_wrong(&finding), wrong, "{finding}");
        }
    }

    #[test]
    fn versions_are_compared_by_their_first_two_numbers() {
        assert_eq!(version("3.10.8"), Some((3, 10)));
        assert_eq!(version("4.0.5-rc.1"), Some((4, 0)));
        assert_eq!(version("17 (Debian 17.5)"), Some((17, 0)));
        assert_eq!(version("latest"), None);
    }

    #[test]
    fn what_is_wrong_counts_and_what_is_unknown_does_not() {
        let unknown = || Finding::unknown("a", "nobody knows", "ask");
        let report = Report(vec![Finding::fine("b", "fine"), unknown()]);
        assert!(report.is_healthy());
        assert!(report.to_string().ends_with("0 wrong, 1 unknown, of 2"));
        let report = Report(vec![unknown(), Finding::wrong("c", "broken", "mend it")]);
        assert!(!report.is_healthy());
        assert!(
            report
                .to_string()
                .contains("WRONG    c: broken\n         fix: mend it\n")
        );
    }
}
