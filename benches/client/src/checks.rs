//! Checks from memory, beside calls.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use keyward_client::{AttachOptions, Client, proto::VerifyRequest};
use prost::Message as _;
use serde_json::json;

use crate::{BoxError, summary};

/// Checks in one sample: the clock is read twice for them.
const BATCH: usize = 16;
/// Checks at once while memory is filled.
const FILLING: usize = 256;

#[derive(Args)]
pub struct Checks {
    #[arg(long)]
    addr: String,
    /// The credential of a service.
    #[arg(long)]
    bearer: String,
    /// The file of requests whose secrets are checked.
    #[arg(long)]
    bodies: PathBuf,
    /// Samples of each figure.
    #[arg(long, default_value_t = 50_000)]
    samples: usize,
    /// Calls that are timed.
    #[arg(long, default_value_t = 5_000)]
    calls: usize,
    /// Threads that check at once, in the last figures.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

impl Checks {
    pub async fn run(self) -> Result<(), BoxError> {
        let client = Client::builder(format!("http://{}", self.addr)).credential(self.bearer.clone());
        let client = client.timeout(Duration::from_secs(30)).build()?;
        let secrets: Arc<[String]> = secrets(&std::fs::read(&self.bodies)?)?.into();
        let mut calls = Vec::with_capacity(self.calls);
        for secret in secrets.iter().cycle().take(self.calls) {
            let start = Instant::now();
            valid(&client, secret).await?;
            calls.push(start.elapsed());
        }
        client.attach(AttachOptions::default().bytes(4 << 30))?;
        let start = Instant::now();
        while kept(&client) < secrets.len() {
            for part in secrets.chunks(FILLING) {
                let mut running = tokio::task::JoinSet::new();
                for secret in part {
                    let (client, secret) = (client.clone(), secret.clone());
                    running.spawn(async move { valid(&client, &secret).await });
                }
                while let Some(done) = running.join_next().await {
                    done??;
                }
            }
            if start.elapsed() > Duration::from_mins(10) {
                return Err(format!("only {} of {} keys are in memory", kept(&client), secrets.len()).into());
            }
        }
        let filled = start.elapsed();
        let before = client.metrics();
        let one = secrets[..1].to_vec().into();
        let mut hot = sample(client.clone(), Arc::clone(&one), self.samples, 1).await?;
        let mut random = sample(client.clone(), Arc::clone(&secrets), self.samples, 1).await?;
        let mut together = Vec::new();
        for keys in [one, Arc::clone(&secrets)] {
            let running: Vec<_> = (0..self.threads)
                .map(|number| tokio::spawn(sample(client.clone(), Arc::clone(&keys), self.samples, number as u64 + 2)))
                .collect();
            let mut all = Vec::new();
            for samples in running {
                all.extend(samples.await??);
            }
            together.push(summary(&mut all));
        }
        let after = client.metrics();
        let found = json!({
            "keys": secrets.len(),
            "filled_seconds": filled.as_secs_f64(),
            "bytes": after.attach.map(|attach| attach.bytes),
            // Checks of the timed part that memory did not answer: a lease that was over.
            "calls_while_timed": after.calls - before.calls,
            "call": summary(&mut calls),
            "hot": summary(&mut hot),
            "random": summary(&mut random),
            "hot_together": together[0],
            "random_together": together[1],
        });
        println!("{found}");
        Ok(())
    }
}

async fn valid(client: &Client, secret: &str) -> Result<(), BoxError> {
    if client.verify(secret).await?.is_valid() { Ok(()) } else { Err("a key is not valid".into()) }
}

fn kept(client: &Client) -> usize {
    client.attach_status().map_or(0, |status| status.keys)
}

/// The secrets of a file of gRPC frames.
fn secrets(mut data: &[u8]) -> Result<Vec<String>, BoxError> {
    let mut secrets = Vec::new();
    while let [_, a, b, c, d, rest @ ..] = data {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let (message, rest) = rest.split_at_checked(length).ok_or("a frame is cut off")?;
        secrets.push(VerifyRequest::decode(message)?.secret);
        data = rest;
    }
    Ok(secrets)
}

/// The time of one check, for many batches of checks in random order.
async fn sample(client: Client, secrets: Arc<[String]>, count: usize, seed: u64) -> Result<Vec<Duration>, BoxError> {
    let mut samples = Vec::with_capacity(count);
    // A linear congruential sequence visits the keys in no order that the processor could foresee.
    let mut place = seed;
    for _ in 0..count {
        let batch: [&str; BATCH] = std::array::from_fn(|_| {
            place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let index = usize::try_from(place >> 33).unwrap_or(0) % secrets.len();
            secrets[index].as_str()
        });
        let start = Instant::now();
        for secret in batch {
            if !client.verify(secret).await?.is_valid() {
                return Err("a key is not valid".into());
            }
        }
        samples.push(start.elapsed() / u32::try_from(BATCH).unwrap_or(1));
    }
    Ok(samples)
}
