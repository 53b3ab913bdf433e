//! Events whose id is known, but not their data.
//!
//! Only events that the accepting statement found known are compared, so an event that is
//! new costs nothing here. First sizes and hashes are compared, in PostgreSQL. Only data with
//! another hash is read: a producer may have written the same JSON in another order.
//!
//! A producer can send many events with one known id. So PostgreSQL is asked once for each
//! id and size, it hashes only stored data that has the size of what was sent, stored data is
//! parsed once, and each distinct data is compared once. What a batch reads and parses is
//! bounded for each tenant ([`MAX_READ`]). Beyond it the hash alone decides, so reordered JSON
//! counts as other data.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use deadpool_postgres::{Client, Pool};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shared::ids::{EventUid, Tenant};
use time::{Duration, OffsetDateTime};

use super::{Matched, day_of};
use crate::cpu::run_blocking;
use crate::decode::{Event, Rejected};

/// The most bytes of a tenant's events that a batch reads and parses to compare them. The last
/// comparison may exceed it, so that any two events can be compared. Parsing so much takes
/// about a tenth of a second.
const MAX_READ: usize = 8 << 20;
/// Stands for the hash of stored data that wasn't read.
const NOT_READ: &str = "not known, because too many such events came at once";

/// What came of comparing known events with what was accepted under their ids.
pub struct Compared {
    /// The events that aren't what was accepted.
    pub conflicts: HashMap<EventUid, Rejected>,
    /// How long each event's hashing and comparing took this process, in the order of the events.
    /// Waiting for PostgreSQL is no event's effort.
    pub efforts: Vec<std::time::Duration>,
}

/// Compares these known events with what was accepted under their ids.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn conflicts(
    pool: &Pool,
    now: OffsetDateTime,
    known: &[&Matched],
) -> anyhow::Result<Compared> {
    let client = pool.get().await?;
    let hashes = hashes(known, Instant::now).await;
    let (sent, mut efforts): (Vec<_>, Vec<_>) = hashes.into_iter().unzip();
    let asked = grouped(known);
    let mut comparing = Comparing {
        client: &client,
        read: Read::default(),
        last: None,
        verdicts: HashMap::new(),
        effort: std::time::Duration::ZERO,
    };
    let mut conflicts = HashMap::new();
    let keys: Vec<_> = asked.keys().copied().collect();
    for stored in stored_events(&client, now, &keys).await? {
        let events = keys.get(stored.n).and_then(|key| asked.get(key));
        for &at in events.into_iter().flatten() {
            let (event, sent) = (known[at], &sent[at]);
            let same_type = stored.event_type == event.event.event_type.as_str();
            if !same_type || !comparing.is_same(&stored, event, sent).await? {
                let conflict = Rejected::Conflict {
                    stored: comparing.hash_of(&stored, &event.event.tenant).await?,
                    sent: sent.clone(),
                    stored_type: (!same_type).then(|| stored.event_type.clone()),
                };
                conflicts.insert(event.uid, conflict);
            }
            efforts[at] += std::mem::take(&mut comparing.effort);
        }
    }
    Ok(Compared { conflicts, efforts })
}

/// Tenant, id and size of data.
type Key<'a> = (&'a str, &'a str, i32);

/// The indexes of events in `known`, grouped by what PostgreSQL is asked about.
fn grouped<'a>(known: &[&'a Matched]) -> BTreeMap<Key<'a>, Vec<usize>> {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    for (at, one) in known.iter().enumerate() {
        // A message's size is bounded.
        let size = one.event.data.len() as i32;
        let key = (one.event.tenant.as_str(), one.id.as_str(), size);
        groups.entry(key).or_default().push(at);
    }
    groups
}

/// The hashes of the events' data, and how long each took by this clock. There may be megabytes of
/// data.
async fn hashes(
    known: &[&Matched],
    mut clock: impl FnMut() -> Instant + Send + 'static,
) -> Vec<(String, std::time::Duration)> {
    let events: Vec<_> = known.iter().map(|one| one.event.clone()).collect();
    let hashes = move || {
        let hash = |event: &Arc<Event>| timed(&mut clock, || hash(&event.data));
        events.iter().map(hash).collect()
    };
    run_blocking(hashes).await
}

/// What `work` answers, and how long it took by this clock.
fn timed<T>(
    mut clock: impl FnMut() -> Instant,
    work: impl FnOnce() -> T,
) -> (T, std::time::Duration) {
    let begun = clock();
    let done = work();
    (done, clock() - begun)
}

