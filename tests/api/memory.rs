//! Credentials in the memory of a running server: none outlives its call by a minute.

use std::{
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use keyward::proto::VerifyRequest;
use memchr::memmem;
use serde_json::json;

use crate::support::{Server, Setup, reply, server::with};

/// What the secrets of these tests begin with.
const PREFIXES: [&str; 2] = ["ak_", "kw_"];

/// How many copies of these secrets are in the memory that the process may write.
fn copies(server: &Server, secrets: &[String]) -> usize {
    const CHUNK: usize = 1 << 22;
    /// A secret may begin in one chunk and end in the next.
    const OVERLAP: usize = 64;
    let pid = server.pid();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let finders = PREFIXES.map(memmem::Finder::new);
    let mut buffer = vec![0; CHUNK + OVERLAP];
    let (mut count, mut mappings) = (0, 0);
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        while at < end {
            let length = usize::try_from((end - at).min(buffer.len() as u64)).unwrap();
            if memory.read_exact_at(&mut buffer[..length], at).is_err() {
                break;
            }
            mappings += 1;
            let read = &buffer[..length];
            let starts = finders.iter().flat_map(|finder| finder.find_iter(read)).filter(|start| *start < CHUNK);
            count += starts
                .filter(|start| secrets.iter().any(|secret| read[*start..].starts_with(secret.as_bytes())))
                .count();
            at += CHUNK as u64;
        }
    }
    assert!(mappings > 0, "no memory could be read");
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn no_copy_of_a_credential_outlives_its_call_by_a_minute() {
    let server = Setup::new().env("KEYWARD_DUMPABLE", "true").start();
    let mut secrets = Vec::new();
    let mut held = 0;
    for _ in 0..20 {
        let made = server.create(json!({"name": "n"})).await["key"].as_str().unwrap().to_owned();
        let service = server.create(json!({"keyspace": "keyward", "name": "gateway"})).await;
        let service = service["key"].as_str().unwrap().to_owned();
        secrets.extend([made.clone(), service.clone()]);
        let mut client = server.client().await;
        let request = VerifyRequest { secret: made.clone(), ..VerifyRequest::default() };
        client.verify(with(&service, request)).await.unwrap();
        reply(server.rest("GET", "/api/v1/keys").bearer_auth(&made)).await.good(200);
        let body = json!({"secret": made});
        reply(server.rest("POST", "/api/v1/verify").bearer_auth(&service).json(&body)).await.good(200);
        if held == 0 {
            // While the connection is open, its buffers hold what it sent last: the search finds what is there.
            held = copies(&server, &secrets);
        }
    }
    assert!(held > 0, "the search finds nothing");
    // Every connection is closed by now.
    let ended = Instant::now();
    let mut left = copies(&server, &secrets);
    let at_once = left;
    while left > 0 && ended.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        left = copies(&server, &secrets);
    }
    println!(
        "{held} copies beside an open connection; {at_once} after the last call; none after {:?}",
        ended.elapsed()
    );
    assert_eq!(left, 0, "copies after {:?}", ended.elapsed());
}
