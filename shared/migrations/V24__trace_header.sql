-- Whether a webhook's deliveries carry the trace of their event, in the header `traceparent`.
ALTER TABLE webhooks ADD COLUMN trace_header boolean NOT NULL DEFAULT true;
