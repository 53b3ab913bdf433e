//! Parses the signatures of a dialect's file: what each covers and how it is written.

use axum::http::HeaderValue;
use toml::Value as Toml;

use super::definition::{Dialect, Digest, InHeader, KeyForm, Member, Signature, Signed, Signing};
use super::section::{Invalid, Result, Section};
use super::shape::SPREAD;
use super::template::{Field, Template};

/// Parses the signatures, in the file's order.
pub(super) fn signatures(section: Section, body: &[Member]) -> Result<Vec<Signature>> {
    let Section { file, path, table } = section;
    let mut signatures = Vec::with_capacity(table.len());
    for (name, value) in table {
        let Toml::Table(table) = value else {
            return Err(Invalid {
                file,
                key: format!("{path}.{name}"),
                reason: "must be a table".to_owned(),
            });
        };
        let mut section = Section {
            file: file.clone(),
            path: format!("{path}.{name}"),
            table,
        };
        let signs = section.required_text("signs")?;
        let signs = Template::parse(&signs, |field| signed(field, body))
            .map_err(|reason| section.invalid("signs", reason))?;
        let encoding = section.required_text("encoding")?;
        let encoding = digest(&encoding).map_err(|reason| section.invalid("encoding", reason))?;
        let ed25519 = section.text("ed25519")?;
        let ed25519 = ed25519
            .map(|text| digest(&text))
            .transpose()
            .map_err(|reason| section.invalid("ed25519", reason))?;
        let key = section.one_of("key", &[("text", KeyForm::Text), ("whsec", KeyForm::Whsec)])?;
        let secrets = section.one_of(
            "secrets",
            &[("current", Signing::Current), ("all", Signing::All)],
        )?;
        if ed25519.is_some() && secrets != Some(Signing::All) {
            let reason = "needs `secrets = \"all\"`: its signature is one of a list";
            return Err(section.invalid("ed25519", reason));
        }
        section.finish()?;
        signatures.push(Signature {
            name,
            signs,
            encoding,
            ed25519,
            key: key.unwrap_or(KeyForm::Text),
            secrets: secrets.unwrap_or(Signing::Current),
        });
    }
    Ok(signatures)
}

/// How a signature is written, for example `sha256={hex}`.
fn digest(text: &str) -> std::result::Result<Template<Digest>, String> {
    let template = Template::parse(text, |field| match field {
        "hex" => Ok(Digest::Hex),
        "base64" => Ok(Digest::Base64),
        _ => Err(format!("names `{field}`; allowed are hex and base64")),
    })?;
    if template.fields().count() != 1 {
        return Err("must have one of `{hex}` and `{base64}`".to_owned());
    }
    if template
        .literals()
        .any(|text| HeaderValue::from_str(text).is_err())
    {
        return Err("has characters that are not allowed in a header".to_owned());
    }
    Ok(template)
}

fn signed(name: &str, body: &[Member]) -> std::result::Result<Signed, String> {
    let member = |member: &str| {
        body.iter()
            .position(|known| known.name == member && member != SPREAD)
            .ok_or_else(|| format!("names the body's member `{member}`, which does not exist"))
    };
    if name == "body" {
        Ok(Signed::Body)
    } else if let Some(name) = name.strip_prefix("body without ") {
        member(name).map(Signed::Without)
    } else if let Some(name) = name.strip_prefix("body.") {
        member(name).map(Signed::Member)
    } else {
        Field::parse(name).map(Signed::Of).ok_or_else(|| {
            let fields = Field::NAMES;
            format!(
                "names `{name}`; allowed are {fields}, body, body.<member>, body without <member>"
            )
        })
    }
}

/// Checks that no signature covers itself and that each one is used.
pub(super) fn check_signatures(dialect: &Dialect) -> std::result::Result<(), (String, String)> {
    let holders: Vec<&Member> = dialect
        .body
        .iter()
        .filter(|member| !member.value.signatures().is_empty())
        .collect();
    let held: Vec<usize> = holders.iter().flat_map(|m| m.value.signatures()).collect();
    if let [_, second, ..] = held.as_slice() {
        let name = &dialect.signatures[*second].name;
        let reason =
            format!("has two signatures, the second is `{name}`: one would cover the other");
        return Err(("body".to_owned(), reason));
    }
    if let Some((place, signature)) = dialect.signed_member() {
        let signature = &dialect.signatures[signature];
        let member = &dialect.body[place].name;
        let covers_itself = signature.signs.fields().any(|part| match part {
            Signed::Of(_) => false,
            Signed::Body => true,
            Signed::Member(covered) => *covered == place,
            Signed::Without(left_out) => *left_out != place,
        });
        if covers_itself {
            let reason =
                format!("covers the member that holds it; use `{{body without {member}}}`");
            return Err((format!("signatures.{}.signs", signature.name), reason));
        }
    }
    let in_headers = dialect
        .headers
        .iter()
        .flat_map(|(_, template)| template.fields());
    let in_headers: Vec<usize> = in_headers
        .filter_map(|field| match field {
            InHeader::Signature(place) => Some(*place),
            InHeader::Of(_) => None,
        })
        .collect();
    for (place, signature) in dialect.signatures.iter().enumerate() {
        if !held.contains(&place) && !in_headers.contains(&place) {
            let key = format!("signatures.{}", signature.name);
            return Err((key, "is not used in the body or in a header".to_owned()));
        }
    }
    if dialect.signatures.is_empty() {
        return Err(("signatures".to_owned(), "must have at least one".to_owned()));
    }
    Ok(())
}
