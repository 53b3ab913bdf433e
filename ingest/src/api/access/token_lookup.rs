//! Tokens are looked up as many at a time as were asked for meanwhile.
//!
//! At rest a request asks PostgreSQL itself, at once. While as many questions are under way
//! as there are connections, those that come wait, and the next question is for all of
//! them. So a thousand requests are a few questions, and a token that was revoked is none
//! from the next request on.
//!
//! A token that was found valid is remembered for a minute, for the publishing of events alone: the
//! statement that accepts an event looks its token up anyhow, so it needn't be asked about before
//! ([`TokenLookup::presumed`]).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use deadpool_postgres::Pool;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use shared::ids::{Owner, Tenant, TokenId};
use tokio::sync::oneshot;

use crate::api::access::role::Role;
use crate::decode::TokenHash;
use crate::door::Tokens;

/// The most tokens in one question.
const AT_ONCE: usize = 256;
/// The most tokens that are remembered.
const REMEMBERED: usize = 10_000;
/// How often tokens that are too old are looked for, at most: they are many then.
const SWEPT: Duration = Duration::from_secs(1);
/// How long a token is remembered. Its use is noticed once in that time, so not for longer.
const MEMORY: Duration = Duration::from_secs(60);

/// A token that is valid.
#[derive(Debug, Clone)]
pub struct ValidToken {
    /// Its public name.
    pub id: TokenId,
    /// Its first characters.
    pub prefix: String,
    /// Whose it is; `None`: a global token.
    pub tenant: Option<Tenant>,
    /// What it may do.
    pub role: Role,
    /// The owner of the webhooks that it may see and change; `None`: all.
    pub owner: Option<Owner>,
    /// Its last use that is on record is a minute ago.
    pub is_unnoticed: bool,
}

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct TokenLookup(Arc<Lookup>);

struct Lookup {
    pool: Pool,
    /// The most questions at a time.
    questions: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Questions under way.
    asking: usize,
    waiting: VecDeque<(TokenHash, oneshot::Sender<Answer>)>,
    /// Tokens that were found valid, and when.
    valid: HashMap<TokenHash, (ValidToken, Instant)>,
    /// When those were last removed that are too old.
    swept_at: Option<Instant>,
}

/// What somebody gets who waited.
enum Answer {
    Is(Option<ValidToken>),
    Failed(Arc<anyhow::Error>),
    /// It is on them to ask.
    Ask(Asking),
}

/// A question under way. When it ends, however it ends, the next of those that wait asks.
struct Asking(Option<Arc<Lookup>>);

impl TokenLookup {
    /// On connections of its own.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self(Arc::new(Lookup {
            questions: pool.status().max_size,
            pool,
            state: Mutex::default(),
        }))
    }

    /// The connections.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// The token with this hash, if it was valid within the last minute. Whoever uses this must
    /// have PostgreSQL look it up before anything comes of it.
    #[must_use]
    pub fn presumed(&self, hash: &TokenHash) -> Option<ValidToken> {
        let state = self.0.state();
        let (token, at) = state.valid.get(hash)?;
        (at.elapsed() < MEMORY).then(|| token.clone())
    }

    /// The token with this hash.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub async fn find(&self, hash: &TokenHash) -> anyhow::Result<Option<ValidToken>> {
        let found = self.look_up(hash).await?;
        self.0.state().remember(hash, found.clone(), Instant::now());
        Ok(found)
    }

    async fn look_up(&self, hash: &TokenHash) -> anyhow::Result<Option<ValidToken>> {
        let asking = match self.begin_or_wait(hash) {
            Ok(asking) => asking,
            Err(answer) => match answer.await.context("nobody asked for the token")? {
                Answer::Is(found) => return Ok(found),
                Answer::Failed(error) => anyhow::bail!("{error:#}"),
                Answer::Ask(asking) => asking,
            },
        };
        let answered = self.0.ask(hash).await;
        drop(asking);
        answered
    }

    fn begin_or_wait(&self, hash: &TokenHash) -> Result<Asking, oneshot::Receiver<Answer>> {
        let mut state = self.0.state();
        if state.asking < self.0.questions {
            state.asking += 1;
            return Ok(Asking(Some(self.0.clone())));
        }
        let (sender, answer) = oneshot::channel();
        state.waiting.push_back((*hash, sender));
        Err(answer)
    }
}

impl Tokens for TokenLookup {
    fn is_valid(&self, token: TokenHash) -> BoxFuture<'_, anyhow::Result<bool>> {
        async move { Ok(self.find(&token).await?.is_some()) }.boxed()
    }
}

impl State {
    /// What became of a question. If too many are remembered, this one isn't.
    fn remember(&mut self, hash: &TokenHash, found: Option<ValidToken>, now: Instant) {
        let Some(token) = found else {
            self.valid.remove(hash);
            return;
        };
        let is_swept = |at: Instant| now.saturating_duration_since(at) < SWEPT;
        if self.valid.len() >= REMEMBERED && !self.swept_at.is_some_and(is_swept) {
            let is_young = |at: Instant| now.saturating_duration_since(at) < MEMORY;
            self.valid.retain(|_, (_, at)| is_young(*at));
            self.swept_at = Some(now);
        }
        if self.valid.len() < REMEMBERED || self.valid.contains_key(hash) {
            self.valid.insert(*hash, (token, now));
        }
    }
}

