//! The verbs about the database as a whole, and the state that replicas share.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sqlx::Database;

use super::{events::EventDialect, keys::KeyDialect};
use crate::{
    domain::clock::Micros,
    store::{
        database::{InstallationRow, PoolGauge, ReplicaRow, Store},
        engine::{
            attempts::JobKind,
            backend::Backend,
            classify::AttemptResult,
            connection::{Executor, PooledConnection, Value},
            insert::to_json,
            migrate::AppliedRow,
            sql::database as sql,
        },
        error::{Result, StoreError, Unavailability, UnavailableCause},
    },
};

/// What the verbs about the database need of it in its own SQL.
#[async_trait]
pub trait DatabaseDialect: Executor {
    /// Reads the replicas.
    async fn replicas(&mut self) -> sqlx::Result<Vec<ReplicaRow>>;
    /// Whether the database accepts writes.
    async fn is_writable(&mut self) -> sqlx::Result<bool>;
    /// Whether reads return the current state. A standby may return an older one.
    async fn shows_present(&mut self) -> sqlx::Result<bool>;
    /// Reads the applied migrations. Returns none if their table does not exist yet.
    async fn applied_migrations(&mut self) -> sqlx::Result<Vec<AppliedRow>>;
}

#[async_trait]
impl<DB, X> Store for Backend<DB, X>
where
    DB: Database,
    X: Send + Sync + 'static,
    PooledConnection<DB>: DatabaseDialect + KeyDialect + EventDialect,
{
    async fn installation(&self, proposed: InstallationRow) -> Result<InstallationRow> {
        self.write(proposed, |db, row| Box::pin(installation(db, row))).await
    }

    async fn move_installation(&self, from: InstallationRow, to: InstallationRow) -> Result<InstallationRow> {
        self.write((from, to), |db, (from, to)| Box::pin(move_installation(db, from, to))).await
    }

    async fn replicas(&self) -> Result<Vec<ReplicaRow>> {
        self.read((), |db, ()| Box::pin(async move { Ok(db.replicas().await?) })).await
    }

    async fn advance_watermark(&self, name: String, to: i64) -> Result<i64> {
        self.write((name, to), |db, (name, to)| Box::pin(advance_watermark(db, name, *to))).await
    }

    async fn watermark(&self, name: String) -> Result<Option<i64>> {
        self.read(name, |db, name| Box::pin(watermark(db, name))).await
    }

    async fn try_acquire_job_lease(&self, name: &'static str, now: Micros, until: Micros) -> Result<bool> {
        self.write((name, now, until), |db, (name, now, until)| Box::pin(try_acquire_job_lease(db, name, *now, *until)))
            .await
    }

    async fn ping(&self) -> Result<()> {
        // Not a read: it must use a connection that writes.
        self.write((), |db, ()| Box::pin(ping(db))).await
    }

    async fn check_writes(&self) -> Result<()> {
        let checked = self.run(JobKind::Probe, (), |db, ()| Box::pin(ping(db))).await;
        match &checked {
            // The lock is this process's own: a write is running.
            Err(StoreError::Unavailable(why))
                if why.cause == UnavailableCause::Locked && self.attempts.is_writing() =>
            {
                Ok(())
            }
            Ok(()) if self.attempts.needs_write_probe() => self.write((), |db, ()| Box::pin(write_probe(db))).await,
            _ => checked,
        }
    }

    async fn check_reads(&self) -> Result<()> {
        self.read((), |db, ()| Box::pin(check_reads(db))).await
    }

    fn pool(&self) -> PoolGauge {
        self.gauge()
    }

    fn unreadable_rows(&self) -> u64 {
        self.unreadable()
    }

    async fn close(&self) {
        self.close_pools().await;
    }
}

/// Reads the applied migrations.
pub(crate) async fn applied_migrations<DB, X>(backend: &Backend<DB, X>) -> Result<Vec<AppliedRow>>
where
    DB: Database,
    X: Send + Sync + 'static,
    PooledConnection<DB>: DatabaseDialect,
{
    backend.read((), |db, ()| Box::pin(async move { Ok(db.applied_migrations().await?) })).await
}

/// [`InstallationRow`] as it is stored: as one value, so that it is written whole or not at all.
#[derive(Serialize, Deserialize)]
struct StoredInstallation {
    fingerprint: String,
    key: Option<String>,
    /// Left out while empty, as in rows written before the field existed: a row is replaced by comparing its text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<String>,
}

