-- The portal of a tenant's customers: who may frame it, and how it looks.

ALTER TABLE tenants
    -- Origins whose pages may have the portal in a frame: exactly these.
    ADD COLUMN frame_ancestors text[] NOT NULL DEFAULT '{}'
        CHECK (cardinality(frame_ancestors) <= 10);
ALTER TABLE links
    ADD COLUMN theme text CHECK (theme IN ('light', 'dark')),
    ADD COLUMN accent text CHECK (accent IN ('petrol', 'blue', 'violet', 'green', 'brown', 'gray'));
ALTER TABLE sessions
    ADD COLUMN theme text CHECK (theme IN ('light', 'dark')),
    ADD COLUMN accent text CHECK (accent IN ('petrol', 'blue', 'violet', 'green', 'brown', 'gray'));
