//! Credentials in the memory of a running server: none outlives its call by a minute.

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    time::{Duration, Instant},
};

use keyward::proto::VerifyRequest;
use serde_json::json;

use crate::support::{
    Server, Setup, reply,
    server::{ROOT, with},
};

/// Those of these texts that are somewhere in the memory that the process may write.
fn found<'a>(server: &Server, texts: &[(&'a str, String)]) -> Vec<&'a str> {
    const CHUNK: usize = 1 << 20;
    let pid = server.pid();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let finders: Vec<_> = texts.iter().map(|(name, text)| (*name, memchr::memmem::Finder::new(text))).collect();
    let mut seen = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        // A text may begin in one chunk and end in the next.
        let mut buffer = vec![0; CHUNK + 512];
        while at < end {
            let length = usize::try_from((end - at).min(buffer.len() as u64)).unwrap();
            if memory.seek(SeekFrom::Start(at)).is_err() || memory.read_exact(&mut buffer[..length]).is_err() {
                break;
            }
            for (name, finder) in &finders {
                if !seen.contains(name) && finder.find(&buffer[..length]).is_some() {
                    seen.push(*name);
                }
            }
            at += CHUNK as u64;
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn no_copy_of_a_credential_outlives_its_call_by_a_minute() {
    let server = Setup::new().env("KEYWARD_DUMPABLE", "true").start();
    let mut texts = Vec::new();
    for n in 0..20 {
        let made = server.create(json!({"name": "n"})).await["key"].as_str().unwrap().to_owned();
        let service = server.create(json!({"keyspace": "keyward", "name": "gateway"})).await;
        let service = service["key"].as_str().unwrap().to_owned();
        let mut client = server.client().await;
        let request = VerifyRequest { secret: made.clone(), ..VerifyRequest::default() };
        client.verify(with(&service, request)).await.unwrap();
        reply(server.rest("GET", "/api/v1/keys").bearer_auth(&made)).await.good(200);
        let body = json!({"secret": made});
        reply(server.rest("POST", "/api/v1/verify").bearer_auth(&service).json(&body)).await.good(200);
        texts.push(("the secret of a key", made));
        texts.push(("the secret of a service", service));
        if n == 0 {
            assert_eq!(reply(server.rest("GET", "/api/api-keys").bearer_auth(ROOT)).await.status, 200);
        }
    }
    // Every connection is closed by now.
    let ended = Instant::now();
    let mut left = found(&server, &texts);
    let at_once = left.len();
    while !left.is_empty() && ended.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_secs(2)).await;
        left = found(&server, &texts);
    }
    println!("{at_once} kinds at once; none after {:?}", ended.elapsed());
    assert_eq!(left, Vec::<&str>::new(), "after {:?}", ended.elapsed());
}
