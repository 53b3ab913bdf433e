//! What a webhook's dialect asks of the webhook's own members.
//!
//! The members were checked by themselves before (`form::members`). The dialect is known
//! only in the transaction that writes the webhook, because it may be the tenant's.

use deadpool_postgres::Transaction;
use shared::dialect::{Dialect, Dialects};
use shared::ids::Tenant;

use crate::invalid::{Invalid, Unsaved};
use crate::webhooks::form::{CheckedWebhook, Signing};

/// Checks a form's members against the dialect that the webhook will have: its `own`, or
/// the tenant's.
///
/// # Errors
/// Names the member and the dialect's rule.
pub(super) async fn check_rules(
    transaction: &Transaction<'_>,
    dialects: &Dialects,
    tenant: &Tenant,
    own: Option<&str>,
    form: &CheckedWebhook,
) -> Result<(), Unsaved> {
    let name = match own {
        Some(own) => own.to_owned(),
        None => tenants_dialect(transaction, tenant).await?,
    };
    match dialects.get(&name) {
        Some(dialect) => Ok(check(dialect, form)?),
        // `DIALECTS_DIR` of this process may lack a file that another one has.
        None if form.signing == Some(Signing::Ed25519) => Err(takes_no_keys(&name).into()),
        None => Ok(()),
    }
}

fn check(dialect: &Dialect, form: &CheckedWebhook) -> Result<(), Invalid> {
    let name = dialect.name();
    if form.signing == Some(Signing::Ed25519) && !dialect.takes_signing_keys() {
        return Err(takes_no_keys(name));
    }
    if let Some(secret) = &form.secret
        && dialect.decodes_secrets()
    {
        secret
            .check_base64()
            .map_err(|error| Invalid::new("secret", error))?;
    }
    let shortest = dialect.policy().min_timeout.as_millis() as i32;
    if let Some(Some(timeout)) = form.timeout
        && timeout < shortest
    {
        let bound = format!("must be between {shortest} and 60000 (ms) in the dialect `{name}`");
        return Err(Invalid::new("timeout", bound));
    }
    let headers = form.headers.iter().flatten();
    for (header, _) in headers {
        if dialect.sets_header(&header.to_ascii_lowercase()) {
            let reason = format!("is set by the dialect `{name}`");
            return Err(Invalid::new(format!("headers.{header}"), reason));
        }
    }
    Ok(())
}

fn takes_no_keys(name: &str) -> Invalid {
    let reason = format!("can't be `ed25519` in the dialect `{name}`, which has no place for it");
    Invalid::new("signing", reason)
}

async fn tenants_dialect(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
) -> Result<String, tokio_postgres::Error> {
    let statement = transaction
        .prepare_cached("-- tenants_dialect\nSELECT dialect FROM tenants WHERE id = $1")
        .await?;
    Ok(transaction.query_one(&statement, &[tenant]).await?.get(0))
}

#[cfg(test)]
mod tests {
    use shared::secret::Secret;

    use super::*;

    #[test]
    fn a_dialects_rules_bound_a_webhooks_members() {
        let headers = |name: &str| CheckedWebhook {
            headers: Some(vec![(name.to_owned(), "x".to_owned())]),
            ..CheckedWebhook::default()
        };
        let timeout = |ms| CheckedWebhook {
            timeout: Some(Some(ms)),
            ..CheckedWebhook::default()
        };
        let secret = |text| CheckedWebhook {
            secret: Some(Secret::parse(text).unwrap()),
            ..CheckedWebhook::default()
        };
        let key = CheckedWebhook {
            signing: Some(Signing::Ed25519),
            ..CheckedWebhook::default()
        };
        let dialects = Dialects::embedded();
        for (dialect, form, refused) in [
            ("jossiedb", timeout(4_999), Some("timeout")),
            ("jossiedb", timeout(5_000), None),
            ("rishi", timeout(1_000), None),
            (
                "jossiedb",
                headers("X-Event-TYPE"),
                Some("headers.X-Event-TYPE"),
            ),
            ("rishi", headers("X-Event-Type"), None),
            ("standard", secret("whsec_%"), Some("secret")),
            ("rishi", secret("whsec_%"), None),
            ("standard", key, None),
        ] {
            let checked = check(dialects.get(dialect).unwrap(), &form);
            let field = checked.err().map(|invalid| invalid.field);
            assert_eq!(field.as_deref(), refused, "{dialect}");
        }
    }
}
