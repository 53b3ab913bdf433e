//! `posthorn-ingest apply`: makes tenants, event types and webhooks what files
//! declare, for people who keep configuration in git.
//!
//! 1. [`mod@file`] reads the files into declarations, or lists all that is wrong;
//! 2. [`present`] reads and locks the rows that are declared;
//! 3. [`difference`] compares the two, member by member;
//! 4. what differs is written with the functions that the API uses;
//! 5. [`report`] prints what was done.
//!
//! Everything happens in one transaction. A dry run is the same transaction, rolled
//! back, so it reports exactly what would happen, tenants' limits included.

pub mod declared;
pub mod difference;
pub mod file;
pub mod place;
pub mod present;
pub mod problems;
pub mod report;
pub(crate) mod webhook;
mod yaml;

use std::fmt;
use std::io::Read;

use anyhow::Context;
use clap::Args;
use deadpool_postgres::{Pool, Transaction};
use shared::ids::Tenant;

use crate::actor::{Actor, sign};
use crate::event_types::store;
use crate::invalid::Unsaved;
use crate::tenants::store as tenants;
use crate::webhooks::store::{self as webhooks, Writing};
use declared::{DeclaredTenant, DeclaredWebhook};
use difference::Difference;
use file::{Rules, Source};
use place::Place;
use present::Present;
use problems::Problems;
use report::{Done, Report};
use webhook::Now;

/// The most that all files may have together, in bytes.
const MAX_FILES: u64 = 8 * 1024 * 1024;
/// Any number, as long as nothing else locks it: "apply" in ASCII.
const LOCK: i64 = 0x61_7070_6c79;

/// Make tenants, event types and webhooks what files declare, in one transaction.
#[derive(Args)]
pub struct Apply {
    /// A YAML or JSON file; `-` is standard input. May be repeated.
    #[arg(short, long = "file", required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Print what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// For the tenants in these files, delete webhooks that a file once declared and
    /// these don't. A tenant without `webhooks` is refused; `webhooks: []` deletes all.
    #[arg(long)]
    prune: bool,
    /// Exit with 2 if anything differed from the declaration, with 0 if nothing did.
    #[arg(long)]
    pub exit_code: bool,
}

/// Why nothing was applied: all problems, a line each.
#[derive(Debug, thiserror::Error)]
pub struct Refused(Vec<String>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems = if self.0.len() == 1 {
            "problem"
        } else {
            "problems"
        };
        write!(f, "nothing was changed, for {} {problems}:", self.0.len())?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Applies files in one transaction, or rolls it back for a dry run.
///
/// # Errors
/// If the files can't be read or declare what can't be, or PostgreSQL fails.
pub async fn apply(apply: &Apply, pool: &Pool, rules: &Rules<'_>) -> anyhow::Result<Report> {
    let declared = file::read(sources(&apply.files)?, rules).map_err(Refused)?;
    let mut client = pool.get().await.context("connecting to PostgreSQL")?;
    let transaction = client.transaction().await?;
    sign(&transaction, &Actor::command("apply")).await?;
    let report = make(&transaction, rules.writing, declared, apply).await?;
    // The report is printed after the transaction, so that a slow terminal holds no locks.
    if apply.dry_run {
        transaction.rollback().await?;
    } else {
        transaction.commit().await?;
    }
    Ok(report)
}

fn sources(files: &[String]) -> anyhow::Result<Vec<Source>> {
    let mut left = MAX_FILES;
    let mut sources = Vec::with_capacity(files.len());
    for name in files {
        let mut text = String::new();
        // One byte more than allowed, to notice a file that is too large.
        let read = if name == "-" {
            std::io::stdin().take(left + 1).read_to_string(&mut text)
        } else {
            std::fs::File::open(name).and_then(|file| file.take(left + 1).read_to_string(&mut text))
        };
        let read = read.with_context(|| format!("reading {name}"))? as u64;
        left = left.checked_sub(read).with_context(|| {
            format!("{name}: the files may have at most {MAX_FILES} bytes together")
        })?;
        sources.push(Source {
            name: if name == "-" { "stdin" } else { name }.to_owned(),
            text,
        });
    }
    Ok(sources)
}

/// All rows are locked before any is written: tenants first, then webhooks, each in the order
/// of ids. The API also locks a row before it takes the next revision, so the two don't
/// deadlock.
async fn make(
    transaction: &Transaction<'_>,
    writing: Writing<'_>,
    declared: Vec<DeclaredTenant>,
    apply: &Apply,
) -> anyhow::Result<Report> {
    take_turns(transaction).await?;
    let mut present = Present::read(transaction, writing.keys, &declared).await?;
    let mut making = Making {
        transaction,
        writing,
        prune: apply.prune,
        problems: Problems::default(),
        report: Report::new(apply.dry_run),
    };
    for tenant in declared {
        making.tenant(&mut present, tenant).await?;
    }
    match making.problems.none() {
        Ok(()) => Ok(making.report),
        Err(problems) => Err(Refused(problems).into()),
    }
}

async fn take_turns(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    transaction
        .execute(
            "-- take_turns_to_apply\nSELECT pg_advisory_xact_lock($1)",
            &[&LOCK],
        )
        .await?;
    Ok(())
}

struct Making<'a> {
    transaction: &'a Transaction<'a>,
    writing: Writing<'a>,
    prune: bool,
    problems: Problems,
    report: Report,
}

