-- Webhooks that hold their deliveries, webhooks that are told of others, and
-- endpoints that have failed for long.

ALTER TABLE webhooks
    -- Gets the tenant's operational events (`webhook.disabled`) and no others.
    ADD COLUMN operational boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT webhooks_status_check,
    -- paused: its deliveries are held until it is active again.
    ADD CONSTRAINT webhooks_status_check
        CHECK (status IN ('active', 'paused', 'inactive', 'disabled', 'deleted'));

-- What is held is due at no moment, and has no job.
ALTER TABLE deliveries
    DROP CONSTRAINT deliveries_check,
    ADD CONSTRAINT deliveries_due_check CHECK (
        (state IN ('queued', 'retrying') AND deferred_because IS DISTINCT FROM 'paused')
        = (due_at IS NOT NULL));
CREATE INDEX deliveries_held ON deliveries (webhook_id, id)
    WHERE deferred_because = 'paused' AND state IN ('queued', 'retrying');

-- Which webhooks hold deliveries: see dispatcher/src/hold.rs. A batch that holds
-- one takes its webhook's row here first, so that none is overlooked.
CREATE TABLE holds (
    webhook_id  uuid PRIMARY KEY,
    held_at     timestamptz NOT NULL DEFAULT now()
);

-- Since when every attempt has failed: see dispatcher/src/failing.rs.
CREATE TABLE troubles (
    -- As in `stats`.
    subject     text PRIMARY KEY,
    since       timestamptz NOT NULL
);

-- Days are detached without a lock that others wait for: ingest/src/partitions.rs.
DROP FUNCTION drop_partitions(timestamptz);
