//! The assignments of an `UPDATE`, each with its value: nobody counts positional parameters.
//!
//! A member that is not to be changed is assigned to itself, so the statement's
//! text is the same whatever is changed, and is prepared once.

use tokio_postgres::types::ToSql;

/// `SET` clauses, and the values of all parameters of the statement.
#[derive(Default)]
pub struct Assignments<'a> {
    clauses: Vec<String>,
    values: Vec<Box<dyn ToSql + Sync + Send + 'a>>,
}

impl<'a> Assignments<'a> {
    /// Adds a value; answers the name of its parameter, such as `$3`.
    pub fn parameter(&mut self, value: impl ToSql + Sync + Send + 'a) -> String {
        self.values.push(Box::new(value));
        format!("${}", self.values.len())
    }

    /// Assigns a value to a column that is never NULL, if there is one.
    pub fn set(&mut self, column: &str, value: Option<impl ToSql + Sync + Send + 'a>) {
        let value = self.parameter(value);
        self.clause(format!("{column} = coalesce({value}, {column})"));
    }

    /// Assigns a value or, for `Some(None)`, NULL.
    pub fn set_nullable(
        &mut self,
        column: &str,
        value: Option<Option<impl ToSql + Sync + Send + 'a>>,
    ) {
        let changes = self.parameter(value.is_some());
        let value = self.parameter(value.flatten());
        self.clause(format!(
            "{column} = CASE WHEN {changes} THEN {value} ELSE {column} END"
        ));
    }

    /// Adds an assignment of another form.
    pub fn clause(&mut self, clause: String) {
        self.clauses.push(clause);
    }

    /// All assignments, for after `SET`.
    pub fn clauses(&self) -> String {
        self.clauses.join(", ")
    }

    /// The values of all parameters, in order.
    pub fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        let values = self.values.iter();
        values
            .map(|value| &**value as &(dyn ToSql + Sync))
            .collect()
    }
}
