//! What an attached client is to its process: a check from memory allocates nothing, and a fork has no memory.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use fork::Fork;
use keyward_client::Client;

use crate::misbehaving_attach::{SECRET, good, holder};

/// Whether memory answers VALID: nothing else answers at once.
fn is_from_memory(client: &Client) -> bool {
    let check = pin!(client.verify(SECRET).into_future());
    let answer = check.poll(&mut Context::from_waker(Waker::noop()));
    matches!(answer, Poll::Ready(Ok(verdict)) if verdict.is_valid())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_from_memory_allocates_nothing() {
    let (_fake, client) = holder(|_, message| Some(good(&message))).await;
    // What a thread does once.
    assert!(is_from_memory(&client));
    let hits = allocation_counter::measure(|| assert!((0..10_000).all(|_| is_from_memory(&client))));
    assert_eq!((hits.count_total, hits.bytes_total), (0, 0));
    let call = allocation_counter::measure(|| drop(client.verify("ak_other").into_future()));
    assert!(call.count_total > 0, "allocations are counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_of_an_attached_process_has_no_lease() {
    let (_fake, client) = holder(|_, message| Some(good(&message))).await;
    let forked = match fork::fork().expect("a fork") {
        // No other thread is here.
        Fork::Child => {
            let live = client.attach_status().is_some_and(|status| status.live);
            let lives = i32::from(live) + 2 * i32::from(is_from_memory(&client));
            std::process::exit(lives);
        }
        Fork::Parent(forked) => forked,
    };
    let waiting = tokio::task::spawn_blocking(move || fork::waitpid(forked));
    let status = tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it ends").unwrap().unwrap();
    assert!(fork::WIFEXITED(status), "{status}");
    assert_eq!(fork::WEXITSTATUS(status), 0, "1: it is live; 2: it answers");
    assert!(is_from_memory(&client), "the process itself goes on");
}
