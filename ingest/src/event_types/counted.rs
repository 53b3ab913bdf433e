//! Limits what a check by the `jsonschema` crate costs: data that counts each access.
//!
//! The crate checks any representation of JSON. Ours wraps `serde_json`'s, and each
//! access takes a step from the thread's budget. When the budget is spent, the check
//! is abandoned. So the bound is exact, however a schema's keywords work.
//!
//! A step is about ten nanoseconds, or [`BYTES_A_STEP`] bytes of text. Errors cost
//! what memory they take: the caller of [`within`] says how much.
//!
//! The crate can't end a check early, and a false answer wouldn't end the walk
//! through the schema. So abandoning a check means unwinding to [`within`], without
//! the panic hook.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, cmp};
use serde_json::{Map, Number, Value};

/// How much of a text costs a step.
pub const BYTES_A_STEP: usize = 4;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(0) };
    static COSTS: Cell<Costs> = const { Cell::new(Costs { error: 0, name_byte: 0 }) };
}

/// What a check costs besides looking.
#[derive(Clone, Copy, Default)]
pub struct Costs {
    /// Steps for each error that is written.
    pub error: u64,
    /// Steps for each byte of a member's name, for the patterns that read it.
    pub name_byte: u64,
}

/// The budget was spent before there was an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted;

/// Runs a check of [`Counted`] data with so many steps.
///
/// # Errors
/// If it needs more.
pub fn within<T>(steps: u64, costs: Costs, check: impl FnOnce() -> T) -> Result<T, Exhausted> {
    LEFT.set(steps);
    COSTS.set(costs);
    // Nothing of the check outlives it: its answer is dropped with it.
    match catch_unwind(AssertUnwindSafe(check)) {
        Ok(answer) => Ok(answer),
        Err(cause) if cause.is::<Exhausted>() => Err(Exhausted),
        Err(cause) => resume_unwind(cause),
    }
}

/// Takes steps off the budget of the check that runs on this thread.
pub fn spend(steps: u64) {
    let left = LEFT.get();
    if left < steps {
        resume_unwind(Box::new(Exhausted));
    }
    LEFT.set(left - steps);
}

fn spend_text(bytes: usize) {
    spend(1 + (bytes / BYTES_A_STEP) as u64);
}

fn spend_error() {
    spend(COSTS.get().error);
}

pub struct Counted;

/// A value that counts.
#[derive(Clone, Copy)]
pub struct Seen<'a>(pub &'a Value);

impl Json for Counted {
    type Node<'a> = Seen<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(Seen<'_>) -> T) -> T {
        *buffer = Value::String(string.to_owned());
        f(Seen(buffer))
    }
}

impl<'a> Node<'a, Counted> for Seen<'a> {
    type Object = Members<'a>;
    type Array = Items<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<Members<'a>> {
        spend(1);
        self.0.as_object().map(Members)
    }

    fn as_array(&self) -> Option<Items<'a>> {
        spend(1);
        self.0.as_array().map(|items| Items(items))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let text = self.0.as_str();
        spend_text(text.map_or(0, str::len));
        text.map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a Number> {
        spend(1);
        self.0.as_number()
    }

    fn as_boolean(&self) -> Option<bool> {
        spend(1);
        self.0.as_bool()
    }

    fn is_null(&self) -> bool {
        spend(1);
        self.0.is_null()
    }

    fn json_type(&self) -> JsonType {
        spend(1);
        match self.0 {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn equals_value(&self, expected: &Value) -> bool {
        // Never more than there is of either.
        let alike = match (self.0, expected) {
            (Value::Array(a), Value::Array(b)) => a.len() == b.len(),
            (Value::Object(a), Value::Object(b)) => a.len() == b.len(),
            _ => false,
        };
        spend(if alike { size(expected) } else { 1 });
        cmp::equal(self.0, expected)
    }

    // Only for errors: what else asks for it is overridden here.
    fn to_value(&self) -> Cow<'a, Value> {
        spend_error();
        Cow::Borrowed(self.0)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref(self.0) as usize))
    }
}

