//! The doctor's checks of RabbitMQ: over AMQP where that is enough, otherwise over the management
//! API.

use serde_json::Value;
use shared::amqp::Broker;
use shared::topology;

use super::consumer_timeout::{self, consumer_timeout};
use super::management::Management;
use super::report::{Finding, version};
use crate::settings::Settings;

/// The oldest version that the tests run on.
const OLDEST: (u32, u32) = (3, 10);

pub(super) async fn examine(
    settings: &Settings,
    management: &Management,
    found: &mut Vec<Finding>,
) {
    found.push(declare(settings, management).await);
    let overview = match management.get(&["overview"]).await {
        Ok(overview) => overview,
        Err(error) => {
            found.push(Finding::unknown(
                "RabbitMQ's version, policies, permissions, alarms and queues",
                format!("the management API doesn't answer: {error:#}"),
                "rabbitmq-plugins enable rabbitmq_management, a user with the tag `administrator`, and \
                 `doctor --management https://user:password@host:15671`",
            ));
            return;
        }
    };
    found.push(of_version(
        overview["rabbitmq_version"].as_str().unwrap_or_default(),
    ));
    let vhost = management.vhost.as_str();
    let (nodes, queues) = (
        management.get(&["nodes"]).await,
        management.get(&["queues", vhost]).await,
    );
    match (nodes, queues) {
        (Ok(nodes), Ok(queues)) => {
            let (nodes, queues) = (list(&nodes), list(&queues));
            found.extend(of_nodes(nodes));
            let own = own_queues(queues, settings.common.shards);
            found.extend(policies(vhost, &own));
            found.extend(replicas(nodes.len(), &own));
            found.extend(left_shards(queues, settings.common.shards));
            found.push(consumer_timeout(own.iter().map(|(queue, _)| *queue)));
        }
        (Err(error), _) | (_, Err(error)) => {
            let fix = format!(
                "rabbitmqctl set_user_tags {} administrator",
                management.user
            );
            let what = "RabbitMQ's alarms, policies and queues";
            found.push(Finding::unknown(what, format!("{error:#}"), fix));
            found.push(consumer_timeout([]));
        }
    }
    found.push(producers(management).await);
}

/// Declares what a process would.
async fn declare(settings: &Settings, management: &Management) -> Finding {
    let (what, common) = ("RabbitMQ's exchanges and queues", &settings.common);
    let Management { vhost, user, .. } = management;
    let broker = Broker::new(
        common.amqp_url.clone(),
        "posthorn-ingest (doctor)",
        common.shards,
    );
    let error = match broker.open().await {
        Ok(session) => {
            session.close().await;
            return Finding::fine(what, "declared, with the arguments that this version needs");
        }
        Err(error) => format!("{error:#}"),
    };
    let fix = if error.contains("PRECONDITION_FAILED") {
        "when the queue is empty: rabbitmqctl delete_queue NAME --if-empty; the next process that starts declares it again".to_owned()
    } else if error.contains("ACCESS_REFUSED") || error.contains("refused") && error.contains("403")
    {
        format!(
            "rabbitmqctl set_permissions -p '{vhost}' {user} '^posthorn\\.' '^posthorn\\.' '^posthorn\\.'"
        )
    } else if error.contains("NOT_ALLOWED") {
        format!("rabbitmqctl add_vhost '{vhost}', and set_permissions for {user}")
    } else {
        "check AMQP_URL, and that RabbitMQ runs: `rabbitmq-diagnostics check_running`".to_owned()
    };
    Finding::wrong(what, error, fix)
}

fn of_version(text: &str) -> Finding {
    match version(text) {
        Some(is) if is >= OLDEST => Finding::fine("RabbitMQ's version", text),
        _ => Finding::wrong(
            "RabbitMQ's version",
            format!("`{text}` is older than {}.{}", OLDEST.0, OLDEST.1),
            "upgrade RabbitMQ",
        ),
    }
}

fn of_nodes(nodes: &[Value]) -> Vec<Finding> {
    let what = "RabbitMQ's nodes";
    let mut found = Vec::new();
    for node in nodes {
        let name = text(node, "name");
        let alarm = |member: &str| node[member].as_bool() == Some(true);
        if node["running"].as_bool() == Some(false) {
            let fix = format!("start {name}: systemctl start rabbitmq-server");
            found.push(Finding::wrong(what, format!("{name} doesn't run"), fix));
        }
        for (member, kind, fix) in [
            (
                "mem_alarm",
                "memory",
                "give the node memory, or raise vm_memory_high_watermark",
            ),
            (
                "disk_free_alarm",
                "disk",
                "free disk space on the node, or enlarge its disk",
            ),
        ] {
            if alarm(member) {
                let problem = format!("{name} has a {kind} alarm: nobody can publish");
                found.push(Finding::wrong(what, problem, fix));
            }
        }
        if list(&node["partitions"]).iter().any(Value::is_string) {
            let fix = format!("restart {name}: systemctl restart rabbitmq-server");
            let problem = format!("{name} sees a network partition");
            found.push(Finding::wrong(what, problem, fix));
        }
    }
    if found.is_empty() {
        let detail = format!("{} running, without alarms", nodes.len());
        found.push(Finding::fine(what, detail));
    }
    found
}

