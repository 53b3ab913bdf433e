//! `posthorn-ingest doctor`: checks an installation for faults that lose messages, stop delivery
//! or let strangers in.
//!
//! Each line of its output is `ok`, `WRONG` with a command that fixes it, or `unknown` with what
//! is missing to find out. It changes nothing, except that it declares RabbitMQ's queues, as
//! every process does when it starts. The checks are independent: if one server is away, the
//! other one is checked all the same.

mod consumer_timeout;
mod delivery;
mod management;
mod postgres;
mod rabbitmq;
mod report;

use ipnet::IpNet;
use url::Url;

use crate::settings::Settings;
use management::Management;
use report::Finding;
pub use report::Report;

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
    Report::new(found)
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

#[cfg(test)]
mod tests {
    use shared::destination::Destinations;

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
            assert_eq!(finding.is_wrong(), wrong, "{finding}");
        }
    }
}
