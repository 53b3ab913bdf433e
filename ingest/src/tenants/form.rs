//! What may be declared of a tenant.

use serde::Deserialize;
use shared::dialect::Dialects;
use shared::egress::is_name;
use shared::ids::Tenant;
use shared::tenant::LARGEST_MAX_PAYLOAD;
use utoipa::ToSchema;

use crate::form::{check_dialect, object, present};
use crate::invalid::{Gathered, Invalid, Invalids};

/// The longest name, in bytes.
const MAX_NAME: usize = 256;
/// The most origins that may frame a tenant's portal.
const MAX_ORIGINS: usize = 10;
/// The highest limit on webhooks.
const MAX_WEBHOOKS: i32 = 100_000;
/// The highest limit on deliveries an hour.
const MAX_DELIVERIES: i32 = 100_000_000;
/// The highest limit on a delivery's age, in seconds.
const WEEK: i32 = 7 * 86_400;

/// A new tenant. Only its id is needed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// The id in events' routing keys and in `X-Tenant-ID`. It can't be changed.
    #[schema(value_type = Tenant)]
    id: String,
    /// A text for people.
    #[schema(max_length = 256, example = "Acme Ltd")]
    name: Option<String>,
    /// The dialect of webhooks that choose none; `standard` by default.
    #[schema(example = "standard")]
    dialect: Option<String>,
    #[serde(default, deserialize_with = "object")]
    limits: NewLimits,
    #[serde(default, deserialize_with = "object")]
    alerts: NewAlerts,
    /// Whether only event types of its catalogue may be published and subscribed to.
    strict_event_types: Option<bool>,
    /// Origins whose pages may have its portal in a frame, at most 10; nobody by default.
    #[schema(max_items = 10, example = json!(["https://app.example.com"]))]
    frame_ancestors: Option<Vec<String>>,
    /// The name of a proxy in `EGRESS_PROXIES`; by default deliveries leave through `EGRESS_PROXY`,
    /// or directly.
    #[serde(default, alias = "egressProxy", deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 63, example = "eu")]
    egress_proxy: Option<Option<String>>,
}

/// Changes to a tenant. A member that isn't sent stays as it is.
#[derive(Deserialize, ToSchema)]
#[schema(as = TenantChange)]
#[serde(deny_unknown_fields)]
pub struct TenantChange {
    /// A text for people.
    #[schema(max_length = 256, example = "Acme Ltd")]
    pub name: Option<String>,
    /// The dialect of webhooks that choose none.
    #[schema(example = "standard")]
    pub dialect: Option<String>,
    /// The new limits.
    #[serde(default, deserialize_with = "object")]
    pub limits: NewLimits,
    /// When operational events tell of a webhook.
    #[serde(default, deserialize_with = "object")]
    pub alerts: NewAlerts,
    /// Whether only event types of its catalogue may be published and subscribed to.
    pub strict_event_types: Option<bool>,
    /// Origins whose pages may have its portal in a frame, at most 10.
    #[schema(max_items = 10, example = json!(["https://app.example.com"]))]
    pub frame_ancestors: Option<Vec<String>>,
    /// The name of a proxy in `EGRESS_PROXIES`; `null`: `EGRESS_PROXY`, if it is set.
    #[serde(default, alias = "egressProxy", deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 63, example = "eu")]
    pub egress_proxy: Option<Option<String>>,
}

/// New limits of a tenant. `null` restores a limit's default.
#[derive(Deserialize, Default, ToSchema)]
#[schema(as = NewTenantLimits)]
#[serde(deny_unknown_fields)]
pub struct NewLimits {
    /// The most webhooks; 100 by default.
    #[schema(minimum = 0, maximum = 100_000, example = 100)]
    pub webhooks: Option<i32>,
    /// The most attempts in any hour, over all webhooks; no limit by default.
    #[serde(default, alias = "deliveriesPerHour", deserialize_with = "present")]
    #[schema(
        value_type = Option<i32>, minimum = 1, maximum = 100_000_000, example = 1000,
        extensions(("x-also" = json!(["deliveriesPerHour"])))
    )]
    pub deliveries_per_hour: Option<Option<i32>>,
    /// The largest data of an event, in bytes; 262,144 by default.
    #[serde(default, alias = "payloadBytes", deserialize_with = "present")]
    #[schema(
        value_type = Option<i32>, minimum = 1, maximum = 1_048_576, example = 262_144,
        extensions(("x-also" = json!(["payloadBytes"])))
    )]
    pub payload_bytes: Option<Option<i32>>,
    /// The longest time from an event to its last attempt; the dialect's by default.
    #[serde(default, alias = "maxAgeSeconds", deserialize_with = "present")]
    #[schema(
        value_type = Option<i32>, minimum = 60, maximum = 604_800, example = 604_800,
        extensions(("x-also" = json!(["maxAgeSeconds"])))
    )]
    pub max_age_seconds: Option<Option<i32>>,
}

/// New thresholds of a tenant's operational events. `null` restores a default.
#[derive(Deserialize, Default, ToSchema)]
#[schema(as = NewTenantAlerts)]
#[serde(deny_unknown_fields)]
pub struct NewAlerts {
    /// `webhook.failing`: the share of attempts that fail; 0.05 by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<f64>, minimum = 0.001, maximum = 1.0, example = 0.05)]
    pub failure_rate: Option<Option<f64>>,
    /// `webhook.failing` and `webhook.slow`: the least number of attempts; 20 by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 1_000_000, example = 20)]
    pub min_attempts: Option<Option<i32>>,
    /// `webhook.slow`: the 95th percentile of response times, in milliseconds; 5,000 by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 60_000, example = 5000)]
    pub slow_ms: Option<Option<i32>>,
    /// `webhook.down`: for how long the endpoint is down, in seconds; 60 by default.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i32>, minimum = 0, maximum = 86_400, example = 60)]
    pub down_after_seconds: Option<Option<i32>>,
}