impl Making<'_> {
    async fn tenant(
        &mut self,
        present: &mut Present,
        declared: DeclaredTenant,
    ) -> anyhow::Result<()> {
        let DeclaredTenant {
            place,
            id,
            settings,
            event_types,
            webhooks,
            lists_webhooks,
        } = declared;
        let now = present.tenants.remove(&id);
        let is_new = now.is_none();
        let (change, difference) = difference::tenant(now.as_ref(), settings);
        let written = match (is_new, difference.is_empty()) {
            (true, _) => tenants::insert(self.transaction, &id, &change)
                .await
                .map(Some),
            (false, true) => Ok(None),
            (false, false) => tenants::update(self.transaction, &id, &change)
                .await
                .map(Some),
        };
        if self.judged(&place, written)?.is_none() {
            return Ok(());
        }
        self.report
            .compared(is_new, format!("tenant {id}"), difference);

        let known = present.event_types.remove(&id).unwrap_or_default();
        let mut changed = Vec::new();
        for entry in event_types {
            let now = known.get(&entry.name);
            let difference = difference::event_type(now, &entry);
            let subject = format!("event type {id}/{}", entry.name);
            if now.is_none() || !difference.is_empty() {
                changed.push(entry);
            }
            self.report.compared(now.is_none(), subject, difference);
        }
        if !changed.is_empty() {
            let saved = store::save(self.transaction, &id, &changed, false).await;
            self.judged(&place.at("event_types"), saved)?;
        }

        let mut known = present.webhooks.remove(&id).unwrap_or_default();
        let declared = webhooks.into_iter().map(|webhook| {
            let now = known.remove(&webhook.key);
            (webhook, now)
        });
        let declared: Vec<_> = declared.collect();
        if self.prune && !lists_webhooks && !known.is_empty() {
            // Somebody may have forgotten the list: that must not delete all webhooks.
            let all = known.len();
            let why = format!(
                "has no `webhooks`, and --prune would delete all {all} that files made for this \
                 tenant; write `webhooks: []` if that is meant"
            );
            self.problems.note(&place, why);
            return Ok(());
        }
        // Deletions first: they make room within the tenant's limit.
        for (key, now) in known {
            let subject = format!("webhook {id}/{key} ({})", now.id);
            if self.prune {
                webhooks::delete(self.transaction, &id, now.id, None)
                    .await
                    .with_context(|| format!("{subject} was not deleted"))?;
                self.report
                    .done(Done::Removed, subject, Difference::new(false));
            } else {
                self.report.left(subject);
            }
        }
        for (webhook, now) in declared {
            self.webhook(&id, webhook, now).await?;
        }
        Ok(())
    }

    async fn webhook(
        &mut self,
        tenant: &Tenant,
        declared: DeclaredWebhook,
        now: Option<Now>,
    ) -> anyhow::Result<()> {
        let DeclaredWebhook { place, key, form } = declared;
        let (form, difference) = webhook::compare(now.as_ref(), form);
        let (transaction, writing) = (self.transaction, self.writing);
        let (is_new, id) = match now {
            Some(now) if difference.is_empty() => (false, Ok(Some(now.id))),
            Some(now) => {
                if !now.has_key {
                    webhooks::set_key(transaction, now.id, &key).await?;
                }
                let updated =
                    webhooks::update(transaction, writing, tenant, now.id, None, form).await;
                (false, updated.map(|_| Some(now.id)))
            }
            None => {
                let made = webhooks::create(transaction, writing, tenant, Some(&key), form).await;
                // The id of a webhook that a dry run makes means nothing to anybody.
                let lasting = !self.report.is_dry_run();
                (true, made.map(|made| lasting.then_some(made.id)))
            }
        };
        if let Some(id) = self.judged(&place, id)? {
            let id = id.map_or(String::new(), |id| format!(" ({id})"));
            let subject = format!("webhook {tenant}/{key}{id}");
            self.report.compared(is_new, subject, difference);
        }
        Ok(())
    }

    /// Notes a refusal and goes on. Fails if PostgreSQL does.
    fn judged<T>(&mut self, place: &Place, done: Result<T, Unsaved>) -> anyhow::Result<Option<T>> {
        match done {
            Ok(value) => Ok(Some(value)),
            Err(unsaved) => {
                let refused = self.problems.refused(place, unsaved);
                refused.with_context(|| place.to_string())?;
                Ok(None)
            }
        }
    }
}
