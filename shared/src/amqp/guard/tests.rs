//! Compares the guard with lapin's own parser.

use amq_protocol::frame::AMQPFrame;
use amq_protocol::frame::parsing::parse_frame;
use lapin::protocol::{AMQPClass, basic};
use lapin::types::AMQPValue;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::amqp::{MAX_DEPTH, MAX_VALUES};

const MARKER: &str = "x-posthorn-unreadable-0123456789abcdef0123456789abcdef";
const FRAME_MAX: u32 = 8192;

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(END);
    frame
}

fn short(text: &[u8]) -> Vec<u8> {
    let text = &text[..text.len().min(255)];
    [&[text.len() as u8], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

fn tune(frame_max: u32) -> Vec<u8> {
    let rest = [
        &[0, 10, 0, 30, 7, 255],
        &frame_max.to_be_bytes()[..],
        &[0, 10],
    ];
    frame(METHOD, 0, &rest.concat())
}

fn deliver(channel: u16, tag: u64, exchange: &[u8], key: &[u8]) -> Vec<u8> {
    let parts: [&[u8]; 6] = [
        &[0, 60, 0, 60],
        &short(b"ctag"),
        &tag.to_be_bytes(),
        &[1],
        &short(exchange),
        &short(key),
    ];
    frame(METHOD, channel, &parts.concat())
}

fn header(channel: u16, body: u64, properties: &[u8]) -> Vec<u8> {
    let rest = [&[0, 60, 0, 0], &body.to_be_bytes()[..], properties];
    frame(HEADER, channel, &rest.concat())
}

fn headers(table: &[u8]) -> Vec<u8> {
    [&[0x20, 0], &long(table)[..]].concat()
}

/// A header table with this many levels: tables and arrays alternate.
fn nested(levels: usize) -> Vec<u8> {
    let mut inner = Vec::new();
    for level in (1..levels).rev() {
        let mut outer = Vec::new();
        // Levels are counted from one, and the first is a table.
        if level % 2 == 1 {
            outer.extend(short(b"a"));
        }
        outer.push(if level % 2 == 1 { b'A' } else { b'F' });
        outer.extend(long(&inner));
        inner = outer;
    }
    inner
}

/// The guard's output for this input, cut into pieces at these places.
fn guarded(input: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut guard = Guard::new(MARKER, None, Arc::default());
    let mut output = Vec::new();
    let mut rest = input;
    for cut in cuts {
        let (part, left) = rest.split_at((*cut).min(rest.len()));
        guard.take(part, &mut output);
        rest = left;
    }
    guard.take(rest, &mut output);
    output
}

/// The frames as lapin's parser reads them, and the length of each.
fn parsed(mut bytes: &[u8]) -> Vec<(AMQPFrame, usize)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (rest, frame) = parse_frame(bytes).unwrap();
        frames.push((frame, bytes.len() - rest.len()));
        bytes = rest;
    }
    frames
}

/// The reason why a header was replaced; `None` if it wasn't.
fn why(frame: &AMQPFrame) -> Option<String> {
    let AMQPFrame::Header(_, header) = frame else {
        panic!("{frame:?} is no header");
    };
    let headers = header.properties.headers().as_ref()?;
    let AMQPValue::FieldTable(marker) = headers.inner().get(MARKER)? else {
        panic!("{headers:?}");
    };
    match marker.inner().get("why") {
        Some(AMQPValue::LongString(why)) => Some(why.to_string()),
        other => panic!("{other:?}"),
    }
}

fn one(properties: &[u8]) -> Option<String> {
    let input = [deliver(1, 1, b"e", b"k"), header(1, 0, properties)].concat();
    why(&parsed(&guarded(&input, &[]))[1].0)
}

