//! From a filter's JSON to its clauses, within the bounds.
//!
//! The only maker of [`Clause`]s, so that evaluation can rely on the bounds:
//! depth, number of clauses, and size of everything they compare with.

use serde_json::{Map, Value};

use super::clause::{
    Clause, Field, FilterError, Listed, MAX_CLAUSE_TEXT, MAX_CLAUSES, MAX_DEPTH, MAX_PATH,
    MAX_SEGMENTS, MAX_STRING, MAX_VALUES, Operand, Origin, Path, Relation, Segment, Test,
};
use super::excerpt::{cut, excerpt};
use crate::matching::number;

/// What may stand where a path may.
const COMBINATORS: &str = "$and, $or, $not";
/// What may stand under a path.
const OPERATORS: &str = "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, $startsWith, \
                         $endsWith, $not";

const LOCATION: &[&str] = &["location_id", "locationId", "location"];
const CATEGORY: &[&str] = &["category_id", "categoryId", "category"];
const STOCK: &[&str] = &["quantity", "stock", "current_quantity"];

pub(super) fn parse(filter: &Value) -> Result<Clause, FilterError> {
    Parser { clauses: 0 }.filter(filter, &At::top())
}

struct Parser {
    clauses: usize,
}

type Parsed<T> = Result<T, FilterError>;

impl Parser {
    /// An object of paths and combinators, all of which must hold.
    fn filter(&mut self, filter: &Value, at: &At) -> Parsed<Clause> {
        let Value::Object(members) = filter else {
            return Err(at.wants("a filter is an object", filter));
        };
        at.within_depth()?;
        if members.is_empty() {
            self.count(at)?;
        }
        let clauses = members
            .iter()
            .map(|(key, value)| self.member(key, value, at));
        Ok(Clause::All(clauses.collect::<Parsed<_>>()?))
    }

    fn member(&mut self, key: &str, value: &Value, filter: &At) -> Parsed<Clause> {
        let at = &filter.member(key);
        match key {
            "$and" => {
                self.count(at)?;
                Ok(Clause::All(self.filters(value, at)?))
            }
            "$or" => {
                self.count(at)?;
                let origin = at.origin("$or", value);
                Ok(Clause::Any(origin, self.filters(value, at)?))
            }
            "$not" => {
                self.count(at)?;
                let origin = at.origin("$not", value);
                let denied = self.filter(value, &at.deeper())?;
                Ok(Clause::Not(origin, Box::new(denied)))
            }
            operator if operator.starts_with('$') => Err(filter.refuse(format!(
                "`{}` is unknown here, where a path or one of {COMBINATORS} may stand",
                cut(operator, 40)
            ))),
            "locations" if short(value, at) => self.one_of_these(LOCATION, value, at),
            "categories" if short(value, at) => self.one_of_these(CATEGORY, value, at),
            "minStockThreshold" if short(value, at) => self.stock_at_most(value, at),
            path => {
                let paths = vec![parse_path(path, filter)?];
                self.condition(&Field { paths }, value, at)
            }
        }
    }

    /// The list of an `$and` or `$or`.
    fn filters(&mut self, list: &Value, at: &At) -> Parsed<Vec<Clause>> {
        let filters = list.as_array().filter(|filters| !filters.is_empty());
        let Some(filters) = filters else {
            return Err(at.wants("needs an array of at least one filter", list));
        };
        let each = filters.iter().enumerate();
        each.map(|(n, filter)| self.filter(filter, &at.member(&n.to_string()).deeper()))
            .collect()
    }

    /// What a path is given: operators, or a literal to equal.
    fn condition(&mut self, field: &Field, value: &Value, at: &At) -> Parsed<Clause> {
        if let Some(operators) = as_operators(value) {
            return self.operators(field, operators, &at.deeper());
        }
        let test = Test::Equals(literal(value, &at.deeper())?);
        self.holds(field, "$eq", value, test, at)
    }

    fn operators(
        &mut self,
        field: &Field,
        operators: &Map<String, Value>,
        at: &At,
    ) -> Parsed<Clause> {
        at.within_depth()?;
        let clauses = operators
            .iter()
            .map(|(operator, operand)| self.operator(field, operator, operand, at));
        Ok(Clause::All(clauses.collect::<Parsed<_>>()?))
    }

