//! Creations, gathered: what many callers create at once is written by few statements, which commit once each.

use std::{collections::HashSet, sync::Arc};

use tokio::runtime::Handle;
use uuid::Uuid;

use super::{
    Result, StoreError,
    failure::Outcome,
    gather::{Bounds, Gather, Unasked},
    new_key::NewKey,
    session::{Job, Session},
    verbs::find_by_id,
};
use crate::domain::key::KeyRecord;

/// Creations that wait, at most.
const WAITING: usize = 4_096;
/// Keys in one statement, at most.
const TOGETHER: usize = 256;

/// What writes keys.
pub(super) trait Writer: Send + Sync + 'static {
    /// Runs a job on a connection that writes, within the bounds.
    fn write<I: Send + Sync, T: Send>(&self, input: &I, job: Job<I, T>) -> impl Future<Output = Result<T>> + Send;
}

/// Gathers creations.
pub struct Creations {
    gather: Gather<KeyRecord, Result<()>>,
}

impl Creations {
    /// Starts gathering on `runtime`, for so many statements at once.
    pub(super) fn start(writer: Arc<impl Writer>, statements: usize, runtime: &Handle) -> Self {
        let bounds = Bounds { waiting: WAITING, statements, together: TOGETHER };
        Self { gather: Gather::start(bounds, runtime, move |keys| write(Arc::clone(&writer), keys)) }
    }

    /// Writes a key, with others that are created at the same time.
    pub async fn create(&self, key: KeyRecord) -> Result<()> {
        self.gather.ask(key).await.unwrap_or_else(|why| {
            Err(match why {
                Unasked::Full => StoreError::Unavailable("too many creations wait".to_owned()),
                Unasked::GivenUp => StoreError::Unavailable("the creation was given up".to_owned()),
            })
        })
    }
}

async fn write(writer: Arc<impl Writer>, keys: Vec<KeyRecord>) -> Vec<Result<()>> {
    match writer.write(&keys, |session, keys| Box::pin(create_keys(session, keys))).await {
        // One key that the database does not take must not keep the others out.
        Err(StoreError::Broken(_)) if keys.len() > 1 => {
            let mut each = Vec::with_capacity(keys.len());
            for key in keys {
                let alone = writer.write(&vec![key], |session, keys| Box::pin(create_keys(session, keys))).await;
                each.push(alone.and_then(|mut one| one.pop().unwrap_or(Ok(()))));
            }
            each
        }
        Err(error) => vec![Err(error); keys.len()],
        Ok(written) => written,
    }
}

/// Writes keys; what came of each.
async fn create_keys(session: &mut dyn Session, keys: &[KeyRecord]) -> Outcome<Vec<Result<()>>> {
    let new = keys.iter().map(NewKey::of).collect::<Result<Vec<_>>>()?;
    let written: HashSet<Uuid> = session.create_keys(&new).await?.into_iter().collect();
    // Of two with one id, `written` does not tell which of them it was.
    let mut before = HashSet::new();
    let mut outcomes = Vec::with_capacity(keys.len());
    for key in keys {
        let first = before.insert(key.id);
        outcomes.push(if first && written.contains(&key.id.0) { Ok(()) } else { kept(session, key).await? });
    }
    Ok(outcomes)
}

/// What is there instead of a key that was not written.
async fn kept(session: &mut dyn Session, key: &KeyRecord) -> Outcome<Result<()>> {
    Ok(match find_by_id(session, key.id).await? {
        // A retry: the reply to the first attempt was lost.
        Some(kept) if kept.digest == key.digest => Ok(()),
        Some(_) => Err(StoreError::Broken(format!("the id {} is another key's", key.id))),
        None => Err(StoreError::DigestCollision),
    })
}
