//! The naive twin: Verify is a digest and one prepared SELECT, Create is one INSERT. It uses Keyward's tables, so that both
//! send the database the same queries; with `--own-table`, Create uses a table with only two indexes.

use std::{net::SocketAddr, pin::Pin};

use clap::Parser;
use keyward_twin::proto::{
    AttachRequest, AttachResponse, Code, CreateRequest, CreateResponse, Key, ListRequest, ListResponse, RevokeRequest,
    RevokeResponse, UpdateWebhookRequest, UpdateWebhookResponse, VerifyRequest, VerifyResponse, VerifyStreamRequest,
    VerifyStreamResponse,
    key_service_server::{KeyService, KeyServiceServer},
};
use sha2::{Digest as _, Sha256};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_stream::Stream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:0")]
    addr: SocketAddr,
    /// URL of the database.
    #[arg(long)]
    database_url: String,
    /// Maximum size of the connection pool.
    #[arg(long, default_value_t = 16)]
    connections: u32,
    /// Create inserts into a table of its own, with a primary key and a unique digest.
    #[arg(long)]
    own_table: bool,
}

const FIND: &str = "SELECT id, keyspace, organization, instance, environment, name, scopes, created_at, expires_at, \
    revoked_at, metadata FROM keyward_keys WHERE digest = $1";
const CREATE: &str = "INSERT INTO keyward_keys (id, keyspace, digest, prefix, organization, name, scopes, created_at, \
    created_by, metadata) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
const CREATE_OWN: &str = "INSERT INTO naive_keys (id, keyspace, digest, prefix, organization, name, scopes, \
    created_at, created_by, metadata) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
const OWN_TABLE: &str = "CREATE TABLE IF NOT EXISTS naive_keys (id UUID PRIMARY KEY, keyspace TEXT NOT NULL, \
    digest BYTEA NOT NULL UNIQUE, prefix TEXT NOT NULL, organization TEXT NOT NULL, name TEXT NOT NULL, \
    scopes TEXT NOT NULL, created_at BIGINT NOT NULL, created_by TEXT NOT NULL, metadata TEXT NOT NULL)";

/// A row of [`FIND`].
#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    keyspace: String,
    organization: String,
    instance: String,
    environment: String,
    name: String,
    scopes: String,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
    metadata: String,
}

struct Naive {
    pool: PgPool,
    create: &'static str,
}

type Result<T> = std::result::Result<T, Status>;

fn timestamp(micros: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or(0);
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

fn failed<E: std::fmt::Display>(error: E) -> Status {
    Status::internal(error.to_string())
}

#[tonic::async_trait]
impl KeyService for Naive {
    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<VerifyResponse>> {
        let digest = Sha256::digest(request.get_ref().secret.as_bytes());
        let row: Option<Row> =
            sqlx::query_as(FIND).bind(digest.as_slice()).fetch_optional(&self.pool).await.map_err(failed)?;
        let Some(row) = row else {
            return Ok(Response::new(VerifyResponse { code: Code::NotFound.into(), ..VerifyResponse::default() }));
        };
        let code = if row.revoked_at.is_some() { Code::Revoked } else { Code::Valid };
        Ok(Response::new(VerifyResponse {
            code: code.into(),
            message: "The key is valid".to_owned(),
            key_id: row.id.to_string(),
            keyspace: row.keyspace,
            organization: row.organization,
            instance: row.instance,
            environment: row.environment,
            name: row.name,
            scopes: serde_json::from_str(&row.scopes).map_err(failed)?,
            create_time: Some(timestamp(row.created_at)),
            expire_time: row.expires_at.map(timestamp),
            metadata: serde_json::from_str(&row.metadata).map_err(failed)?,
            rate_limit: None,
        }))
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<CreateResponse>> {
        let request = request.into_inner();
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random).map_err(failed)?;
        let secret = random.iter().fold("nrx_".to_owned(), |text, byte| format!("{text}{byte:02x}"));
        let digest = Sha256::digest(secret.as_bytes());
        let id = Uuid::now_v7();
        let now = std::time::UNIX_EPOCH.elapsed().map_err(failed)?;
        let now = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        let key = Key {
            id: id.to_string(),
            keyspace: request.keyspace,
            organization: request.organization,
            name: request.name,
            prefix: secret.chars().take(12).collect(),
            scopes: request.scopes,
            create_time: Some(timestamp(now)),
            created_by: "root".to_owned(),
            metadata: request.metadata,
            ..Key::default()
        };
        sqlx::query(self.create)
            .bind(id)
            .bind(&key.keyspace)
            .bind(digest.as_slice())
            .bind(&key.prefix)
            .bind(&key.organization)
            .bind(&key.name)
            .bind(serde_json::to_string(&key.scopes).map_err(failed)?)
            .bind(now)
            .bind(&key.created_by)
            .bind(serde_json::to_string(&key.metadata).map_err(failed)?)
            .execute(&self.pool)
            .await
            .map_err(failed)?;
        Ok(Response::new(CreateResponse { key: Some(key), secret, webhook_secret: String::new() }))
    }

    type VerifyStreamStream = Pin<Box<dyn Stream<Item = Result<VerifyStreamResponse>> + Send>>;

    async fn verify_stream(
        &self,
        _: Request<Streaming<VerifyStreamRequest>>,
    ) -> Result<Response<Self::VerifyStreamStream>> {
        Err(Status::unimplemented("the naive twin only creates and verifies"))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>> {
        Err(Status::unimplemented("the naive twin only creates and verifies"))
    }

    async fn revoke(&self, _: Request<RevokeRequest>) -> Result<Response<RevokeResponse>> {
        Err(Status::unimplemented("the naive twin only creates and verifies"))
    }

    type AttachStream = Pin<Box<dyn Stream<Item = Result<AttachResponse>> + Send>>;

    async fn attach(&self, _: Request<Streaming<AttachRequest>>) -> Result<Response<Self::AttachStream>> {
        Err(Status::unimplemented("the naive twin only creates and verifies"))
    }

    async fn update_webhook(&self, _: Request<UpdateWebhookRequest>) -> Result<Response<UpdateWebhookResponse>> {
        Err(Status::unimplemented("the naive twin only creates and verifies"))
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let Arguments { addr, database_url, connections, own_table } = Arguments::parse();
    keyward_twin::block_on(false, async move {
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .test_before_acquire(false)
            .connect_with(database_url.parse()?)
            .await?;
        if own_table {
            sqlx::raw_sql(OWN_TABLE).execute(&pool).await?;
        }
        let incoming = TcpIncoming::bind(addr)?.with_nodelay(Some(true));
        println!("grpc listening on {}", incoming.local_addr()?);
        let naive = Naive { pool, create: if own_table { CREATE_OWN } else { CREATE } };
        Server::builder().add_service(KeyServiceServer::new(naive)).serve_with_incoming(incoming).await?;
        Ok(())
    })?
}
