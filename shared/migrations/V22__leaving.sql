-- Tenants that are deleted, and events whose data was expunged.

ALTER TABLE tenants
    -- From here on nobody knows the tenant. Its row goes when its log is gone.
    ADD COLUMN deleted_at   timestamptz;

-- How far the deletion of a tenant is: see ingest/src/tenant_deletion.rs. The row outlives the
-- tenant's by a month.
CREATE TABLE tenant_deletions (
    tenant          text NOT NULL,
    requested_at    timestamptz NOT NULL DEFAULT now(),
    events          bigint NOT NULL DEFAULT 0,
    deliveries      bigint NOT NULL DEFAULT 0,
    dead_letters    bigint NOT NULL DEFAULT 0,
    finished_at     timestamptz,
    PRIMARY KEY (tenant, requested_at)
);
CREATE INDEX tenant_deletions_open ON tenant_deletions (requested_at) WHERE finished_at IS NULL;

ALTER TABLE events
    -- When its data was taken away. `data` is `null` then.
    ADD COLUMN expunged_at  timestamptz;
