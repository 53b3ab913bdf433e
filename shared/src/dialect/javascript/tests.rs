use proptest::prelude::*;

use super::*;

#[test]
fn numbers_are_written_as_ecmascript_writes_them() {
    for (text, written) in [
        ("25.00", "25"),
        ("12345678901234567890", "12345678901234567000"),
        ("-0", "0"),
        ("-0.0e5", "0"),
        ("1e21", "1e+21"),
        ("1e-7", "1e-7"),
        ("0.000001", "0.000001"),
        ("9007199254740993", "9007199254740992"),
        ("5e-324", "5e-324"),
        ("1e400", "null"),
        ("-1E+400", "null"),
        ("1e-400", "0"),
    ] {
        assert_eq!(rewrite(text).unwrap(), written, "{text}");
    }
}

#[test]
fn a_string_has_one_spelling() {
    for (text, written) in [
        (r#""\u0061\/""#, r#""a/""#),
        (r#""\u0008\u000C\u000a\u000d\u0009""#, r#""\b\f\n\r\t""#),
        (r#""\u0000\u001F\u007f""#, "\"\\u0000\\u001f\u{7f}\""),
        (r#""\u2028é☕""#, "\"\u{2028}é☕\""),
        (r#""\uD83D\uDE00""#, "\"😀\""),
        (r#""\uD83D""#, r#""\ud83d""#),
        (r#""\uDE00\uD83D""#, r#""\ude00\ud83d""#),
        (r#""\uD83D\uD83D\uDE00x""#, "\"\\ud83d😀x\""),
        (r#""\uD83D\n""#, r#""\ud83d\n""#),
    ] {
        assert_eq!(rewrite(text).unwrap(), written, "{text}");
    }
}

#[test]
fn members_come_in_javascripts_order_and_once() {
    for (text, written) in [
        (
            r#"{"b":1,"2":2,"a":3,"10":4,"1":5}"#,
            r#"{"1":5,"2":2,"10":4,"b":1,"a":3}"#,
        ),
        (r#"{"a":1,"b":2,"\u0061":3}"#, r#"{"a":3,"b":2}"#),
        (
            r#"{"b":0,"01":1,"-1":2,"1.5":3,"":4}"#,
            r#"{"b":0,"01":1,"-1":2,"1.5":3,"":4}"#,
        ),
        (
            r#"{"4294967295":1,"4294967294":2,"0":3}"#,
            r#"{"0":3,"4294967294":2,"4294967295":1}"#,
        ),
        (
            r#"{"__proto__":{"x":1},"a":2,"__proto__":null}"#,
            r#"{"__proto__":null,"a":2}"#,
        ),
    ] {
        assert_eq!(rewrite(text).unwrap(), written, "{text}");
    }
}

#[test]
fn space_goes_and_what_is_not_json_is_refused() {
    assert_eq!(
        rewrite(" { \"a\" : [ 1 , true , null ] , \"b\" : { } }\r\n").unwrap(),
        r#"{"a":[1,true,null],"b":{}}"#
    );
    for bad in [
        "",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "01",
        "1.",
        ".5",
        "1e",
        "+1",
        "nul",
        "NaN",
        "\"a",
        "\"\n\"",
        "\"a\\n\n\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\u12",
        "1 2",
        "{a:1}",
        "\u{feff}1",
        "'a'",
        "[1 2]",
        "{\"a\" 1}",
        "\"\\",
    ] {
        assert!(rewrite(bad).is_err(), "{bad:?}");
    }
    let nested = |n| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(rewrite(&nested(MAX_DEPTH)).is_ok());
    assert!(rewrite(&nested(MAX_DEPTH + 1)).is_err());
    assert!(rewrite(&"[".repeat(1_000_000)).is_err());
}

#[test]
fn a_quoted_text_is_json() {
    for text in ["", "a\"b\\c/", "\u{0}\u{1f}\n\t\u{7f}", "☕\u{2028}"] {
        let quoted = quote(text);
        assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        assert_eq!(rewrite(&quoted).unwrap(), quoted);
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "[\\[\\]{}\",:\\\\u0-9a-fdDeE+.\\-tnrl é😀]{0,60}") {
        let _ = rewrite(&text);
    }

    #[test]
    fn it_takes_what_serde_json_takes(text in "[\\[\\]{}\",:0-9eE+.\\-a ]{0,12}") {
        let theirs: Result<&serde_json::value::RawValue, _> = serde_json::from_str(&text);
        prop_assert_eq!(rewrite(&text).is_ok(), theirs.is_ok(), "{}", text);
    }

    #[test]
    fn rewriting_its_own_output_changes_nothing(text in "\\{(\"[a0-9]{0,2}\":(-?[1-9]{1,22}(\\.[0-9]{1,9})?(e-?[0-9]{1,3})?|\"(\\\\u[dD][89a-f][0-9]{2}|é|x){0,4}\"),){0,9}\"z\":0\\}") {
        let once = rewrite(&text).unwrap();
        prop_assert_eq!(rewrite(&once).unwrap(), once);
    }
}
