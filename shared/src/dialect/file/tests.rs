use super::*;

const GOOD: &str = r#"
[body]
data = '{data}'
[headers]
X-Signature = '{signatures.main}'
[signatures.main]
signs = '{body}'
encoding = '{hex}'
[retry]
delays = []
[answers]
success = ['2xx']
"#;

#[test]
fn a_minimal_file_is_a_dialect() {
    let dialect = read("shop.toml", GOOD).unwrap();
    assert_eq!(dialect.name(), "shop");
    assert_eq!(dialect.policy().timeout, TIMEOUT);
    assert_eq!(dialect.policy().max_age, time::Duration::days(7));
}

#[test]
fn json_is_understood_too() {
    let text = r#"{
            "body": {"z": 1, "data": "{data}", "a": {"n": 2.50, "t": true}},
            "headers": {"X-Signature": "{signatures.main}"},
            "signatures": {"main": {"signs": "{body}", "encoding": "{hex}"}},
            "retry": {"first": "1s", "retries": 2, "jitter": 0.5},
            "answers": {"success": ["200"]}
        }"#;
    let dialect = read("shop.json", text).unwrap();
    let names: Vec<_> = dialect.body.iter().map(|member| &member.name).collect();
    assert_eq!(names, ["z", "data", "a"], "in the file's order");
}

#[test]
fn errors_name_file_key_and_reason() {
    for (from, to, key, reason) in [
        ("[body]", "[bodi]", "`body`", "is missing"),
        (
            "[retry]",
            "[retry]\ntimes = 3",
            "`retry.times`",
            "not known",
        ),
        ("[body]", "colour = 1\n[body]", "`colour`", "not known"),
        (
            "[body]",
            "form = 'ruby'\n[body]",
            "`form`",
            "`as-published` or `javascript`, not `ruby`",
        ),
        (
            "[body]",
            "timeout = '61s'\n[body]",
            "`timeout`",
            "between 1s and 60s",
        ),
        (
            "[body]",
            "timeout = 10\n[body]",
            "`timeout`",
            "must be a text",
        ),
        ("[body]", "max_age = '8d'\n[body]", "`max_age`", "not `8d`"),
        ("[body]", "max_age = 'week'\n[body]", "`max_age`", "`week`"),
        ("{data}", "{date}", "`body.data`", "names `date`"),
        ("{data}", "a {data}", "`body.data`", "text around"),
        (
            "{data}",
            "{signatures.other}",
            "`body.data`",
            "`other`, which does not exist",
        ),
        (
            "{data}",
            "{signatures.main}",
            "`signatures.main.signs`",
            "{body without data}",
        ),
        ("{data}", "{attributes}", "`body.data`", "at the key `...`"),
        ("data =", "'...' =", "`body....`", "at the key `...`"),
        ("'{data}'", "[1]", "`body.data`", "must be a text, a number"),
        (
            "'{data}'",
            "{ a = { b = '{x}' } }",
            "`body.data.a.b`",
            "names `x`",
        ),
        (
            "[body]",
            "form = 'javascript'\n[body]\n1 = 2",
            "`body.1`",
            "is an integer",
        ),
        (
            "X-Signature",
            "Content-Length",
            "`headers.Content-Length`",
            "is set by",
        ),
        ("X-Signature", "'a b'", "`headers.a b`", "not a header name"),
        (
            "'{signatures.main}'",
            "\"\\u0007\"",
            "`headers.X-Signature`",
            "characters",
        ),
        (
            "X-Signature = ",
            "x-signature = ''\nX-Signature = ",
            "`headers.X-Signature`",
            "only once",
        ),
        (
            "{signatures.main}",
            "x",
            "`signatures.main`",
            "is not used in",
        ),
        (
            "{body}",
            "{body.date}",
            "`signatures.main.signs`",
            "`date`, which does not exist",
        ),
        (
            "{body}",
            "{bod",
            "`signatures.main.signs`",
            "without its `}`",
        ),
        (
            "{hex}",
            "{hex}{base64}",
            "`signatures.main.encoding`",
            "must have one of",
        ),
        (
            "{hex}",
            "sha256",
            "`signatures.main.encoding`",
            "must have one of",
        ),
        (
            "encoding",
            "encodings",
            "`signatures.main.encoding`",
            "is missing",
        ),
        (
            "[retry]",
            "key = 'pem'\n[retry]",
            "`signatures.main.key`",
            "not `pem`",
        ),
        (
            "delays = []",
            "",
            "`retry.first`",
            "or `delays` must be set",
        ),
        ("delays = []", "delays = ['2d']", "`retry`", "86400000"),
        (
            "delays = []",
            "delays = [5]",
            "`retry.delays`",
            "list of texts",
        ),
        ("delays = []", "delays = ['5']", "`retry.delays`", "`5`"),
        (
            "delays = []",
            "first = '1s'\nretries = 1.5",
            "`retry.retries`",
            "whole",
        ),
        ("delays = []", "first = '1s'\nretries = 50", "`retry`", "49"),
        (
            "delays = []",
            "delays = []\nretries = 3",
            "`retry.retries`",
            "not known",
        ),
        ("2xx", "2yy", "`answers.success`", "`2yy`"),
        ("['2xx']", "[]", "`answers.success`", "at least one"),
        (
            "['2xx']",
            "['2xx']\nstop = ['204']",
            "`answers.success`",
            "the status 204 two meanings",
        ),
        ("[retry]", "[retry", "shop.toml", "not TOML"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        let error = read("shop.toml", &text).unwrap_err().to_string();
        assert!(
            error.starts_with("shop.toml: ") && error.contains(key) && error.contains(reason),
            "{error} for {to}"
        );
    }
    for (file, reason) in [
        ("Shop.toml", "named with"),
        ("shop.yaml", "must end"),
        (".toml", "named with"),
    ] {
        let error = read(file, GOOD).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let error = read("shop.json", r#"{"body": null}"#)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("shop.json: is not a dialect in JSON"),
        "{error}"
    );
}
