//! [`rewrite`] writes every document exactly as Node.js does.
//!
//! One Node process reads documents (one line of base64 each) and returns
//! `JSON.stringify(JSON.parse(document))` of each, in the same format.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fastrand::Rng;
use shared::dialect::javascript::rewrite;

const NODE: &str = "
const lines = require('fs').readFileSync(0, 'latin1').split('\\n').filter(Boolean);
const answers = lines.map(line => {
    const document = Buffer.from(line, 'base64').toString('utf8');
    return Buffer.from(JSON.stringify(JSON.parse(document)), 'utf8').toString('base64');
});
process.stdout.write(answers.join('\\n'));
";

/// Node's result for each document; `None` if Node isn't installed.
fn node(documents: &[String]) -> Option<Vec<String>> {
    let child = Command::new("node")
        .args(["-e", NODE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "node: {error}");
            eprintln!("SKIPPED: no `node` ({error}): nothing compared with JavaScript");
            return None;
        }
    };
    let mut input = child.stdin.take().unwrap();
    let lines: Vec<_> = documents.iter().map(|text| BASE64.encode(text)).collect();
    // The Node program reads all of its input before it writes.
    input.write_all(lines.join("\n").as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "node failed");
    let answers = String::from_utf8(output.stdout).unwrap();
    let decode = |line: &str| String::from_utf8(BASE64.decode(line).unwrap()).unwrap();
    Some(answers.split('\n').map(decode).collect())
}

fn compare(documents: &[String]) {
    let Some(answers) = node(documents) else {
        return;
    };
    assert_eq!(answers.len(), documents.len());
    for (document, answer) in documents.iter().zip(answers) {
        assert_eq!(rewrite(document).unwrap(), answer, "of {document}");
        assert_eq!(rewrite(&answer).unwrap(), answer, "twice, of {document}");
    }
}

#[test]
fn numbers_at_every_edge_are_printed_as_node_prints_them() {
    let mut documents: Vec<String> = [
        "0",
        "-0",
        "-0.0",
        "0e0",
        "0E-400",
        "1e400",
        "-1e400",
        "1e-400",
        "25.00",
        "1E5",
        "1e+5",
        "9007199254740991",
        "9007199254740992",
        "9007199254740993",
        "9007199254740995",
        "12345678901234567890",
        "18446744073709551615",
        "18446744073709551616",
        "4.9e-324",
        "2.4703282292062327e-324",
        "2.4703282292062328e-324",
        "2.2250738585072014e-308",
        "2.2250738585072011e-308",
        "1.7976931348623157e308",
        "1.7976931348623158e308",
        "1.7976931348623159e308",
        "179769313486231580793728971405301e276",
        "0.1",
        "0.30000000000000004",
        "123456789012345680000",
        "999999999999999900000",
        "999999999999999999999",
        "1e20",
        "1e21",
        "1e22",
        "1e23",
        "5e-7",
        "1e-6",
        "0.0000001",
        "0.00000123",
        "1.0000000000000002",
        "1.00000000000000011102230246251565404",
        "1.00000000000000011102230246251565405",
        "1.5e300",
        "100000000000000000000000000000000",
        "0.000000000000000000000000000000000000000000000000000000000001",
    ]
    .map(str::to_owned)
    .to_vec();
    documents.push(format!("{}.5", "9".repeat(400)));
    documents.push(format!("0.{}1", "0".repeat(400)));
    documents.push(format!("1{}1e-800", "0".repeat(799)));
    let mut rng = Rng::with_seed(7);
    for exponent in -330..=312 {
        for digit in ["1", "9.999999999999999", "4.5035996273704965", "-2"] {
            documents.push(format!("{digit}e{exponent}"));
        }
    }
    for shift in 0..64 {
        let power = 1_u64 << shift;
        documents.extend([power - 1, power, power.saturating_add(1)].map(|n| n.to_string()));
    }
    for _ in 0..5_000 {
        let double = f64::from_bits(rng.u64(..));
        if double.is_finite() {
            documents.push(format!("{double:e}"));
            documents.push(format!("{double}"));
        }
        documents.push(number(&mut rng));
    }
    compare(&documents);
}

