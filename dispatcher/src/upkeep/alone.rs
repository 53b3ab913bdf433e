//! One replica does a piece of upkeep at a time.

use deadpool_postgres::Transaction;

/// Takes an advisory lock until the transaction ends. `false`: another replica has it, and
/// does the work.
pub(super) async fn is_alone(
    transaction: &Transaction<'_>,
    lock: i64,
) -> Result<bool, tokio_postgres::Error> {
    let locked = "-- upkeep_lock\nSELECT pg_try_advisory_xact_lock($1)";
    Ok(transaction.query_one(locked, &[&lock]).await?.get(0))
}
