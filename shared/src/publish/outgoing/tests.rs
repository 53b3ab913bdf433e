use lapin::message::Delivery;

use super::*;

#[test]
fn a_parked_message_keeps_what_is_its_producers_and_nothing_that_could_hurt() {
    let mut headers = FieldTable::default();
    headers.insert("tier".into(), AMQPValue::LongString("gold".into()));
    headers.insert("x-death".into(), AMQPValue::Boolean(true));
    headers.insert("CC".into(), AMQPValue::Boolean(true));
    headers.insert(
        "huge".into(),
        AMQPValue::LongString("x".repeat(100_000).into()),
    );
    let mut message = Delivery::mock(
        1,
        "posthorn.events".into(),
        "acme.order.created".into(),
        false,
        b"body".to_vec(),
    );
    message.properties = BasicProperties::default()
        .with_message_id("evt-1".into())
        .with_user_id("producer".into())
        .with_expiration("1000".into())
        .with_headers(headers);

    let parked = Outgoing::dead(&message, "because");
    let properties = &parked.properties;
    assert_eq!(parked.body, b"body");
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "evt-1");
    assert_eq!(
        (properties.user_id(), properties.expiration()),
        (&None, &None)
    );
    assert_eq!(*properties.delivery_mode(), Some(2));
    let kept = properties.headers().clone().unwrap();
    let names: Vec<_> = kept.inner().keys().map(ShortString::as_str).collect();
    assert_eq!(
        names,
        [
            "tier",
            "x-posthorn-exchange",
            "x-posthorn-reason",
            "x-posthorn-routing-key"
        ]
    );
}

#[test]
fn a_reply_queue_that_only_its_own_connection_may_name_is_not_published_again() {
    let again = |to: &str| {
        let original = BasicProperties::default().with_reply_to(to.into());
        let again = republished(&original, FieldTable::default());
        again.reply_to().clone()
    };
    for to in ["amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.g2dkAA"] {
        assert_eq!(again(to), None);
    }
    assert_eq!(again("answers"), Some("answers".into()));
}

#[test]
fn an_oversized_body_is_parked_as_an_excerpt_with_its_size_and_hash() {
    let mut headers = FieldTable::default();
    // A header that a producer made up.
    headers.insert(SIZE_HEADER.into(), AMQPValue::LongLongInt(1));
    headers.insert(RETURNED_HEADER.into(), AMQPValue::Boolean(true));
    let parked = |size: usize| {
        let mut message = Delivery::mock(
            1,
            "posthorn.events".into(),
            "acme.a".into(),
            false,
            vec![b'x'; size],
        );
        message.properties = BasicProperties::default().with_headers(headers.clone());
        Outgoing::dead(&message, "because")
    };
    let whole = parked(LARGEST_MESSAGE);
    assert_eq!(whole.body.len(), LARGEST_MESSAGE);
    let kept = whole.properties.headers().clone().unwrap();
    assert!(!kept.contains_key(SIZE_HEADER) && !kept.contains_key(RETURNED_HEADER));

    let excerpt = parked(LARGEST_MESSAGE + 1);
    assert_eq!(excerpt.body.len(), EXCERPT);
    let kept = excerpt.properties.headers().clone().unwrap();
    let size = AMQPValue::LongLongInt(LARGEST_MESSAGE as i64 + 1);
    assert_eq!(kept.inner()[SIZE_HEADER], size);
    let sha256 = hex::encode(Sha256::digest(vec![b'x'; LARGEST_MESSAGE + 1]));
    assert_eq!(
        kept.inner()[SHA256_HEADER],
        AMQPValue::LongString(sha256.into())
    );
}
