//! A month of deliveries, as services would have left them: for whoever wants to see
//! what depends on how much there was before.

use tokio_postgres::Client;

/// How many webhooks the deliveries went to. They are inactive: nothing goes there now.
pub const WEBHOOKS: u32 = 10;

/// Makes the partitions of so many days, the last of which is today.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn make_partitions(sql: &Client, days: u32) -> Result<(), tokio_postgres::Error> {
    let make = format!(
        "DO $$
         DECLARE day date; parent text; child text;
         BEGIN
             FOR day IN SELECT (now() AT TIME ZONE 'UTC')::date - i FROM generate_series(0, {days}) i LOOP
                 FOREACH parent IN ARRAY ARRAY['events', 'deliveries', 'attempts'] LOOP
                     child := parent || '_' || to_char(day, 'YYYYMMDD');
                     CONTINUE WHEN to_regclass(child) IS NOT NULL;
                     EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                         child, parent, first_uuid_at(day::timestamp AT TIME ZONE 'UTC'),
                         first_uuid_at((day + 1)::timestamp AT TIME ZONE 'UTC'));
                     IF parent = 'events' THEN
                         EXECUTE format('CREATE UNIQUE INDEX %I ON %I (tenant, id)',
                             child || '_by_id', child);
                     END IF;
                 END LOOP;
             END LOOP;
         END $$;"
    );
    sql.batch_execute(&make).await
}

/// Makes the partitions of so many days, the last of which is today, and fills each with
/// so many deliveries of a tenant's: one of a hundred has failed, the others were
/// delivered at the first try. Statistics of them are made by `ANALYZE`, which is left
/// to the caller.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn fill(
    sql: &Client,
    tenant: &str,
    days: u32,
    per_day: u32,
) -> Result<(), tokio_postgres::Error> {
    make_partitions(sql, days).await?;
    let total = u64::from(days) * u64::from(per_day);
    let fill = format!(
        "INSERT INTO webhooks (id, tenant, url, patterns, secret, revision, status)
         SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '{tenant}',
                'https://example.com/', '{{*}}', '', 0, 'deleted' FROM generate_series(1, {WEBHOOKS}) n;
         CREATE TEMP TABLE filled AS
         SELECT n, (lpad(to_hex((extract(epoch FROM now()
                     - n * interval '{days} days' / {total}) * 1000)::bigint), 12, '0')
                 || '70008000' || lpad(to_hex(n), 12, '0'))::uuid AS id,
             ('01900000-0000-7000-8000-' || lpad(to_hex(n % {WEBHOOKS} + 1), 12, '0'))::uuid AS webhook
         FROM generate_series(1::bigint, {total}) n;
         INSERT INTO events (uid, tenant, id, type, occurred_at, data, matched)
         SELECT id, '{tenant}', 'old-' || n, 'order.paid', now(), '{{}}', 1 FROM filled;
         INSERT INTO deliveries (id, event_uid, webhook_id, event_type, state, attempts,
             finished_at, status_code)
         SELECT id, id, webhook, 'order.paid',
             CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'delivered' END, 1, now(),
             CASE WHEN n % 100 = 0 THEN 500 ELSE 200 END FROM filled;
         INSERT INTO attempts (delivery_id, n, started_at, duration_ms, outcome, status_code)
         SELECT id, 1, now(), 12, 'success', 200 FROM filled;
         DROP TABLE filled;"
    );
    sql.batch_execute(&fill).await
}
