//! The index's promises, and the index against a plain scan of all webhooks.

use std::time::{Duration, Instant};

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::json;

use super::*;

/// Ids are numbers here; a webhook's payload says which version of it this is.
type Webhooks = Index<u8, &'static str>;

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn filter(filter: serde_json::Value) -> Option<Filter> {
    Some(Filter::parse(&filter).unwrap())
}

impl<K: Copy + Eq + Hash, W> Index<K, W> {
    fn matching(&self, tenant: &str, event_type: &str, data: &Data<'_>) -> Vec<&Entry<K, W>> {
        let found = self
            .candidates(tenant, event_type)
            .evaluate(data, MAX_STEPS);
        assert!(found.too_costly.is_empty());
        let entry = |id| &self.tenants[tenant].entries[&self.homes[&id].arrival];
        found.matched.into_iter().map(entry).collect()
    }
}

fn ids<W>(index: &Index<u8, W>, tenant: &str, event_type: &str, data: &str) -> Vec<u8> {
    let matching = index.matching(tenant, event_type, &Data::new(data));
    matching.iter().map(|entry| entry.id).collect()
}

#[test]
fn an_event_is_for_the_webhooks_of_its_tenant_that_listen_to_its_type() {
    let mut index = Webhooks::new();
    index.upsert(1, "acme", patterns(&["order.created"]), None, "");
    index.upsert(2, "acme", patterns(&["order.*"]), None, "");
    index.upsert(3, "acme", patterns(&["*"]), None, "");
    index.upsert(4, "acme", patterns(&["item-*", "user.created"]), None, "");
    index.upsert(5, "acme", vec![], None, "");
    index.upsert(6, "other", patterns(&["order.created", "*"]), None, "");
    for (tenant, event_type, expected) in [
        ("acme", "order.created", &[1, 2, 3][..]),
        ("acme", "order.created.late", &[2, 3]),
        ("acme", "order", &[3]),
        ("acme", "item-checkout", &[3, 4]),
        ("acme", "user.created", &[3, 4]),
        ("other", "order.created", &[6]),
        ("nobody", "order.created", &[]),
    ] {
        assert_eq!(
            ids(&index, tenant, event_type, "{}"),
            expected,
            "{tenant} {event_type}"
        );
    }
}

#[test]
fn a_webhook_with_several_patterns_for_a_type_matches_once() {
    let mut index = Webhooks::new();
    let all = ["*", "a.*", "a.b.*", "a.b.c", "a.b.c"];
    index.upsert(1, "acme", patterns(&all), None, "");
    assert_eq!(ids(&index, "acme", "a.b.c", "{}"), [1]);
}