    fn operator(
        &mut self,
        field: &Field,
        operator: &str,
        operand: &Value,
        operators: &At,
    ) -> Parsed<Clause> {
        let at = &operators.member(operator);
        let inner = &at.deeper();
        let compares = |relation| Ok(Test::Compares(relation, ordered(operand, at)?));
        let test = match operator {
            "$eq" | "$ne" => Test::Equals(literal(operand, inner)?),
            "$in" | "$nin" => Test::OneOf(Listed::new(values(operand, inner)?)),
            "$gt" => compares(Relation::Greater)?,
            "$gte" => compares(Relation::GreaterOrEqual)?,
            "$lt" => compares(Relation::Less)?,
            "$lte" => compares(Relation::LessOrEqual)?,
            "$startsWith" => Test::StartsWith(string(operand, at)?),
            "$endsWith" => Test::EndsWith(string(operand, at)?),
            "$exists" => {
                let Value::Bool(wanted) = operand else {
                    return Err(at.wants("$exists needs true or false", operand));
                };
                self.count(at)?;
                let origin = at.origin(&format!("{} $exists", field.name()), operand);
                return Ok(Clause::Exists(origin, field.clone(), *wanted));
            }
            "$not" => {
                let Some(denied) = as_operators(operand) else {
                    let message = format!("$not needs an object of operators: {OPERATORS}");
                    return Err(at.wants(&message, operand));
                };
                self.count(at)?;
                let origin = at.origin(&format!("{} $not", field.name()), operand);
                let denied = self.operators(field, denied, inner)?;
                return Ok(Clause::Not(origin, Box::new(denied)));
            }
            unknown => {
                return Err(operators.refuse(format!(
                    "`{}` is unknown here, the operators are {OPERATORS}",
                    cut(unknown, 40)
                )));
            }
        };
        let holds = self.holds(field, operator, operand, test, at)?;
        if matches!(operator, "$ne" | "$nin") {
            let origin = at.origin(&format!("{} {operator}", field.name()), operand);
            return Ok(Clause::Not(origin, Box::new(holds)));
        }
        Ok(holds)
    }

    fn one_of_these(&mut self, paths: &[&str], list: &Value, at: &At) -> Parsed<Clause> {
        let scalar = |v: &Value| v.is_string() || v.is_number();
        let listed = list.as_array().filter(|list| !list.is_empty());
        if !listed.is_some_and(|list| list.iter().all(scalar)) {
            let message =
                "needs a list of at least one string or number, or an object of operators";
            return Err(at.wants(message, list));
        }
        let test = Test::OneOf(Listed::new(values(list, &at.deeper())?));
        self.holds(&first_of(paths, at)?, "$in", list, test, at)
    }

    fn stock_at_most(&mut self, threshold: &Value, at: &At) -> Parsed<Clause> {
        let Value::Number(number) = threshold else {
            return Err(at.wants("needs a number, or an object of operators", threshold));
        };
        let test = Test::Compares(Relation::LessOrEqual, Operand::Number(number.clone()));
        self.holds(&first_of(STOCK, at)?, "$lte", threshold, test, at)
    }

    fn holds(
        &mut self,
        field: &Field,
        operator: &str,
        operand: &Value,
        test: Test,
        at: &At,
    ) -> Parsed<Clause> {
        self.count(at)?;
        let origin = at.origin(&format!("{} {operator}", field.name()), operand);
        Ok(Clause::Holds(origin, field.clone(), test))
    }

    fn count(&mut self, at: &At) -> Parsed<()> {
        self.clauses += 1;
        if self.clauses > MAX_CLAUSES {
            return Err(at.refuse(format!("a filter has at most {MAX_CLAUSES} clauses")));
        }
        Ok(())
    }
}

/// Whether a short form's key is used as such: at the top, without operators.
fn short(value: &Value, at: &At) -> bool {
    at.depth == 1 && as_operators(value).is_none()
}

/// The first of these members that is there, at the top or one level down.
fn first_of(paths: &[&str], at: &At) -> Parsed<Field> {
    let at_the_top = paths.iter().map(|path| parse_path(path, at));
    let mut all = at_the_top.collect::<Parsed<Vec<_>>>()?;
    let one_down = paths.iter().map(|path| Path {
        text: String::new(),
        segments: vec![
            Segment {
                any: true,
                key: String::new(),
                index: None,
            },
            parse_segment(path),
        ],
    });
    all.extend(one_down);
    Ok(Field { paths: all })
}

/// An object with any key that starts with `$`.
fn as_operators(value: &Value) -> Option<&Map<String, Value>> {
    let members = value.as_object()?;
    let any = members.keys().any(|key| key.starts_with('$'));
    any.then_some(members)
}

fn parse_path(text: &str, filter: &At) -> Parsed<Path> {
    let name = cut(text, 40);
    if text.len() > MAX_PATH {
        let bytes = text.len();
        return Err(filter.refuse(format!(
            "the path `{name}` has {bytes} bytes, at most {MAX_PATH} are allowed"
        )));
    }
    let segments: Vec<_> = text.split('.').map(parse_segment).collect();
    if segments.len() > MAX_SEGMENTS {
        let number = segments.len();
        return Err(filter.refuse(format!(
            "the path `{name}` has {number} segments, at most {MAX_SEGMENTS} are allowed"
        )));
    }
    if segments.iter().any(|segment| segment.key.is_empty()) {
        return Err(filter.refuse(format!("the path `{name}` has an empty segment")));
    }
    let text = text.to_owned();
    Ok(Path { text, segments })
}

