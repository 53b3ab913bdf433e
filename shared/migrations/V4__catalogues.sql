-- Event types, the search for events, and dead letters.

-- Whether webhooks may only name types that are in the catalogue, and events
-- only have such.
ALTER TABLE tenants ADD COLUMN strict_event_types boolean NOT NULL DEFAULT false;

-- What a tenant says about its types of events. Deleting a row leaves no trace
-- here, so whoever changes a tenant's types touches the tenant's row in the same
-- transaction: its new revision tells caches to read all of them again.
CREATE TABLE event_types (
    tenant          text NOT NULL REFERENCES tenants (id),
    name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
    description     text NOT NULL DEFAULT '' CHECK (length(description) <= 1024),
    -- JSON as it was given, byte for byte.
    example         text,
    schema          text,
    archived        boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name)
);

-- A tenant's events by time. The predicate always holds; it hides the index from
-- statements that don't repeat it, so that looking for duplicates can't be
-- planned with it: for a fresh partition without statistics it looks as good as
-- the unique one, and reads the tenant's whole day.
CREATE INDEX events_by_time ON events (tenant, uid) WHERE matched >= 0;

-- Messages that were refused, or that no queue was bound for. A UUIDv7 says when
-- one was taken from its queue.
CREATE TABLE dead_letters (
    id              uuid PRIMARY KEY,
    queue           text NOT NULL CHECK (queue IN ('parking', 'unrouted')),
    reason          text NOT NULL,
    -- Where it was published to.
    exchange        text NOT NULL,
    routing_key     text NOT NULL,
    tenant          text,
    message_id      text,
    -- MessagePack of all AMQP properties: replaying repeats them.
    properties      bytea NOT NULL,
    body            bytea NOT NULL
);

-- One row: how many there are. Every statement that adds or deletes dead letters
-- counts them here, so that neither the bound nor the metric needs a scan.
CREATE TABLE dead_letter_count (
    one             boolean PRIMARY KEY DEFAULT true CHECK (one),
    held            bigint NOT NULL DEFAULT 0 CHECK (held >= 0)
);
INSERT INTO dead_letter_count DEFAULT VALUES;
