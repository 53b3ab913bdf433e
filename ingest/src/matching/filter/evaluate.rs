//! Asking a filter's clauses about an event's data.
//!
//! A parsed [`Clause`] and the data come in; yes, or the clause that said no,
//! goes out. The parser bounds the filter and the caller bounds the data, but
//! their product can still be large, so every value looked at costs a step of
//! a [`Budget`]. A path visits no value twice, so only the sizes multiply:
//! there is nothing exponential to guard against.

use std::{cmp::Ordering, ops::Not};

use serde_json::Value;

use super::clause::{
    Budget, Clause, Field, HASHED_A_STEP, Holding, Listed, MAX_EXCERPT, Operand, Origin, Path,
    Refusal, Relation, Segment, Test, TooCostly,
};
use super::excerpt::{cut, excerpt_of_all};
use crate::matching::number;

pub(super) fn matches(root: &Clause, data: &Value, budget: &mut Budget) -> Result<bool, TooCostly> {
    Ok(judge(root, data, budget)? == Truth::Yes)
}

pub(super) fn explain(
    root: &Clause,
    data: &Value,
    budget: &mut Budget,
) -> Result<Vec<Holding>, Refusal> {
    // As much again for the words.
    let mut for_words = Budget::new(budget.left());
    match judge(root, data, budget) {
        Ok(Truth::Yes) => {
            let mut holding = Vec::new();
            // Without steps for all of the words, the first ones are enough.
            let _ = hold(root, data, &mut for_words, &mut holding);
            Ok(holding)
        }
        Ok(Truth::No | Truth::Missing) => {
            let words = refusal(root, data, &mut for_words);
            Err(words.unwrap_or_else(|TooCostly| Refusal::too_costly()))
        }
        Err(TooCostly) => Err(Refusal::too_costly()),
    }
}

/// What a clause says about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    /// It cannot say: the data lacks the path that it is about.
    Missing,
}

impl Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Missing => Self::Missing,
        }
    }
}

fn judge(clause: &Clause, data: &Value, budget: &mut Budget) -> Result<Truth, TooCostly> {
    match clause {
        Clause::All(clauses) => {
            let mut all = Truth::Yes;
            for clause in clauses {
                match judge(clause, data, budget)? {
                    Truth::Yes => {}
                    // Not yet the answer: what is missing may come after.
                    Truth::No => all = Truth::No,
                    Truth::Missing => return Ok(Truth::Missing),
                }
            }
            Ok(all)
        }
        Clause::Any(_, clauses) => {
            let mut any = Truth::No;
            for clause in clauses {
                match judge(clause, data, budget)? {
                    Truth::Yes => return Ok(Truth::Yes),
                    Truth::No => {}
                    Truth::Missing => any = Truth::Missing,
                }
            }
            Ok(any)
        }
        Clause::Not(_, clause) => Ok(!judge(clause, data, budget)?),
        Clause::Holds(_, field, test) => {
            let found = find(field, data, budget)?;
            if found.is_empty() {
                return Ok(Truth::Missing);
            }
            for value in found {
                if holds_for_any(test, value, budget)? {
                    return Ok(Truth::Yes);
                }
            }
            Ok(Truth::No)
        }
        Clause::Exists(_, field, wanted) => {
            let missing = find(field, data, budget)?.is_empty();
            Ok(if *wanted != missing {
                Truth::Yes
            } else {
                Truth::No
            })
        }
    }
}

/// Every value that the field's path leads to; none if it is missing.
fn find<'d>(
    field: &Field,
    data: &'d Value,
    budget: &mut Budget,
) -> Result<Vec<&'d Value>, TooCostly> {
    let mut first = Vec::new();
    for Path { segments, .. } in &field.paths {
        let mut found = Vec::new();
        walk(segments, data, &mut found, budget)?;
        if found.iter().any(|value| !value.is_null()) {
            return Ok(found);
        }
        // Only null: good if no other path has more.
        if first.is_empty() {
            first = found;
        }
    }
    Ok(first)
}

