//! The doctor's check of RabbitMQ's consumer timeout: how long a consumer may hold a message before
//! RabbitMQ ends its session.
//!
//! A policy can set it for a queue, and the management API shows policies. The node's own setting, which
//! holds for all other queues, is in no API: only a command on the node prints it. So without a policy
//! the finding is unknown, and names that command.

use serde_json::Value;

use super::report::Finding;

/// In milliseconds; RabbitMQ's default. A shorter time would end the session of a dispatcher that waits
/// for PostgreSQL.
pub(super) const LEAST: i64 = 1_800_000;

/// `queues`: Posthorn's, as the management API shows them.
pub(super) fn consumer_timeout<'a>(queues: impl IntoIterator<Item = &'a Value>) -> Finding {
    let what = "RabbitMQ's consumer timeout";
    let of_policies: Option<Vec<i64>> = queues
        .into_iter()
        .map(|queue| queue["effective_policy_definition"]["consumer-timeout"].as_i64())
        .collect();
    match of_policies.unwrap_or_default().into_iter().min() {
        // The check of policies names it.
        Some(shortest) if shortest < LEAST => Finding::unknown(
            what,
            "a policy makes it too short, see above",
            node_command(),
        ),
        Some(shortest) => Finding::fine(
            what,
            format!("policies set it to {shortest} ms or more for every queue"),
        ),
        None => Finding::unknown(
            what,
            format!(
                "no policy sets it, and RabbitMQ shows the nodes' own setting in no API. Its default, \
                 {LEAST} ms, is long enough. If it is shorter, sessions of dispatchers end while \
                 PostgreSQL is away"
            ),
            node_command(),
        ),
    }
}

/// Asks all nodes at once, and prints those whose timeout is too short.
fn node_command() -> String {
    format!(
        "rabbitmqctl eval '[N || N <- [node() | nodes()], {{ok, T}} <- [rpc:call(N, application, get_env, \
         [rabbit, consumer_timeout])], is_integer(T), T < {LEAST}].' prints the nodes where it is too \
         short; `[]` is right"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_known_only_if_a_policy_sets_it_for_every_queue() {
        let of_policy =
            |timeout: i64| json!({"effective_policy_definition": {"consumer-timeout": timeout}});
        let of_node = json!({"effective_policy_definition": {}});
        for (queues, begins) in [
            (vec![of_policy(LEAST), of_policy(3_600_000)], "ok       "),
            (vec![of_policy(3_600_000), of_node.clone()], "unknown  "),
            (vec![of_policy(3_600_000), of_policy(60_000)], "unknown  "),
            (vec![of_node], "unknown  "),
            (vec![], "unknown  "),
        ] {
            let found = consumer_timeout(&queues).to_string();
            assert!(found.starts_with(begins), "{queues:?}: {found}");
        }
    }
}
