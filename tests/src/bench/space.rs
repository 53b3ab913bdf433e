//! How much of the disk the database takes, table by table.

use tokio_postgres::Client;

use super::usage::mebibytes;

/// The tables that grow with each event and each delivery.
const TABLES: [&str; 3] = ["events", "deliveries", "attempts"];

/// Bytes on the disk.
pub(super) struct Space {
    pub(super) database: u64,
    /// Of each table with all its partitions: its name, its rows, its indexes.
    tables: Vec<(&'static str, u64, u64)>,
}

impl Space {
    /// What the database takes now.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub(super) async fn look(sql: &Client) -> Result<Self, tokio_postgres::Error> {
        let database = "SELECT pg_database_size(current_database())";
        let database: i64 = sql.query_one(database, &[]).await?.get(0);
        let mut tables = Vec::new();
        for table in TABLES {
            let sizes = "SELECT coalesce(sum(pg_table_size(relid)), 0)::int8, \
                             coalesce(sum(pg_indexes_size(relid)), 0)::int8 \
                         FROM pg_partition_tree($1::text::regclass) WHERE isleaf";
            let row = sql.query_one(sizes, &[&table]).await?;
            let (rows, indexes): (i64, i64) = (row.get(0), row.get(1));
            tables.push((table, rows.unsigned_abs(), indexes.unsigned_abs()));
        }
        Ok(Self {
            database: database.unsigned_abs(),
            tables,
        })
    }

    /// The lines of a table, in MiB.
    pub(super) fn lines(&self) -> Vec<(String, f64)> {
        let mut lines = vec![("database, MiB".to_owned(), mebibytes(self.database))];
        for (table, rows, indexes) in &self.tables {
            lines.push((format!("  {table}, rows"), mebibytes(*rows)));
            lines.push((format!("  {table}, indexes"), mebibytes(*indexes)));
        }
        lines
    }
}
