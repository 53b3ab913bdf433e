-- Tenants whose events go to an overflow queue of RabbitMQ's, so that they don't
-- stand in front of others': see ingest/src/aside.rs.
CREATE TABLE set_aside (
    tenant  text PRIMARY KEY,
    -- Which overflow queue.
    queue   smallint NOT NULL CHECK (queue BETWEEN 0 AND 3),
    -- When it had much waiting in the queue that everybody shares, last.
    since   timestamptz NOT NULL DEFAULT now()
);
