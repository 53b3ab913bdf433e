//! The verifiers of docs/verify.md accept real deliveries and refuse forged ones.
//!
//! Each is run as it stands on the page, with a few lines that read the deliveries.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use harness::producer::Publication;
use harness::receiver::{Arrival, answering};
use harness::script::{headers, judged_by};
use harness::world::{TENANT, World};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../docs/verify.md");
/// The dialects that each section of the page is about.
const DIALECTS: [(&str, &str); 8] = [
    ("standard", "standard"),
    ("cloudevents", "standard"),
    ("cloudevents-binary", "standard"),
    ("rishi", "rishi"),
    ("brainsait", "brainsait"),
    ("auraconnect", "auraconnect"),
    ("jossiedb", "jossiedb"),
    ("corp-astro", "corp-astro"),
];
const IN_NODE: &str = r#"
const cases = JSON.parse(require("node:fs").readFileSync(0));
console.log(JSON.stringify(cases.map(({ body, headers, secret }) => {
  try { return verify(Buffer.from(body, "base64"), headers, secret); } catch { return false; }
})));
"#;
const IN_PYTHON: &str = r#"
import base64 as _base64, json as _json, sys as _sys
def _accepted(case):
    try:
        return verify(_base64.b64decode(case["body"]), case["headers"], case["secret"])
    except Exception:
        return False
print(_json.dumps([_accepted(case) for case in _json.load(_sys.stdin)]))
"#;

/// The code of each section, by the section's name and the language.
fn verifiers() -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    let (mut section, mut code) = (String::new(), None::<(String, String)>);
    for line in PAGE.lines() {
        match (&mut code, line.strip_prefix("```")) {
            (None, Some(language)) => code = Some((language.to_owned(), String::new())),
            (Some((_, text)), None) => *text += &format!("{line}\n"),
            (Some(_), Some(_)) => {
                let (language, text) = code.take().unwrap();
                found.insert((section.clone(), language), text);
            }
            (None, None) => {
                if let Some(name) = line.strip_prefix("## ") {
                    name.clone_into(&mut section);
                }
            }
        }
    }
    found
}

/// What a verifier says of each case; `None` if the machine lacks the language.
fn judged(language: &str, code: &str, cases: &Value) -> Option<Vec<bool>> {
    let (program, option, more) = match language {
        "js" => ("node", "-e", IN_NODE),
        _ => ("python3", "-c", IN_PYTHON),
    };
    let script = format!("{code}\n{more}");
    judged_by(program, &[option, &script], cases)
}

fn case(secret: &str, arrival: &Arrival, body: &[u8]) -> Value {
    json!({"secret": secret, "headers": headers(arrival), "body": BASE64.encode(body)})
}

#[tokio::test]
async fn the_verifiers_of_the_docs_accept_deliveries_and_refuse_forged_ones() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let mut webhooks = Vec::new();
    for (dialect, section) in DIALECTS {
        // The generated secret begins with `whsec_`; the other one is plain text.
        for form in [
            json!({"dialect": dialect}),
            json!({"dialect": dialect, "secret": "geheim é"}),
        ] {
            webhooks.push((section, world.webhook(&ingest, &shop, form).await));
        }
    }
    let data = [
        r#"{ "name": "Zoë ☕ 😀", "price": 25.00, "10": 1, "2": [1, null, true] }"#,
        r#"{"data":{"data":"\",\"data\":{}"},"big":1e21,"small":5e-324,"zero":-0}"#,
    ];
    let publications: Vec<_> = data
        .iter()
        .enumerate()
        .map(|(n, data)| {
            Publication::json(TENANT, "order.created", &format!("e\",\"data\":-{n}"), data)
        })
        .collect();
    let producer = world.producer().await;
    producer.publish_all(&publications).await.unwrap();
    let arrivals = shop.receives(webhooks.len() * data.len()).await;

    let verifiers = verifiers();
    for ((section, language), code) in &verifiers {
        let (mut genuine, mut forged) = (Vec::new(), Vec::new());
        for (_, webhook) in webhooks.iter().filter(|(of, _)| of == section) {
            for arrival in arrivals
                .iter()
                .filter(|arrival| arrival.path == webhook.path)
            {
                genuine.push(case(&webhook.secret, arrival, &arrival.body));
                forged.push(case("another secret", arrival, &arrival.body));
                let at = arrival.body.windows(2).position(|bytes| bytes == b"Zo");
                let mut body = arrival.body.to_vec();
                let at = at.unwrap_or(body.len() - 3);
                body[at] ^= 1;
                forged.push(case(&webhook.secret, arrival, &body));
            }
        }
        assert!(genuine.len() >= 4, "{section} has deliveries");
        let Some(verdicts) = judged(language, code, &json!(genuine)) else {
            continue;
        };
        assert!(
            verdicts.iter().all(|accepted| *accepted),
            "{section} in {language}: {verdicts:?}"
        );
        let verdicts = judged(language, code, &json!(forged)).unwrap();
        assert!(
            verdicts.iter().all(|accepted| !*accepted),
            "{section} in {language}: {verdicts:?}"
        );
    }
    // Each section has both languages.
    let sections: std::collections::BTreeSet<_> =
        DIALECTS.iter().map(|(_, section)| *section).collect();
    assert_eq!(verifiers.len(), 2 * sections.len());
    world.finish().await;
}
