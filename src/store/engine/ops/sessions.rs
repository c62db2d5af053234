//! The verbs about sessions of the dashboard.

use async_trait::async_trait;
use sqlx::Database;

use crate::{
    domain::{
        clock::Micros,
        dashboard::{DashboardSession, SessionId, SessionOwner},
    },
    store::{
        engine::{
            backend::Backend,
            classify::AttemptResult,
            connection::{Executor, PooledConnection, Value},
            rows::sessions::{SessionRow, read_session, write_organizations},
            sql::sessions as sql,
        },
        error::Result,
        sessions::{RefreshedPerson, SessionStore},
    },
};

#[async_trait]
impl<DB, X> SessionStore for Backend<DB, X>
where
    DB: Database,
    X: Send + Sync + 'static,
    PooledConnection<DB>: Executor,
{
    async fn create_session(&self, session: DashboardSession) -> Result<()> {
        self.write(session, |db, session| Box::pin(create_session(db, session))).await
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<DashboardSession>> {
        let rows: Vec<SessionRow> = self
            .read(id, |db, id| Box::pin(async move { Ok(db.fetch(sql::FIND_SESSION, &[Value::Bytes(&id.0)]).await?) }))
            .await?;
        rows.into_iter().next().map(read_session).transpose()
    }

    async fn touch_session(&self, id: SessionId, seen: Micros, idle_at: Micros) -> Result<()> {
        self.write((id, seen, idle_at), |db, (id, seen, idle_at)| {
            Box::pin(async move {
                let values = [Value::Bytes(&id.0), Value::Int(*seen), Value::Int(*idle_at)];
                db.execute(sql::TOUCH_SESSION, &values).await?;
                Ok(())
            })
        })
        .await
    }

    async fn end_session(&self, id: SessionId, actor: String) -> Result<bool> {
        self.write((id, actor), |db, (id, actor)| {
            Box::pin(
                async move { Ok(db.execute(sql::END_SESSION, &[Value::Bytes(&id.0), Value::Text(actor)]).await? == 1) },
            )
        })
        .await
    }

    async fn delete_ended_sessions(&self, now: Micros, limit: u32) -> Result<u64> {
        self.write((now, limit), |db, (now, limit)| {
            Box::pin(async move {
                let values = [Value::Int(*now), Value::Int(i64::from(*limit))];
                Ok(db.execute(sql::DELETE_ENDED_SESSIONS, &values).await?)
            })
        })
        .await
    }

    async fn sessions_of(&self, actor: String, now: Micros, limit: u32) -> Result<Vec<DashboardSession>> {
        let rows: Vec<SessionRow> = self
            .read((actor, now, limit), |db, (actor, now, limit)| {
                Box::pin(async move {
                    let values = [Value::Text(actor), Value::Int(*now), Value::Int(i64::from(*limit))];
                    Ok(db.fetch(sql::SESSIONS_OF, &values).await?)
                })
            })
            .await?;
        rows.into_iter().map(read_session).collect()
    }

    async fn claim_refresh(&self, id: SessionId, now: Micros, until: Micros) -> Result<bool> {
        self.write((id, now, until), |db, (id, now, until)| {
            Box::pin(async move {
                let values = [Value::Bytes(&id.0), Value::Int(*now), Value::Int(*until)];
                Ok(db.execute(sql::CLAIM_REFRESH, &values).await? == 1)
            })
        })
        .await
    }

    async fn finish_refresh(&self, id: SessionId, refreshed: RefreshedPerson) -> Result<bool> {
        self.write((id, refreshed), |db, (id, refreshed)| Box::pin(finish_refresh(db, *id, refreshed))).await
    }

    async fn spend_form(&self, id: SessionId, form: String) -> Result<bool> {
        self.write((id, form), |db, (id, form)| {
            Box::pin(
                async move { Ok(db.execute(sql::SPEND_FORM, &[Value::Bytes(&id.0), Value::Text(form)]).await? == 1) },
            )
        })
        .await
    }
}

async fn create_session(db: &mut impl Executor, session: &DashboardSession) -> AttemptResult<()> {
    let DashboardSession { id, actor, owner, created_at, last_seen_at, idle_at, ends_at } = session;
    let (digest, person) = match owner {
        SessionOwner::Credential(digest) => (&digest.0[..], None),
        SessionOwner::Person(person) => (&[][..], Some(person)),
    };
    let organizations = write_organizations(person.map_or(&[], |person| &person.organizations));
    let values = [
        Value::Bytes(&id.0),
        Value::Text(actor),
        Value::Bytes(digest),
        Value::Text(person.map_or("", |person| &person.issuer)),
        Value::Text(person.map_or("", |person| &person.client)),
        Value::Text(&organizations),
        Value::MaybeInt(person.map(|person| person.token_expires_at)),
        Value::Bytes(person.map_or(&[], |person| &person.refresh_token)),
        Value::Int(*created_at),
        Value::Int(*last_seen_at),
        Value::Int(*idle_at),
        Value::Int(*ends_at),
    ];
    db.execute(sql::CREATE_SESSION, &values).await?;
    Ok(())
}

async fn finish_refresh(db: &mut impl Executor, id: SessionId, refreshed: &RefreshedPerson) -> AttemptResult<bool> {
    let RefreshedPerson { person, claim } = refreshed;
    let organizations = write_organizations(&person.organizations);
    let values = [
        Value::Bytes(&id.0),
        Value::Int(*claim),
        Value::Text(&organizations),
        Value::Int(person.token_expires_at),
        Value::Bytes(&person.refresh_token),
    ];
    Ok(db.execute(sql::FINISH_REFRESH, &values).await? == 1)
}
