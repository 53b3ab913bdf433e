-- A webhook's URL can hold a token in its path or query. The history says that the URL changed
-- and names its host, and keeps no more of it. (V15 stored what was long as the beginning of its
-- JSON, with the quotation mark.)
CREATE FUNCTION host_of_url(url jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT to_jsonb(regexp_replace(url #>> '{}', '^"?([a-z]+://[^/?#]*).+$', '\1/…'))
$$;

CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    -- An object's latest changes are kept.
    kept CONSTANT integer := 200;
    longest CONSTANT integer := 2000;
    sealed CONSTANT text[] := 
        '{secret,previous_secret,signing_key,previous_signing_key,headers,client_certificate,oauth2}';
    unsaid CONSTANT text[] :=
        '{id,tenant,hash,revision,created_at,updated_at,last_used_at,secret_made_at,temporary_until}';
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
                ELSIF member = 'url' AND pair[i] <> 'null' THEN
                    pair[i] := host_of_url(pair[i]);
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

UPDATE changes SET
    before = CASE WHEN before ? 'url' THEN before || jsonb_build_object('url', host_of_url(before -> 'url')) ELSE before END,
    after = CASE WHEN after ? 'url' THEN after || jsonb_build_object('url', host_of_url(after -> 'url')) ELSE after END
WHERE before ? 'url' OR after ? 'url';
