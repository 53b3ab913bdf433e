//! Checks a signature for whoever builds a receiver: which step fails, and what it probably is.
//!
//! The request has what the receiver got. Nothing of it is stored or logged. With a known
//! delivery the body is compared with the one that was sent; with the signature that the
//! receiver's own code has computed, typical mistakes in that code are recognised.

mod bodies;
mod form;
mod known;
mod signature;
mod steps;

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use shared::dialect::Received;
use shared::ids::Tenant;
use tokio::task::block_in_place;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use known::{Named, known, other_webhooks};
use steps::Checking;

use crate::api::access::auth::Managing;
use crate::api::access::rate_limit::Client;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::Body;
use crate::api::state::{Api, Shared};
use crate::cpu;

pub use form::{Checked, Difference, Finding, NewCheck, Step};

/// The largest body and headers together, in bytes.
const MAX_BYTES: usize = 256 * 1024;
/// How many checks of a tenant there may be in a second; twice as many at once.
pub const CHECKS_PER_SECOND: u32 = 5;

/// `/api/v1/signatures…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(check))
}

/// Check a signature
///
/// Goes through what a receiver does, and says which step fails and what it probably is: a body that
/// was parsed and written again, another webhook's secret, the secret before a rotation, a secret
/// that wasn't decoded, a clock that is off. Name the `secret` that the receiver has, the
/// `webhook_id`, or the `delivery_id`; the more is known, the more is found. At most 256 KiB.
#[utoipa::path(
    post, path = "/check", operation_id = "check_signature", tag = "webhooks",
    security(("token" = ["manager"])),
    request_body = NewCheck,
    responses(
        (status = 200, description = "What a receiver finds.", body = Checked),
        (status = 404, description = "There is no such webhook or delivery."),
    ),
)]
pub async fn check(
    acting: Managing,
    State(api): State<Shared>,
    Body(new): Body<NewCheck>,
) -> Result<Response> {
    let checked = checked(&api, &acting.tenant, new).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(checked)).into_response())
}

/// Refuses a request that is longer than any endpoint takes.
///
/// # Errors
/// 413 that says the bound.
pub fn check_bytes(of_headers_and_body: usize) -> Result<()> {
    if of_headers_and_body > MAX_BYTES {
        let bound = format!("headers and body may have at most {MAX_BYTES} bytes together");
        return Err(Problem::too_large(bound));
    }
    Ok(())
}

/// Checks a signature.
///
/// # Errors
/// If something that the request names doesn't exist, or PostgreSQL fails.
pub async fn checked(api: &Api, tenant: &Tenant, new: NewCheck) -> Result<Checked> {
    let headers: Vec<_> = new.headers.clone().into_iter().collect();
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    check_bytes(bytes + new.body.len())?;
    let received = Received {
        headers: &headers,
        body: &new.body,
    };
    let named = Named::read(api, &new)?;
    let bucket = Client::Token(Sha256::digest(tenant.as_str()).into());
    if let Err(refused) = api.checks.take(bucket, Instant::now()) {
        return Err(Problem::too_many_of(
            "signature checks",
            CHECKS_PER_SECOND,
            refused.wait,
        ));
    }
    let known = known(api, tenant, (&new, named), &received).await?;
    let others = other_webhooks(api, tenant, known.webhook).await?;
    let _permit = cpu::permit(tenant).await?;
    let mut checking = Checking {
        api,
        others,
        new: &new,
        received,
        known,
        steps: Vec::new(),
        difference: None,
    };
    let (finding, detail) = block_in_place(|| checking.run());
    Ok(Checked {
        verifies: finding != Finding::TimeOff
            && checking
                .steps
                .last()
                .is_some_and(|step| step.step == "signature" && step.passed == Some(true)),
        finding,
        detail,
        steps: checking.steps,
        difference: checking.difference,
    })
}