fn parse_segment(key: &str) -> Segment {
    let digits = key.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (key == "0" || !key.starts_with('0'));
    Segment {
        any: false,
        key: key.to_owned(),
        index: canonical.then(|| key.parse().ok()).flatten(),
    }
}

/// The list of an `$in` or `$nin`. `at` is where its values are.
fn values(list: &Value, at: &At) -> Parsed<Vec<Value>> {
    let Value::Array(values) = list else {
        return Err(at.wants("needs an array of values", list));
    };
    if values.len() > MAX_VALUES {
        let number = values.len();
        return Err(at.refuse(format!(
            "a list has at most {MAX_VALUES} values, this one has {number}"
        )));
    }
    let each = values.iter().enumerate();
    each.map(|(n, value)| literal(value, &at.member(&n.to_string())))
        .collect()
}

impl Listed {
    fn new(values: Vec<Value>) -> Self {
        let mut listed = Self::default();
        for value in values {
            match value {
                Value::String(text) => {
                    listed.lengths.insert(text.len());
                    listed.texts.insert(text);
                }
                Value::Number(number) => listed.numbers.extend(number::key(&number)),
                other => listed.others.push(other),
            }
        }
        listed
    }
}

/// A value to compare with, checked and copied.
fn literal(value: &Value, at: &At) -> Parsed<Value> {
    check_literal(value, at, &mut 0)?;
    Ok(value.clone())
}

fn check_literal(value: &Value, at: &At, inside: &mut usize) -> Parsed<()> {
    if value.is_array() || value.is_object() {
        at.within_depth()?;
    }
    let members = match value {
        Value::Array(items) => items.len(),
        Value::Object(members) => members.len(),
        _ => 0,
    };
    *inside += members;
    if *inside > MAX_VALUES {
        return Err(at.refuse(format!(
            "a literal has at most {MAX_VALUES} values inside it"
        )));
    }
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        Value::String(text) => check_string(text, at),
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                check_literal(item, &at.member(&n.to_string()).deeper(), inside)?;
            }
            Ok(())
        }
        Value::Object(members) => {
            for (key, member) in members {
                check_string(key, at)?;
                if key.starts_with('$') {
                    return Err(at.refuse(format!(
                        "`{}` stands inside a literal; to look deeper into the data, write a \
                         dotted path",
                        cut(key, 40)
                    )));
                }
                check_literal(member, &at.member(key).deeper(), inside)?;
            }
            Ok(())
        }
    }
}

/// What `$gt` and its kind compare with.
fn ordered(operand: &Value, at: &At) -> Parsed<Operand> {
    match operand {
        Value::Number(number) => Ok(Operand::Number(number.clone())),
        Value::String(_) => Ok(Operand::Text(string(operand, at)?)),
        other => Err(at.wants("only a number or a string has an order", other)),
    }
}

fn string(operand: &Value, at: &At) -> Parsed<String> {
    let Value::String(text) = operand else {
        return Err(at.wants("needs a string", operand));
    };
    check_string(text, at)?;
    Ok(text.clone())
}

fn check_string(text: &str, at: &At) -> Parsed<()> {
    let bytes = text.len();
    if bytes > MAX_STRING {
        return Err(at.refuse(format!(
            "a string has at most {MAX_STRING} bytes, this one has {bytes}"
        )));
    }
    Ok(())
}

/// A place in the filter.
struct At {
    /// As a JSON Pointer.
    pointer: String,
    /// How many objects and arrays deep, see [`MAX_DEPTH`].
    depth: usize,
}

impl At {
    fn top() -> Self {
        Self {
            pointer: String::new(),
            depth: 1,
        }
    }

    fn member(&self, key: &str) -> Self {
        let escaped = key.replace('~', "~0").replace('/', "~1");
        Self {
            pointer: format!("{}/{escaped}", self.pointer),
            depth: self.depth,
        }
    }

    fn deeper(&self) -> Self {
        Self {
            pointer: self.pointer.clone(),
            depth: self.depth + 1,
        }
    }

    fn within_depth(&self) -> Parsed<()> {
        if self.depth > MAX_DEPTH {
            return Err(self.refuse(format!("a filter is at most {MAX_DEPTH} deep")));
        }
        Ok(())
    }

    fn origin(&self, what: &str, operand: &Value) -> Origin {
        let operand = excerpt(operand, MAX_CLAUSE_TEXT);
        Origin {
            at: self.pointer.clone(),
            text: cut(&format!("{what} {operand}"), MAX_CLAUSE_TEXT),
        }
    }

    fn refuse(&self, reason: String) -> FilterError {
        FilterError {
            at: self.pointer.clone(),
            reason,
        }
    }

    fn wants(&self, wanted: &str, instead: &Value) -> FilterError {
        let instead = excerpt(instead, 40);
        self.refuse(format!("{wanted}, this is {instead}"))
    }
}
