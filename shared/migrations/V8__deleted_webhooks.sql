-- A deleted webhook's row stays for its log, and has nothing in it that the log
-- doesn't need: no URL (it may hold a credential), filter, headers or metadata.
-- The row goes when the log is past its retention: ingest/src/deleted_webhooks.rs.

ALTER TABLE webhooks
    DROP CONSTRAINT webhooks_patterns_check,
    ADD CONSTRAINT webhooks_patterns_check
        CHECK (status = 'deleted' OR cardinality(patterns) BETWEEN 1 AND 100);

UPDATE webhooks SET url = '', description = '', patterns = '{}', filter = NULL, dialect = NULL,
    secret = '', previous_secret = NULL, previous_secret_until = NULL, signing_key = NULL,
    previous_signing_key = NULL, headers = NULL, retry = NULL, rate_limit = NULL,
    rate_period_s = NULL, metadata = '{}', key = NULL
WHERE status = 'deleted';

-- For their end. A deleted row is never updated, so this is when it was deleted.
CREATE INDEX webhooks_deleted ON webhooks (updated_at) WHERE status = 'deleted';
