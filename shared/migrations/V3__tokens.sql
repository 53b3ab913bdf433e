-- What is shown of tokens, and a tenant's own list of them.

ALTER TABLE tokens
    -- To the minute: not every request writes.
    ADD COLUMN last_used_at timestamptz;
CREATE INDEX tokens_by_tenant ON tokens (tenant, id);
