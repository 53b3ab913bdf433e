//! The codes of problems: one word for each kind, which programs can decide by.
//!
//! Each has a section in `docs/errors.md`, and its problem's `type` leads there. Codes are
//! an open list: a client must expect others.

use serde::{Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// Where the text of `docs/errors.md` is served.
pub const PAGE: &str = "/docs/errors";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident: $text:literal,)*) => {
        /// What kind of problem it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it is sent.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// 400: the request can't be read.
    MalformedRequest: "malformed_request",
    /// 400: a member or parameter has another type.
    WrongType: "wrong_type",
    /// 400, 422: there is no member or parameter of this name.
    UnknownMember: "unknown_member",
    /// 400, 422: a member that is needed isn't there.
    MissingMember: "missing_member",
    /// 400: a member is there twice, perhaps under two of its names.
    DuplicateMember: "duplicate_member",
    /// 422: a value is not within its bounds.
    InvalidValue: "invalid_value",
    /// 401: no valid token.
    Unauthorized: "unauthorized",
    /// 403: the token's role is not enough.
    Forbidden: "forbidden",
    /// 404: it doesn't exist, or not for this tenant.
    NotFound: "not_found",
    /// 405: the path doesn't take this method.
    MethodNotAllowed: "method_not_allowed",
    /// 406: the client doesn't accept JSON.
    NotAcceptable: "not_acceptable",
    /// 409: the request contradicts what is stored.
    Conflict: "conflict",
    /// 409: the tenant has as many of these as it may.
    LimitReached: "limit_reached",
    /// 412: it has changed since the client read it.
    ChangedMeanwhile: "changed_meanwhile",
    /// 413: the body or the data is too large.
    TooLarge: "too_large",
    /// 415: the body is not JSON.
    UnsupportedMediaType: "unsupported_media_type",
    /// 429: too many requests in a time.
    RateLimited: "rate_limited",
    /// 429: too many requests or changes at a time.
    TooManyAtOnce: "too_many_at_once",
    /// 503: a server that Posthorn needs can't be reached.
    Unavailable: "unavailable",
    /// 503: PostgreSQL needed longer than a statement may take.
    TooSlow: "too_slow",
    /// 503: what is sealed of a webhook can't be opened.
    UnreadableWebhook: "unreadable_webhook",
}

impl Code {
    /// The problem's `type` (RFC 9457): where the code is explained.
    #[must_use]
    pub fn uri(self) -> String {
        format!("{PAGE}#{}", self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let all: Vec<_> = Self::ALL.iter().map(|code| code.as_str()).collect();
        let open = ExtensionsBuilder::new().add("x-extensible-enum", all);
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "What kind of problem it is, for programs: see `docs/errors.md`.",
            ))
            .examples(["invalid_value"])
            .extensions(Some(open.build()))
            .into()
    }
}

impl ToSchema for Code {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_section_and_every_section_a_code() {
        let page = include_str!("../../../../docs/errors.md");
        let sections: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("### "))
            .collect();
        let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(sections, codes);
    }
}
