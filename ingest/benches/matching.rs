//! Matching alone, with 100,000 webhooks in the index: how long it takes to find the ten
//! that want an event, and what a webhook takes of memory.
//!
//! `cargo bench --workspace --bench matching --features posthorn-ingest/criterion`

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)] // Its output is its purpose.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ingest::matching::filter::MAX_STEPS;
use ingest::matching::{Data, Filter, Index};
use serde_json::{Value, json};
use shared::ids::WebhookId;

const WEBHOOKS: usize = 100_000;
const MATCHING: usize = 10;
/// About a kilobyte, as the events of the other benchmarks.
const PADDING: usize = 900;

type Webhooks = Index<WebhookId, ()>;

/// Who owns the nth webhook, what it listens to, and its filter.
type Kind = fn(usize) -> (String, String, Option<Value>);

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn index(kind: Kind) -> Webhooks {
    let mut index = Webhooks::new();
    for n in 0..WEBHOOKS {
        let (tenant, pattern, filter) = kind(n);
        let patterns = vec![pattern.parse().unwrap()];
        let filter = filter.map(|filter| Filter::parse(&filter).unwrap());
        index.upsert(WebhookId::generate(), &tenant, patterns, filter, ());
    }
    index
}

/// The nth group of ten.
fn group(n: usize) -> usize {
    n / MATCHING
}

fn matching(criterion: &mut Criterion) {
    let kinds: [(&str, Kind); 5] = [
        ("exact, one tenant", |n| {
            (
                "acme".to_owned(),
                format!("order.created.{}", group(n)),
                None,
            )
        }),
        ("wildcard, one tenant", |n| {
            (
                "acme".to_owned(),
                format!("order.created.{}.*", group(n)),
                None,
            )
        }),
        ("exact, 10,000 tenants", |n| {
            (
                format!("t{}", group(n)),
                "order.created.7.late".to_owned(),
                None,
            )
        }),
        ("everything, 10,000 tenants", |n| {
            (format!("t{}", group(n)), "*".to_owned(), None)
        }),
        ("filtered, one tenant", |n| {
            let filter = json!({"customer.plan": {"$in": ["pro", "team"]}, "total": {"$gte": 20}});
            (
                "acme".to_owned(),
                format!("order.created.{}", group(n)),
                Some(filter),
            )
        }),
    ];
    let data = json!({
        "order": 4711, "customer": {"id": "c_81", "plan": "pro"}, "total": 25.0,
        "note": "x".repeat(PADDING),
    })
    .to_string();
    for (name, kind) in kinds {
        let before = resident();
        let index = index(kind);
        let each = resident().saturating_sub(before) / WEBHOOKS;
        println!("{name}: {each} bytes a webhook");
        let (tenant, event_type) = match name {
            "exact, 10,000 tenants" | "everything, 10,000 tenants" => {
                ("t7", "order.created.7.late")
            }
            "wildcard, one tenant" => ("acme", "order.created.7.late"),
            _ => ("acme", "order.created.7"),
        };
        let find = || {
            let candidates = index.candidates(tenant, event_type);
            candidates.evaluate(&Data::new(&data), MAX_STEPS)
        };
        assert_eq!(find().matched.len(), MATCHING);
        criterion.bench_function(name, |bencher| bencher.iter(|| black_box(find())));
    }
}

criterion_group!(benches, matching);
criterion_main!(benches);
