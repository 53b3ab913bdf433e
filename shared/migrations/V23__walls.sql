-- Endpoints behind walls: a way out through a proxy, a client certificate, OAuth 2.

ALTER TABLE tenants
    -- The name of a proxy in `EGRESS_PROXIES`. NULL: `EGRESS_PROXY`, if it is set.
    ADD COLUMN egress_proxy         text CHECK (egress_proxy ~ '^[a-z0-9_-]{1,63}$');

ALTER TABLE webhooks
    -- Sealed, as secrets are: a certificate and its private key (see
    -- shared/src/client_certificate.rs), and client credentials (shared/src/oauth.rs).
    ADD COLUMN client_certificate   bytea,
    ADD COLUMN oauth2               bytea;