fn walk<'d>(
    segments: &[Segment],
    value: &'d Value,
    found: &mut Vec<&'d Value>,
    budget: &mut Budget,
) -> Result<(), TooCostly> {
    budget.step()?;
    let Some((segment, rest)) = segments.split_first() else {
        found.push(value);
        return Ok(());
    };
    match (value, segment.index) {
        // Only objects within the object: an array's items are many.
        (Value::Object(members), _) if segment.any => {
            for member in members.values() {
                budget.step()?;
                if member.is_object() {
                    walk(rest, member, found, budget)?;
                }
            }
        }
        _ if segment.any => {}
        (Value::Object(members), _) => {
            if let Some(member) = members.get(&segment.key) {
                walk(rest, member, found, budget)?;
            }
        }
        (Value::Array(items), Some(index)) => {
            if let Some(item) = items.get(index) {
                walk(rest, item, found, budget)?;
            }
        }
        (Value::Array(items), None) => {
            for item in items {
                budget.step()?;
                if let Some(member) = item.get(&segment.key) {
                    walk(rest, member, found, budget)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// The value as a whole, or if it is an array any element of it.
fn holds_for_any(test: &Test, value: &Value, budget: &mut Budget) -> Result<bool, TooCostly> {
    if holds(test, value, budget)? {
        return Ok(true);
    }
    for item in value.as_array().into_iter().flatten() {
        if holds(test, item, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn holds(test: &Test, value: &Value, budget: &mut Budget) -> Result<bool, TooCostly> {
    budget.step()?;
    Ok(match test {
        Test::Equals(literal) => same(literal, value, budget)?,
        Test::OneOf(listed) => listed.has(value, budget)?,
        Test::Compares(relation, operand) => {
            compare(value, operand).is_some_and(|order| relation.allows(order))
        }
        Test::StartsWith(start) => value.as_str().is_some_and(|text| text.starts_with(start)),
        Test::EndsWith(end) => value.as_str().is_some_and(|text| text.ends_with(end)),
    })
}

impl Listed {
    fn has(&self, value: &Value, budget: &mut Budget) -> Result<bool, TooCostly> {
        match value {
            Value::String(text) => {
                // A listed text has at most 1,024 bytes, so this is at most 32 steps.
                // Comparing is no matter: 1,024 bytes take about as long as a step.
                if !self.lengths.contains(&text.len()) {
                    return Ok(false);
                }
                budget.steps((text.len() / HASHED_A_STEP) as u32)?;
                Ok(self.texts.contains(text))
            }
            Value::Number(number) => {
                Ok(number::key(number).is_some_and(|key| self.numbers.contains(&key)))
            }
            _ => {
                for other in &self.others {
                    if same(other, value, budget)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}

/// Equality as filters mean it: `serde_json`'s holds 1 and 1.0 to differ.
fn same(a: &Value, b: &Value, budget: &mut Budget) -> Result<bool, TooCostly> {
    budget.step()?;
    Ok(match (a, b) {
        (Value::Number(a), Value::Number(b)) => number::compare(a, b) == Some(Ordering::Equal),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (a, b) in a.iter().zip(b) {
                if !same(a, b, budget)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            for (key, a) in a {
                let Some(b) = b.get(key) else {
                    return Ok(false);
                };
                if !same(a, b, budget)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::String(a), Value::String(b)) => a == b,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Null, Value::Null) => true,
        _ => false,
    })
}

/// `None` where the kinds differ or have no order.
fn compare(value: &Value, operand: &Operand) -> Option<Ordering> {
    match (value, operand) {
        (Value::Number(value), Operand::Number(operand)) => number::compare(value, operand),
        (Value::String(value), Operand::Text(operand)) => Some(value.cmp(operand)),
        _ => None,
    }
}

impl Relation {
    fn allows(self, order: Ordering) -> bool {
        match self {
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
        }
    }
}

/// The clauses that made a filter say yes, in the filter's order.
fn hold(
    clause: &Clause,
    data: &Value,
    budget: &mut Budget,
    holding: &mut Vec<Holding>,
) -> Result<(), TooCostly> {
    match clause {
        Clause::All(clauses) => {
            for clause in clauses {
                hold(clause, data, budget, holding)?;
            }
        }
        // The first alternative that holds is what decided.
        Clause::Any(_, clauses) => {
            for clause in clauses {
                if judge(clause, data, budget)? == Truth::Yes {
                    return hold(clause, data, budget, holding);
                }
            }
        }
        Clause::Not(origin, _) | Clause::Holds(origin, ..) | Clause::Exists(origin, ..) => {
            let Origin { at, text } = origin.clone();
            holding.push(Holding {
                at,
                clause: text,
                found: describe(clause, data, budget)?,
            });
        }
    }
    Ok(())
}

/// Which clause to name for a filter that did not say yes.
fn refusal(clause: &Clause, data: &Value, budget: &mut Budget) -> Result<Refusal, TooCostly> {
    match clause {
        Clause::All(clauses) => {
            for clause in clauses {
                if judge(clause, data, budget)? != Truth::Yes {
                    return refusal(clause, data, budget);
                }
            }
            // Not reached: one of them said no before.
            Err(TooCostly)
        }
        Clause::Any(origin, _)
        | Clause::Not(origin, _)
        | Clause::Holds(origin, ..)
        | Clause::Exists(origin, ..) => {
            let Origin { at, text } = origin.clone();
            Ok(Refusal {
                at,
                clause: text,
                found: describe(clause, data, budget)?,
            })
        }
    }
}

/// What the data has at the paths that a clause looks at.
fn describe(clause: &Clause, data: &Value, budget: &mut Budget) -> Result<String, TooCostly> {
    let mut fields = Vec::new();
    fields_of(clause, &mut fields);
    let mut seen = Vec::new();
    for field in fields {
        let name = field.name();
        if !seen.iter().any(|(other, _)| *other == name) {
            seen.push((name, describe_field(field, data, budget)?));
        }
    }
    Ok(match &mut seen[..] {
        // Such as `{"$not": {}}`, which looks at none.
        [] => "not looked at".to_owned(),
        [(_, found)] => std::mem::take(found),
        several => {
            let each = several
                .iter()
                .map(|(name, found)| format!("{name}: {found}"));
            cut(&each.collect::<Vec<_>>().join(", "), MAX_EXCERPT)
        }
    })
}

fn fields_of<'c>(clause: &'c Clause, fields: &mut Vec<&'c Field>) {
    match clause {
        Clause::Holds(_, field, _) | Clause::Exists(_, field, _) => fields.push(field),
        Clause::Not(_, clause) => fields_of(clause, fields),
        Clause::All(clauses) | Clause::Any(_, clauses) => {
            for clause in clauses {
                fields_of(clause, fields);
            }
        }
    }
}

fn describe_field(field: &Field, data: &Value, budget: &mut Budget) -> Result<String, TooCostly> {
    let found = find(field, data, budget)?;
    Ok(if found.is_empty() {
        "missing".to_owned()
    } else {
        excerpt_of_all(&found, MAX_EXCERPT)
    })
}