/// A value of any type in a table: small, and sometimes nested.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let fixed = |kinds: &'static [u8], size: usize| {
        (prop::sample::select(kinds), vec(any::<u8>(), size))
            .prop_map(|(kind, bytes)| [&[kind], &bytes[..]].concat())
    };
    let leaf = prop_oneof![
        Just(b"V".to_vec()),
        fixed(b"tbB", 1),
        fixed(b"sUu", 2),
        fixed(b"Iif", 4),
        fixed(b"D", 5),
        fixed(b"LldT", 8),
        (
            prop::sample::select(b"Sx".as_slice()),
            vec(any::<u8>(), 0..30)
        )
            .prop_map(|(kind, bytes)| [&[kind], &long(&bytes)[..]].concat()),
    ];
    leaf.prop_recursive(4, 20, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(|all| [b"A", &long(&all.concat())[..]].concat()),
            vec((".{0,8}", inner), 0..5).prop_map(|all| [b"F", &long(&table(&all))[..]].concat()),
        ]
    })
}

fn table(fields: &[(String, Vec<u8>)]) -> Vec<u8> {
    let fields = fields.iter();
    fields
        .flat_map(|(name, value)| [short(name.as_bytes()), value.clone()].concat())
        .collect()
}

/// Properties, each of which may be present; `text` generates the texts.
fn properties(text: impl Strategy<Value = Vec<u8>> + Clone) -> impl Strategy<Value = Vec<u8>> {
    let texts = vec(text, 14);
    let fields = vec((".{0,8}", value()), 0..4);
    (any::<u16>(), texts, fields).prop_map(|(flags, texts, fields)| {
        // The two lowest bits name no property.
        let flags = flags & 0xFFFC;
        let mut all = flags.to_be_bytes().to_vec();
        for (bit, text) in texts.iter().enumerate() {
            if flags & (0x8000 >> bit) != 0 {
                match bit {
                    2 => all.extend(long(&table(&fields))),
                    3 | 4 => all.push(7),
                    9 => all.extend([1; 8]),
                    _ => all.extend(short(text)),
                }
            }
        }
        all
    })
}

fn utf8() -> impl Strategy<Value = Vec<u8>> + Clone {
    "\\PC{0,12}".prop_map(String::into_bytes)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> + Clone {
    prop_oneof![2 => utf8(), 1 => vec(any::<u8>(), 0..40)]
}

/// Properties that are valid, damaged, too large or absent.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let bent = (
        properties(bytes()),
        any::<prop::sample::Index>(),
        any::<u8>(),
    )
        .prop_map(|(mut all, at, by)| {
            let at = at.index(all.len());
            all[at] = by;
            all
        });
    prop_oneof![
        3 => properties(bytes()),
        3 => bent,
        1 => vec(any::<u8>(), 0..300),
        1 => (7_000usize..20_000).prop_map(|size| headers(&[&[1, b'a', b'S'], &long(&vec![0xFF; size])[..]].concat())),
        1 => (30usize..1_000).prop_map(|levels| headers(&nested(levels))),
    ]
}

type Message = (u16, Vec<u8>, Vec<u8>, Vec<u8>, Vec<Vec<u8>>);

