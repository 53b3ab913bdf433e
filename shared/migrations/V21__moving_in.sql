-- Webhooks that come from another system, belong to one user of their tenant, or exist
-- only while somebody listens.

ALTER TABLE webhooks
    -- What the webhook was called in the system that it comes from. Deliveries show it
    -- where that system's deliveries did.
    ADD COLUMN external_id      text CHECK (external_id ~ '^[!-~]{1,128}$'),
    -- The user that it belongs to, in the words of the tenant. NULL: to the tenant alone.
    ADD COLUMN owner            text CHECK (owner ~ '^[!-~]{1,128}$'),
    -- Deleted when this time has passed: see ingest/src/listening.rs. NULL: it stays.
    ADD COLUMN temporary_until  timestamptz;
CREATE UNIQUE INDEX webhooks_by_external_id ON webhooks (tenant, external_id)
    WHERE external_id IS NOT NULL AND status <> 'deleted';
CREATE INDEX webhooks_by_owner ON webhooks (tenant, owner, id)
    WHERE owner IS NOT NULL AND status <> 'deleted';
CREATE INDEX webhooks_temporary ON webhooks (temporary_until)
    WHERE temporary_until IS NOT NULL AND status <> 'deleted';

ALTER TABLE tokens
    -- The token sees and changes webhooks of this owner alone. NULL: all of its tenant's.
    ADD COLUMN owner            text CHECK (owner ~ '^[!-~]{1,128}$'),
    ADD CHECK (owner IS NULL OR tenant IS NOT NULL AND role <> 'admin');
