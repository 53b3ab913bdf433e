//! `posthorn-ingest import`: creates webhooks from another system's list, for teams that move.
//!
//! 1. [`rows`] reads the file: CSV with a first line of names, or a JSON object per line;
//! 2. [`systems`] renames the members of each row to those of `POST /webhooks`;
//! 3. the API's form checks the row, and the API's `create` stores it.
//!
//! A row is recognised by its `external_id`, so the same file can be imported again: a row
//! that is here already is left as it is. Everything happens in one transaction, and a dry
//! run is the same transaction, rolled back. The file has the secrets of the old system:
//! no line that is printed repeats one.

mod report;
mod rows;
mod systems;

use std::collections::HashMap;

use anyhow::Context;
use clap::Args;
use deadpool_postgres::{Pool, Transaction};
use serde_json::{Map, Value};
use shared::destination::Destinations;
use shared::ids::{ExternalId, Tenant, WebhookId};
use shared::webhook::Status;

use crate::actor::{Actor, begin};
use crate::apply::file::without_value;
use crate::apply::webhook::compare;
use crate::invalid::{Invalid, Invalids, Unsaved};
use crate::webhooks::form::{CheckedWebhook, WebhookForm};
use crate::webhooks::store::{self, Writing};
pub use report::Report;
use report::{Became, Entry};
use rows::{Format, Row};
use systems::{Names, System};

/// Create webhooks from another system's list. See docs/moving.md.
#[derive(Args)]
pub struct Import {
    /// A CSV file whose first line has the names, or a file with a JSON object per line; `-`
    /// is standard input.
    file: String,
    /// The tenant that gets the webhooks.
    #[arg(long)]
    tenant: Tenant,
    /// The system that the list comes from: what its names mean, and the dialect of the webhooks.
    #[arg(long, value_enum, default_value_t = System::Posthorn)]
    from: System,
    /// The dialect of the webhooks, instead of the one that belongs to `--from`.
    #[arg(long)]
    dialect: Option<String>,
    /// `csv` or `jsonl`, if the file's name doesn't end with that.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// A name in the file and the webhook's member that it stands for, such as `hook_url=url`.
    #[arg(long, value_name = "NAME=MEMBER")]
    map: Vec<String>,
    /// A name in the file whose values are not needed.
    #[arg(long, value_name = "NAME")]
    ignore: Vec<String>,
    /// Create the webhooks switched off. They get no events until they are switched on.
    #[arg(long)]
    inactive: bool,
    /// Create the valid rows even if others are refused. Without this, nothing is created then.
    #[arg(long)]
    skip_invalid: bool,
    /// Print what each row would become, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What rows are checked against, and written with.
pub struct Rules<'a> {
    pub destinations: &'a Destinations,
    pub writing: Writing<'a>,
}

/// Imports a file in one transaction, or rolls it back for a dry run.
///
/// # Errors
/// If the file can't be read, the tenant doesn't exist, or PostgreSQL fails. Refused rows are in
/// the report.
pub async fn import(import: &Import, pool: &Pool, rules: &Rules<'_>) -> anyhow::Result<Report> {
    let names = Names::new(&import.map, &import.ignore)?;
    if let Some(dialect) = &import.dialect {
        crate::form::check_dialect(dialect, rules.writing.dialects)
            .map_err(|error| anyhow::anyhow!("--dialect: {}", error.reason))?;
    }
    let rows = rows::read(&import.file, import.format)?;
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    let mut transaction = begin(&mut client, &Actor::command("import")).await?;
    let known = known(&transaction, &import.tenant).await?;
    let mut importing = Importing {
        import,
        rules,
        names,
        known,
        report: Report::new(import.dry_run),
    };
    for row in rows {
        importing.row(&mut transaction, row).await?;
    }
    let mut report = importing.report;
    let all_or_nothing = report.refused() > 0 && !import.skip_invalid;
    if import.dry_run || all_or_nothing {
        transaction.rollback().await?;
    } else {
        transaction.commit().await?;
    }
    report.nothing_changed = all_or_nothing && !import.dry_run;
    Ok(report)
}

