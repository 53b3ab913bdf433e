//! Reads the file: CSV, or a JSON object per line.
//!
//! A row that isn't what the format says is a problem of that row alone. The file is read
//! whole: it may have 8 MiB and 100,000 rows.

use std::io::Read;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde_json::{Map, Value};

/// The largest file, in bytes.
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// The most rows.
const MAX_ROWS: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Csv,
    Jsonl,
}

/// One row, as it is in the file.
pub(super) struct Row {
    /// The line on which it begins.
    pub(super) line: u64,
    /// Its members, or why it has none. A cell of CSV is a text; an empty one is left out.
    pub(super) members: Result<Map<String, Value>, String>,
}

pub(super) fn read(name: &str, format: Option<Format>) -> anyhow::Result<Vec<Row>> {
    let mut text = String::new();
    // One byte more than allowed, to notice a file that is too large.
    let read = if name == "-" {
        std::io::stdin()
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(name).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
    };
    let read = read.with_context(|| format!("reading {name}"))? as u64;
    ensure!(
        read <= MAX_FILE,
        "{name} has more than {MAX_FILE} bytes: split it"
    );
    // Spreadsheets write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let rows = match format.unwrap_or_else(|| guess(name, text)) {
        Format::Csv => csv_rows(text).with_context(|| format!("{name}, line 1"))?,
        Format::Jsonl => json_rows(text),
    };
    ensure!(!rows.is_empty(), "{name} has no rows");
    ensure!(
        rows.len() <= MAX_ROWS,
        "{name} has more than {MAX_ROWS} rows: split it"
    );
    Ok(rows)
}

fn guess(name: &str, text: &str) -> Format {
    match name.rsplit_once('.') {
        Some((_, "csv")) => Format::Csv,
        Some((_, "jsonl" | "ndjson" | "json")) => Format::Jsonl,
        _ if text.trim_start().starts_with('{') => Format::Jsonl,
        _ => Format::Csv,
    }
}

fn csv_rows(text: &str) -> anyhow::Result<Vec<Row>> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let names: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    for (at, name) in names.iter().enumerate() {
        ensure!(!name.is_empty(), "column {} has no name", at + 1);
        ensure!(
            !names[..at].contains(name),
            "the column `{name}` is there twice"
        );
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        rows.push(match record {
            Ok(record) => {
                let cells = names.iter().zip(record.iter());
                let cells = cells.filter(|(_, cell)| !cell.is_empty());
                let members = cells.map(|(name, cell)| (name.clone(), cell.into()));
                Row {
                    line: record.position().map_or(0, csv::Position::line),
                    members: Ok(members.collect()),
                }
            }
            Err(error) => Row {
                line: error.position().map_or(0, csv::Position::line),
                members: Err(match error.kind() {
                    csv::ErrorKind::UnequalLengths { len, .. } => {
                        format!("has {len} cells; the first line has {}", names.len())
                    }
                    _ => "is not CSV".to_owned(),
                }),
            },
        });
    }
    Ok(rows)
}

fn json_rows(text: &str) -> Vec<Row> {
    let lines = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| !line.trim().is_empty());
    lines
        .map(|(text, line)| Row {
            line,
            members: match serde_json::from_str(text) {
                Ok(Value::Object(members)) => Ok(members),
                Ok(_) => Err("is not a JSON object".to_owned()),
                Err(error) => Err(format!("is not JSON: column {}", error.column())),
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_row_of_csv_doesnt_spoil_the_others() {
        let rows = csv_rows("id,url\n1,\"https://a/,b\"\n2\n\n3,\n").unwrap();
        assert_eq!(rows[0].members.as_ref().unwrap()["url"], "https://a/,b");
        assert_eq!(
            (rows[1].line, rows[1].members.as_ref().unwrap_err().as_str()),
            (3, "has 1 cells; the first line has 2")
        );
        assert_eq!(rows[2].line, 5);
        assert!(!rows[2].members.as_ref().unwrap().contains_key("url"));
        assert!(csv_rows("a,a\n1,2\n").is_err());
    }

    #[test]
    fn json_lines_are_objects() {
        let rows = json_rows("{\"a\":1}\n\n[1]\n{\"secret\": hunter2}\n");
        assert_eq!((rows[0].line, rows[1].line), (1, 3));
        assert!(rows[1].members.is_err());
        assert!(!rows[2].members.as_ref().unwrap_err().contains("hunter2"));
    }
}