impl Lookup {
    /// Asks for it and for those that wait.
    async fn ask(&self, hash: &TokenHash) -> anyhow::Result<Option<ValidToken>> {
        let waiting: Vec<_> = {
            let waiting = &mut self.state().waiting;
            let count = waiting.len().min(AT_ONCE);
            waiting.drain(..count).collect()
        };
        let others = waiting.iter().map(|(hash, _)| *hash);
        let answered = self.query(&others.chain([*hash]).collect::<Vec<_>>()).await;
        let answered = answered.map_err(Arc::new);
        for (hash, asked) in waiting {
            // Whoever asked may be gone.
            let _ = asked.send(match &answered {
                Ok(found) => Answer::Is(found.get(&hash).cloned()),
                Err(error) => Answer::Failed(error.clone()),
            });
        }
        match answered {
            Ok(mut found) => Ok(found.remove(hash)),
            Err(error) => anyhow::bail!("{error:#}"),
        }
    }

    async fn query(&self, hashes: &[TokenHash]) -> anyhow::Result<HashMap<TokenHash, ValidToken>> {
        let client = self.pool.get().await?;
        let statement = client
            .prepare_cached(
                "-- find_tokens\n\
                 SELECT hash, id, prefix, tenant, role, owner, \
                     last_used_at IS NULL OR last_used_at < now() - interval '1 minute' AS unnoticed \
                 FROM tokens WHERE hash = ANY ($1::bytea[]) AND revoked_at IS NULL \
                     AND (expires_at IS NULL OR expires_at > now())",
            )
            .await?;
        let wanted: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
        let rows = client.query(&statement, &[&wanted]).await?;
        let found = rows.iter().filter_map(|row| {
            let found = ValidToken {
                id: row.get("id"),
                prefix: row.get("prefix"),
                tenant: row.get("tenant"),
                role: row.get::<_, &str>("role").parse().ok()?,
                owner: row.get("owner"),
                is_unnoticed: row.get("unnoticed"),
            };
            Some((row.get::<_, &[u8]>("hash").try_into().ok()?, found))
        });
        Ok(found.collect())
    }

    // Nothing awaits while it holds the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let Some(lookup) = self.0.take() else { return };
        let mut state = lookup.state();
        while let Some((_, asked)) = state.waiting.pop_front() {
            let next = Answer::Ask(Self(Some(lookup.clone())));
            match asked.send(next) {
                Ok(()) => return,
                // Whoever waited is gone.
                Err(Answer::Ask(mut asking)) => asking.0 = None,
                Err(_) => {}
            }
        }
        state.asking -= 1;
    }
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use shared::postgres::{config, pool};

    use super::*;

    #[test]
    fn so_many_tokens_are_remembered_and_no_more() {
        let token = ValidToken {
            id: TokenId::generate(),
            prefix: String::new(),
            tenant: None,
            role: Role::Manager,
            owner: None,
            is_unnoticed: false,
        };
        let hash = |n: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            hash
        };
        let (mut state, begun) = (State::default(), Instant::now());
        for n in 0..=REMEMBERED {
            state.remember(&hash(n), Some(token.clone()), begun);
        }
        assert_eq!(state.valid.len(), REMEMBERED);
        // One that is remembered already is remembered for longer.
        let later = begun + MEMORY;
        state.remember(&hash(0), Some(token.clone()), later - SWEPT);
        state.remember(&hash(REMEMBERED), Some(token), later);
        let mut left: Vec<_> = state.valid.keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [hash(0), hash(REMEMBERED)]);
        state.remember(&hash(0), None, later);
        assert_eq!(state.valid.len(), 1);
    }

    #[tokio::test]
    async fn whoever_waits_asks_next_if_the_one_who_asked_is_gone() {
        let nowhere = config(&"postgres://127.0.0.1:1/nothing".to_owned().into(), "test");
        let lookup = TokenLookup::new(pool(&nowhere.unwrap(), 2).unwrap());
        let begun = |n: u8| lookup.begin_or_wait(&[n; 32]);
        let (first, second) = (begun(1).ok().unwrap(), begun(2).ok().unwrap());
        let (gone, third) = (begun(3).err().unwrap(), begun(4).err().unwrap());
        let mut fourth = begun(5).err().unwrap();
        drop(gone);
        drop(first);
        // It was told to ask, and is gone before it reads that.
        drop(third);
        let Some(Ok(Answer::Ask(asking))) = (&mut fourth).now_or_never() else {
            panic!("the fourth asks");
        };
        assert!(begun(6).is_err());
        drop((asking, second));
        assert!(begun(7).is_ok());
    }
}
