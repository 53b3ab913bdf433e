//! Request ids: taken from the client's `x-request-id`, or made.
//!
//! People follow a request through several services by this id. It is in the
//! answer's headers, in the logs, and in every problem. While a request is
//! answered, its id is a task-local value, so that a [`Problem`](super::problem::Problem)
//! needs no parameter for it.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header with the request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken over.
const MAX_ID: usize = 128;
tokio::task_local! {
    static CURRENT: HeaderValue;
}

/// The id of the request that this task is answering, if it is answering one.
pub fn current() -> Option<String> {
    CURRENT
        .try_with(|id| id.to_str().ok().map(str::to_owned))
        .ok()
        .flatten()
}

/// Runs `answer`, which may ask for the [`current`] id.
pub async fn scope<F: Future>(id: HeaderValue, answer: F) -> F::Output {
    CURRENT.scope(id, answer).await
}

/// The client's id, if it is short and harmless, or else a new one.
pub fn from_headers(headers: &HeaderMap) -> HeaderValue {
    let sane = |id: &&HeaderValue| {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b);
        (1..=MAX_ID).contains(&id.len()) && id.as_bytes().iter().all(plain)
    };
    headers
        .get(REQUEST_ID)
        .filter(sane)
        .cloned()
        .unwrap_or_else(|| {
            let made = Uuid::now_v7().to_string();
            // Hexadecimal digits and hyphens are what a header may have.
            HeaderValue::from_str(&made).unwrap_or(HeaderValue::from_static("-"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_taken_over_and_another_replaced() {
        let id = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            from_headers(&HeaderMap::from_iter([(REQUEST_ID, value)]))
        };
        for sane in ["7", "01J-trace_1.2:3/4+5=", &"a".repeat(128)] {
            assert_eq!(id(sane), sane);
        }
        for other in ["", "a b", "<script>", &"a".repeat(129)] {
            let made = id(other);
            assert_ne!(made, other);
            assert_eq!(made.len(), 36);
        }
    }
}
