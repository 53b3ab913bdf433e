//! Compares what a file declares with what is stored, member by member.
//!
//! Members that are the same are taken out of the declaration, so they are neither
//! printed nor written.

use serde::Serialize;
use serde_json::{Value, json};
use shared::operational::Thresholds;

use crate::event_types::store;
use crate::tenants::form::{NewAlerts, TenantChange};
use crate::tenants::view::{Alerts, TenantView};

/// The most characters of a value that are shown.
const MAX_SHOWN: usize = 100;

/// The members that differ, a line each.
pub struct Difference {
    /// The thing is new: only new values are shown.
    of_new: bool,
    /// `url: "https://a.example/" → "https://b.example/"`
    pub lines: Vec<String>,
}

impl Difference {
    /// Without a line yet.
    pub(super) fn new(is_new: bool) -> Self {
        Self {
            of_new: is_new,
            lines: Vec::new(),
        }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Compares a member. If it is the same, it is taken out of the declaration.
    pub fn member<T: Serialize>(&mut self, name: &str, now: &T, wanted: &mut Option<T>) {
        let Some(to) = wanted else { return };
        let (now, to) = (json!(now), json!(to));
        if same(&now, &to) {
            *wanted = None;
        } else {
            self.line(name, &shown(&now), &shown(&to));
        }
    }

    /// Adds a line for a member whose values are shown in another form, or masked.
    pub fn line(&mut self, name: &str, now: &str, to: &str) {
        self.lines.push(if self.of_new {
            format!("{name}: {to}")
        } else {
            format!("{name}: {now} → {to}")
        });
    }
}

/// Compares a tenant; `None`: it is new.
pub fn tenant(now: Option<&TenantView>, mut wanted: TenantChange) -> (TenantChange, Difference) {
    let mut difference = Difference::new(now.is_none());
    let limits = &mut wanted.limits;
    match now {
        Some(now) => {
            difference.member("name", &now.name, &mut wanted.name);
            difference.member("dialect", &now.dialect, &mut wanted.dialect);
            let now_of = &now.limits;
            difference.member("limits.webhooks", &now_of.webhooks, &mut limits.webhooks);
            difference.member(
                "limits.deliveries_per_hour",
                &now_of.deliveries_per_hour,
                &mut limits.deliveries_per_hour,
            );
            // An unset limit is shown as the default.
            let is_default = limits.payload_bytes == Some(None)
                && now_of.payload_bytes == shared::tenant::MAX_PAYLOAD as i32;
            if is_default {
                limits.payload_bytes = None;
            }
            let payload_bytes = Some(now_of.payload_bytes);
            difference.member(
                "limits.payload_bytes",
                &payload_bytes,
                &mut limits.payload_bytes,
            );
            difference.member(
                "limits.max_age_seconds",
                &now_of.max_age_seconds,
                &mut limits.max_age_seconds,
            );
            alerts(&mut difference, &now.alerts, &mut wanted.alerts);
            difference.member(
                "strict_event_types",
                &now.strict_event_types,
                &mut wanted.strict_event_types,
            );
            let origins = &mut wanted.frame_ancestors;
            difference.member("frame_ancestors", &now.frame_ancestors, origins);
            difference.member("egress_proxy", &now.egress_proxy, &mut wanted.egress_proxy);
        }
        None => {
            let mut said = |name: &str, value: Value| {
                if !value.is_null() {
                    difference.line(name, "", &shown(&value));
                }
            };
            said("name", json!(wanted.name));
            said("dialect", json!(wanted.dialect));
            said("limits.webhooks", json!(limits.webhooks));
            said(
                "limits.deliveries_per_hour",
                json!(limits.deliveries_per_hour),
            );
            said("limits.payload_bytes", json!(limits.payload_bytes));
            said("limits.max_age_seconds", json!(limits.max_age_seconds));
            let alerts = &wanted.alerts;
            said("alerts.failure_rate", json!(alerts.failure_rate));
            said("alerts.min_attempts", json!(alerts.min_attempts));
            said("alerts.slow_ms", json!(alerts.slow_ms));
            said(
                "alerts.down_after_seconds",
                json!(alerts.down_after_seconds),
            );
            said("strict_event_types", json!(wanted.strict_event_types));
            said("frame_ancestors", json!(wanted.frame_ancestors));
            said("egress_proxy", json!(wanted.egress_proxy));
        }
    }
    (wanted, difference)
}

/// Thresholds that aren't set are shown as their defaults.
fn alerts(difference: &mut Difference, now: &Alerts, wanted: &mut NewAlerts) {
    let default = Thresholds::default();
    macro_rules! member {
        ($member:ident, $default:expr) => {
            if wanted.$member == Some(None) && now.$member == $default {
                wanted.$member = None;
            }
            let now = Some(now.$member);
            let name = concat!("alerts.", stringify!($member));
            difference.member(name, &now, &mut wanted.$member);
        };
    }
    member!(failure_rate, default.failure_rate);
    member!(min_attempts, default.min_attempts as i32);
    member!(slow_ms, default.slow.as_millis() as i32);
    member!(down_after_seconds, default.down_after.as_secs() as i32);
}

/// Compares an event type; `None`: it is new.
pub fn event_type(now: Option<&store::EventTypeView>, wanted: &store::Entry) -> Difference {
    let mut difference = Difference::new(now.is_none());
    let value = |text: Option<&str>| -> Value {
        // Both were JSON when they were checked.
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    };
    let members = |description: &str, example, schema, archived: bool| {
        [
            ("description", json!(description)),
            ("example", value(example)),
            ("schema", value(schema)),
            ("archived", json!(archived)),
        ]
    };
    let before = match now {
        None => members("", None, None, false),
        Some(now) => members(
            &now.description,
            now.example.as_ref().map(|json| json.get()),
            now.schema.as_ref().map(|json| json.get()),
            now.archived,
        ),
    };
    let after = members(
        &wanted.description,
        wanted.example.as_deref(),
        wanted.schema.as_deref(),
        wanted.archived,
    );
    for ((name, now), (_, to)) in before.into_iter().zip(after) {
        difference.member(name, &now, &mut Some(to));
    }
    difference
}

/// Whether two JSON values mean the same: PostgreSQL writes a number in its own
/// way, so `1e16` comes back as a whole number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || a.as_f64() == b.as_f64() && is_float(a, b)
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let in_b =
                |(name, value): (&String, &Value)| b.get(name).is_some_and(|b| same(value, b));
            a.len() == b.len() && a.iter().all(in_b)
        }
        _ => a == b,
    }
}

