//! Measures checks: from memory, of one key and of many in random order, and by calls, beside each other.
//!
//! ```sh
//! KEYWARD_URL=http://127.0.0.1:50051 KEYWARD_API_KEY=<root key> KEYS=100000 \
//!     cargo run --release -p keyward-client --example measure
//! ```
//!
//! It creates the keys that it measures, in the keyspace `default`.

use std::time::{Duration, Instant};

use keyward_client::{AttachOptions, Client, proto::CreateRequest};

/// Checks in one sample: the clock is read once for them.
const BATCH: usize = 16;
const SAMPLES: usize = 100_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys: usize = std::env::var("KEYS").ok().map_or(Ok(10_000), |keys| keys.parse())?;
    let client = Client::builder(std::env::var("KEYWARD_URL")?).credential(std::env::var("KEYWARD_API_KEY")?);
    let client = client.timeout(Duration::from_secs(30)).build()?;
    let secrets = create(&client, keys).await?;

    let mut calls = Vec::new();
    for secret in secrets.iter().cycle().take(2_000) {
        let start = Instant::now();
        assert!(client.verify(secret).await?.is_valid());
        calls.push(start.elapsed());
    }
    report("a call, one at a time", &mut calls);

    client.attach(AttachOptions::default().bytes(4 << 30))?;
    let start = Instant::now();
    loop {
        for secret in &secrets {
            assert!(client.verify(secret).await?.is_valid());
        }
        let kept = client.attach_status().map_or(0, |status| status.keys);
        println!("{kept} keys in memory after {:?}", start.elapsed());
        if kept == secrets.len() {
            break;
        }
    }
    report("memory, one key", &mut sample(&client, &secrets[..1]).await?);
    report("memory, many keys in random order", &mut sample(&client, &secrets).await?);
    println!("{:?}", client.attach_status());
    Ok(())
}

async fn create(client: &Client, keys: usize) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut tasks = tokio::task::JoinSet::new();
    for part in 0..64 {
        let mut service = client.key_service();
        tasks.spawn(async move {
            let mut secrets = Vec::new();
            for _ in (part..keys).step_by(64) {
                let request = CreateRequest { keyspace: "default".into(), ..CreateRequest::default() };
                secrets.push(service.create(request).await?.into_inner().secret);
            }
            Ok::<_, tonic::Status>(secrets)
        });
    }
    let mut secrets = Vec::new();
    while let Some(created) = tasks.join_next().await {
        secrets.extend(created??);
    }
    Ok(secrets)
}

/// The time of one check, for many batches of checks.
async fn sample(client: &Client, secrets: &[String]) -> Result<Vec<Duration>, keyward_client::Error> {
    let mut samples = Vec::with_capacity(SAMPLES);
    // A linear congruential sequence visits the keys in no order that a cache could foresee.
    let mut place = 1_u64;
    for _ in 0..SAMPLES {
        let batch: [&str; BATCH] = std::array::from_fn(|_| {
            place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let index = usize::try_from(place >> 33).unwrap_or(0) % secrets.len();
            secrets[index].as_str()
        });
        let start = Instant::now();
        for secret in batch {
            assert!(client.verify(secret).await?.is_valid());
        }
        samples.push(start.elapsed() / u32::try_from(BATCH).unwrap_or(1));
    }
    Ok(samples)
}

fn report(what: &str, samples: &mut [Duration]) {
    samples.sort_unstable();
    let at = |thousandths: usize| samples[(samples.len() * thousandths / 1_000).min(samples.len() - 1)];
    println!("{what}: p50 {:?}, p99 {:?}, p99.9 {:?}", at(500), at(990), at(999));
}