/// What was accepted under an id.
struct Stored {
    /// The index of its key in the list that PostgreSQL was asked about.
    n: usize,
    uid: EventUid,
    event_type: String,
    bytes: usize,
    /// `None`: it has another size than what was sent.
    hash: Option<String>,
}

/// A subquery with a limit is looked up event by event, in the index on tenant and id of the
/// two days that are compared when an event is accepted. The size of a text is known without
/// reading it.
async fn stored_events(
    client: &Client,
    now: OffsetDateTime,
    asked: &[Key<'_>],
) -> anyhow::Result<Vec<Stored>> {
    let statement = client
        .prepare_cached(
            "-- stored_events\n\
             SELECT k.n, e.uid, e.type, octet_length(e.data) AS bytes, \
                 CASE WHEN octet_length(e.data) = k.bytes \
                     THEN encode(sha256(convert_to(e.data, 'UTF8')), 'hex') END AS hash \
             FROM unnest($1::text[], $2::text[], $3::int4[]) \
                 WITH ORDINALITY AS k (tenant, id, bytes, n) \
             CROSS JOIN LATERAL ( \
                 SELECT uid, type, data FROM events \
                 WHERE tenant = k.tenant AND id = k.id AND uid >= $4::uuid LIMIT 1) e",
        )
        .await?;
    let tenants: Vec<_> = asked.iter().map(|(tenant, ..)| *tenant).collect();
    let ids: Vec<_> = asked.iter().map(|(_, id, _)| *id).collect();
    let sizes: Vec<_> = asked.iter().map(|(.., size)| *size).collect();
    let since = day_of(now - Duration::DAY);
    let rows = client
        .query(&statement, &[&tenants, &ids, &sizes, &since])
        .await?;
    let stored = rows.iter().map(|row| Stored {
        // Ordinality counts from one.
        n: row.get::<_, i64>("n") as usize - 1,
        uid: row.get("uid"),
        event_type: row.get("type"),
        bytes: row.get::<_, i32>("bytes") as usize,
        hash: row.get("hash"),
    });
    let mut stored: Vec<_> = stored.collect();
    // So the copies of one event are compared one after another, and its stored data is read once.
    stored.sort_by_key(|stored| stored.n);
    Ok(stored)
}

/// How many bytes were read and parsed for each tenant.
#[derive(Default)]
struct Read(HashMap<Tenant, usize>);

impl Read {
    /// Whether this many bytes may still be read for the tenant. If so, they count as read.
    fn take(&mut self, tenant: &Tenant, bytes: usize) -> bool {
        let read = self.0.entry(tenant.clone()).or_default();
        let may = *read < MAX_READ;
        if may {
            *read += bytes;
        }
        may
    }
}

/// Stored data, parsed once for all that is compared with it.
struct Parsed {
    text: String,
    hash: String,
    value: Option<Value>,
}

impl Parsed {
    fn new(text: String) -> Self {
        Self {
            hash: hash(&text),
            value: serde_json::from_str(&text).ok(),
            text,
        }
    }

    /// Whether this is the same JSON, perhaps in another order or with other white space.
    fn is(&self, sent: &str) -> bool {
        let sent_value = serde_json::from_str::<Value>(sent).ok();
        match (&self.value, sent_value) {
            // Numbers are parsed with the precision of a double, but delivered to the last digit.
            (Some(x), Some(y)) => *x == y && numbers(&self.text) == numbers(sent),
            _ => false,
        }
    }
}

/// Compares sent data with stored data.
struct Comparing<'c> {
    client: &'c Client,
    read: Read,
    /// The stored data that was read last.
    last: Option<(EventUid, Arc<Parsed>)>,
    /// Whether data is the stored one, by the stored event and the hash of the data.
    verdicts: HashMap<(EventUid, String), bool>,
    /// What the event that is compared took so far.
    effort: std::time::Duration,
}

