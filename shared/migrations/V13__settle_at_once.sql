-- A batch of verdicts is written by one statement, which is its whole transaction:
-- see dispatcher/src/settle/rows.rs. It calls this if a delivery doesn't wait for
-- its verdict (any more), so that all of it or nothing is written and counted.
CREATE FUNCTION refuse_stale_verdict() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PH001',
        MESSAGE = 'a delivery does not wait for its verdict any more',
        HINT = 'This is no fault: Posthorn writes the other verdicts of the batch at once.';
END $$;