fn messages(
    key: impl Strategy<Value = Vec<u8>>,
    properties: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = Vec<Message>> {
    let exchange = utf8();
    let bodies = vec(vec(any::<u8>(), 0..200), 0..3);
    vec((1u16..4, exchange, key, properties, bodies), 1..6)
}

fn stream(messages: &[Message]) -> Vec<u8> {
    let mut input = tune(FRAME_MAX);
    for (tag, (channel, exchange, key, properties, bodies)) in messages.iter().enumerate() {
        input.extend(deliver(*channel, tag as u64, exchange, key));
        let size = bodies.iter().map(|body| body.len() as u64).sum();
        input.extend(header(*channel, size, properties));
        for body in bodies {
            input.extend(frame(BODY, *channel, body));
        }
        input.extend(frame(HEARTBEAT, 0, &[]));
    }
    input
}

proptest! {
    #[test]
    fn well_formed_frames_pass_unchanged(
        messages in messages(utf8(), properties(utf8())), cuts in vec(0usize..60, 0..40),
    ) {
        let input = stream(&messages);
        let output = guarded(&input, &cuts);
        prop_assert_eq!(parsed(&output).len(), parsed(&input).len());
        prop_assert_eq!(output, input);
    }

    #[test]
    fn the_client_reads_every_frame_and_body_whatever_a_producer_wrote(
        messages in messages(bytes(), hostile()), cuts in vec(0usize..60, 0..40),
    ) {
        let output = guarded(&stream(&messages), &cuts);
        prop_assert_eq!(&output, &guarded(&stream(&messages), &[]), "the split made a difference");
        let frames = parsed(&output);
        prop_assert!(frames.iter().all(|(_, size)| *size <= FRAME_MAX as usize));
        let mut frames = frames.into_iter().map(|(frame, _)| frame).skip(1);
        for (tag, (channel, exchange, key, properties, bodies)) in messages.iter().enumerate() {
            let Some(AMQPFrame::Method(on, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)))) = frames.next() else {
                panic!("no delivery");
            };
            prop_assert_eq!((on, deliver.delivery_tag, deliver.redelivered), (*channel, tag as u64, true));
            prop_assert_eq!(deliver.exchange.as_str().as_bytes(), &exchange[..]);
            prop_assert_eq!(deliver.routing_key.as_str().len(), key.len());
            let next = frames.next().unwrap();
            let why = why(&next);
            if std::str::from_utf8(key).is_ok() {
                prop_assert_eq!(deliver.routing_key.as_str().as_bytes(), &key[..]);
            } else {
                prop_assert!(why.is_some());
            }
            let AMQPFrame::Header(on, header) = next else {
                panic!("no header");
            };
            let size = bodies.iter().map(|body| body.len() as u64).sum::<u64>();
            prop_assert_eq!((on, header.class_id, header.body_size), (*channel, 60, size));
            if why.is_some() {
                let headers = header.properties.headers().as_ref().unwrap();
                prop_assert_eq!(headers.inner().len(), 1);
                let Some(AMQPValue::FieldTable(marker)) = headers.inner().get(MARKER) else {
                    panic!("no marker");
                };
                let Some(AMQPValue::LongString(kept)) = marker.inner().get("properties") else {
                    panic!("no properties");
                };
                let whole = kept.as_bytes().len() == properties.len().min(unreadable::KEPT);
                prop_assert!(whole && properties.starts_with(kept.as_bytes()));
            }
            for body in bodies {
                prop_assert_eq!(frames.next(), Some(AMQPFrame::Body(*channel, body.clone())));
            }
            prop_assert_eq!(frames.next(), Some(AMQPFrame::Heartbeat));
        }
        prop_assert_eq!(frames.next(), None);
    }

    #[test]
    fn no_bytes_make_the_guard_panic_or_wait_with_more_than_a_frame(
        bytes in vec(any::<u8>(), 0..400), cuts in vec(0usize..60, 0..10),
    ) {
        let input = [tune(FRAME_MAX), bytes].concat();
        prop_assert_eq!(guarded(&input, &cuts), guarded(&input, &[]));
    }

    #[test]
    fn a_text_of_the_broker_keeps_its_length(text in vec(any::<u8>(), 0..255)) {
        for (class, method, more) in [(20, 40, 4), (10, 50, 4), (10, 60, 0)] {
            let code: &[u8] = if (class, method) == (10, 60) { &[] } else { &[1, 64] };
            let payload = [&[0, class, 0, method], code, &short(&text), &[0; 4][..more]].concat();
            let channel = u16::from(class == 20);
            let output = guarded(&frame(METHOD, channel, &payload), &[]);
            prop_assert_eq!(output.len(), payload.len() + 8);
            prop_assert_eq!(parsed(&output).len(), 1);
        }
    }

    #[test]
    fn an_ack_is_seen_however_the_clients_bytes_are_split(cuts in vec(1usize..9, 0..40), acks: bool) {
        let mut sent = b"AMQP\0\0\x09\x01".to_vec();
        sent.extend(frame(METHOD, 1, &[[0, 60, 0, 40].as_slice(), &[7; 20]].concat()));
        // A body that looks like an ack.
        sent.extend(frame(BODY, 1, &frame(METHOD, 1, &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0])));
        sent.extend(frame(HEARTBEAT, 0, &[]));
        if acks {
            sent.extend(frame(METHOD, 1, &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0]));
        }
        let mut seen = Acks::default();
        let mut rest = &sent[..];
        let mut acked = false;
        for cut in cuts {
            let (part, left) = rest.split_at(cut.min(rest.len()));
            acked |= seen.take(part);
            rest = left;
        }
        acked |= seen.take(rest);
        prop_assert_eq!(acked, acks);
    }
}

