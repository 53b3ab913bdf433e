-- Posthorn's tables. The words are those of the glossary in ARCHITECTURE.md.
--
-- events, deliveries and attempts are partitioned by day on a UUIDv7, whose
-- first 48 bits are the milliseconds since 1970: a range of ids is a range of
-- time, so a row is found by its id alone and a day is dropped whole.

CREATE TABLE tenants (
    id                  text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name                text NOT NULL DEFAULT '' CHECK (length(name) <= 256),
    dialect             text NOT NULL DEFAULT 'standard',
    max_webhooks        integer NOT NULL DEFAULT 100 CHECK (max_webhooks >= 0),
    created_at          timestamptz NOT NULL DEFAULT now(),
    revision            bigint NOT NULL
);
CREATE INDEX tenants_by_revision ON tenants (revision);

CREATE TABLE tokens (
    id          uuid PRIMARY KEY,
    -- SHA-256 of the token; a token has 256 random bits, so no salt or stretching.
    hash        bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
    prefix      text NOT NULL,
    -- NULL: a global token, for the operator.
    tenant      text REFERENCES tenants (id),
    role        text NOT NULL CHECK (role IN ('admin', 'manager', 'viewer')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);

CREATE TABLE webhooks (
    id                      uuid PRIMARY KEY,
    tenant                  text NOT NULL REFERENCES tenants (id),
    url                     text NOT NULL CHECK (length(url) <= 2048),
    description             text NOT NULL DEFAULT '' CHECK (length(description) <= 1024),
    patterns                text[] NOT NULL CHECK (cardinality(patterns) BETWEEN 1 AND 100),
    filter                  jsonb,
    -- NULL: the tenant's.
    dialect                 text,
    -- Sealed (see shared/src/seal.rs), never plain. Emptied on deletion.
    secret                  bytea NOT NULL,
    previous_secret         bytea,
    previous_secret_until   timestamptz,
    headers                 bytea,
    timeout_ms              integer CHECK (timeout_ms BETWEEN 1000 AND 60000),
    retry                   jsonb,
    metadata                jsonb NOT NULL DEFAULT '{}',
    -- inactive: switched off by its owner; disabled: by Posthorn, for a reason.
    status                  text NOT NULL DEFAULT 'active'
                            CHECK (status IN ('active', 'inactive', 'disabled', 'deleted')),
    disabled_reason         text,
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now(),
    revision                bigint NOT NULL,
    CHECK ((status = 'disabled') = (disabled_reason IS NOT NULL)),
    CHECK ((previous_secret IS NULL) = (previous_secret_until IS NULL))
);
CREATE INDEX webhooks_by_tenant ON webhooks (tenant, id) WHERE status <> 'deleted';
CREATE INDEX webhooks_by_revision ON webhooks (revision);

-- One row: counts the changes to tenants and webhooks. A change holds the row's
-- lock until it commits, so revisions become visible in order, and "everything
-- above the revision I know" is exactly what a cache is missing.
CREATE TABLE catalogue (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    revision    bigint NOT NULL
);
INSERT INTO catalogue (revision) VALUES (0);

CREATE FUNCTION count_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE catalogue SET revision = revision + 1 RETURNING revision INTO NEW.revision;
    PERFORM pg_notify('posthorn_catalogue', NEW.revision::text);
    RETURN NEW;
END $$;
CREATE TRIGGER count_change BEFORE INSERT OR UPDATE ON tenants
    FOR EACH ROW EXECUTE FUNCTION count_change();
CREATE TRIGGER count_change BEFORE INSERT OR UPDATE ON webhooks
    FOR EACH ROW EXECUTE FUNCTION count_change();

CREATE TABLE events (
    uid             uuid NOT NULL,
    tenant          text NOT NULL,
    id              text NOT NULL CHECK (length(id) BETWEEN 1 AND 255),
    type            text NOT NULL,
    occurred_at     timestamptz NOT NULL,
    -- The producer's JSON text, byte for byte: no number loses a digit.
    data            text NOT NULL,
    -- CloudEvents context attributes without a column of their own.
    attributes      jsonb,
    -- How many webhooks it matched: that many deliveries exist, always.
    matched         integer NOT NULL CHECK (matched >= 0),
    PRIMARY KEY (uid)
) PARTITION BY RANGE (uid);

CREATE TABLE deliveries (
    id              uuid NOT NULL,
    event_uid       uuid NOT NULL,
    webhook_id      uuid NOT NULL,
    event_type      text NOT NULL,
    state           text NOT NULL CHECK (state IN
                        ('queued', 'retrying', 'delivered', 'failed', 'expired', 'cancelled')),
    -- Attempts made so far: the fence. A verdict on attempt n applies at n - 1.
    attempts        smallint NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- When its job should be in the jobs queue.
    due_at          timestamptz,
    finished_at     timestamptz,
    -- Of the last attempt: what the endpoint answered; why there is no answer.
    status_code     smallint,
    error           text,
    PRIMARY KEY (id),
    CHECK ((state IN ('queued', 'retrying')) = (due_at IS NOT NULL)),
    CHECK ((state IN ('queued', 'retrying')) = (finished_at IS NULL)),
    CHECK (state NOT IN ('retrying', 'delivered', 'failed') OR attempts >= 1)
) PARTITION BY RANGE (id);
CREATE INDEX deliveries_by_webhook ON deliveries (webhook_id, id);
-- The open ones: what the sweeper and the audit read.
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state IN ('queued', 'retrying');

CREATE TABLE attempts (
    delivery_id     uuid NOT NULL,
    n               smallint NOT NULL CHECK (n >= 1),
    started_at      timestamptz NOT NULL,
    duration_ms     integer NOT NULL CHECK (duration_ms >= 0),
    outcome         text NOT NULL,
    status_code     smallint,
    error           text,
    remote_address  text,
    response_headers jsonb,
    -- At most 16 KiB of it.
    response_body   bytea,
    PRIMARY KEY (delivery_id, n)
) PARTITION BY RANGE (delivery_id);

-- One row: what the sweeper saw last.
CREATE TABLE sweep (
    one             boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Every job that was due before this has reached a dispatcher.
    watermark       timestamptz,
    unaccounted     bigint NOT NULL DEFAULT 0,
    oldest_due_at   timestamptz,
    requeued        bigint NOT NULL DEFAULT 0,
    swept_at        timestamptz
);
INSERT INTO sweep DEFAULT VALUES;

-- The lowest UUIDv7 of a moment.
CREATE FUNCTION first_uuid_at(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- The ids that share their millisecond with this one: an event's deliveries are
-- among those of its uid.
CREATE FUNCTION millisecond_floor(id uuid) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (left(replace(id::text, '-', ''), 12) || repeat('0', 20))::uuid
$$;
CREATE FUNCTION millisecond_ceiling(id uuid) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (left(replace(id::text, '-', ''), 12) || repeat('f', 20))::uuid
$$;

-- Makes the partitions from yesterday to `ahead` days from now that are missing.
CREATE FUNCTION create_partitions(ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    day     date;
    parent  text;
    child   text;
    made    integer := 0;
BEGIN
    FOR day IN SELECT (now() AT TIME ZONE 'UTC')::date + i FROM generate_series(-1, ahead) i LOOP
        FOREACH parent IN ARRAY ARRAY['events', 'deliveries', 'attempts'] LOOP
            child := parent || '_' || to_char(day, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(child) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                child, parent,
                first_uuid_at(day::timestamp AT TIME ZONE 'UTC'),
                first_uuid_at((day + 1)::timestamp AT TIME ZONE 'UTC'));
            IF parent = 'events' THEN
                -- Unique within the day; ingest looks the day before up itself.
                EXECUTE format('CREATE UNIQUE INDEX %I ON %I (tenant, id)', child || '_by_id', child);
            END IF;
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

-- Drops the days that ended before `until`.
CREATE FUNCTION drop_partitions(until timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    child   regclass;
    dropped integer := 0;
BEGIN
    FOR child IN
        SELECT i.inhrelid FROM pg_inherits i
        WHERE i.inhparent IN ('events'::regclass, 'deliveries'::regclass, 'attempts'::regclass)
          AND to_date(right(i.inhrelid::regclass::text, 8), 'YYYYMMDD') + 1
              <= (until AT TIME ZONE 'UTC')::date
    LOOP
        EXECUTE format('DROP TABLE %s', child);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

SELECT create_partitions(14);
