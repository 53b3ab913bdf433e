//! Runs a script in another language on a test's cases.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // Called by tests: a failure ends the test.

use std::io::Write;
use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::receiver::Arrival;

/// A program's verdict on each case: it reads the cases from its standard input, and prints
/// the verdicts as JSON. `None` if the program isn't installed, which CI doesn't accept.
#[must_use]
pub fn judged_by<V: DeserializeOwned>(
    program: &str,
    arguments: &[&str],
    cases: &Value,
) -> Option<Vec<V>> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{program}: {error}");
            eprintln!("SKIPPED: no `{program}` ({error}): it judged nothing");
            return None;
        }
    };
    let mut input = child.stdin.take().unwrap();
    input.write_all(cases.to_string().as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} failed");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// An arrival's headers as an object.
#[must_use]
pub fn headers(arrival: &Arrival) -> Map<String, Value> {
    let headers = arrival.headers.iter();
    headers
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
        .collect()
}
