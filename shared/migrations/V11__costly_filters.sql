-- Filters that were too costly to evaluate on an event: the event was accepted,
-- and their webhooks didn't get it.

-- The ids of these webhooks, an array, 1,000 at most; NULL: none, as of nearly all.
ALTER TABLE events ADD COLUMN too_costly jsonb;

-- Counted for each webhook, so that its owner finds out.
CREATE TABLE costly_filters (
    webhook_id  uuid PRIMARY KEY,
    events      bigint NOT NULL,
    last_at     timestamptz NOT NULL
) WITH (fillfactor = 50);
