//! Which problem follows from an error: of the domain, of PostgreSQL, or of anything else.

use axum::http::StatusCode;
use tokio_postgres::error::SqlState;
use tracing::error;

use crate::api::http::code::Code;
use crate::api::http::problem::{Blame, Problem};
use crate::cpu::Busy;
use crate::invalid::{Conflict, Invalid, Invalids, NotFound, Unsaved};

/// A failure that the client can't do anything about. The log has the cause; the answer doesn't.
impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        if was_given_up(&error) {
            error!(
                error = format!("{error:#}"),
                "a statement of a request took longer than statement_timeout, and was answered with 503"
            );
            let detail = "PostgreSQL took too long for this, and it was given up: ask for less, or try again";
            return Self::unavailable(detail).with_code(Code::TooSlow);
        }
        error!(
            error = format!("{error:#}"),
            "a request failed and was answered with 503"
        );
        Self::unavailable("PostgreSQL or RabbitMQ cannot be reached; try again")
    }
}

/// PostgreSQL ended a statement: because of `statement_timeout`, unless somebody did it by hand.
fn was_given_up(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref());
    let mut codes = causes.filter_map(tokio_postgres::Error::code);
    codes.any(|code| *code == SqlState::QUERY_CANCELED)
}

impl From<Busy> for Problem {
    fn from(busy: Busy) -> Self {
        Self::unavailable(busy.to_string())
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Invalids(vec![invalid]).into()
    }
}

impl From<Invalids> for Problem {
    fn from(Invalids(all): Invalids) -> Self {
        let blame = |invalid: Invalid| {
            let code = if invalid.is_missing {
                Code::MissingMember
            } else {
                Code::InvalidValue
            };
            Blame::new(code, invalid.field, invalid.reason)
        };
        let errors = all.into_iter().map(blame).collect();
        Self::all_of(StatusCode::UNPROCESSABLE_ENTITY, errors)
    }
}

impl From<NotFound> for Problem {
    fn from(error: NotFound) -> Self {
        Self::not_found(error.to_string())
    }
}

impl From<Conflict> for Problem {
    fn from(error: Conflict) -> Self {
        let code = match error {
            Conflict::Limit(_) => Code::LimitReached,
            Conflict::Exists(_) => Code::Conflict,
        };
        Self::conflict(error.to_string()).with_code(code)
    }
}

impl From<Unsaved> for Problem {
    fn from(unsaved: Unsaved) -> Self {
        match unsaved {
            Unsaved::Invalid(error) => error.into(),
            Unsaved::NotFound(error) => error.into(),
            Unsaved::Conflict(error) => error.into(),
            Unsaved::Postgres(error) => error.into(),
        }
    }
}

impl From<deadpool_postgres::PoolError> for Problem {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        anyhow::Error::new(error).into()
    }
}

impl From<tokio_postgres::Error> for Problem {
    fn from(error: tokio_postgres::Error) -> Self {
        anyhow::Error::new(error).into()
    }
}