/// The setting that is changed to find whether the disk takes a write.
const WRITE_PROBE: &str = "write_probe";

/// The name of its setting.
const INSTALLATION: &str = "installation";

fn stored(row: &InstallationRow) -> Result<String> {
    let InstallationRow { fingerprint, key, earlier } = row.clone();
    to_json(&StoredInstallation { fingerprint, key, earlier })
}

async fn installation(db: &mut impl Executor, proposed: &InstallationRow) -> AttemptResult<InstallationRow> {
    let text = stored(proposed)?;
    db.execute(sql::PROPOSE_SETTING, &[Value::Text(INSTALLATION), Value::Text(&text)]).await?;
    current_installation(db).await
}

async fn move_installation(
    db: &mut impl Executor,
    from: &InstallationRow,
    to: &InstallationRow,
) -> AttemptResult<InstallationRow> {
    let (from, to) = (stored(from)?, stored(to)?);
    let values = [Value::Text(INSTALLATION), Value::Text(&from), Value::Text(&to)];
    db.execute(sql::EXCHANGE_SETTING, &values).await?;
    current_installation(db).await
}

async fn current_installation(db: &mut impl Executor) -> AttemptResult<InstallationRow> {
    let stored: StoredInstallation = setting(db, INSTALLATION)
        .await?
        .and_then(|text| serde_json::from_str(&text).ok())
        .ok_or_else(|| StoreError::Broken("the installation setting cannot be read".to_owned()))?;
    Ok(InstallationRow { fingerprint: stored.fingerprint, key: stored.key, earlier: stored.earlier })
}

async fn setting(db: &mut impl Executor, name: &str) -> AttemptResult<Option<String>> {
    let mut values: Vec<(String,)> = db.fetch(sql::FIND_SETTING, &[Value::Text(name)]).await?;
    Ok(values.pop().map(|(value,)| value))
}

async fn advance_watermark(db: &mut impl Executor, name: &str, to: i64) -> AttemptResult<i64> {
    let text = to.to_string();
    let values = [Value::Text(name), Value::Text(&text)];
    if db.execute(sql::PROPOSE_SETTING, &values).await? == 0 {
        db.execute(sql::ADVANCE_WATERMARK, &values).await?;
    }
    watermark(db, name).await?.ok_or_else(|| unreadable(name).into())
}

async fn watermark(db: &mut impl Executor, name: &str) -> AttemptResult<Option<i64>> {
    let Some(text) = setting(db, name).await? else { return Ok(None) };
    Ok(Some(text.parse().map_err(|_| unreadable(name))?))
}

fn unreadable(name: &str) -> StoreError {
    StoreError::Broken(format!("the setting {name} cannot be read"))
}

async fn try_acquire_job_lease(db: &mut impl Executor, name: &str, now: Micros, until: Micros) -> AttemptResult<bool> {
    let text = until.to_string();
    if db.execute(sql::PROPOSE_SETTING, &[Value::Text(name), Value::Text(&text)]).await? == 1 {
        return Ok(true);
    }
    // A lease that ends later than this was acquired by a replica whose clock was ahead. It does not hold.
    let latest = now.saturating_add((until - now).saturating_mul(2));
    let values = [Value::Text(name), Value::Text(&text), Value::Int(now), Value::Int(latest)];
    Ok(db.execute(sql::ACQUIRE_JOB_LEASE, &values).await? == 1)
}

async fn ping(db: &mut impl DatabaseDialect) -> AttemptResult<()> {
    if db.is_writable().await? {
        Ok(())
    } else {
        let why = "the database takes no writes: a standby, or read-only";
        Err(StoreError::Unavailable(Unavailability::new(UnavailableCause::ReadOnly, why)).into())
    }
}

async fn check_reads(db: &mut impl DatabaseDialect) -> AttemptResult<()> {
    if db.shows_present().await? {
        Ok(())
    } else {
        let why = "the database is a standby, which shows the past";
        Err(StoreError::Unavailable(why.into()).into())
    }
}

async fn write_probe(db: &mut impl Executor) -> AttemptResult<()> {
    if db.execute(sql::PROPOSE_SETTING, &[Value::Text(WRITE_PROBE), Value::Text("0")]).await? == 0 {
        db.execute(sql::FLIP_SETTING, &[Value::Text(WRITE_PROBE)]).await?;
    }
    Ok(())
}
