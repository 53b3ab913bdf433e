-- The history of changes has one entry for each event that is expunged, with the event's id: see
-- ingest/src/api/events/expunge.rs. That the tenant's row gets a new time for dispatchers (V26)
-- is no change of the tenant's, and took the place of one.

ALTER TABLE changes
    DROP CONSTRAINT changes_kind_check,
    ADD CONSTRAINT changes_kind_check
        CHECK (kind IN ('tenant', 'webhook', 'event_type', 'token', 'event'));

DROP TRIGGER note_update ON tenants;
CREATE TRIGGER note_update AFTER UPDATE ON tenants
    FOR EACH ROW WHEN (OLD.revision = NEW.revision
        AND OLD.expunged_at IS NOT DISTINCT FROM NEW.expunged_at)
    EXECUTE FUNCTION note_change('tenant', 'id');