impl NewAlerts {
    fn check(&self, wrong: &mut Gathered) {
        let rate = self.failure_rate.flatten();
        if rate.is_some_and(|rate| !(0.001..=1.0).contains(&rate)) {
            wrong.take::<()>(Err(Invalid::new(
                "alerts.failure_rate",
                "must be between 0.001 and 1",
            )));
        }
        for (field, value, least, most) in [
            ("min_attempts", self.min_attempts.flatten(), 1, 1_000_000),
            ("slow_ms", self.slow_ms.flatten(), 1, 60_000),
            (
                "down_after_seconds",
                self.down_after_seconds.flatten(),
                0,
                86_400,
            ),
        ] {
            if value.is_some_and(|value| !(least..=most).contains(&value)) {
                wrong.take::<()>(Err(Invalid::new(
                    format!("alerts.{field}"),
                    format!("must be between {least} and {most}"),
                )));
            }
        }
    }
}

impl NewLimits {
    fn check(&self, wrong: &mut Gathered) {
        for (field, value, least, most) in [
            ("webhooks", self.webhooks, 0, MAX_WEBHOOKS),
            (
                "deliveries_per_hour",
                self.deliveries_per_hour.flatten(),
                1,
                MAX_DELIVERIES,
            ),
            (
                "payload_bytes",
                self.payload_bytes.flatten(),
                1,
                LARGEST_MAX_PAYLOAD as i32,
            ),
            ("max_age_seconds", self.max_age_seconds.flatten(), 60, WEEK),
        ] {
            if value.is_some_and(|value| !(least..=most).contains(&value)) {
                wrong.take::<()>(Err(Invalid::new(
                    format!("limits.{field}"),
                    format!("must be between {least} and {most}"),
                )));
            }
        }
    }
}

impl NewTenant {
    /// The proxy that it names, as it was sent.
    pub fn egress_proxy(&self) -> Option<&str> {
        self.egress_proxy.as_ref()?.as_deref()
    }

    /// Its id, and the rest of it.
    ///
    /// # Errors
    /// Names each invalid member and its bound.
    pub fn check(self, dialects: &Dialects) -> Result<(Tenant, TenantChange), Invalids> {
        let mut wrong = Gathered::default();
        let id = self.id.parse::<Tenant>();
        let id = wrong.take(id.map(Some).map_err(|error| Invalid::new("id", error)));
        let change = TenantChange {
            name: self.name,
            dialect: self.dialect,
            limits: self.limits,
            alerts: self.alerts,
            strict_event_types: self.strict_event_types,
            frame_ancestors: self.frame_ancestors,
            egress_proxy: self.egress_proxy,
        };
        change.gather(dialects, &mut wrong);
        // There is an id unless an error was gathered.
        match wrong.finish(id)? {
            Some(id) => Ok((id, change)),
            None => Err(Invalids(vec![Invalid::missing("id")])),
        }
    }
}

impl TenantChange {
    /// The proxy that it names, as it was sent.
    pub fn egress_proxy(&self) -> Option<&str> {
        self.egress_proxy.as_ref()?.as_deref()
    }

    /// Checks every member.
    ///
    /// # Errors
    /// Names each invalid member and its bound.
    pub fn check(&self, dialects: &Dialects) -> Result<(), Invalids> {
        let mut wrong = Gathered::default();
        self.gather(dialects, &mut wrong);
        wrong.finish(())
    }

    fn gather(&self, dialects: &Dialects, wrong: &mut Gathered) {
        let unfit = |name: &String| name.len() > MAX_NAME || name.contains('\0');
        if self.name.as_ref().is_some_and(unfit) {
            wrong.take::<()>(Err(Invalid::new(
                "name",
                format!("must be at most {MAX_NAME} bytes, without NUL"),
            )));
        }
        if let Some(dialect) = &self.dialect {
            wrong.take(check_dialect(dialect, dialects));
        }
        let unfit = |name: &String| !is_name(name);
        let proxy = self.egress_proxy.as_ref().and_then(Option::as_ref);
        if proxy.is_some_and(unfit) {
            let bound = "must be 1 to 63 of `a-z`, `0-9`, `_` and `-`";
            wrong.take::<()>(Err(Invalid::new("egress_proxy", bound)));
        }
        self.limits.check(wrong);
        self.alerts.check(wrong);
        let origins = self.frame_ancestors.as_deref().unwrap_or_default();
        if origins.len() > MAX_ORIGINS {
            let bound = format!("must have at most {MAX_ORIGINS} entries");
            wrong.take::<()>(Err(Invalid::new("frame_ancestors", bound)));
        }
        for (at, origin) in origins.iter().enumerate().take(MAX_ORIGINS) {
            wrong.take(check_origin(at, origin));
        }
    }
}

/// An origin as browsers write it: it becomes a part of a header.
fn check_origin(at: usize, origin: &str) -> Result<(), Invalid> {
    let parsed = url::Url::parse(origin).ok();
    let is_web = |url: &&url::Url| matches!(url.scheme(), "https" | "http");
    let written = parsed
        .as_ref()
        .filter(is_web)
        .map(|url| url.origin().ascii_serialization());
    match written {
        Some(written) if written == origin && !origin.contains(['*', ';', ',']) => Ok(()),
        _ => Err(Invalid::new(
            format!("frame_ancestors[{at}]"),
            "must be an origin, such as https://app.example.com, without a path or a trailing slash",
        )),
    }
}