/// Writes what is the same for equal values alone.
fn write_key(value: &Value, key: &mut Vec<u8>) {
    let text = |text: &str, key: &mut Vec<u8>| {
        key.extend(text.len().to_be_bytes());
        key.extend(text.as_bytes());
    };
    match value {
        Value::Null => key.push(b'n'),
        Value::Bool(is) => key.push(if *is { b't' } else { b'f' }),
        Value::Number(number) => {
            // A double without a fraction is the integer that it is worth.
            let double = number.as_f64().filter(|_| number.is_f64());
            let whole = double.filter(|double| double.fract() == 0.0 && double.abs() < 1e30);
            match (double, whole, number.as_i128()) {
                (_, Some(whole), _) => {
                    key.push(b'i');
                    key.extend((whole as i128).to_be_bytes());
                }
                (Some(double), None, _) => {
                    key.push(b'd');
                    key.extend(double.to_bits().to_be_bytes());
                }
                (None, None, integer) => {
                    key.push(b'i');
                    key.extend(integer.unwrap_or_default().to_be_bytes());
                }
            }
        }
        Value::String(string) => {
            key.push(b's');
            text(string, key);
        }
        Value::Array(items) => {
            key.push(b'[');
            items.iter().for_each(|item| write_key(item, key));
            key.push(b']');
        }
        Value::Object(members) => {
            key.push(b'{');
            // By name: `serde_json`'s map is sorted, unless a feature says otherwise.
            let sorted: BTreeMap<_, _> = members.iter().collect();
            for (name, member) in sorted {
                text(name, key);
                write_key(member, key);
            }
            key.push(b'}');
        }
    }
}

/// How many steps it takes to look at all of a value.
fn size(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<u64>(),
        Value::Object(members) => {
            let each = members
                .iter()
                .map(|(name, value)| (name.len() / BYTES_A_STEP) as u64 + size(value));
            1 + each.sum::<u64>()
        }
        Value::String(text) => 1 + (text.len() / BYTES_A_STEP) as u64,
        _ => 1,
    }
}

/// The members of an object that counts.
pub struct Members<'a>(&'a Map<String, Value>);

impl<'a> Object<'a, Counted> for Members<'a> {
    type Node = Seen<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<Seen<'a>> {
        spend(1);
        self.0.get(key).map(Seen)
    }

    fn members(&self) -> MembersIter<'a> {
        let name_byte = COSTS.get().name_byte;
        MembersIter {
            members: self.0.iter(),
            name_byte,
        }
    }
}

/// See [`Members`].
pub struct MembersIter<'a> {
    members: serde_json::map::Iter<'a>,
    name_byte: u64,
}

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, Seen<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.members.next()?;
        spend_text(name.len());
        spend(self.name_byte * name.len() as u64);
        Some((name, Seen(value)))
    }
}

/// The items of an array that counts.
pub struct Items<'a>(&'a [Value]);

impl<'a> Array<'a, Counted> for Items<'a> {
    type Node = Seen<'a>;
    type ElementsIter = ItemsIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> ItemsIter<'a> {
        ItemsIter(self.0.iter())
    }

    // The crate's own hashes `[1, [2]]` and `[[1], 2]` alike, so that whoever
    // makes up such items has each compared with all.
    fn is_unique(&self) -> bool {
        let mut seen = HashSet::with_capacity(self.0.len());
        self.0.iter().all(|item| {
            spend(size(item));
            let mut key = Vec::new();
            write_key(item, &mut key);
            seen.insert(key)
        })
    }
}

/// See [`Items`].
pub struct ItemsIter<'a>(std::slice::Iter<'a, Value>);

impl<'a> Iterator for ItemsIter<'a> {
    type Item = Seen<'a>;

    fn next(&mut self) -> Option<Seen<'a>> {
        let item = self.0.next()?;
        spend(1);
        Some(Seen(item))
    }
}
