//! The doctor's checks of PostgreSQL.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::{Client, Pool};
use shared::clock;
use shared::postgres::{self, Schema};
use time::OffsetDateTime;

use super::report::{Finding, version};
use crate::settings::Settings;
use crate::{rekey, survey};

/// The oldest version that the tests run on.
const OLDEST: (u32, u32) = (15, 0);
/// As many days the log should have partitions for, beyond today.
const DAYS_AHEAD: i64 = 2;
/// By as much this machine's clock may differ.
const CLOCK: Duration = Duration::from_secs(1);

/// Settings that may lose what was committed, or let the log decay.
const SETTINGS: [(&str, &str, &str); 5] = [
    (
        "fsync",
        "off",
        "a crash of the machine may destroy the whole database",
    ),
    (
        "full_page_writes",
        "off",
        "a crash of the machine may damage pages",
    ),
    (
        "synchronous_commit",
        "off",
        "a crash loses events that producers were told are safe",
    ),
    ("autovacuum", "off", "tables grow without end"),
    ("track_counts", "off", "autovacuum doesn't run"),
];

pub(super) async fn examine(settings: &Settings, found: &mut Vec<Finding>) {
    let what = "PostgreSQL";
    let connected = async {
        let config = postgres::config(&settings.common.database_url, "posthorn-ingest (doctor)")?;
        let pool = postgres::pool(&config, 2)?;
        drop(pool.get().await.context("connecting to PostgreSQL")?);
        anyhow::Ok((pool, config.may_be_plain()))
    };
    let pool = match connected.await {
        Ok((pool, may_be_plain)) => {
            found.push(match may_be_plain {
                false => Finding::fine(what, "connected"),
                true => Finding::wrong(
                    what,
                    "DATABASE_URL has no sslmode: the connection may be readable on its way",
                    "add sslmode=verify-full to DATABASE_URL, or sslmode=disable if the network is trusted",
                ),
            });
            pool
        }
        Err(error) => {
            let fix = "check DATABASE_URL: `psql \"$DATABASE_URL\" -c 'SELECT 1'`";
            return found.push(Finding::wrong(what, format!("{error:#}"), fix));
        }
    };
    let checks = async {
        let client = pool.get().await.context("connecting to PostgreSQL")?;
        server(&client, found).await?;
        let schema = postgres::schema(&pool).await?;
        found.push(of_schema(&schema));
        if schema.current == 0 {
            return Ok(());
        }
        permissions(&client, found).await?;
        partitions(&client, found).await?;
        keys(&pool, settings, found).await
    };
    if let Err(error) = checks.await {
        let fix = "run the doctor again; the server's log says more";
        found.push(Finding::wrong(what, format!("{error:#}"), fix));
    }
}

async fn server(client: &Client, found: &mut Vec<Finding>) -> anyhow::Result<()> {
    let number: String = client.query_one("SHOW server_version", &[]).await?.get(0);
    found.push(of_version(&number));
    let rows = client
        .query("SELECT name, setting FROM pg_settings", &[])
        .await?;
    let settings: HashMap<&str, &str> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let setting = |name: &str| settings.get(name).copied().unwrap_or_default();
    for (name, bad, consequence) in SETTINGS {
        let what = format!("PostgreSQL's {name}");
        found.push(match setting(name) {
            is if is == bad => Finding::wrong(
                what,
                format!("{is}: {consequence}"),
                format!("psql: ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();"),
            ),
            is => Finding::fine(what, is),
        });
    }
    let standbys = setting("synchronous_standby_names");
    found.push(Finding::fine(
        "PostgreSQL's synchronous standbys",
        match standbys {
            "" => "none: what is committed is lost with this server's disk",
            names => names,
        },
    ));

    clock::measure_first(client).await?;
    let offset = clock::now() - OffsetDateTime::now_utc();
    let seconds = format!("{:.3} s", offset.as_seconds_f64());
    found.push(match offset.unsigned_abs() > CLOCK {
        false => Finding::fine(
            "clock",
            format!("PostgreSQL's minus this machine's: {seconds}"),
        ),
        true => Finding::wrong(
            "clock",
            format!(
                "PostgreSQL's minus this machine's is {seconds}; beyond 10 s no process is ready"
            ),
            "on both machines: timedatectl set-ntp true",
        ),
    });
    Ok(())
}

fn of_version(number: &str) -> Finding {
    let what = "PostgreSQL's version";
    match version(number) {
        Some(is) if is >= OLDEST => Finding::fine(what, number),
        _ => Finding::wrong(
            what,
            format!("`{number}` is older than {}", OLDEST.0),
            "upgrade PostgreSQL: `pg_upgrade`, or dump and restore",
        ),
    }
}

