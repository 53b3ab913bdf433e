-- Of these ranges of ids, in their order, the begin of the first one that has an open delivery.
-- A function, so that it is planned once for a connection: planning for all days takes about 30 ms,
-- and looking about 1 ms. The order is that of `deliveries_due`, which has nothing but open ones.
CREATE FUNCTION oldest_open_day(begins uuid[], ends uuid[]) RETURNS uuid
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (
        SELECT day.begins FROM unnest(begins, ends) WITH ORDINALITY AS day (begins, ends, n)
        CROSS JOIN LATERAL (
            SELECT 1 FROM deliveries WHERE id >= day.begins AND id < day.ends
                AND state IN ('queued', 'retrying') ORDER BY due_at LIMIT 1) d
        ORDER BY day.n LIMIT 1);
END $$;
