-- What the API tells beside the log itself: where deliveries wait, what came of replays,
-- which events nobody wanted, and who changed what.
--
-- No index here takes a delivery that is delivered at its first try, or an event that
-- matches: the way of nearly everything writes nothing to them. On a large log they take
-- a while to build, and writes wait: docs/upgrading.md says how to build them beforehand.

-- Over HTTP, or over AMQP. NULL: accepted before this was noted.
ALTER TABLE events ADD COLUMN over_http boolean;
-- Events that matched no webhook, by time. `< 1` rather than `= 0`: that would imply the
-- predicate of `events_by_time` too, and a planner could read all of a tenant's day.
CREATE INDEX events_unmatched ON events (tenant, uid) WHERE matched < 1;

-- First attempts that were put off without being made (`endpoint_full`, `paused`, …).
-- Those that wait for another attempt are in `deliveries_in_trouble`.
CREATE INDEX deliveries_deferred ON deliveries (webhook_id, id)
    WHERE state = 'queued' AND deferred_because IS NOT NULL;
-- Deliveries that began again: what became of a replay.
CREATE INDEX deliveries_restarted ON deliveries (webhook_id, restarted_at)
    WHERE restarted_at IS NOT NULL;

ALTER TABLE replays
    -- NULL: all of the tenant's webhooks, one after the other.
    ALTER COLUMN webhook_id DROP NOT NULL,
    -- backfill: makes the deliveries that a webhook lacks. It has no states.
    ADD COLUMN kind text NOT NULL DEFAULT 'replay' CHECK (kind IN ('replay', 'backfill')),
    -- Of the last attempt: `404`, `5xx`, `none`; NULL: all.
    ADD COLUMN codes text[],
    ADD COLUMN outcomes text[],
    -- The webhook that is looked at, if it is one of many.
    ADD COLUMN at_webhook uuid,
    -- Begins slowly, and slows down when endpoints are overloaded.
    ADD COLUMN ramp boolean NOT NULL DEFAULT false,
    -- Deliveries a second of the latest step.
    ADD COLUMN rate_now real,
    -- Failures of deliveries that began again before this have been taken into account.
    ADD COLUMN slowed_at timestamptz,
    ADD CHECK (kind = 'replay' OR webhook_id IS NOT NULL);
CREATE INDEX replays_by_tenant ON replays (tenant, id);
CREATE UNIQUE INDEX replays_of_tenant_running ON replays (tenant)
    WHERE state = 'running' AND webhook_id IS NULL;

-- NULL: made before this was noted.
ALTER TABLE webhooks ADD COLUMN secret_made_at timestamptz;
ALTER TABLE webhooks ALTER COLUMN secret_made_at SET DEFAULT now();

-- Who changed what: written by triggers, so that nothing that changes a row can forget
-- it. Nothing in it is a secret: of sealed columns it is noted that they changed.
CREATE TABLE changes (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    tenant  text NOT NULL,
    -- The setting `posthorn.actor` of the transaction.
    actor   text NOT NULL,
    action  text NOT NULL CHECK (action IN ('created', 'changed', 'deleted')),
    kind    text NOT NULL CHECK (kind IN ('tenant', 'webhook', 'event_type', 'token')),
    -- A UUID, or a name.
    object  text NOT NULL,
    -- The columns that changed. NULL once the object is deleted.
    before  jsonb,
    after   jsonb
);
CREATE INDEX changes_by_tenant ON changes (tenant, id);
CREATE INDEX changes_by_object ON changes (tenant, kind, object, id);
CREATE INDEX changes_by_time ON changes (at);

