-- The role with which Grafana and postgres_exporter read: statistics, states, counts.
-- It sees no secret, no webhook's URL or headers, no event's data, no answer's body.
--
--   READER_PASSWORD=… psql "$DATABASE_URL" --file=deploy/postgres-reader.sql
--
-- The password comes from the environment, because every user of a machine can read a command's
-- arguments. psql must be of version 15 or later.
--
-- Run it after `posthorn-ingest migrate`, and again after each upgrade; it changes nothing twice.

\if :{?password}
\else
\getenv password READER_PASSWORD
\endif
SET client_min_messages = warning;
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'posthorn_reader') AS is_new \gset
\if :is_new
CREATE ROLE posthorn_reader LOGIN;
\endif
ALTER ROLE posthorn_reader WITH PASSWORD :'password' CONNECTION LIMIT 10;
ALTER ROLE posthorn_reader SET statement_timeout = '15s';
ALTER ROLE posthorn_reader SET default_transaction_read_only = on;
GRANT pg_monitor TO posthorn_reader;
GRANT USAGE ON SCHEMA public TO posthorn_reader;

GRANT SELECT ON stats, troubles, sweep TO posthorn_reader;
GRANT SELECT (id, created_at) ON tenants TO posthorn_reader;
GRANT SELECT (id, tenant, key, status, disabled_reason, created_at, updated_at) ON webhooks TO posthorn_reader;
GRANT SELECT (id, webhook_id, event_type, state, attempts, due_at, finished_at, status_code, deferred_because,
    restarted_at) ON deliveries TO posthorn_reader;
GRANT SELECT (id, queue, reason, tenant, owner, bytes) ON dead_letters TO posthorn_reader;
