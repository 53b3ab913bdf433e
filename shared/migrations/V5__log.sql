-- What the delivery log tells, statistics, and deliveries that begin again.

ALTER TABLE attempts
    ADD COLUMN request_host         text,
    -- Without the values of the webhook's own headers: they may be credentials.
    ADD COLUMN request_headers      jsonb,
    ADD COLUMN request_bytes        integer,
    -- In debug mode only.
    ADD COLUMN request_body         bytea,
    ADD COLUMN debug                boolean NOT NULL DEFAULT false,
    -- When the attempt after this one was planned for, and what said so.
    ADD COLUMN next_attempt_at      timestamptz,
    ADD COLUMN next_attempt_reason  text CHECK (next_attempt_reason IN ('schedule', 'retry_after')),
    ADD CHECK ((next_attempt_at IS NULL) = (next_attempt_reason IS NULL));

-- A delivery that is finished can begin again: attempts are counted on, while
-- its schedule and its age count from there.
ALTER TABLE deliveries
    ADD COLUMN attempts_before  smallint NOT NULL DEFAULT 0 CHECK (attempts_before >= 0),
    ADD COLUMN restarted_at     timestamptz,
    ADD CHECK (attempts_before <= attempts),
    ADD CHECK (attempts_before = 0 OR restarted_at IS NOT NULL);

-- What people look for. What is delivered at the first try, which is nearly
-- everything, is never in it and costs nothing.
CREATE INDEX deliveries_in_trouble ON deliveries (webhook_id, state, id)
    WHERE state IN ('retrying', 'failed', 'expired', 'cancelled');

-- What dispatchers count, a quarter of an hour in a row: see shared/src/stats.rs.
CREATE TABLE stats (
    -- `tenant/acme` or `webhook/wh_…`.
    subject             text NOT NULL,
    quarter             timestamptz NOT NULL,
    -- Each dispatcher's own, so that none waits for another's row.
    slot                smallint NOT NULL,
    -- Attempts, by class.
    outcomes            integer[] NOT NULL,
    retries             integer NOT NULL,
    delivered           integer NOT NULL,
    delivered_at_once   integer NOT NULL,
    failed              integer NOT NULL,
    expired             integer NOT NULL,
    cancelled           integer NOT NULL,
    -- Attempts, by how long they took.
    response_times      integer[] NOT NULL,
    response_ms         bigint NOT NULL,
    last_attempt_at     timestamptz,
    last_delivered_at   timestamptz,
    last_failed_at      timestamptz,
    PRIMARY KEY (subject, quarter, slot)
) WITH (fillfactor = 50);
-- For their end.
CREATE INDEX stats_by_quarter ON stats (quarter);

CREATE FUNCTION add_counts(a integer[], b integer[]) RETURNS integer[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(coalesce(x, 0) + coalesce(y, 0) ORDER BY i)
    FROM unnest(a, b) WITH ORDINALITY AS pair (x, y, i)
$$;

-- Finished deliveries of a webhook that begin again one after the other, at a rate.
CREATE TABLE replays (
    id                  uuid PRIMARY KEY,
    tenant              text NOT NULL REFERENCES tenants (id),
    webhook_id          uuid NOT NULL REFERENCES webhooks (id),
    -- Whose events were accepted from `since` until before `until`.
    since               timestamptz NOT NULL,
    until               timestamptz NOT NULL,
    states              text[] NOT NULL,
    -- NULL: all.
    event_types         text[],
    -- Deliveries a second.
    rate                integer NOT NULL CHECK (rate BETWEEN 1 AND 1000),
    state               text NOT NULL DEFAULT 'running'
                        CHECK (state IN ('running', 'finished', 'cancelled')),
    cancelled_because   text,
    -- How many there were when it was asked for; not all were counted unless `counted`.
    matching            bigint NOT NULL,
    counted             boolean NOT NULL,
    replayed            bigint NOT NULL DEFAULT 0,
    -- The delivery to look at next, and when.
    position            uuid NOT NULL,
    next_step_at        timestamptz NOT NULL DEFAULT now(),
    created_at          timestamptz NOT NULL DEFAULT now(),
    finished_at         timestamptz,
    CHECK ((state = 'running') = (finished_at IS NULL)),
    CHECK ((state = 'cancelled') = (cancelled_because IS NOT NULL))
);
-- One at a time.
CREATE UNIQUE INDEX replays_running ON replays (webhook_id) WHERE state = 'running';
CREATE INDEX replays_due ON replays (next_step_at) WHERE state = 'running';
CREATE INDEX replays_by_webhook ON replays (webhook_id, id);
