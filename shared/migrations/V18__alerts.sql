-- Operational events about webhooks in trouble.

-- Thresholds of operational events; NULL: the default (shared/src/operational.rs).
ALTER TABLE tenants
    ADD COLUMN alert_failure_rate   double precision
        CHECK (alert_failure_rate BETWEEN 0.001 AND 1),
    ADD COLUMN alert_min_attempts   integer CHECK (alert_min_attempts BETWEEN 1 AND 1000000),
    ADD COLUMN alert_slow_ms        integer CHECK (alert_slow_ms BETWEEN 1 AND 60000),
    ADD COLUMN alert_down_after_s   integer CHECK (alert_down_after_s BETWEEN 0 AND 86400);

-- What webhooks' owners were told of, until it is over: dispatcher/src/upkeep/alerts.rs.
CREATE TABLE webhook_alerts (
    webhook_id  uuid NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('failing', 'slow', 'down')),
    since       timestamptz NOT NULL,
    -- Of `down`: when a request failed last. A success after it ends the outage.
    failed_at   timestamptz,
    PRIMARY KEY (webhook_id, kind)
);

-- How many deliveries of a webhook were given up since `quarter` when its owner was last
-- told of them.
CREATE TABLE exhausted_told (
    webhook_id  uuid PRIMARY KEY,
    told_at     timestamptz NOT NULL,
    quarter     timestamptz NOT NULL,
    counted     bigint NOT NULL
);
