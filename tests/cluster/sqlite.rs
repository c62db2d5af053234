//! The promise on SQLite, where one process owns the database.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use keyward::proto::{CreateRequest, RevokeRequest};

use crate::{
    cluster::code,
    history::{History, Key},
    support::{
        Setup,
        grpc::{self, Client, made},
        server::{ROOT, with},
    },
};

const SPAN: Duration = Duration::from_secs(5);

async fn ask(client: &mut Client, history: &History, key: &Key) {
    let (revoked, started) = (key.is_revoked(), Instant::now());
    let answer = code(client, &key.secret, Duration::from_secs(5)).await;
    history.checked(0, key, revoked, started, &answer);
}

/// Revokes a key. With `cancel_after`, a first call is cancelled after that time.
async fn revoke(client: &mut Client, key: &Key, cancel_after: Option<Duration>) {
    let request = || with(ROOT, RevokeRequest { id: key.id.clone(), reason: String::new() });
    if let Some(cancel_after) = cancel_after {
        let mut other = client.clone();
        let _ = tokio::time::timeout(cancel_after, other.revoke(request())).await;
    }
    client.revoke(request()).await.expect("it is revoked");
    key.revoked();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_sqlite_no_verify_that_starts_after_revoke_returned_answers_valid() {
    let server = tokio::task::block_in_place(|| Setup::new().env("KEYWARD_LOG", "error").start());
    let client = server.client().await;
    let history = History::default();
    let end = Instant::now() + SPAN;
    let revokers = (0..12_u64).map(async |task| {
        let mut client = client.clone();
        let mut round = task;
        while Instant::now() < end {
            round += 1;
            let made = made(grpc::create(&mut client, ROOT, CreateRequest::default()).await);
            let key = Arc::new(Key::new(made.id, made.secret));
            let over = AtomicBool::new(false);
            // Verify all the time, beginning with the first look-up of the key.
            let asking = join_all((0..3).map(async |_| {
                let mut client = client.clone();
                while !over.load(Ordering::SeqCst) {
                    ask(&mut client, &history, &key).await;
                }
            }));
            let mut revoking = client.clone();
            let revoked = async {
                tokio::time::sleep(Duration::from_micros(round * 397 % 5_000)).await;
                let cancel_after = (round % 2 == 0).then(|| Duration::from_micros(round * 211 % 4_000));
                revoke(&mut revoking, &key, cancel_after).await;
                ask(&mut revoking, &history, &key).await;
                over.store(true, Ordering::SeqCst);
            };
            tokio::join!(asking, revoked);
            history.revocations.fetch_add(1, Ordering::Relaxed);
        }
    });
    join_all(revokers).await;
    println!("{}", history.summary());
    let violations = history.violations.lock().unwrap();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    assert!(history.refused_after.load(Ordering::Relaxed) > 100, "too few checks to be meaningful");
}