-- Arguments: the kind, and the column that is the object's name.
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    -- An object's latest changes are kept.
    kept CONSTANT integer := 200;
    longest CONSTANT integer := 2000;
    sealed CONSTANT text[] := '{secret,previous_secret,signing_key,previous_signing_key,headers}';
    unsaid CONSTANT text[] :=
        '{id,tenant,hash,revision,created_at,updated_at,last_used_at,secret_made_at}';
    old_row jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    new_row jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    any_row jsonb := coalesce(new_row, old_row);
    whose text := CASE TG_ARGV[0] WHEN 'tenant' THEN any_row ->> 'id' ELSE any_row ->> 'tenant' END;
    what text := any_row ->> TG_ARGV[1];
    deed text := CASE
        WHEN TG_OP = 'INSERT' THEN 'created'
        WHEN TG_OP = 'DELETE' OR new_row ->> 'status' = 'deleted' THEN 'deleted'
        ELSE 'changed' END;
    was jsonb := '{}';
    is_now jsonb := '{}';
    member text;
    pair jsonb[];
BEGIN
    -- A tenant's events, jobs and webhooks know it by its id; so does the operator.
    IF whose IS NULL THEN
        RETURN NULL;
    END IF;
    IF deed <> 'deleted' THEN
        FOR member IN SELECT jsonb_object_keys(new_row) LOOP
            CONTINUE WHEN member = ANY (unsaid)
                OR old_row -> member IS NOT DISTINCT FROM new_row -> member
                OR TG_OP = 'INSERT' AND new_row -> member IN ('null', '""', '{}', '[]', 'false');
            pair := ARRAY[coalesce(old_row -> member, 'null'), new_row -> member];
            FOR i IN 1..2 LOOP
                IF member = ANY (sealed) AND pair[i] <> 'null' THEN
                    pair[i] := '"…"';
                ELSIF length(pair[i]::text) > longest THEN
                    pair[i] := to_jsonb(left(pair[i]::text, longest) || '…');
                END IF;
            END LOOP;
            was := was || jsonb_build_object(member, pair[1]);
            is_now := is_now || jsonb_build_object(member, pair[2]);
        END LOOP;
        IF is_now = '{}' AND TG_OP = 'UPDATE' THEN
            RETURN NULL;
        END IF;
    ELSE
        -- What is deleted leaves no content behind, see V8.
        UPDATE changes SET before = NULL, after = NULL
        WHERE tenant = whose AND kind = TG_ARGV[0] AND object = what;
    END IF;
    INSERT INTO changes (tenant, actor, action, kind, object, before, after)
    VALUES (whose, coalesce(nullif(current_setting('posthorn.actor', true), ''), 'posthorn'), deed,
            TG_ARGV[0], what,
            CASE WHEN deed = 'changed' THEN was END, CASE WHEN deed <> 'deleted' THEN is_now END);
    DELETE FROM changes WHERE id IN (
        SELECT id FROM changes WHERE tenant = whose AND kind = TG_ARGV[0] AND object = what
        ORDER BY id DESC OFFSET kept);
    RETURN NULL;
END $$;

CREATE TRIGGER note_insert AFTER INSERT ON webhooks
    FOR EACH ROW EXECUTE FUNCTION note_change('webhook', 'id');
-- What changes the revision alone is count_change().
CREATE TRIGGER note_update AFTER UPDATE ON webhooks
    FOR EACH ROW WHEN (OLD.revision = NEW.revision)
    EXECUTE FUNCTION note_change('webhook', 'id');
CREATE TRIGGER note_insert AFTER INSERT ON tenants
    FOR EACH ROW EXECUTE FUNCTION note_change('tenant', 'id');
CREATE TRIGGER note_update AFTER UPDATE ON tenants
    FOR EACH ROW WHEN (OLD.revision = NEW.revision)
    EXECUTE FUNCTION note_change('tenant', 'id');
CREATE TRIGGER note_change AFTER INSERT OR UPDATE OR DELETE ON event_types
    FOR EACH ROW EXECUTE FUNCTION note_change('event_type', 'name');
CREATE TRIGGER note_change AFTER INSERT OR UPDATE OF revoked_at ON tokens
    FOR EACH ROW EXECUTE FUNCTION note_change('token', 'id');
