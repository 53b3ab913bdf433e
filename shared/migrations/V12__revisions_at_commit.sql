-- A change takes its revision when its transaction commits. Before, it took it
-- with the first statement and held the counter's row until the end: whoever was
-- slow in a transaction, or changed much in one, kept every other tenant's
-- changes waiting, and dispatchers that disable a webhook.
--
-- As before, the counter is held until the commit is through, so revisions become
-- visible in order. A transaction takes the counter last, with all other locks
-- that it needs in hand: two can't wait for each other in a circle.
--
-- Later migrations: a transaction that has changed rows of these tables can't
-- alter them any more. Alter first.

DROP TRIGGER count_change ON tenants;
DROP TRIGGER count_change ON webhooks;
DROP FUNCTION count_change();

CREATE FUNCTION count_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    next bigint;
BEGIN
    UPDATE catalogue SET revision = revision + 1 RETURNING revision INTO next;
    EXECUTE format('UPDATE %I SET revision = $1 WHERE id = $2', TG_TABLE_NAME) USING next, NEW.id;
    PERFORM pg_notify('posthorn_catalogue', next::text);
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER count_insert AFTER INSERT ON tenants
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION count_change();
-- What changes the revision is the function itself.
CREATE CONSTRAINT TRIGGER count_update AFTER UPDATE ON tenants
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.revision = NEW.revision)
    EXECUTE FUNCTION count_change();
CREATE CONSTRAINT TRIGGER count_insert AFTER INSERT ON webhooks
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION count_change();
CREATE CONSTRAINT TRIGGER count_update AFTER UPDATE ON webhooks
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.revision = NEW.revision)
    EXECUTE FUNCTION count_change();
