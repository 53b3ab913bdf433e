use time::macros::datetime;

use super::*;
use crate::dialect::{Dialects, Message};
use crate::ids::{DeliveryId, WebhookId};
use crate::secret::Secrets;

#[test]
fn what_every_dialect_sends_is_verified_from_headers_and_body_alone() {
    let secret = Secret::parse("whsec_c2VjcmV0LWZvci1leGFtcGxlcy1vbmx5").unwrap();
    let other = Secret::parse("whsec_YW5vdGhlciBzZWNyZXQgYWx0b2dldGhlcg==").unwrap();
    let at = datetime!(2026-11-26 10:12:07 UTC);
    for dialect in Dialects::embedded().iter() {
        let message = Message {
            event_id: &"order-1".parse().unwrap(),
            event_type: &"order.paid".parse().unwrap(),
            occurred_at: at,
            data: r#"{"total": 129.90, "signature": "x"}"#,
            attributes: None,
            tenant: &"acme".parse().unwrap(),
            webhook_id: WebhookId::generate(),
            external_id: None,
            delivery_id: DeliveryId::generate(),
        };
        let wire = dialect.compose(&message, &Secrets::new(secret.clone(), None), at);
        let headers = wire.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        let body = String::from_utf8(wire.body).unwrap();
        let received = Received {
            headers: &headers,
            body: &body,
        };
        let specs = dialect.signature_specs();
        assert!(!specs.is_empty());
        for spec in specs {
            let name = format!("{} {spec}", dialect.name());
            let came = dialect.received_signatures(&spec, &received).unwrap();
            assert!(
                came.iter().all(|text| dialect.has_form(&spec, text)),
                "{name}"
            );
            let expected = |secret| {
                let keyed = Keyed::Rightly;
                dialect.expected(&spec, &received, secret, keyed).unwrap()
            };
            assert!(came.contains(&expected(&secret)), "{name}");
            assert!(!came.contains(&expected(&other)), "{name}");
            let changed = Received {
                body: &body.replace("129.9", "129.8"),
                ..received
            };
            let keyed = Keyed::Rightly;
            let wrong = dialect.expected(&spec, &changed, &secret, keyed).unwrap();
            assert!(!came.contains(&wrong), "{name}");
        }
        for name in dialect.needed_headers() {
            assert!(received.header(&name).is_some());
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    let dialects = Dialects::embedded();
    let dialect = dialects.get("standard").unwrap();
    let headers = [("Webhook-Signature".to_owned(), "v1,abc".to_owned())];
    let received = Received {
        headers: &headers,
        body: "{}",
    };
    let spec = &dialect.signature_specs()[0];
    assert_eq!(spec.covers, "event_id.sent_at:unix.body");
    let secret = Secret::generate();
    let missing = dialect.expected(spec, &received, &secret, Keyed::Rightly);
    assert_eq!(missing, Err(Missing("webhook-id".to_owned())));
    assert!(!dialect.has_form(spec, "v1,abc"));
    assert!(!dialect.has_form(spec, "sha256=abc"));
}
