//! The columns of an `UPDATE` or an `INSERT`, each beside its value: nobody counts positional
//! parameters.
//!
//! The statement's text is the same whatever the values are, so that it is prepared once. An
//! `UPDATE` assigns a column that is not to be changed to itself.

use tokio_postgres::types::ToSql;

type Value<'a> = Box<dyn ToSql + Sync + Send + 'a>;

/// `SET` clauses, and the values of all parameters of the statement.
#[derive(Default)]
pub struct Assignments<'a> {
    clauses: Vec<String>,
    values: Vec<Value<'a>>,
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
        parameters(&self.values)
    }
}

/// The columns of a new row, and their values.
#[derive(Default)]
pub struct Insertion<'a> {
    columns: Vec<&'static str>,
    expressions: Vec<String>,
    values: Vec<Value<'a>>,
}

impl<'a> Insertion<'a> {
    pub fn set(&mut self, column: &'static str, value: impl ToSql + Sync + Send + 'a) {
        self.values.push(Box::new(value));
        self.columns.push(column);
        self.expressions.push(format!("${}", self.values.len()));
    }

    /// Sets a column to a value, or to an SQL expression if there is none.
    pub fn set_or(
        &mut self,
        column: &'static str,
        value: Option<impl ToSql + Sync + Send + 'a>,
        default: &str,
    ) {
        self.values.push(Box::new(value));
        self.columns.push(column);
        let number = self.values.len();
        self.expressions
            .push(format!("coalesce(${number}, {default})"));
    }

    /// What comes after `INSERT INTO <table>`.
    pub fn row(&self) -> String {
        let columns = self.columns.join(", ");
        format!("({columns}) VALUES ({})", self.expressions.join(", "))
    }

    /// The values of all parameters, in order.
    pub fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        parameters(&self.values)
    }
}

fn parameters<'v>(values: &'v [Value<'_>]) -> Vec<&'v (dyn ToSql + Sync)> {
    let values = values.iter();
    values
        .map(|value| &**value as &(dyn ToSql + Sync))
        .collect()
}
