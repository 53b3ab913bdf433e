//! Roles, and the caller of a request with the role it has.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use shared::ids::{Owner, Tenant};
use utoipa::ToSchema;

use crate::actor::Actor;
use crate::api::http::problem::{Problem, Result};

/// What a token may do: a viewer reads, a manager also changes webhooks and
/// publishes events, an admin also manages tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Read.
    Viewer,
    /// Change webhooks, publish events.
    Manager,
    /// Manage tokens and, if global, tenants.
    Admin,
}

impl Role {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Manager => "manager",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Self::Viewer, Self::Manager, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| "must be admin, manager or viewer".to_owned())
    }
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// `None`: a global token.
    pub tenant: Option<Tenant>,
    /// What it may do.
    pub role: Role,
    /// The owner whose webhooks it may see and change; `None`: all of its tenant's. Never of an
    /// admin.
    pub owner: Option<Owner>,
    /// As the history of changes has it.
    pub actor: Actor,
}

impl Caller {
    /// Refuses a caller whose role is not enough.
    ///
    /// # Errors
    /// 403.
    pub fn must_be(&self, role: u8) -> Result<()> {
        if self.role as u8 >= role {
            return Ok(());
        }
        Err(Problem::forbidden(format!(
            "this token has the role `{}`, which is not enough for this request",
            self.role.as_str()
        )))
    }
}
