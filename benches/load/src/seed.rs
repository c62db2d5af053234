//! Writes keys directly into Postgres: a million take seconds; a million calls would take minutes.

use std::path::PathBuf;

use clap::Args;
use keyward::domain::{
    clock::{Clock as _, SystemClock, SystemEntropy},
    key::KeyIdGenerator,
    keyspace::{Keyspace, RESERVED_KEYSPACE, VERIFY_SCOPE},
    secret::{self, DISPLAY_PREFIX_LEN, Secret},
};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, postgres::PgConnectOptions};

use crate::{
    BoxError,
    bodies::{ENCODING, Frames, KEYSPACE, ORGANIZATION, PREFIX, SCOPES, master_keys, metadata, verify},
};

#[derive(Args)]
pub struct Seed {
    /// A database whose migrations are applied.
    #[arg(long)]
    database_url: String,
    /// The installation's master key, in base64.
    #[arg(long)]
    master_key: String,
    /// Number of keys.
    #[arg(long)]
    count: usize,
    /// File for the requests.
    #[arg(long)]
    out: PathBuf,
}

const COPY: &str = "COPY keyward_keys (id, keyspace, digest, prefix, organization, name, scopes, created_at, \
    created_by, metadata) FROM STDIN";

/// Rows in one COPY message.
const ROWS_PER_MESSAGE: usize = 10_000;

impl Seed {
    /// Seeds, and prints the secret of a service key with the scope `verify`.
    pub async fn run(self) -> Result<(), BoxError> {
        let master_keys = master_keys(&self.master_key)?;
        let options: PgConnectOptions = self.database_url.parse()?;
        let mut conn = options.connect().await?;
        let mut frames = Frames::create(&self.out)?;
        let ids = KeyIdGenerator::default();
        let metadata = serde_json::to_string(&metadata())?;
        let scopes = serde_json::to_string(&SCOPES)?;
        let row = |keyspace: &str, organization: &str, scopes: &str, metadata: &str, secret: &Secret| {
            let text = secret.expose();
            let id = ids.next(&SystemClock, &SystemEntropy);
            let digest = data_encoding::HEXLOWER.encode(&secret::digest(text).0);
            let (prefix, now) = (&text[..DISPLAY_PREFIX_LEN], SystemClock.wall());
            format!(
                "{}\t{keyspace}\t\\\\x{digest}\t{prefix}\t{organization}\tseeded\t{scopes}\t{now}\troot\t{metadata}\n",
                id.0
            )
        };

        let mut copy = conn.copy_in_raw(COPY).await?;
        let service = Keyspace::reserved().encoding.generate("kw_", &master_keys, &SystemEntropy);
        copy.send(row(RESERVED_KEYSPACE, "", &format!("[\"{VERIFY_SCOPE}\"]"), "{}", &service).into_bytes()).await?;
        let mut remaining = self.count;
        while remaining > 0 {
            let mut rows = String::new();
            for _ in 0..remaining.min(ROWS_PER_MESSAGE) {
                let secret = ENCODING.generate(PREFIX, &master_keys, &SystemEntropy);
                rows.push_str(&row(KEYSPACE, ORGANIZATION, &scopes, &metadata, &secret));
                frames.push(&verify(secret.expose().to_owned()))?;
            }
            copy.send(rows.into_bytes()).await?;
            remaining -= remaining.min(ROWS_PER_MESSAGE);
        }
        copy.finish().await?;
        frames.finish()?;
        conn.execute("VACUUM (ANALYZE) keyward_keys").await?;
        conn.close().await?;
        println!("{}", serde_json::json!({ "service_key": service.expose() }));
        Ok(())
    }
}