impl Comparing<'_> {
    async fn is_same(
        &mut self,
        stored: &Stored,
        event: &Matched,
        sent: &str,
    ) -> anyhow::Result<bool> {
        if stored.hash.as_deref() == Some(sent) {
            return Ok(true);
        }
        let key = (stored.uid, sent.to_owned());
        if let Some(verdict) = self.verdicts.get(&key) {
            return Ok(*verdict);
        }
        let (tenant, bytes) = (&event.event.tenant, event.event.data.len());
        let verdict = match self.read_stored(stored, tenant).await? {
            Some(parsed) if self.read.take(tenant, bytes) => {
                let event = event.event.clone();
                let compare = move || timed(Instant::now, || parsed.is(&event.data));
                let (is_same, effort) = run_blocking(compare).await;
                self.effort += effort;
                is_same
            }
            _ => false,
        };
        self.verdicts.insert(key, verdict);
        Ok(verdict)
    }

    /// The hash of the stored data, as far as it may be read.
    async fn hash_of(&mut self, stored: &Stored, tenant: &Tenant) -> anyhow::Result<String> {
        if let Some(hash) = &stored.hash {
            return Ok(hash.clone());
        }
        let parsed = self.read_stored(stored, tenant).await?;
        let hash = parsed.map(|parsed| parsed.hash.clone());
        Ok(hash.unwrap_or_else(|| NOT_READ.to_owned()))
    }

    /// The stored data. `None`: it is gone, or too much was read.
    async fn read_stored(
        &mut self,
        stored: &Stored,
        tenant: &Tenant,
    ) -> anyhow::Result<Option<Arc<Parsed>>> {
        if let Some((_, parsed)) = self.last.as_ref().filter(|(uid, _)| *uid == stored.uid) {
            return Ok(Some(parsed.clone()));
        }
        if !self.read.take(tenant, stored.bytes) {
            return Ok(None);
        }
        let Some(data) = stored_data(self.client, stored.uid).await? else {
            return Ok(None);
        };
        let (parsed, effort) =
            run_blocking(move || timed(Instant::now, || Parsed::new(data))).await;
        self.effort += effort;
        let parsed = Arc::new(parsed);
        self.last = Some((stored.uid, parsed.clone()));
        Ok(Some(parsed))
    }
}

async fn stored_data(client: &Client, uid: EventUid) -> anyhow::Result<Option<String>> {
    let statement = client
        .prepare_cached("-- stored_data\nSELECT data FROM events WHERE uid = $1")
        .await?;
    let row = client.query_opt(&statement, &[&uid]).await?;
    Ok(row.map(|row| row.get(0)))
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
            let stored = Parsed::new(a.to_owned());
            assert_eq!(stored.is(b), same, "{a} {b}");
        }
    }

    #[test]
    fn events_with_one_id_and_size_are_asked_about_once() {
        let event = |id: &str, data: &str| Matched {
            uid: EventUid::generate(),
            id: id.parse().unwrap(),
            event: Arc::new(Event {
                tenant: "acme".parse().unwrap(),
                event_type: "a".parse().unwrap(),
                id: None,
                occurred_at: None,
                data: data.to_owned(),
                attributes: None,
                over_http: false,
                trace: None,
                presumed: None,
            }),
            deliveries: Vec::new(),
            too_costly: Vec::new(),
        };
        let known = [
            event("x", "1"),
            event("y", "1"),
            event("x", "2"),
            event("x", "33"),
        ];
        let known: Vec<_> = known.iter().collect();
        let groups: Vec<_> = grouped(&known).into_iter().collect();
        let expected = [
            (("acme", "x", 1), vec![0, 2]),
            (("acme", "x", 2), vec![3]),
            (("acme", "y", 1), vec![1]),
        ];
        assert_eq!(groups, expected);
    }

    #[test]
    fn what_a_batch_reads_to_compare_is_bounded_for_each_tenant() {
        let mut read = Read::default();
        let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let large = 1 << 20;
        let taken = (0..250).filter(|_| read.take(&acme, large)).count();
        assert_eq!(taken * large, MAX_READ);
        assert!(read.take(&globex, large));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_event_is_charged_for_its_own_hashing() {
        let event = |tenant: &str| Matched {
            uid: EventUid::generate(),
            id: "x".parse().unwrap(),
            event: Arc::new(Event {
                tenant: tenant.parse().unwrap(),
                event_type: "a".parse().unwrap(),
                id: None,
                occurred_at: None,
                data: "1".to_owned(),
                attributes: None,
                over_http: false,
                trace: None,
                presumed: None,
            }),
            deliveries: Vec::new(),
            too_costly: Vec::new(),
        };
        // When the first one begins and ends, and when the second one does.
        let begin = Instant::now();
        let mut readings = [0, 5, 100, 107].into_iter();
        let clock = move || begin + std::time::Duration::from_secs(readings.next().unwrap());
        let hashes = hashes(&[&event("acme"), &event("globex")], clock).await;
        let seconds: Vec<_> = hashes.iter().map(|(_, effort)| effort.as_secs()).collect();
        assert_eq!(seconds, [5, 7]);
    }
}
