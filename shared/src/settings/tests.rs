use super::*;

fn read(pairs: &[(&str, &str)]) -> Result<(Common, Defaults), String> {
    let variable = |name: &str| {
        pairs
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    };
    let mut reader = Reader::new(&variable);
    let read = (Common::read(&mut reader), Defaults::read(&mut reader));
    reader
        .finish()
        .map(|()| read)
        .map_err(|error| error.to_string())
}

const GOOD: [(&str, &str); 3] = [
    ("DATABASE_URL", "postgres://localhost/posthorn"),
    ("AMQP_URL", "amqp://localhost"),
    ("MASTER_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
];

#[test]
fn three_variables_are_enough() {
    let (common, defaults) = read(&GOOD).unwrap();
    assert_eq!(common.shards, 1);
    assert!(!common.destinations.allow_http);
    assert_eq!(
        defaults,
        Defaults {
            retry: Retry::default(),
            timeout: None
        }
    );
}

/// A file of one test.
fn file(name: &str, text: &str) -> String {
    let name = format!("posthorn-{}-{name}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_secret_can_be_in_a_file_and_its_last_end_of_line_is_no_part_of_it() {
    let key = file("key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n");
    let url = file("url", "postgres://localhost/posthorn");
    let (common, _) = read(&[
        ("DATABASE_URL_FILE", &url),
        GOOD[1],
        ("MASTER_KEY_FILE", &key),
    ])
    .unwrap();
    assert_eq!(
        common.database_url.expose_secret(),
        "postgres://localhost/posthorn"
    );
    for path in [key, url] {
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_secret_in_a_file_that_cannot_be_used_is_one_problem_and_is_not_repeated() {
    let empty = file("empty", "\n");
    let large = file("large", &"x".repeat(65_537));
    for (path, problem) in [
        ("/nowhere/key", "No such file or directory"),
        (empty.as_str(), "the file is empty"),
        (large.as_str(), "the file has more than 65536 bytes"),
    ] {
        let error = read(&[GOOD[0], GOOD[1], ("MASTER_KEY_FILE", path)]).unwrap_err();
        let named = format!("MASTER_KEY_FILE: {path}: {problem}");
        assert!(error.contains(&named), "{error}");
        assert_eq!(error.lines().count(), 2, "{error}");
    }
    let error = read(&[GOOD[0], GOOD[1], GOOD[2], ("MASTER_KEY_FILE", &empty)]).unwrap_err();
    assert!(
        error.contains("MASTER_KEY and MASTER_KEY_FILE exclude each other"),
        "{error}"
    );
    assert!(!error.contains(GOOD[2].1), "{error}");
    for path in [empty, large] {
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn every_problem_is_named_at_once_and_no_secret_repeated() {
    let error = read(&[
        ("AMQP_URL", "amqp://localhost"),
        ("MASTER_KEY", "c2VjcmV0LWtleQ=="),
        ("JOB_SHARDS", "0"),
        ("ALLOWED_NETWORKS", "127.0.0.0/8, nonsense"),
        ("LOG_FORMAT", "xml"),
        ("WEBHOOK_TIMEOUT", "10"),
        ("DIALECTS_DIR", "/nowhere"),
        ("WEBHOOK_MAX_RETRIES", "500"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
    ])
    .unwrap_err();
    for name in [
        "DATABASE_URL",
        "MASTER_KEY",
        "JOB_SHARDS",
        "`nonsense`",
        "LOG_FORMAT",
        "DIALECTS_DIR: /nowhere",
        "WEBHOOK_TIMEOUT",
        "WEBHOOK_MAX_RETRIES",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_TRACES_SAMPLER must",
        "OTEL_TRACES_SAMPLER_ARG",
    ] {
        assert!(error.contains(name), "{name} is missing in: {error}");
    }
    assert!(!error.contains("c2Vj"), "{error}");
    for (name, url) in [
        ("AMQP_URL", "hunter2"),
        ("AMQP_URL", "http://u:hunter2@localhost/"),
        ("AMQP_URL", "amqp://u:hunter2@localhost:port/"),
        (
            "AMQP_URL",
            "amqp://u:hunter2@localhost/%2f?heartbeat=hunter2",
        ),
        ("DATABASE_URL", "postgres://u:hunter2@localhost:port/d"),
        ("DATABASE_URL", "mysql://u:hunter2@localhost/d"),
        (
            "DATABASE_URL",
            "postgres://u:hunter2@localhost/d?sslmode=hunter2",
        ),
        ("DATABASE_URL", "postgres://u:hunter2@localhost/d?hunter2=1"),
    ] {
        let set = GOOD.map(|(known, value)| (known, if known == name { url } else { value }));
        let error = read(&set).unwrap_err();
        assert!(error.contains(&format!("{name}: ")), "{url}: {error}");
        assert!(!error.contains("hunter2"), "{url}: {error}");
    }
}