fn of_schema(schema: &Schema) -> Finding {
    let what = "schema";
    let Schema { current, needed } = schema;
    match current.cmp(needed) {
        std::cmp::Ordering::Equal => Finding::fine(what, format!("version {current}")),
        std::cmp::Ordering::Less => Finding::wrong(
            what,
            format!("version {current}; this binary needs {needed}"),
            "posthorn-ingest migrate",
        ),
        std::cmp::Ordering::Greater => Finding::fine(
            what,
            format!(
                "version {current}, newer than this binary's {needed}: an upgrade is under way"
            ),
        ),
    }
}

async fn permissions(client: &Client, found: &mut Vec<Finding>) -> anyhow::Result<()> {
    let row = client
        .query_one(
            "-- doctor_permissions
             SELECT current_user::text, current_schema()::text,
                 has_schema_privilege(current_schema(), 'CREATE'),
                 array(SELECT relname::text FROM pg_class c
                       WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
                         AND NOT relispartition AND relname <> 'posthorn_migrations'
                         AND NOT (has_table_privilege(c.oid, 'SELECT')
                              AND has_table_privilege(c.oid, 'INSERT')
                              AND has_table_privilege(c.oid, 'UPDATE')
                              AND has_table_privilege(c.oid, 'DELETE'))
                       ORDER BY 1),
                 array(SELECT relname::text FROM pg_class c
                       WHERE relnamespace = current_schema()::regnamespace AND relkind = 'p'
                         AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1)",
            &[],
        )
        .await?;
    let what = "PostgreSQL's permissions";
    let (user, schema): (&str, &str) = (row.get(0), row.get(1));
    let (may_create, unusable, others): (bool, Vec<String>, Vec<String>) =
        (row.get(2), row.get(3), row.get(4));
    let mut problems = Vec::new();
    if !unusable.is_empty() {
        problems.push((
            format!("{user} may not read and write {}", unusable.join(", ")),
            format!("psql: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user};"),
        ));
    }
    if !may_create {
        problems.push((
            format!("{user} may not create tables in {schema}, so the log gets no new days"),
            format!("psql: GRANT CREATE ON SCHEMA {schema} TO {user};"),
        ));
    }
    if let Some(table) = others.first() {
        problems.push((
            format!(
                "{user} doesn't own {}, so the log gets no new days",
                others.join(", ")
            ),
            format!("psql: ALTER TABLE {table} OWNER TO {user}; (each of them)"),
        ));
    }
    if problems.is_empty() {
        found.push(Finding::fine(what, format!("{user} may do what is needed")));
    }
    let wrong = |(problem, fix)| Finding::wrong(what, problem, fix);
    found.extend(problems.into_iter().map(wrong));
    Ok(())
}

async fn partitions(client: &Client, found: &mut Vec<Finding>) -> anyhow::Result<()> {
    let ahead = survey::partitions_ahead(client).await?;
    let what = "partitions";
    found.push(match ahead >= DAYS_AHEAD {
        true => Finding::fine(what, format!("{ahead} days ahead")),
        false => Finding::wrong(
            what,
            format!("the log has partitions for {ahead} days after today; without one, nothing is accepted"),
            "run an intake, which makes them: `posthorn-ingest serve --only intake`; its log says why it can't",
        ),
    });
    Ok(())
}

async fn keys(pool: &Pool, settings: &Settings, found: &mut Vec<Finding>) -> anyhow::Result<()> {
    let what = "master keys";
    let keys = &settings.common.keys;
    let used = rekey::older_keys(pool, keys).await?;
    for (key, webhooks) in &used {
        let is_known = keys.ids().any(|id| id == *key);
        found.push(match is_known {
            true => Finding::wrong(
                what,
                format!("{webhooks} webhooks are still sealed with the previous key {key}"),
                "posthorn-ingest rekey",
            ),
            false => Finding::wrong(
                what,
                format!("{webhooks} webhooks are sealed with key {key}, which isn't set: their deliveries wait"),
                "add that key to MASTER_KEY_PREVIOUS, then: posthorn-ingest rekey",
            ),
        });
    }
    if used.is_empty() {
        found.push(Finding::fine(
            what,
            match keys.ids().count() {
                1 => "all is sealed with MASTER_KEY",
                _ => "all is sealed with MASTER_KEY; MASTER_KEY_PREVIOUS can be removed",
            },
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_server_that_the_tests_do_not_run_on_is_too_old() {
        for (number, is_wrong) in [
            ("14.19", true),
            ("9.6.24", true),
            ("devel", true),
            ("15.0", false),
            ("17.5 (Debian 17.5-1)", false),
        ] {
            let finding = super::of_version(number);
            assert_eq!(finding.is_wrong(), is_wrong, "{finding}");
        }
    }
}
