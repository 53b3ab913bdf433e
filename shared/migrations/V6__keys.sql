-- Webhooks that are declared in files: see ingest/src/apply.

ALTER TABLE webhooks
    -- What a file calls it, among its tenant's. NULL: it was made over the API.
    ADD COLUMN key text CHECK (length(key) BETWEEN 1 AND 64);
CREATE UNIQUE INDEX webhooks_by_key ON webhooks (tenant, key)
    WHERE key IS NOT NULL AND status <> 'deleted';

-- For their end.
CREATE INDEX replays_by_end ON replays (finished_at) WHERE state <> 'running';