#[test]
fn documents_are_written_as_node_writes_them() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let mut documents: Vec<String> = [
        r#"{"__proto__":1,"a":{"__proto__":{"x":[]}},"__proto__":2}"#,
        r#"{"4294967293":1,"4294967294":2,"4294967295":3,"4294967296":4,"1":5,"0":6}"#,
        r#"{"9007199254740991":1,"9007199254740993":2,"18446744073709551616":3,"5":4}"#,
        r#"{"00":1,"-0":2,"+1":3,"1.0":4,"1e3":5," 1":6,"":7,"\u0031":8}"#,
        r#"{"constructor":1,"toString":2,"hasOwnProperty":3,"length":4,"toJSON":5}"#,
        r#"{"\ud800":1,"\uD800":2,"\udc00":3,"\ud800\udc00":4,"𐀀":5}"#,
        "\"\u{2028}\u{2029}\u{feff}\u{fffd}\u{ffff}\u{10ffff}\u{7f}\u{80}\u{9f}\"",
        "\t[ ]\r\n",
    ]
    .map(str::to_owned)
    .to_vec();
    for unit in 0..=0xffff_u32 {
        if unit < 0x300
            || unit % 251 == 0
            || (0xd7f0..0xd810).contains(&unit)
            || unit > 0xdbf0 && unit < 0xdc10
            || unit > 0xdff0 && unit < 0xe010
        {
            documents.push(format!("{{\"\\u{unit:04X}a\":\"\\u{unit:04x}\"}}"));
        }
    }
    // The deepest nesting that ingest accepts.
    documents.push(format!("{}1.0{}", "[".repeat(100), "]".repeat(100)));
    documents.push(format!("{}1.0{}", "{\"1\":".repeat(100), "}".repeat(100)));
    for _ in 0..8_000 {
        let mut document = String::new();
        value(&mut rng, 4, &mut document);
        documents.push(document);
    }
    compare(&documents);
}

fn value(rng: &mut Rng, depth: u32, out: &mut String) {
    space(rng, out);
    match rng.u32(..if depth == 0 { 5 } else { 9 }) {
        0 => out.push_str("null"),
        1 => out.push_str(if rng.bool() { "true" } else { "false" }),
        2 | 3 => out.push_str(&number(rng)),
        4 => string(rng, out),
        5 | 6 => list(rng, out, '[', ']', |rng, out| value(rng, depth - 1, out)),
        _ => list(rng, out, '{', '}', |rng, out| {
            space(rng, out);
            name(rng, out);
            space(rng, out);
            out.push(':');
            value(rng, depth - 1, out);
        }),
    }
    space(rng, out);
}

fn list(
    rng: &mut Rng,
    out: &mut String,
    open: char,
    close: char,
    mut entry: impl FnMut(&mut Rng, &mut String),
) {
    out.push(open);
    for n in 0..rng.u32(..6) {
        if n > 0 {
            out.push(',');
        }
        entry(rng, out);
    }
    out.push(close);
}

fn space(rng: &mut Rng, out: &mut String) {
    if rng.u32(..8) == 0 {
        out.push(*rng.choice([' ', '\t', '\n', '\r'].iter()).unwrap());
    }
}

fn number(rng: &mut Rng) -> String {
    let mut out = String::new();
    let digits = |rng: &mut Rng, out: &mut String, most: usize| {
        for _ in 0..rng.usize(1..=most) {
            out.push(rng.char('0'..='9'));
        }
    };
    if rng.bool() {
        out.push('-');
    }
    if rng.u32(..4) == 0 {
        out.push('0');
    } else {
        out.push(rng.char('1'..='9'));
        digits(rng, &mut out, 24);
    }
    if rng.bool() {
        out.push('.');
        digits(rng, &mut out, 24);
    }
    if rng.u32(..3) == 0 {
        out.push(if rng.bool() { 'e' } else { 'E' });
        out.push_str(["", "+", "-"][rng.usize(..3)]);
        digits(rng, &mut out, 3);
    }
    out
}

/// So few names that some occur twice; many of them are integers.
fn name(rng: &mut Rng, out: &mut String) {
    match rng.u32(..4) {
        0 => out.push_str(&format!("\"{}\"", rng.u64(..12))),
        1 => out.push_str(&format!("\"{}\"", rng.u64(4_294_967_290..4_294_967_300))),
        2 => {
            let names = [
                "a",
                "b",
                "\\u0061",
                "__proto__",
                "01",
                "-1",
                "1.5",
                "\\u0031",
                "toJSON",
            ];
            out.push_str(&format!("\"{}\"", rng.choice(names.iter()).unwrap()));
        }
        _ => string(rng, out),
    }
}

fn string(rng: &mut Rng, out: &mut String) {
    out.push('"');
    for _ in 0..rng.usize(..8) {
        match rng.u32(..6) {
            0 => out.push(rng.char('a'..='z')),
            1 => {
                let escapes = ["\\b", "\\f", "\\n", "\\r", "\\t", "\\\"", "\\\\", "\\/"];
                out.push_str(rng.choice(escapes.iter()).unwrap());
            }
            2 => out.push_str(&format!("\\u{:04x}", rng.u16(..))),
            3 => out.push_str(&format!("\\u{:04X}", rng.u16(0xd700..0xe100))),
            4 => out.push_str(&format!("\\u{:04x}", rng.u16(..0x80))),
            _ => {
                let c = rng.char(' '..='\u{10ffff}');
                if c != '"' && c != '\\' {
                    out.push(c);
                }
            }
        }
    }
    out.push('"');
}
