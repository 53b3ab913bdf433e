//! Events whose id is known, but not their data.
//!
//! Only events that the accepting statement found known are compared, so an event that is
//! new costs nothing here. First their hashes are compared, in PostgreSQL. Only data with
//! another hash is read: a producer may have written the same JSON in another order.

use std::collections::HashMap;

use deadpool_postgres::{Client, Pool};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shared::ids::EventUid;
use time::{Duration, OffsetDateTime};

use super::{Matched, day_of};
use crate::cpu::run_blocking;
use crate::decode::Rejected;

/// The events among these known ones that aren't what was accepted under their ids.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn conflicts(
    pool: &Pool,
    now: OffsetDateTime,
    known: &[&Matched],
) -> anyhow::Result<HashMap<EventUid, Rejected>> {
    let client = pool.get().await?;
    let mut conflicts = HashMap::new();
    for stored in stored_events(&client, now, known).await? {
        let Some(event) = known.get(stored.n) else {
            continue;
        };
        let sent = hash(&event.event.data);
        let same_type = stored.event_type == event.event.event_type.as_str();
        if same_type && (stored.hash == sent || is_same(&client, &stored, event).await?) {
            continue;
        }
        let conflict = Rejected::Conflict {
            stored: stored.hash,
            sent,
            stored_type: (!same_type).then_some(stored.event_type),
        };
        conflicts.insert(event.uid, conflict);
    }
    Ok(conflicts)
}

/// What was accepted under an id.
struct Stored {
    /// The event's place in the list that was asked about.
    n: usize,
    uid: EventUid,
    event_type: String,
    hash: String,
}

/// A subquery with a limit is looked up event by event, in the index on tenant and id of the
/// two days that are compared when an event is accepted.
async fn stored_events(
    client: &Client,
    now: OffsetDateTime,
    known: &[&Matched],
) -> anyhow::Result<Vec<Stored>> {
    let statement = client
        .prepare_cached(
            "-- stored_events\n\
             SELECT k.n, e.uid, e.type, encode(sha256(convert_to(e.data, 'UTF8')), 'hex') AS hash \
             FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (tenant, id, n) \
             CROSS JOIN LATERAL ( \
                 SELECT uid, type, data FROM events \
                 WHERE tenant = k.tenant AND id = k.id AND uid >= $3::uuid LIMIT 1) e",
        )
        .await?;
    let tenants: Vec<_> = known.iter().map(|one| one.event.tenant.as_str()).collect();
    let ids: Vec<_> = known.iter().map(|one| one.id.as_str()).collect();
    let since = day_of(now - Duration::DAY);
    let rows = client.query(&statement, &[&tenants, &ids, &since]).await?;
    let stored = rows.iter().map(|row| Stored {
        // Ordinality counts from one.
        n: row.get::<_, i64>("n") as usize - 1,
        uid: row.get("uid"),
        event_type: row.get("type"),
        hash: row.get("hash"),
    });
    Ok(stored.collect())
}

/// Whether the stored data is the same JSON in another order or with other white space.
async fn is_same(client: &Client, stored: &Stored, event: &Matched) -> anyhow::Result<bool> {
    let statement = client
        .prepare_cached("-- stored_data\nSELECT data FROM events WHERE uid = $1")
        .await?;
    let Some(row) = client.query_opt(&statement, &[&stored.uid]).await? else {
        return Ok(false);
    };
    let (stored, sent): (String, _) = (row.get(0), event.event.data.clone());
    Ok(run_blocking(move || same_json(&stored, &sent)).await)
}

fn same_json(a: &str, b: &str) -> bool {
    let parsed = |text| serde_json::from_str::<Value>(text).ok();
    match (parsed(a), parsed(b)) {
        // Numbers are parsed with the precision of a double, but delivered to the last digit.
        (Some(x), Some(y)) => x == y && numbers(a) == numbers(b),
        _ => false,
    }
}

/// The numbers in a JSON text as they are written, sorted.
fn numbers(text: &str) -> Vec<&str> {
    let is_of_number = |b: u8| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E');
    let bytes = text.as_bytes();
    let (mut found, mut at, mut in_string) = (Vec::new(), 0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'-' | b'0'..=b'9' if !in_string => {
                let length = bytes[at..].iter().take_while(|b| is_of_number(**b)).count();
                found.push(&text[at..at + length]);
                at += length;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found.sort_unstable();
    found
}

fn hash(data: &str) -> String {
    hex::encode(Sha256::digest(data.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_same_whatever_its_order_and_white_space_but_to_the_last_digit() {
        for (a, b, same) in [
            (
                r#"{"a":1,"b":[2,{"c":"x"}]}"#,
                r#"{ "b": [2, {"c": "\u0078"}], "a": 1 }"#,
                true,
            ),
            (r#"{"a":"1\"2"}"#, r#"{"a":"1\"2"}"#, true),
            (r#"{"a":1}"#, r#"{"a":2}"#, false),
            (r#"{"a":25.00}"#, r#"{"a":25.0}"#, false),
            (
                r#"{"a":12345678901234567891.5}"#,
                r#"{"a":12345678901234567892.5}"#,
                false,
            ),
            (r#"[1,2]"#, r#"[2,1]"#, false),
            (r#"{"a":1e999}"#, r#"{ "a":1e999}"#, false),
        ] {
            assert_eq!(same_json(a, b), same, "{a} {b}");
        }
    }
}
