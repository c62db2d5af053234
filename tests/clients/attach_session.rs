//! A session of Attach, driven by hand, and the keys that its tests need.

use std::time::{Duration, Instant};

use keyward::proto::{
    AttachAcknowledge, AttachKey, AttachLookUp, AttachRenew, AttachRequest, AttachResponse, CreateRequest,
    attach_request::Message as Up, attach_response::Message as Down,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    attach::LONG,
    support::{
        Server,
        grpc::{self, Client, Made},
        server::{ROOT, with},
    },
};

/// One session, driven by hand.
pub struct Session {
    pub up: mpsc::UnboundedSender<AttachRequest>,
    down: Streaming<AttachResponse>,
}

impl Session {
    pub async fn open(server: &Server, credential: &str) -> Result<Self, Status> {
        Self::open_on(server.client().await, credential).await
    }

    /// Opens one on a connection that others may share.
    pub async fn open_on(mut client: Client, credential: &str) -> Result<Self, Status> {
        let (up, messages) = mpsc::unbounded_channel();
        let request = with(credential, UnboundedReceiverStream::new(messages));
        let down = client.attach(request).await?.into_inner();
        Ok(Self { up, down })
    }

    pub fn send(&self, message: Up) {
        let _ = self.up.send(AttachRequest { message: Some(message) });
    }

    pub async fn next(&mut self) -> Result<Option<Down>, Status> {
        let message = tokio::time::timeout(LONG, self.down.message()).await.expect("a message in time");
        Ok(message?.and_then(|message| message.message))
    }

    pub async fn expect(&mut self) -> Down {
        self.next().await.expect("no error").expect("a message")
    }

    /// Asks for time; how much it gets.
    pub async fn renew(&mut self, number: u64) -> Duration {
        self.send(Up::Renew(AttachRenew { number }));
        let Down::Grant(grant) = self.expect().await else { panic!("a grant") };
        assert_eq!(grant.number, number);
        grant.length.unwrap_or_default().try_into().unwrap()
    }

    pub async fn look_up(&mut self, secret: &str) -> AttachKey {
        self.ask(AttachLookUp { secret: secret.into(), ..Default::default() }).await
    }

    pub async fn ask(&mut self, look_up: AttachLookUp) -> AttachKey {
        self.send(Up::LookUp(AttachLookUp { id: 7, ..look_up }));
        let Down::Key(key) = self.expect().await else { panic!("a key") };
        assert_eq!(key.id, 7);
        key
    }

    /// Waits for the invalidation of a key; its number.
    pub async fn invalidated(&mut self, digest: &[u8]) -> u64 {
        let Down::Invalidate(invalidate) = self.expect().await else { panic!("an invalidation") };
        assert_eq!(invalidate.digest, digest);
        invalidate.number
    }

    pub fn acknowledge(&self, number: u64) {
        self.send(Up::Acknowledge(AttachAcknowledge { number }));
    }
}

pub async fn key(client: &mut Client, request: CreateRequest) -> Made {
    grpc::made(grpc::create(client, ROOT, request).await)
}

/// A request for a key of a keyspace.
pub fn of_keyspace(keyspace: &str) -> CreateRequest {
    CreateRequest { keyspace: keyspace.into(), organization: "acme".into(), ..Default::default() }
}

/// A key that may verify the keys of one keyspace.
pub async fn verifier_of(client: &mut Client, keyspace: &str) -> Made {
    let request = CreateRequest {
        keyspace: "keyward".into(),
        scopes: vec!["verify".into()],
        keyspaces: vec![keyspace.into()],
        ..Default::default()
    };
    key(client, request).await
}

/// Revokes a key beside the test; how long it took.
pub fn revoke(mut client: Client, id: &str) -> tokio::task::JoinHandle<Duration> {
    let id = id.to_owned();
    tokio::spawn(async move {
        let start = Instant::now();
        grpc::revoke(&mut client, &id).await;
        start.elapsed()
    })
}