/// Queues of ours, each with whether it refuses messages when it is full.
fn own_queues(queues: &[Value], shards: u16) -> Vec<(&Value, bool)> {
    let of = |(name, refuses): (String, bool)| {
        let queue = queues.iter().find(|queue| text(queue, "name") == name)?;
        Some((queue, refuses))
    };
    topology::queues(shards).filter_map(of).collect()
}

fn policies(vhost: &str, queues: &[(&Value, bool)]) -> Vec<Finding> {
    let what = "RabbitMQ's policies";
    let mut found = Vec::new();
    for (queue, refuses_when_full) in queues {
        let Some(effective) = queue["effective_policy_definition"].as_object() else {
            continue;
        };
        let name = text(queue, "name");
        for (key, value) in effective {
            let number = value.as_i64().unwrap_or(i64::MAX);
            let consequence = match key.as_str() {
                "expires" => "the queue is deleted with its messages when it is unused",
                "message-ttl" => "messages that wait longer are given up",
                "max-length" | "max-length-bytes" | "max-in-memory-length"
                    if !refuses_when_full =>
                {
                    "a full queue drops its oldest messages"
                }
                "delivery-limit" if number < topology::DELIVERY_LIMIT => {
                    "messages are parked after fewer attempts to deliver them"
                }
                "consumer-timeout" if number < consumer_timeout::LEAST => {
                    "sessions end while PostgreSQL is away"
                }
                _ => continue,
            };
            // Whose of the two it is isn't told.
            let mut clear = Vec::new();
            for (member, command) in [
                ("policy", "clear_policy"),
                ("operator_policy", "clear_operator_policy"),
            ] {
                if let Some(policy) = queue[member].as_str().filter(|policy| !policy.is_empty()) {
                    clear.push(format!("rabbitmqctl {command} -p '{vhost}' {policy}"));
                }
            }
            found.push(Finding::wrong(
                what,
                format!("{key} = {value} applies to {name}: {consequence}"),
                clear.join(", or "),
            ));
        }
    }
    if found.is_empty() {
        found.push(Finding::fine(what, "none that loses messages"));
    }
    found
}

/// In a cluster each queue should have a majority that survives a node.
fn replicas(nodes: usize, queues: &[(&Value, bool)]) -> Vec<Finding> {
    let what = "RabbitMQ's replicas";
    let mut found = Vec::new();
    for (queue, _) in queues {
        let name = text(queue, "name");
        let Some(members) = queue["members"].as_array().map(Vec::len) else {
            continue;
        };
        let online = queue["online"].as_array().map_or(members, Vec::len);
        if online < members {
            let problem = format!("{online} of {members} replicas of {name} are online");
            let fix = "start the nodes that are down: rabbitmq-diagnostics cluster_status";
            found.push(Finding::wrong(what, problem, fix));
        } else if nodes >= 3 && members < 3 {
            let problem = format!("{name} has {members} of 3 replicas: it is lost with a node");
            let fix = "rabbitmq-queues grow rabbit@NODE all --queue-pattern '^posthorn'";
            found.push(Finding::wrong(what, problem, fix));
        }
    }
    if found.is_empty() {
        let detail = match nodes {
            1 => "one node: what it has is lost with its disk".to_owned(),
            _ => format!("on {nodes} nodes"),
        };
        found.push(Finding::fine(what, detail));
    }
    found
}

/// Queues of shards that nobody has any more.
fn left_shards(queues: &[Value], shards: u16) -> Vec<Finding> {
    let mut found = Vec::new();
    for queue in queues {
        let name = text(queue, "name");
        let shard = name.strip_prefix("posthorn.jobs.v1.");
        let Some(shard) = shard.and_then(|shard| shard.parse::<u16>().ok()) else {
            continue;
        };
        let messages = queue["messages"].as_u64().unwrap_or(0);
        if shard >= shards && messages > 0 {
            found.push(Finding::wrong(
                "shards",
                format!(
                    "{name} has {messages} messages, but JOB_SHARDS is {shards}: no dispatcher takes them"
                ),
                format!(
                    "run one dispatcher with JOB_SHARDS={} until the queue is empty",
                    shard + 1
                ),
            ));
        }
    }
    found
}

