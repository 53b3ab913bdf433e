//! `posthorn-ingest catalogue`: lists the catalogues that Posthorn comes with, and imports one.

use std::fmt::Write;

use anyhow::Context;
use deadpool_postgres::Pool;
use shared::ids::Tenant;

use super::collections::{COLLECTIONS, collection};
use super::store::{self, Saved};
use crate::event_types::form::CatalogueForm;

/// The catalogues that Posthorn comes with, a line each.
///
/// # Errors
/// If one can't be read, which a test would have shown.
pub fn list() -> anyhow::Result<String> {
    let mut lines = String::new();
    for collection in COLLECTIONS {
        let form: CatalogueForm = serde_json::from_str(collection.text)?;
        let (types, description) = (form.types(), form.description);
        writeln!(lines, "{:<12} {types:>3}  {description}", collection.name)?;
    }
    Ok(lines)
}

/// Puts the types of a catalogue, by its name or from a file, into a tenant's.
///
/// # Errors
/// If it can't be read, isn't a catalogue, or PostgreSQL fails.
pub async fn import(pool: &Pool, tenant: &Tenant, source: &str) -> anyhow::Result<Saved> {
    let text = match collection(source) {
        Some(collection) => collection.text.to_owned(),
        None => std::fs::read_to_string(source)
            .with_context(|| format!("`{source}` is no catalogue of Posthorn's and no file"))?,
    };
    let form: CatalogueForm =
        serde_json::from_str(&text).with_context(|| format!("`{source}` is not a catalogue"))?;
    let entries = form.check().with_context(|| source.to_owned())?;
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let saved = store::save(&transaction, tenant, &entries, false).await?;
    transaction.commit().await?;
    Ok(saved)
}
