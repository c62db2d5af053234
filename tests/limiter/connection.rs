//! The connection of a replica to Redis.

use keyward::proto::{Code, CreateRequest};

use crate::{
    redis_server::RedisServer,
    replicas::LONG_TIMEOUT,
    support::{
        Setup,
        grpc::{check, create, made, own_limit, verify},
        reply,
        server::ROOT,
        tls::Authority,
    },
};

/// The task that keeps the connection panics while it has one: it connects again, and limits are shared.
#[tokio::test(flavor = "multi_thread")]
async fn limits_are_shared_again_after_a_panic() {
    let redis = RedisServer::start();
    let setup = Setup::new().env("KEYWARD_RATE_LIMIT_STORE", &redis.url());
    let server = setup.env("KEYWARD_FAULTS", "panic_rate_limit_store").start();
    server.logged("worker panicked, restarting worker=\"rate_limit_store\"").await;
    let connected = "rate limit store connected, limits are shared";
    reply::until(connected, async || (server.log().matches(connected).count() == 2).then_some(())).await;
}

/// A certificate of an authority that the machine does not know is as good as no server.
#[tokio::test(flavor = "multi_thread")]
async fn redis_connections_support_tls_and_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new(folder.path(), "ca");
    let redis = RedisServer::secured(&ca.server("redis"), "p4ssw0rd-of-the-test");
    let url = |password: &str| format!("rediss://:{password}@127.0.0.1:{}/3", redis.port());
    for (password, known, shared) in
        [("p4ssw0rd-of-the-test", true, true), ("p4ssw0rd-of-the-test", false, false), ("another", true, false)]
    {
        let setup = Setup::new().env("KEYWARD_RATE_LIMIT_STORE", &url(password));
        let mut setup = setup.env("KEYWARD_RATE_LIMIT_TIMEOUT", LONG_TIMEOUT);
        if known {
            setup = setup.env("SSL_CERT_FILE", ca.cert.to_str().unwrap());
        }
        let server = setup.start();
        let expected = if shared { "limits are shared" } else { "rate limit store unreachable, retrying" };
        server.logged(expected).await;
        let mut client = server.client().await;
        let request = CreateRequest { rate_limit: Some(own_limit(2, 3_600)), ..CreateRequest::default() };
        let secret = made(create(&mut client, ROOT, request).await).secret;
        let mut codes = Vec::new();
        for _ in 0..3 {
            codes.push(verify(&mut client, check(&secret)).await.code());
        }
        assert_eq!(codes, [Code::Valid, Code::Valid, Code::RateLimited]);
        assert!(!server.log().contains(password), "a password is in the log");
    }
}