#[test]
fn the_deepest_headers_fit_the_clients_stack_and_deeper_ones_are_set_aside() {
    // The same size as the stack of lapin's own thread.
    let client = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
    let client = client.spawn(|| {
        assert_eq!(one(&headers(&nested(MAX_DEPTH))), None);
        for levels in [MAX_DEPTH + 1, 1_000] {
            let why = one(&headers(&nested(levels))).unwrap();
            assert!(why.contains("32 levels"), "{why}");
        }
    });
    client.unwrap().join().unwrap();
}

#[test]
fn headers_that_would_fill_the_clients_memory_are_replaced() {
    let many = |count: usize| headers(&[&[1, b'a', b'A'], &long(&vec![b'V'; count])[..]].concat());
    // One of them is the array itself.
    assert_eq!(one(&many(MAX_VALUES - 1)), None);
    assert!(one(&many(MAX_VALUES)).unwrap().contains("1,000 values"));
}

#[test]
fn a_header_as_large_as_a_frame_passes_and_one_byte_more_is_set_aside() {
    let of_size = |size: usize| {
        // Frame, content header, flags, table, name and type, string.
        let around = 8 + 12 + 2 + 4 + 3 + 4;
        headers(&[&[1, b'a', b'S'], &long(&vec![b'x'; size - around])[..]].concat())
    };
    for (size, passes) in [(FRAME_MAX, true), (FRAME_MAX + 1, false)] {
        let message = [
            deliver(1, 1, b"e", b"k"),
            header(1, 0, &of_size(size as usize)),
        ];
        let next = [deliver(1, 2, b"e", b"k"), header(1, 0, &[0, 0])];
        let input = [tune(FRAME_MAX), message.concat(), next.concat()].concat();
        let frames = parsed(&guarded(&input, &[]));
        assert_eq!(why(&frames[2].0).is_none(), passes);
        assert_eq!((frames.len(), why(&frames[4].0)), (5, None));
    }
}

#[test]
fn the_lower_limit_of_the_client_and_the_broker_holds() {
    for (client, broker) in [
        (Some(4096), 8192),
        (None, 4096),
        (Some(8192), 4096),
        (Some(4096), 0),
    ] {
        let mut guard = Guard::new(MARKER, client, Arc::default());
        guard.take(&tune(broker), &mut Vec::new());
        assert_eq!(guard.frame_max, 4096);
    }
}

#[test]
fn a_routing_key_that_is_not_utf_8_is_kept_for_its_own_message_only() {
    let bad = b"acme.\xFF\xFEorder";
    let input = [
        deliver(1, 1, b"e", bad),
        deliver(2, 1, b"e", b"fine"),
        header(2, 0, &[0, 0]),
        header(1, 0, &[0, 0]),
        deliver(1, 2, b"e", b"fine"),
        header(1, 0, &[0, 0]),
    ];
    let frames = parsed(&guarded(&input.concat(), &[]));
    let whys: Vec<_> = [2, 3, 5].map(|n: usize| why(&frames[n].0)).into();
    assert_eq!(whys[0], None);
    assert_eq!(whys[1].as_deref(), Some("the routing key is not UTF-8"));
    assert_eq!(whys[2], None);
    let AMQPFrame::Header(1, marked) = &frames[3].0 else {
        panic!("{frames:?}");
    };
    let mut delivery =
        lapin::message::Delivery::mock(1, "e".into(), "acme.??order".into(), false, Vec::new());
    delivery.properties = marked.properties.clone();
    // A header with another name is the producer's.
    assert_eq!(crate::amqp::Unreadable::from_message(&delivery), None);
}