/// Whoever may publish to `posthorn.events` without a topic permission may do so for any tenant.
async fn producers(management: &Management) -> Finding {
    let (what, vhost) = ("producers' topic permissions", management.vhost.as_str());
    let asked = async {
        let permissions = management.get(&["vhosts", vhost, "permissions"]).await?;
        let topics = management
            .get(&["vhosts", vhost, "topic-permissions"])
            .await?;
        anyhow::Ok((permissions, topics))
    };
    let (permissions, topics) = match asked.await {
        Ok(answers) => answers,
        Err(error) => {
            let fix = format!("rabbitmqctl list_topic_permissions -p '{vhost}'");
            return Finding::unknown(what, format!("{error:#}"), fix);
        }
    };
    let may_publish = |permission: &&Value| {
        let pattern = text(permission, "write");
        // RabbitMQ's expressions have more than ours. In doubt it matches.
        let found = regex::Regex::new(pattern).map(|pattern| pattern.is_match(topology::EVENTS));
        !pattern.is_empty() && found.unwrap_or(true)
    };
    let is_restricted = |user: &str| {
        let mut topics = list(&topics).iter();
        topics.any(|topic| {
            let pattern = text(topic, "write");
            let is_it = text(topic, "user") == user && text(topic, "exchange") == topology::EVENTS;
            is_it && !["", ".*", "^.*$"].contains(&pattern)
        })
    };
    let users = list(&permissions).iter().filter(may_publish);
    let users = users.map(|permission| text(permission, "user"));
    let open: Vec<_> = users
        .filter(|user| *user != management.user && !is_restricted(user))
        .collect();
    match open.first() {
        None => Finding::fine(what, "every producer publishes for its own tenant only"),
        Some(user) => Finding::wrong(
            what,
            format!("may publish events of every tenant: {}", open.join(", ")),
            format!(
                "rabbitmqctl set_topic_permissions -p '{vhost}' {user} {} '^TENANT\\.[!-~]+$' '^$'",
                topology::EVENTS
            ),
        ),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

/// Of states that take a cluster to bring about. `tests/tests/doctor.rs` brings about the others.
#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(found: &[Finding]) -> Vec<String> {
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_server_that_the_tests_do_not_run_on_is_too_old() {
        for (number, is_wrong) in [
            ("3.9.29", true),
            ("", true),
            ("3.10.8", false),
            ("4.0.5", false),
        ] {
            let finding = of_version(number);
            assert_eq!(finding.is_wrong(), is_wrong, "{finding}");
        }
    }

    #[test]
    fn each_node_that_is_down_or_cut_off_or_full_is_named() {
        let healthy =
            json!({"name": "rabbit@a", "running": true, "mem_alarm": false, "partitions": []});
        let found = of_nodes(std::slice::from_ref(&healthy));
        assert_eq!(
            texts(&found),
            ["ok       RabbitMQ's nodes: 1 running, without alarms"]
        );
        let nodes = [
            healthy,
            json!({"name": "rabbit@b", "running": false}),
            json!({"name": "rabbit@c", "running": true, "disk_free_alarm": true, "partitions": ["rabbit@a"]}),
        ];
        let found = of_nodes(&nodes);
        assert!(found.iter().all(Finding::is_wrong));
        let found = texts(&found);
        assert_eq!(found.len(), 3, "{found:?}");
        for (finding, (problem, fix)) in found.iter().zip([
            ("rabbit@b doesn't run", "start rabbit@b"),
            ("rabbit@c has a disk alarm", "free disk space"),
            ("rabbit@c sees a network partition", "restart rabbit@c"),
        ]) {
            assert!(
                finding.contains(problem) && finding.contains(fix),
                "{finding}"
            );
        }
    }

    #[test]
    fn a_queue_that_a_node_takes_along_is_named() {
        let queue = |members: usize, online: usize| {
            let nodes: Vec<_> = (0..members).map(|n| format!("rabbit@{n}")).collect();
            json!({"name": topology::PARKING_QUEUE, "members": nodes, "online": &nodes[..online]})
        };
        for (nodes, members, online, problem) in [
            (1, 1, 1, None),
            (3, 3, 3, None),
            // A majority of two survives no node, but a cluster of two has no better.
            (2, 2, 2, None),
            (3, 3, 2, Some("2 of 3 replicas of")),
            (3, 1, 1, Some("1 of 3 replicas: it is lost with a node")),
        ] {
            let queue = queue(members, online);
            let found = replicas(nodes, &[(&queue, false)]);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].is_wrong(), problem.is_some(), "{}", found[0]);
            let found = found[0].to_string();
            assert!(
                found.contains(problem.unwrap_or("RabbitMQ's replicas")),
                "{found}"
            );
        }
        // Classic queues have no replicas.
        let classic = json!({"name": topology::PARKING_QUEUE});
        assert!(!replicas(3, &[(&classic, false)])[0].is_wrong());
    }
}