/// Whole numbers are compared as such: as floats, near ones would be equal.
fn is_float(a: &serde_json::Number, b: &serde_json::Number) -> bool {
    a.is_f64() || b.is_f64()
}

/// As JSON, cut; `none` for what isn't there.
fn shown(value: &Value) -> String {
    if value.is_null() {
        return "none".to_owned();
    }
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_however_they_are_written() {
        for (a, b) in [
            ("1e16", "10000000000000000"),
            ("25.00", "25"),
            ("-0.0", "0"),
        ] {
            let value = |text| json!({ "a": [serde_json::from_str::<Value>(text).ok()] });
            assert!(same(&value(a), &value(b)), "{a} and {b}");
        }
        for (a, b) in [
            (
                json!(9_007_199_254_740_993_u64),
                json!(9_007_199_254_740_992_u64),
            ),
            (json!({"a": 1}), json!({"b": 1})),
            (json!([1]), json!([1, 2])),
            (json!(1), json!("1")),
        ] {
            assert!(!same(&a, &b), "{a} and {b}");
        }
    }

    #[test]
    fn what_is_as_it_should_be_is_neither_shown_nor_written() {
        let mut difference = Difference::new(false);
        let (mut url, mut name) = (Some("b"), Some("n"));
        difference.member("url", &"a", &mut url);
        difference.member("name", &"n", &mut name);
        difference.member("unsaid", &"x", &mut None);
        assert_eq!(difference.lines, [r#"url: "a" → "b""#]);
        assert_eq!((url, name), (Some("b"), None));
    }

    #[test]
    fn what_is_long_is_cut() {
        let long = shown(&json!("ä".repeat(500)));
        assert_eq!(long.chars().count(), MAX_SHOWN + 1);
    }
}
