-- When an endpoint was down, as each dispatcher saw it. `endpoints` says how things are; this says
-- how they were. Written by dispatchers when a circuit opens, when a probe fails, and when a circuit
-- closes: dispatcher/src/endpoint/outages.rs. A dispatcher keeps its latest 100 of a webhook.
CREATE TABLE outages (
    webhook_id  uuid NOT NULL,
    -- When the tenth request in a row failed.
    since       timestamptz NOT NULL,
    process_id  uuid NOT NULL,
    -- When the last request failed, and how many probes have failed.
    failed_at   timestamptz NOT NULL,
    probes      integer NOT NULL DEFAULT 0,
    -- When a request succeeded. NULL: it lasts, or the dispatcher was stopped meanwhile.
    ended_at    timestamptz,
    PRIMARY KEY (webhook_id, since, process_id),
    CHECK (failed_at >= since)
);
-- For their end.
CREATE INDEX outages_by_time ON outages (since);
