//! Measures how long work under a revoked key goes on: the time from the Revoke to the end of what waits for the key.
//!
//! ```sh
//! KEYWARD_URL=http://127.0.0.1:50051 KEYWARD_API_KEY=<root key> REVOKE_URL=http://127.0.0.1:50052 KEYS=1000 WAITERS=10 \
//!     cargo run --release -p keyward-client --example measure_ended
//! ```
//!
//! The client is attached to one replica; `REVOKE_URL` may be another one of the same database. It creates the keys
//! that it measures, in the keyspace `default`. A Revoke commits between the moment when it is sent and the moment when
//! it returns: the time since its commit is between the two that are printed.

use std::time::{Duration, Instant};

use keyward_client::{
    AttachOptions, Client, EndReason, Reason,
    proto::{CreateRequest, RevokeRequest},
};

fn number(name: &str, default: usize) -> Result<usize, std::num::ParseIntError> {
    std::env::var(name).map_or(Ok(default), |number| number.parse())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, credential) = (std::env::var("KEYWARD_URL")?, std::env::var("KEYWARD_API_KEY")?);
    let revoke_url = std::env::var("REVOKE_URL").unwrap_or_else(|_| url.clone());
    let (keys, waiters) = (number("KEYS", 200)?, number("WAITERS", 1)?);
    let client = Client::builder(url).credential(&credential).timeout(Duration::from_secs(30)).build()?;
    let operator = Client::builder(revoke_url).credential(credential).build()?;
    client.attach(AttachOptions::default())?;

    let (mut since_sent, mut since_returned) = (Vec::new(), Vec::new());
    for _ in 0..keys {
        let request = CreateRequest { keyspace: "default".into(), ..CreateRequest::default() };
        let created = client.key_service().create(request).await?.into_inner();
        let id = created.key.ok_or("a key")?.id;
        let principal =
            client.verify(&created.secret).await?.into_result().map_err(|refusal| refusal.message().to_owned())?;
        let tasks: Vec<_> = (0..waiters)
            .map(|_| {
                let ended = principal.ended();
                tokio::spawn(async move {
                    let end = ended.await;
                    (end, Instant::now())
                })
            })
            .collect();
        // As work that is going on for a while.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let sent = Instant::now();
        operator.key_service().revoke(RevokeRequest { id, ..RevokeRequest::default() }).await?;
        let returned = Instant::now();
        for task in tasks {
            let (end, at) = task.await?;
            assert_eq!(end, Ok(EndReason::Refused(Reason::Revoked)));
            since_sent.push(at - sent);
            since_returned.push(at.saturating_duration_since(returned));
        }
    }
    report("since the Revoke was sent", &mut since_sent);
    report("since it returned", &mut since_returned);
    Ok(())
}

fn report(what: &str, samples: &mut [Duration]) {
    samples.sort_unstable();
    let at = |thousandths: usize| samples[(samples.len() * thousandths / 1_000).min(samples.len() - 1)];
    println!("{what}: p50 {:?}, p99 {:?}, longest {:?}, of {}", at(500), at(990), at(1_000), samples.len());
}