#[test]
fn an_upsert_replaces_the_whole_webhook_and_keeps_its_place() {
    let mut index = Webhooks::new();
    index.upsert(1, "acme", patterns(&["a"]), filter(json!({"x": 1})), "old");
    index.upsert(2, "acme", patterns(&["b"]), None, "");
    index.upsert(1, "acme", patterns(&["b"]), None, "new");
    assert!(ids(&index, "acme", "a", r#"{"x": 1}"#).is_empty());
    assert_eq!(ids(&index, "acme", "b", "{}"), [1, 2]);
    assert_eq!(
        index.matching("acme", "b", &Data::new("{}"))[0].payload,
        "new"
    );
    index.upsert(1, "other", patterns(&["b"]), None, "moved");
    assert_eq!(ids(&index, "acme", "b", "{}"), [2]);
    assert_eq!(ids(&index, "other", "b", "{}"), [1]);
    assert_eq!(index.len(), 2);
}

#[test]
fn a_removed_webhook_leaves_nothing_behind() {
    let mut index = Webhooks::new();
    index.upsert(1, "acme", patterns(&["a", "a.*", "*", "a"]), None, "");
    index.upsert(2, "acme", patterns(&["a", "a.*", "*"]), None, "");
    assert!(index.remove(1));
    assert!(!index.remove(1));
    assert_eq!(ids(&index, "acme", "a", "{}"), [2]);
    index.upsert(2, "acme", patterns(&["b.*"]), None, "");
    let tenant = &index.tenants["acme"];
    assert!(tenant.exact.is_empty() && tenant.all.is_empty() && tenant.prefix.len() == 1);
    assert!(index.remove(2));
    assert!(index.is_empty() && index.tenants.is_empty());
}

#[test]
fn data_is_parsed_only_if_a_candidate_has_a_filter_and_then_once() {
    let mut index = Webhooks::new();
    index.upsert(1, "acme", patterns(&["a"]), None, "");
    index.upsert(2, "acme", patterns(&["b"]), filter(json!({"x": 1})), "");
    index.upsert(3, "acme", patterns(&["b"]), filter(json!({"x": 2})), "");
    index.upsert(4, "other", patterns(&["a"]), filter(json!({"x": 1})), "");
    let data = Data::new(r#"{"x": 1}"#);
    assert_eq!(index.matching("acme", "a", &data).len(), 1);
    assert!(!data.was_parsed());
    assert_eq!(index.matching("acme", "b", &data).len(), 1);
    assert!(data.was_parsed());
    let first: *const _ = data.value().unwrap();
    index.matching("acme", "b", &data);
    assert!(std::ptr::eq(first, data.value().unwrap()));
}

#[test]
fn data_that_no_filter_can_read_still_goes_to_webhooks_without_one() {
    let mut index = Webhooks::new();
    index.upsert(1, "acme", patterns(&["a"]), None, "");
    index.upsert(2, "acme", patterns(&["a"]), filter(json!({})), "");
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    for unreadable in [&deep, r#"{"n": 1e999}"#, "{", ""] {
        assert_eq!(ids(&index, "acme", "a", unreadable), [1]);
        let explained = index.explain("acme", "a", &Data::new(unreadable));
        assert!(matches!(&explained[0].1, Explanation::Matched { .. }));
        assert!(matches!(&explained[1].1, Explanation::Unreadable { why } if !why.is_empty()));
    }
}

#[test]
fn every_webhook_of_the_tenant_is_explained() {
    let mut index = Webhooks::new();
    index.upsert(
        1,
        "acme",
        patterns(&["order.*"]),
        filter(json!({"total": {"$gt": 5}})),
        "",
    );
    index.upsert(
        2,
        "acme",
        patterns(&["user.*"]),
        filter(json!({"total": {"$gt": 5}})),
        "",
    );
    index.upsert(
        3,
        "acme",
        patterns(&["*"]),
        filter(json!({"total": {"$gt": 1}})),
        "",
    );
    index.upsert(4, "other", patterns(&["*"]), None, "");
    let explained = index.explain("acme", "order.created", &Data::new(r#"{"total": 4}"#));
    let told: Vec<_> = explained
        .iter()
        .map(|(entry, told)| (entry.id, json!(told)))
        .collect();
    let refused = json!({
        "result": "refused", "pattern": "order.*",
        "at": "/total/$gt", "clause": "total $gt 5", "found": "4",
    });
    let not_listening = json!({"result": "not_listening"});
    let matched = json!({
        "result": "matched", "pattern": "*",
        "clauses": [{"at": "/total/$gt", "clause": "total $gt 1", "found": "4"}],
    });
    assert_eq!(told, [(1, refused), (2, not_listening), (3, matched)]);
    assert!(index.explain("nobody", "a", &Data::new("{}")).is_empty());
}

/// Time is a poor witness, so the margin is wide: a scan would take seconds.
#[test]
fn cost_does_not_grow_with_webhooks_that_do_not_listen() {
    let mut index = Index::new();
    for n in 0..20_000_u32 {
        let tenant = if n % 2 == 0 {
            "acme"
        } else {
            &format!("tenant{n}")
        };
        let own = [format!("type{n}.created"), format!("type{n}.*")];
        let own = own.iter().map(|text| text.parse().unwrap()).collect();
        index.upsert(n, tenant, own, filter(json!({"x": 1})), ());
    }
    index.upsert(99_999, "acme", patterns(&["order.created"]), None, ());
    let data = Data::new("{}");
    let start = Instant::now();
    for _ in 0..10_000 {
        assert_eq!(index.matching("acme", "order.created", &data).len(), 1);
    }
    assert!(!data.was_parsed());
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

/// What a scan of all webhooks, one by one, would need to know.
struct Known {
    id: u8,
    tenant: &'static str,
    patterns: Vec<&'static str>,
    /// The filter demands that `x` be this.
    x: Option<i64>,
}

impl Known {
    fn listens(&self, event_type: &str) -> bool {
        self.patterns
            .iter()
            .any(|pattern| match pattern.split_once('*') {
                Some((start, _)) => {
                    event_type.get(..start.len()) == Some(start) && event_type != start
                }
                None => *pattern == event_type,
            })
    }
}

#[derive(Clone, Debug)]
enum Change {
    Upsert(u8, &'static str, Vec<&'static str>, Option<i64>),
    Remove(u8),
}

fn tenant() -> impl Strategy<Value = &'static str> {
    select(vec!["acme", "acm", "other"])
}

fn change() -> impl Strategy<Value = Change> {
    let texts = vec![
        "a", "b", "a.b", "a.b.c", "a-b", "a.b-c", "aa.b", "*", "a.*", "a.b.*", "a-*", "a.b-*",
        "b.*", "aa.*",
    ];
    let x = prop_oneof![Just(None), (0..2_i64).prop_map(Some)];
    prop_oneof![
        4 => (0..12_u8, tenant(), vec(select(texts), 0..4), x)
            .prop_map(|(id, tenant, patterns, x)| Change::Upsert(id, tenant, patterns, x)),
        1 => (0..12_u8).prop_map(Change::Remove),
    ]
}

fn event_type() -> impl Strategy<Value = &'static str> {
    select(vec![
        "a", "b", "a.", "a-", "a.b", "a.b.c", "a.b.c.d", "a-b", "a-b.c", "a.b-c", "a.b-", "aa",
        "aa.b", "b.a", "é.b", "a.é",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_index_finds_what_a_scan_of_all_webhooks_finds(
        changes in vec(change(), 0..40),
        events in vec((tenant(), event_type(), 0..2_i64), 1..20),
    ) {
        let mut index = Index::new();
        let mut known: Vec<Known> = Vec::new();
        for change in changes {
            match change {
                Change::Upsert(id, tenant, texts, x) => {
                    let condition = x.and_then(|x| filter(json!({"x": x})));
                    index.upsert(id, tenant, patterns(&texts), condition, x);
                    let now = Known { id, tenant, patterns: texts, x };
                    match known.iter_mut().find(|known| known.id == id) {
                        Some(known) => *known = now,
                        None => known.push(now),
                    }
                }
                Change::Remove(id) => {
                    let was_there = known.iter().any(|known| known.id == id);
                    prop_assert_eq!(index.remove(id), was_there);
                    known.retain(|known| known.id != id);
                }
            }
            prop_assert_eq!(index.len(), known.len());
        }
        for (tenant, event_type, x) in events {
            let text = json!({"x": x}).to_string();
            let of_tenant: Vec<_> = known.iter().filter(|known| known.tenant == tenant).collect();
            let wants = |known: &&&Known| known.listens(event_type) && known.x.is_none_or(|own| own == x);
            let expected: Vec<_> = of_tenant.iter().filter(wants).map(|known| known.id).collect();
            prop_assert_eq!(ids(&index, tenant, event_type, &text), expected);

            let data = Data::new(&text);
            let explained = index.explain(tenant, event_type, &data);
            prop_assert_eq!(explained.len(), of_tenant.len());
            for ((entry, told), known) in explained.iter().zip(of_tenant) {
                prop_assert_eq!(entry.id, known.id);
                prop_assert_eq!(entry.payload, known.x);
                let as_known = match told {
                    Explanation::Matched { pattern, .. } => {
                        pattern.parse::<Pattern>().unwrap().listens_to(event_type) && wants(&&known)
                    }
                    Explanation::NotListening => !known.listens(event_type),
                    Explanation::Refused { .. } => known.listens(event_type) && !wants(&&known),
                    Explanation::Unreadable { .. } => false,
                };
                prop_assert!(as_known, "{:?}", told);
            }
        }
    }
}
