use std::time::Duration;

use serde_json::json;

use super::*;

fn check(body: Value) -> Result<CheckedWebhook, Invalids> {
    let form: WebhookForm =
        serde_json::from_value(body).map_err(|error| Invalids(vec![Invalid::new("", error)]))?;
    form.check(&Destinations::default(), &Dialects::embedded())
}

fn refused(body: Value) -> String {
    format!("{:?}", check(body).unwrap_err())
}

#[test]
fn a_client_id_is_not_all_of_the_metadata() {
    let form = check(json!({"client_id": "c-7"})).unwrap();
    assert_eq!((form.metadata, form.client_id), (None, Some(json!("c-7"))));
    let both = check(json!({"client_id": 7, "metadata": {"client_id": "c-7"}})).unwrap();
    assert_eq!(both.client_id, None);
}

#[test]
fn both_vocabularies_are_understood() {
    let ours = check(json!({"url": "https://example.com/", "events": ["a.b"]})).unwrap();
    let theirs = check(json!({"target_url": "https://example.com/", "event_type": "a.b"})).unwrap();
    assert_eq!((ours.url, ours.events), (theirs.url, theirs.events));
}

#[test]
fn retries_come_in_three_forms() {
    let said = |body| check(body).unwrap().retry.unwrap().unwrap();
    assert_eq!(said(json!({"retries": 3})).max_retries, Some(3));
    let retry = said(json!({"retryPolicy": {"maxRetries": 2, "retryDelay": 5000}}));
    assert_eq!(
        (retry.max_retries, retry.retry_delay),
        (Some(2), Some(5000))
    );
    let retry = said(json!({"retry_policy": {"delays": [1, 2]}}));
    assert_eq!(retry.delays, Some(vec![1, 2]));
    let none = check(json!({"retry_policy": null})).unwrap().retry;
    assert_eq!(none, Some(None));
    assert!(check(json!({})).unwrap().retry.is_none());
}

#[test]
fn a_rate_is_a_number_a_second_or_of_a_period() {
    let rate = |body| check(json!({"rate_limit": body})).unwrap().rate.unwrap();
    let of = |limit, seconds| {
        let period = Duration::from_secs(seconds);
        Some(Rate { limit, period })
    };
    assert_eq!(rate(json!(5)), of(5, 1));
    assert_eq!(rate(json!({"limit": 1000, "per": "hour"})), of(1000, 3600));
    assert_eq!(rate(Value::Null), None);
}

#[test]
fn no_header_splits_a_request_or_is_the_connections_own() {
    for name in [
        "Connection",
        "content-length",
        "Transfer-Encoding",
        "HOST",
        "TE",
        "Trailer",
        "Upgrade",
        "Keep-Alive",
        "Expect",
        "Proxy-Authorization",
        "proxy-connection",
        "Proxy-Status",
        "HTTP2-Settings",
        "Content-Encoding",
        "Content-Type",
        "User-Agent",
        "webhook-id",
        "Webhook-Signature",
        "X\r\nY",
        "X:",
        "X Y",
        "",
        "\u{0}",
        "Ｈost",
    ] {
        let error = refused(json!({"headers": {name: "x"}}));
        assert!(error.contains("headers."), "{name}: {error}");
    }
    for value in ["a\r\nHost: b", "a\nb", "a\rb", "a\u{0}b", "a\u{b}b"] {
        let error = refused(json!({"headers": {"X-Key": value}}));
        assert!(error.contains("headers.X-Key"), "{value:?}: {error}");
        assert!(
            !error.contains("Host: b"),
            "what may be a secret isn't repeated: {error}"
        );
    }
    assert!(check(json!({"headers": {"Authorization": "Bearer a\tb", "X-Proxy-To": "x"}})).is_ok());
}

#[test]
fn what_is_wrong_is_named_with_its_bound() {
    for (body, words) in [
        (json!({"url": "http://example.com"}), ["\"url\"", "https"]),
        (
            json!({"url": "https://127.0.0.1/"}),
            ["\"url\"", "not a public"],
        ),
        (json!({"events": []}), ["\"events\"", "1 to 100"]),
        (json!({"events": ["a.b", "a*b"]}), ["events[1]", "*"]),
        (json!({"secret": ""}), ["secret", "1 to 256"]),
        (json!({"secret": "whsec_…ab12"}), ["secret", "masked"]),
        (
            json!({"filters": {"a": {"$near": 1}}}),
            ["filters", "$near"],
        ),
        (json!({"timeout": 10}), ["timeout", "1000 and 60000"]),
        (json!({"retries": 50}), ["retries", "49"]),
        (
            json!({"retries": 1, "retry_policy": {"delays": []}}),
            ["retries", "exclude"],
        ),
        (
            json!({"headers": {"Host": "x"}}),
            ["headers.Host", "Posthorn"],
        ),
        (
            json!({"headers": {"X": "a\r\nb: c"}}),
            ["headers.X", "characters"],
        ),
        (
            json!({"headers": {"a b": "x"}}),
            ["headers.a b", "header name"],
        ),
        (json!({"rate_limit": 0}), ["rate_limit", "1 and 100000000"]),
        (
            json!({"rate_limit": {"limit": 1, "per": "day"}}),
            ["rate_limit", "limit"],
        ),
        (json!({"signing": "rsa"}), ["ed25519", "rsa"]),
        (json!({"dialect": "klingon"}), ["dialect", "klingon"]),
        (
            json!({"metadata": {"a": "x".repeat(5000)}}),
            ["metadata", "4096"],
        ),
        (
            json!({"filters": {"a": "x".repeat(MAX_FILTER)}}),
            ["filters", "16384"],
        ),
        (json!({"metadata": {"a": "\u{0}"}}), ["metadata", "U+0000"]),
        (json!({"urll": "x"}), ["urll", "unknown field"]),
    ] {
        let error = refused(body.clone());
        for word in words {
            assert!(
                error.contains(word),
                "{word} is missing in {error} for {body}"
            );
        }
    }
}