/// The tenant's webhooks that have an external id. Locks the tenant's row.
async fn known(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
) -> anyhow::Result<HashMap<ExternalId, WebhookId>> {
    let found = transaction
        .query_opt(
            "-- lock_tenant_for_import\n\
             SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE",
            &[tenant],
        )
        .await?;
    anyhow::ensure!(found.is_some(), "there is no tenant `{tenant}`");
    let rows = transaction
        .query(
            "-- imported_webhooks\n\
             SELECT external_id, id FROM webhooks \
             WHERE tenant = $1 AND external_id IS NOT NULL AND status <> 'deleted'",
            &[tenant],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

struct Importing<'a> {
    import: &'a Import,
    rules: &'a Rules<'a>,
    names: Names,
    /// The webhooks that are here already, and those of rows before.
    known: HashMap<ExternalId, WebhookId>,
    report: Report,
}

impl Importing<'_> {
    async fn row(
        &mut self,
        transaction: &mut Transaction<'_>,
        Row { line, members }: Row,
    ) -> anyhow::Result<()> {
        let mut entry = Entry::new(line);
        let translated = match members {
            Ok(members) => systems::translate(self.import.from, &self.names, members),
            Err(problem) => Err(vec![Invalid::new("", problem)]),
        };
        let translated = match translated {
            Ok(translated) => translated,
            Err(problems) => {
                entry.refuse(&problems, &[]);
                self.report.add(entry);
                return Ok(());
            }
        };
        entry.left_out = translated.left_out;
        let confidential = confidential(&translated.members);
        match self.check(translated.members) {
            Err(problems) => entry.refuse(&problems, &confidential),
            Ok((external_id, form)) => {
                entry.external_id = Some(external_id.clone());
                match self.known.get(&external_id) {
                    Some(id) => entry.became = Became::Known(*id),
                    None => {
                        self.create(transaction, &mut entry, &external_id, form, &confidential)
                            .await?;
                    }
                }
            }
        }
        self.report.add(entry);
        Ok(())
    }

    /// The webhook's external id and its checked form; all that is wrong with it.
    fn check(
        &self,
        mut members: Map<String, Value>,
    ) -> Result<(ExternalId, CheckedWebhook), Vec<Invalid>> {
        let dialect = self.import.dialect.as_deref();
        if let Some(dialect) = dialect.or(self.import.from.dialect()) {
            members
                .entry("dialect")
                .or_insert_with(|| Value::String(dialect.to_owned()));
        }
        let form: WebhookForm =
            serde_path_to_error::deserialize(Value::Object(members)).map_err(|error| {
                let path = error.path().to_string();
                vec![Invalid::new(
                    path,
                    without_value(&error.into_inner().to_string()),
                )]
            })?;
        let checked = form.check_new(self.rules.destinations, self.rules.writing.dialects);
        let mut form = checked.map_err(|Invalids(problems)| problems)?;
        if self.import.inactive {
            form.status = Some(Status::Inactive);
        }
        let external_id = form.external_id.clone().flatten().ok_or_else(|| {
            let why = "is missing: the webhook's id in the old system; `--map NAME=external_id` \
                       says where it is";
            vec![Invalid::new("external_id", why)]
        })?;
        Ok((external_id, form))
    }

    async fn create(
        &mut self,
        transaction: &mut Transaction<'_>,
        entry: &mut Entry,
        external_id: &ExternalId,
        form: CheckedWebhook,
        confidential: &[String],
    ) -> anyhow::Result<()> {
        let (form, difference) = compare(None, form);
        // A webhook may be refused after its row was written. Then its row goes.
        let savepoint = transaction.transaction().await?;
        let made = store::create(
            &savepoint,
            self.rules.writing,
            &self.import.tenant,
            None,
            form,
        )
        .await;
        match made {
            Ok(made) => {
                savepoint.commit().await?;
                self.known.insert(external_id.clone(), made.id);
                // The id of a webhook that a dry run makes means nothing to anybody.
                let id = (!self.import.dry_run).then_some(made.id);
                entry.became = Became::Created(id, difference.lines);
            }
            Err(Unsaved::Postgres(error)) => return Err(error.into()),
            Err(refused) => {
                savepoint.rollback().await?;
                let problem = match refused {
                    Unsaved::Invalid(invalid) => invalid,
                    other => Invalid::new("", other),
                };
                entry.refuse(&[problem], confidential);
            }
        }
        Ok(())
    }
}

/// The values that no line may repeat.
fn confidential(members: &Map<String, Value>) -> Vec<String> {
    let secret = members.get("secret").and_then(Value::as_str);
    let headers = members.get("headers").and_then(Value::as_object);
    let values = headers.into_iter().flat_map(Map::values);
    secret
        .into_iter()
        .chain(values.filter_map(Value::as_str))
        .map(str::to_owned)
        .collect()
}
