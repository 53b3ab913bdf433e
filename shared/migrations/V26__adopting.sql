-- Webhooks by their client, as Corp Astro's clients list them, and expunged events whose jobs
-- are in RabbitMQ still.

-- An index takes 2,704 bytes of a row at most, and metadata may have 4,096.
CREATE INDEX webhooks_by_client ON webhooks (tenant, left(metadata ->> 'client_id', 200), id)
    WHERE metadata ? 'client_id' AND status <> 'deleted';

ALTER TABLE tenants
    -- When an event was last expunged whose delivery waited for its first attempt. Jobs of
    -- first attempts that were made before are looked up before they are sent.
    ADD COLUMN expunged_at  timestamptz;
