-- What dispatchers know and nobody else could see: why a delivery waited, which
-- endpoints are down, which processes run, how long the queues are.

-- Why a delivery was deferred, the latest runs of a reason: see `add_wait`. NULL:
-- it never was, as nearly all.
ALTER TABLE deliveries ADD COLUMN waits jsonb;

-- Deferrals by reason, in the order of shared/src/stats.rs; NULL: none.
ALTER TABLE stats ADD COLUMN waits integer[];

-- Accepted events by type: ingest/src/type_counts.rs.
CREATE TABLE event_type_counts (
    tenant      text NOT NULL,
    quarter     timestamptz NOT NULL,
    event_type  text NOT NULL,
    -- Each ingest's own, as in `stats`.
    slot        smallint NOT NULL,
    events      integer NOT NULL,
    PRIMARY KEY (tenant, quarter, event_type, slot)
) WITH (fillfactor = 50);
CREATE INDEX event_type_counts_by_quarter ON event_type_counts (quarter);

-- Adds a deferral to the history of a delivery: to its latest run, if that has the
-- same reason and no attempt was made since; else as a new run. Keeps 20 runs.
CREATE FUNCTION add_wait(waits jsonb, because text, attempts smallint, until timestamptz)
RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    latest jsonb := waits -> -1;
BEGIN
    IF latest ->> 'because' = because AND (latest ->> 'attempts')::int = attempts THEN
        RETURN jsonb_set(waits, '{-1}', latest || jsonb_build_object(
            'until', until, 'times', (latest ->> 'times')::int + 1));
    END IF;
    waits := coalesce(waits, '[]') || jsonb_build_object('because', because,
        'attempts', attempts, 'first_at', now(), 'until', until, 'times', 1);
    RETURN CASE WHEN jsonb_array_length(waits) > 20 THEN waits - 0 ELSE waits END;
END $$;

-- The running processes. Each tells of itself every ten seconds, and deletes its row
-- when it is stopped.
CREATE TABLE processes (
    id                  uuid PRIMARY KEY,
    -- ingest, or the part of it that the process is (`serve --only`).
    kind                text NOT NULL CHECK (kind IN ('ingest', 'api', 'intake', 'dispatcher')),
    host                text NOT NULL,
    version             text NOT NULL,
    started_at          timestamptz NOT NULL,
    told_at             timestamptz NOT NULL,
    -- Requests to endpoints, and the most jobs that it holds at a time; NULL: it isn't a
    -- dispatcher.
    in_flight           integer,
    concurrency         integer,
    -- Resident, in bytes; NULL: unknown.
    memory              bigint,
    -- Over the last ten seconds: events that it accepted, attempts that it made.
    events_per_second   real NOT NULL,
    attempts_per_second real NOT NULL
) WITH (fillfactor = 50);

-- Endpoints whose circuit isn't closed, or that had no free permit of late, as each
-- dispatcher sees them. Written on change and every ten seconds. Rows of a process
-- that was not heard of for thirty seconds don't count.
CREATE TABLE endpoints (
    webhook_id      uuid NOT NULL,
    process_id      uuid NOT NULL REFERENCES processes (id) ON DELETE CASCADE,
    circuit         text NOT NULL CHECK (circuit IN ('closed', 'open', 'probing')),
    -- Since when the circuit isn't closed; when the last request failed meanwhile;
    -- when the next one may be sent.
    open_since      timestamptz,
    failed_at       timestamptz,
    next_probe_at   timestamptz,
    -- The most requests in flight, and how many are.
    permits         integer NOT NULL,
    in_flight       integer NOT NULL,
    told_at         timestamptz NOT NULL,
    PRIMARY KEY (webhook_id, process_id),
    CHECK ((circuit = 'closed') = (open_since IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX endpoints_by_process ON endpoints (process_id);

-- Webhooks whose endpoints are to be asked at once, whatever their circuits say.
CREATE TABLE probes (
    webhook_id  uuid PRIMARY KEY,
    asked_at    timestamptz NOT NULL
);

-- The queues of RabbitMQ, as one process saw them.
CREATE TABLE queues (
    name        text PRIMARY KEY,
    messages    bigint NOT NULL,
    consumers   integer NOT NULL,
    told_at     timestamptz NOT NULL
) WITH (fillfactor = 50);
