//! What the console and the portal call a webhook.

use std::collections::HashMap;

use shared::ids::WebhookId;
use tokio_postgres::Row;

use crate::api::access::auth::Reading;
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::Result;
use crate::console::state::Console;
use crate::console::visit::Reads;

/// The longest name, in bytes.
const LONGEST_NAME: usize = 80;

/// What a webhook is called: the first line of its description, or its URL's host.
pub fn name(webhook: &WebhookView) -> String {
    name_of(&webhook.description, &webhook.url)
}

/// The same of its columns.
pub fn name_of(description: &str, url: &str) -> String {
    let first = description.lines().next().unwrap_or_default().trim();
    if !first.is_empty() {
        // Names stand in every row of a list.
        let cut = first.floor_char_boundary(LONGEST_NAME);
        return match cut < first.len() {
            true => format!("{}…", &first[..cut]),
            false => first.to_owned(),
        };
    }
    let host = url::Url::parse(url).ok();
    let host = host.as_ref().and_then(|url| url.host_str());
    host.unwrap_or("a deleted webhook").to_owned()
}

/// The names of these webhooks of the tenant, without the deleted ones: for lists of what
/// happened to them.
pub async fn names(
    console: &Console,
    reader: &impl Reads,
    ids: impl IntoIterator<Item = WebhookId>,
) -> Result<HashMap<WebhookId, String>> {
    let mut ids: Vec<_> = ids.into_iter().collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let acting: Reading = reader.reading().await?;
    let client = reader.api(console).pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- names_of_webhooks\n\
             SELECT id, description, url FROM webhooks \
             WHERE tenant = $1 AND id = ANY($2) AND status <> 'deleted'",
        )
        .await?;
    let rows = client.query(&statement, &[&acting.tenant, &ids]).await?;
    let name = |row: &Row| name_of(row.get("description"), row.get("url"));
    Ok(rows.iter().map(|row| (row.get("id"), name(row))).collect())
}
