//! `webhook:Warehouse` in the search field: names that stand for ids.

use shared::ids::WebhookId;
use tokio_postgres::Row;

use crate::api::access::auth::Reading;
use crate::api::deliveries::search::{DeliveryQuery, MAX_WEBHOOKS};
use crate::api::state::Shared;
use crate::console::failure::Result;
use crate::console::pages::webhooks::name_of;
use crate::console::visit::Reads;

/// Puts ids in the place of a webhook's name, or of a part of one. Answers what is wrong with
/// it, in a sentence.
pub async fn with_ids(
    api: &Shared,
    reader: &impl Reads,
    filter: &mut DeliveryQuery,
) -> Result<Option<String>> {
    let Some(text) = filter.webhook_id.clone() else {
        return Ok(None);
    };
    // What is wrong with an id is said by the API.
    if text.starts_with("wh_") {
        return Ok(None);
    }
    let acting: Reading = reader.reading().await?;
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- webhooks_named\n\
             SELECT id, description, url FROM webhooks \
             WHERE tenant = $1 AND status <> 'deleted' \
               AND (position(lower($2::text) IN lower(split_part(description, chr(10), 1))) > 0 \
                 OR position(lower($2::text) IN lower(url)) > 0) \
             ORDER BY id LIMIT $3",
        )
        .await?;
    let most = MAX_WEBHOOKS as i64;
    let rows = client
        .query(&statement, &[&acting.tenant, &text, &(most + 1)])
        .await?;
    let is_it = |row: &&Row| {
        let name = name_of(row.get("description"), row.get("url"));
        name.to_lowercase() == text.to_lowercase()
    };
    let mut found: Vec<&Row> = rows.iter().filter(is_it).collect();
    if found.is_empty() {
        found = rows.iter().collect();
    }
    if found.is_empty() {
        return Ok(Some(format!("No webhook has `{text}` in its name or URL.")));
    }
    if found.len() > MAX_WEBHOOKS {
        return Ok(Some(format!(
            "More than {MAX_WEBHOOKS} webhooks have `{text}` in their names or URLs: say more of it."
        )));
    }
    let ids = found
        .iter()
        .map(|row| row.get::<_, WebhookId>("id").to_string());
    filter.webhook_id = Some(ids.collect::<Vec<_>>().join(","));
    Ok(None)
}
