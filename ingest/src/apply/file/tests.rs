use proptest::prelude::*;
use shared::dialect::Dialects;
use shared::seal::Keyring;

use super::*;

const GOOD: &str = "
tenants:
  - id: shop
    name: The Shop
    event_types: [{name: order.created, schema: {type: object}}]
    webhooks:
      - key: billing
        url: https://billing.example.com/hooks
        events: [order.*]
        filters: {total: {$gte: 10}}
        secret: {env: POSTHORN_APPLY_SECRET}
        headers: {X-Api-Key: {env: POSTHORN_APPLY_KEY}}
        retry_policy: {max_retries: 5}
";

fn problems(text: &str) -> Vec<String> {
    let keys = Keyring::from_base64(["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]).unwrap();
    let rules = Rules {
        destinations: &Destinations::default(),
        writing: Writing {
            keys: &keys,
            dialects: &Dialects::embedded(),
        },
        variable: &|_| Some("hunter2-hunter2".to_owned()),
    };
    let source = Source {
        name: "webhooks.yaml".to_owned(),
        text: text.to_owned(),
    };
    read(vec![source], &rules).err().unwrap_or_default()
}

#[test]
fn headers_are_held_to_what_the_api_holds_them_to() {
    assert_eq!(problems(GOOD), [""; 0]);
    for header in [
        "Host",
        "Connection",
        "Proxy-Authorization",
        "webhook-id",
        "\"X\\r\\nY\"",
    ] {
        let said = problems(&GOOD.replace("X-Api-Key", header)).join(" ");
        assert!(said.contains("webhooks[0].headers"), "{header}: {said}");
    }
    let said = problems(&GOOD.replace("{env: POSTHORN_APPLY_KEY}", "\"a\\r\\nHost: b\"")).join(" ");
    assert!(
        said.contains("X-Api-Key") && !said.contains("Host: b"),
        "{said}"
    );
}

#[test]
fn only_variables_of_its_own_are_read() {
    for name in [
        "MASTER_KEY",
        "DATABASE_URL",
        "PATH",
        "POSTHORN_APPLY_",
        "POSTHORN_APPLY",
        "posthorn_apply_key",
        "POSTHORN_APPLY_key",
        "XPOSTHORN_APPLY_KEY",
        "POSTHORN_APPLY_A=B",
    ] {
        let said = problems(&GOOD.replace("POSTHORN_APPLY_KEY", name)).join(" ");
        let place = "webhooks.yaml:12: tenants[0].webhooks[0].headers.X-Api-Key.env: must name";
        assert!(said.contains(place), "{name}: {said}");
    }
}

/// What somebody put into the wrong place, or into the wrong file.
#[test]
fn no_error_repeats_a_value() {
    const SECRET: &str = "hunter2-in-the-wrong-place";
    for (right, wrong) in [
        ("id: shop", "id: SECRET!"),
        ("name: The Shop", "limits: SECRET"),
        ("name: The Shop", "limits: {webhooks: SECRET}"),
        ("name: The Shop", "dialect: SECRET"),
        ("name: The Shop", "strict_event_types: SECRET"),
        ("name: order.created", "name: SECRET!"),
        ("schema: {type: object}", "schema: SECRET"),
        ("schema: {type: object}", "schema: {type: SECRET}"),
        ("schema: {type: object}", "schema: {$ref: SECRET}"),
        (
            "schema: {type: object}",
            "schema: {type: object}, example: SECRET",
        ),
        ("schema: {type: object}", "archived: SECRET"),
        ("key: billing", "key: SECRET!"),
        ("https://billing.example.com/hooks", "SECRET"),
        ("https://billing", "https://user:SECRET@billing"),
        ("[order.*]", "[SECRET*x]"),
        ("[order.*]", "{SECRET: 1}"),
        ("{$gte: 10}", "{$in: SECRET}"),
        ("{$gte: 10}", "{$regex: SECRET}"),
        ("{env: POSTHORN_APPLY_SECRET}", "SECRET"),
        ("{env: POSTHORN_APPLY_SECRET}", "{env: SECRET}"),
        ("{env: POSTHORN_APPLY_SECRET}", "{env: [SECRET]}"),
        ("{env: POSTHORN_APPLY_SECRET}", "[SECRET]"),
        ("{X-Api-Key: {env: POSTHORN_APPLY_KEY}}", "SECRET"),
        ("{env: POSTHORN_APPLY_KEY}", "[SECRET]"),
        ("{env: POSTHORN_APPLY_KEY}", "\"SECRET\\r\\n\""),
        ("{max_retries: 5}", "SECRET"),
        ("{max_retries: 5}", "{max_retries: SECRET}"),
        ("retry_policy: {max_retries: 5}", "rate_limit: SECRET"),
        (
            "retry_policy: {max_retries: 5}",
            "rate_limit: {limit: 5, per: SECRET}",
        ),
        ("retry_policy: {max_retries: 5}", "status: SECRET"),
        ("retry_policy: {max_retries: 5}", "signing: SECRET"),
        ("retry_policy: {max_retries: 5}", "timeout: SECRET"),
        ("retry_policy: {max_retries: 5}", "metadata: SECRET"),
        (
            "retry_policy: {max_retries: 5}",
            "dialect: \"SECRET, expected `nothing`\"",
        ),
    ] {
        let text = GOOD.replace(right, wrong).replace("SECRET", SECRET);
        // The names of variables are in capital letters.
        let text = text.replace(
            "POSTHORN_APPLY_hunter2-in-the-wrong-place",
            "POSTHORN_APPLY_A",
        );
        assert!(text.contains(SECRET), "{right} is not there");
        let said = problems(&text);
        assert!(!said.is_empty(), "{wrong} is accepted");
        for line in said {
            assert!(!line.contains("hunter2"), "{wrong}: {line}");
            assert!(line.starts_with("webhooks.yaml:"), "{wrong}: {line}");
        }
    }
    let key = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n";
    let shadow = "root:$y$hunter2:19700:0:99999:7:::\nbin:*:19700::::::\n";
    let variables = "PASSWORD=hunter2\nOTHER=\"hunter2: x\"\n";
    for file in [
        key,
        shadow,
        variables,
        "&hunter2 *hunter2x",
        "!hunter2 {",
        "{\"hunter2",
    ] {
        let said = problems(file).join(" ");
        assert!(
            !said.is_empty() && !said.contains("hunter2"),
            "{file}: {said}"
        );
    }
}

/// Aliases that double, and nesting.
#[test]
fn no_bomb_goes_off() {
    let begun = std::time::Instant::now();
    let mut laughs = "a0: &a0 [x, x]\n".to_owned();
    for n in 1..40 {
        let last = n - 1;
        laughs.push_str(&format!("a{n}: &a{n} [*a{last}, *a{last}]\n"));
    }
    for bomb in [
        laughs,
        "[".repeat(100_000),
        "- ".repeat(100_000),
        "{a: ".repeat(100_000),
        "{\"a\":".repeat(100_000),
        "? ".repeat(50_000),
        "&a ".repeat(50_000),
        "--- a\n".repeat(50_000),
    ] {
        assert!(!problems(&bomb).is_empty());
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(20));
}

proptest! {
    #[test]
    fn no_damaged_file_panics_or_repeats_a_secret(
        at in any::<prop::sample::Index>(), text in "[\\[\\]{}:,&*!|>'\"$a-z0-9%\\n -]{0,8}", cut in 0_usize..20,
    ) {
        let at = at.index(GOOD.len());
        let until = (at + cut).min(GOOD.len());
        let damaged = format!("{}{text}{}", &GOOD[..at], &GOOD[until..]);
        let said = problems(&damaged).join(" ");
        prop_assert!(!said.contains("hunter2"), "{}", said);
    }
}
