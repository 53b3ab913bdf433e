-- What tenants and webhooks may have and use, and keys that sign with ed25519.

ALTER TABLE tenants
    -- Attempts in any hour; NULL: as many as there are.
    ADD COLUMN deliveries_per_hour integer CHECK (deliveries_per_hour BETWEEN 1 AND 100000000),
    -- Bytes of an event's data; NULL: 256 KiB.
    ADD COLUMN max_payload         integer CHECK (max_payload BETWEEN 1 AND 1048576),
    -- From an event to its last attempt; NULL: what the dialect says, 7 days at most.
    ADD COLUMN max_age_s           integer CHECK (max_age_s BETWEEN 60 AND 604800);

ALTER TABLE webhooks
    -- At most this many attempts in any so many seconds.
    ADD COLUMN rate_limit           integer CHECK (rate_limit BETWEEN 1 AND 100000000),
    ADD COLUMN rate_period_s        integer CHECK (rate_period_s IN (1, 60, 3600)),
    -- Keeps requests and answers whole while it is on.
    ADD COLUMN debug_mode           boolean NOT NULL DEFAULT false,
    -- Sealed, as secrets are: an ed25519 key for receivers that can't keep a secret.
    ADD COLUMN signing_key          bytea,
    ADD COLUMN previous_signing_key bytea,
    ADD CHECK ((rate_limit IS NULL) = (rate_period_s IS NULL));

-- Why its job was put off without an attempt, until the next attempt.
ALTER TABLE deliveries ADD COLUMN deferred_because text;

-- How much of each limit is used: see dispatcher/src/rate.rs, which alone reads
-- and writes it. A row that is lost is a limit that begins anew.
CREATE TABLE rate_usage (
    -- `tenant/acme` or `webhook/wh_…`.
    subject     text PRIMARY KEY,
    -- Attempts begun in each slot of the period, the first of which is `first_slot`.
    first_slot  bigint NOT NULL,
    used        jsonb NOT NULL,
    -- Where the last job that was put off is expected to have its turn.
    horizon     timestamptz NOT NULL
) WITH (fillfactor = 50);

-- What webhooks say of retries is kept in the API's words, and leaves unsaid
-- what is the dialect's.
UPDATE webhooks SET retry = jsonb_build_object(
    'retry_delay', retry -> 'exponential' -> 'first',
    'factor', retry -> 'exponential' -> 'factor',
    'cap', retry -> 'exponential' -> 'cap',
    'max_retries', retry -> 'exponential' -> 'retries',
    'jitter', retry -> 'jitter')
WHERE retry -> 'exponential' IS NOT NULL;
