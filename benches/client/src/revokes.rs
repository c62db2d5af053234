//! Revokes of keys that many attached clients hold.

use std::{
    io::BufRead as _,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use keyward_client::{
    AttachOptions, Client, KeyService,
    proto::{AttachLookUp, AttachRenew, AttachRequest, CreateRequest, RevokeRequest, attach_request::Message as Up},
};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{BoxError, summary};

/// Clients of one credential, the most that a replica takes.
const CLIENTS_PER_CREDENTIAL: usize = 16;
/// How often each client is used: it then keeps its lease.
const USE_INTERVAL: Duration = Duration::from_millis(250);
/// How long everything may take that has to happen first.
const SETUP_TIMEOUT: Duration = Duration::from_mins(5);

#[derive(Args)]
pub struct Revokes {
    /// The addresses of the replicas.
    #[arg(long, num_args = 1..)]
    addr: Vec<String>,
    /// The root credential.
    #[arg(long)]
    bearer: String,
    /// Attached clients of each replica.
    #[arg(long)]
    clients: usize,
    /// Revokes that are timed.
    #[arg(long, default_value_t = 200)]
    count: usize,
    /// Revokes of a key that a client holds which answers nothing any more.
    #[arg(long, default_value_t = 0)]
    hung: usize,
}

impl Revokes {
    pub async fn run(self) -> Result<(), BoxError> {
        let operators: Vec<Client> =
            self.addr.iter().map(|addr| client(addr, &self.bearer)).collect::<Result<_, _>>()?;
        let mut service = operators[0].key_service();
        // The same without clients, for comparison.
        let mut alone = Vec::new();
        for _ in 0..self.count {
            let (id, _) = create(&mut service).await?;
            alone.push(revoke(&mut service, id).await?);
        }
        let (_, hot) = create(&mut service).await?;
        let fleet = self.attach(&mut service).await?;
        let using = fleet.iter().map(|client| {
            let (client, hot) = (client.clone(), hot.clone());
            tokio::spawn(async move {
                loop {
                    let _ = client.verify(&hot).await;
                    sleep(USE_INTERVAL).await;
                }
            })
        });
        let using: Vec<_> = using.collect();
        hold(&fleet, &hot).await?;
        // The harness measures the replicas meanwhile.
        println!("{}", json!({ "attached": fleet.len(), "live": live(&fleet) }));
        std::io::stdin().lock().read_line(&mut String::new())?;

        let (mut times, mut least) = (Vec::new(), fleet.len());
        for _ in 0..self.count {
            let (id, secret) = create(&mut service).await?;
            hold(&fleet, &secret).await?;
            least = least.min(live(&fleet));
            times.push(revoke(&mut service, id).await?);
            for client in fleet.iter() {
                if client.verify(&secret).await.is_ok_and(|verdict| verdict.is_valid()) {
                    return Err("VALID after the Revoke".into());
                }
            }
        }
        let mut hung = Vec::new();
        for _ in 0..self.hung {
            hung.push(self.revoke_beside_a_hung_client(&mut service).await?);
        }
        using.iter().for_each(tokio::task::JoinHandle::abort);
        let found = json!({
            "clients": fleet.len(),
            // The fewest clients that might answer when a Revoke began.
            "live": least,
            "alone": summary(&mut alone),
            "revoke": summary(&mut times),
            "hung": summary(&mut hung),
        });
        println!("{found}");
        Ok(())
    }

    /// Attaches the clients.
    async fn attach(&self, service: &mut KeyService) -> Result<Arc<[Client]>, BoxError> {
        let mut fleet = Vec::new();
        for addr in &self.addr {
            let mut secret = String::new();
            for number in 0..self.clients {
                if number % CLIENTS_PER_CREDENTIAL == 0 {
                    let request = CreateRequest {
                        keyspace: "keyward".into(),
                        scopes: vec!["verify".into()],
                        ..CreateRequest::default()
                    };
                    secret = service.create(request).await?.into_inner().secret;
                }
                let client = client(addr, &secret)?;
                client.attach(AttachOptions::default())?;
                fleet.push(client);
            }
        }
        Ok(fleet.into())
    }

    /// Times a Revoke of a key that is held by a client which reads nothing and acknowledges nothing.
    async fn revoke_beside_a_hung_client(&self, service: &mut KeyService) -> Result<Duration, BoxError> {
        let (id, secret) = create(service).await?;
        let (up, messages) = mpsc::unbounded_channel();
        let mut down = service.attach(UnboundedReceiverStream::new(messages)).await?.into_inner();
        for message in [
            Up::LookUp(AttachLookUp { id: 1, secret, ..AttachLookUp::default() }),
            Up::Renew(AttachRenew { number: 1 }),
        ] {
            up.send(AttachRequest { message: Some(message) })?;
            down.message().await?.ok_or("the session is over")?;
        }
        revoke(service, id).await
    }
}

fn client(addr: &str, credential: &str) -> Result<Client, BoxError> {
    let client = Client::builder(format!("http://{addr}")).credential(credential);
    Ok(client.timeout(Duration::from_secs(30)).build()?)
}

fn live(fleet: &[Client]) -> usize {
    fleet.iter().filter(|client| client.attach_status().is_some_and(|status| status.live)).count()
}

async fn create(service: &mut KeyService) -> Result<(String, String), BoxError> {
    let request = CreateRequest { keyspace: "norrix".into(), organization: "acme".into(), ..CreateRequest::default() };
    let created = service.create(request).await?.into_inner();
    Ok((created.key.ok_or("no key")?.id, created.secret))
}

async fn revoke(service: &mut KeyService, id: String) -> Result<Duration, BoxError> {
    let start = Instant::now();
    service.revoke(RevokeRequest { id, reason: String::new() }).await?;
    Ok(start.elapsed())
}

/// Waits until the memory of every client answers for a secret.
async fn hold(fleet: &[Client], secret: &str) -> Result<(), BoxError> {
    let start = Instant::now();
    let mut running = JoinSet::new();
    for client in fleet {
        let (client, secret) = (client.clone(), secret.to_owned());
        running.spawn(async move {
            while start.elapsed() < SETUP_TIMEOUT {
                let keys = |client: &Client| {
                    client.metrics().attach.map_or(0, |attach| attach.calls_for_keys + attach.calls_without_lease)
                };
                let before = keys(&client);
                if client.verify(&secret).await.is_ok_and(|verdict| verdict.is_valid()) && keys(&client) == before {
                    return Ok(());
                }
                sleep(Duration::from_millis(2)).await;
            }
            Err("a client does not hold the key")
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}
