-- Who is signed in to the console, and links that sign somebody in.

-- The browser has 32 random bytes in a cookie, this table their SHA-256. So whoever
-- reads the table can't be anybody.
CREATE TABLE sessions (
    hash            bytea PRIMARY KEY CHECK (length(hash) = 32),
    -- How it began: by an API token, by ADMIN_TOKEN, by a JWT, by a link for the console
    -- or by a link for the portal.
    kind            text NOT NULL CHECK (kind IN ('token', 'operator', 'jwt', 'link', 'portal')),
    -- A session ends when its token does: this is looked up at every request.
    token_id        uuid REFERENCES tokens (id),
    -- Of ADMIN_TOKEN: an HMAC with the cookie's bytes as its key, which nobody can guess from.
    operator_mark   bytea,
    -- NULL: all tenants. With a token, the token's row counts.
    tenant          text REFERENCES tenants (id),
    role            text NOT NULL CHECK (role IN ('admin', 'manager', 'viewer')),
    -- The webhooks that a portal link covers; NULL: all of its tenant.
    webhooks        uuid[],
    -- How pages and logs name it: the first characters of a token, or what it began with.
    shown           text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- To the minute: not every request writes.
    seen_at         timestamptz NOT NULL DEFAULT now(),
    ends_at         timestamptz NOT NULL,
    -- A secret that was just made, sealed, for the one page that shows it.
    sealed          bytea,
    sealed_until    timestamptz,
    CHECK ((kind = 'token') = (token_id IS NOT NULL)),
    CHECK ((kind = 'operator') = (operator_mark IS NOT NULL)),
    CHECK (kind <> 'portal' OR tenant IS NOT NULL),
    CHECK ((sealed IS NULL) = (sealed_until IS NULL))
);
CREATE INDEX sessions_by_end ON sessions (ends_at);
CREATE INDEX sessions_by_token ON sessions (token_id) WHERE token_id IS NOT NULL;
CREATE INDEX sessions_by_tenant ON sessions (tenant) WHERE tenant IS NOT NULL;

-- Links that sign somebody in, once: for the operator's console, or for the portal
-- of a tenant's customer.
CREATE TABLE links (
    id              uuid PRIMARY KEY,
    -- SHA-256 of the link's 32 random bytes.
    hash            bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
    kind            text NOT NULL CHECK (kind IN ('link', 'portal')),
    tenant          text REFERENCES tenants (id),
    role            text NOT NULL CHECK (role IN ('admin', 'manager', 'viewer')),
    webhooks        uuid[],
    -- How long the session lasts that it begins.
    session_s       integer NOT NULL CHECK (session_s BETWEEN 60 AND 86400),
    made_at         timestamptz NOT NULL DEFAULT now(),
    -- It must be opened before.
    ends_at         timestamptz NOT NULL,
    opened_at       timestamptz,
    CHECK (kind <> 'portal' OR tenant IS NOT NULL)
);
CREATE INDEX links_by_end ON links (ends_at);
