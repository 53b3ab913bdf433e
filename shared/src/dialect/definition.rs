//! A dialect's parts, as its file declares them, and what may be asked of it.
//!
//! `file` reads and checks them. `compose` and `verify` use them.

use axum::http::{HeaderName, HeaderValue};

use super::api::Additions;
use super::policy::Policy;
use super::template::{Field, Template};

/// The format of deliveries and the meaning of answers. A file, parsed and checked.
#[derive(Debug, Clone)]
pub struct Dialect {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) definition: String,
    pub(super) policy: Policy,
    pub(super) form: Form,
    /// See [`Dialect::unwraps`].
    pub(super) unwrap: Option<String>,
    pub(super) additions: Additions,
    pub(super) content_type: HeaderValue,
    pub(super) body: Vec<Member>,
    /// The body is the value of its only member, the event's data, without an object around it.
    pub(super) is_bare: bool,
    pub(super) headers: Headers,
    /// The prefix of headers that are CloudEvents attributes, percent-encoded.
    pub(super) spread: Option<String>,
    pub(super) signatures: Vec<Signature>,
}

impl Dialect {
    /// The name that webhooks and tenants use.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The description for people.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    #[must_use]
    pub fn definition(&self) -> &str {
        &self.definition
    }

    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What the API's answers have in addition.
    #[must_use]
    pub fn additions(&self) -> &Additions {
        &self.additions
    }

    /// The member that deliveries wrap the data in. Data that consists of this member alone
    /// was wrapped by its producer, and stands for the member's value.
    #[must_use]
    pub fn unwraps(&self) -> Option<&str> {
        self.unwrap.as_deref()
    }

    /// Whether the dialect sets this header itself. `name` is in lower case.
    #[must_use]
    pub fn sets_header(&self, name: &str) -> bool {
        let spread = self.spread.as_ref();
        self.headers.iter().any(|(set, _)| set.as_str() == name)
            || spread.is_some_and(|prefix| name.starts_with(prefix))
    }

    /// Whether the previous secret signs too until a rotation's overlap ends.
    #[must_use]
    pub fn signs_with_previous_secret(&self) -> bool {
        let mut signatures = self.signatures.iter();
        signatures.any(|signature| signature.secrets == Signing::All)
    }

    /// Whether a secret that begins with `whsec_` must go on with base64.
    #[must_use]
    pub fn decodes_secrets(&self) -> bool {
        let mut signatures = self.signatures.iter();
        signatures.any(|signature| signature.key == KeyForm::Whsec)
    }

    /// Whether it can send a signature by an ed25519 key.
    #[must_use]
    pub fn takes_signing_keys(&self) -> bool {
        self.signatures
            .iter()
            .any(|signature| signature.ed25519.is_some())
    }

    /// The index of the member of the body that holds a signature, and the index of
    /// that signature.
    pub(super) fn signed_member(&self) -> Option<(usize, usize)> {
        self.body
            .iter()
            .enumerate()
            .find_map(|(place, member)| Some((place, *member.value.signatures().first()?)))
    }
}

/// The headers of a dialect, with the templates of their values.
pub(super) type Headers = Vec<(HeaderName, Template<InHeader>)>;

/// How JSON is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The data exactly as its producer wrote it.
    AsPublished,
    /// All JSON as JavaScript would write it after parsing it.
    JavaScript,
}

/// A member of the body.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) value: Value,
}

/// The value of a member of the body.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// JSON text.
    Constant(String),
    Text(Template<Field>),
    Number(Field),
    Data,
    /// The signature with this index.
    Signature(usize),
    Object(Vec<Member>),
    /// CloudEvents attributes: all members that the producer sent and that the body
    /// doesn't name.
    Attributes,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum InHeader {
    Of(Field),
    Signature(usize),
}

#[derive(Debug, Clone)]
pub(super) struct Signature {
    pub(super) name: String,
    pub(super) signs: Template<Signed>,
    pub(super) encoding: Template<Digest>,
    /// How signatures by ed25519 keys are written. `None`: the dialect has none.
    pub(super) ed25519: Option<Template<Digest>>,
    pub(super) key: KeyForm,
    pub(super) secrets: Signing,
}

/// What a signature covers. Members of the body are given by their index.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Signed {
    Of(Field),
    Body,
    Member(usize),
    Without(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Digest {
    Hex,
    Base64,
}

/// How a secret becomes an HMAC key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyForm {
    /// The secret's characters.
    Text,
    /// The part after `whsec_`, decoded. If the secret doesn't start with that, its
    /// characters.
    Whsec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signing {
    Current,
    /// During a rotation also the previous secret's signature, separated by a space.
    All,
}

impl Value {
    /// The signatures that this value contains.
    pub(super) fn signatures(&self) -> Vec<usize> {
        match self {
            Self::Signature(signature) => vec![*signature],
            Self::Object(members) => members
                .iter()
                .flat_map(|member| member.value.signatures())
                .collect(),
            _ => Vec::new(),
        }
    }
}
