//! Verify and rate limits: what a check spends, and the state in the response.

use std::time::Duration;

use futures::future::join_all;
use keyward::proto::{Code, CreateRequest, RateLimitState, VerifyRequest, VerifyResponse};

use crate::support::{
    Server, Setup,
    grpc::{Client, check, create, key, made, micros, now, verify},
    server::ROOT,
};

fn start_with(limit: u32, window: &str) -> Server {
    let config = format!(
        "[[keyspace]]\nname = \"limited\"\nprefix = \"li_\"\n\
         secret = {{ encoding = \"alphanumeric\", length = 32 }}\n\
         rate_limit = {{ limit = {limit}, window = \"{window}\" }}\n"
    );
    Setup::new().config(&config).start()
}

async fn spend(client: &mut Client, secret: &str, cost: Option<u32>) -> (Code, RateLimitState) {
    let response = verify(client, VerifyRequest { cost, ..check(secret) }).await;
    (response.code(), response.rate_limit.expect("the answer has the limit"))
}

fn wait(state: RateLimitState) -> Option<Duration> {
    let wait = state.retry_after?;
    Some(Duration::new(u64::try_from(wait.seconds).unwrap(), u32::try_from(wait.nanos).unwrap()))
}

#[tokio::test]
async fn an_absent_cost_is_one_and_a_cost_of_zero_spends_nothing() {
    let server = start_with(10, "1h");
    let mut client = server.client().await;
    let secret = key(&mut client, "limited", "", &[]).await.secret;
    let steps = [(Some(0), 10), (None, 9), (Some(1), 8), (Some(0), 8), (Some(5), 3), (Some(3), 0), (Some(0), 0)];
    for (cost, remaining) in steps {
        let (code, state) = spend(&mut client, &secret, cost).await;
        assert_eq!((code, state.limit, state.remaining), (Code::Valid, 10, remaining), "{cost:?}");
        assert_eq!(wait(state), None, "it was admitted");
    }
    let (code, state) = spend(&mut client, &secret, None).await;
    assert_eq!((code, state.remaining), (Code::RateLimited, 0));
    let wait = wait(state).expect("how long to wait");
    assert!(wait > Duration::from_secs(3_000) && wait <= Duration::from_secs(3_900), "{wait:?}");
    let reset = micros(state.reset_time.expect("when it grows")) - now();
    assert!((3_000_000_000..=3_900_000_000).contains(&reset), "{reset}");
}

#[tokio::test]
async fn a_cost_that_exceeds_the_remaining_limit_spends_nothing() {
    let server = start_with(10, "1h");
    let mut client = server.client().await;
    let secret = key(&mut client, "limited", "", &[]).await.secret;
    assert_eq!(spend(&mut client, &secret, Some(8)).await.1.remaining, 2);
    let (code, state) = spend(&mut client, &secret, Some(3)).await;
    assert_eq!((code, state.remaining), (Code::RateLimited, 2));
    assert!(wait(state).is_some());
    // A cost above the limit is never admitted: there is no time to wait for.
    for cost in [11, 1_000_000, u32::MAX] {
        let (code, state) = spend(&mut client, &secret, Some(cost)).await;
        assert_eq!((code, state.remaining, wait(state)), (Code::RateLimited, 2, None), "{cost}");
    }
    let (code, state) = spend(&mut client, &secret, Some(2)).await;
    assert_eq!((code, state.remaining), (Code::Valid, 0), "the refusals left room for this");
}

#[tokio::test]
async fn only_valid_verdicts_spend_the_limit() {
    let server = start_with(2, "1h");
    let mut client = server.client().await;
    let secret = key(&mut client, "limited", "acme", &["read"]).await.secret;
    for request in [
        VerifyRequest { organization: "other".into(), ..check(&secret) },
        VerifyRequest { required_scopes: vec!["write".into()], ..check(&secret) },
        VerifyRequest { environment: "x".into(), ..check(&secret) },
    ] {
        let verdict = verify(&mut client, request).await;
        assert_ne!(verdict.code(), Code::Valid);
        assert_eq!(verdict.rate_limit, None, "the verdict came before the limit");
    }
    assert_eq!(spend(&mut client, &secret, None).await.1.remaining, 1);
}

#[tokio::test]
async fn keys_do_not_share_a_limit() {
    let server = start_with(1, "1h");
    let mut client = server.client().await;
    for _ in 0..3 {
        let secret = key(&mut client, "limited", "", &[]).await.secret;
        assert_eq!(spend(&mut client, &secret, None).await.0, Code::Valid);
        assert_eq!(spend(&mut client, &secret, None).await.0, Code::RateLimited);
    }
}

#[tokio::test]
async fn a_key_without_a_limit_has_no_rate_limit_state() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let secret = key(&mut client, "", "", &[]).await.secret;
    for cost in [None, Some(0), Some(u32::MAX)] {
        let verdict = verify(&mut client, VerifyRequest { cost, ..check(&secret) }).await;
        assert_eq!((verdict.code(), verdict.rate_limit), (Code::Valid, None));
    }
}

#[tokio::test]
async fn concurrent_callers_get_exactly_the_limit() {
    let server = start_with(100, "1h");
    let mut client = server.client().await;
    let secret = key(&mut client, "limited", "", &[]).await.secret;
    let calls = (0..150).map(|_| {
        let (mut client, secret) = (client.clone(), secret.clone());
        async move { verify(&mut client, check(&secret)).await.code() }
    });
    let codes = join_all(calls).await;
    assert_eq!(codes.iter().filter(|code| **code == Code::Valid).count(), 100);
    assert_eq!(codes.iter().filter(|code| **code == Code::RateLimited).count(), 50);
}

#[tokio::test]
async fn after_retry_after_the_cost_is_admitted_and_no_window_exceeds_the_limit() {
    let server = start_with(3, "1s");
    let mut client = server.client().await;
    let secret = key(&mut client, "limited", "", &[]).await.secret;
    let mut admitted = Vec::new();
    let start = std::time::Instant::now();
    while admitted.len() < 10 {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", admitted.len());
        let before = std::time::Instant::now();
        let (code, state) = spend(&mut client, &secret, None).await;
        if code == Code::Valid {
            admitted.push((before, std::time::Instant::now()));
            continue;
        }
        let wait = wait(state).expect("it will fit again");
        assert!(wait <= Duration::from_millis(1_100), "{wait:?}");
        tokio::time::sleep(wait).await;
        let before = std::time::Instant::now();
        let (code, state) = spend(&mut client, &secret, None).await;
        assert_eq!(code, Code::Valid, "it was promised: {state:?}");
        admitted.push((before, std::time::Instant::now()));
    }
    for four in admitted.windows(4) {
        // The measured time, from sending the first call to the response of the fourth, is longer than the time between
        // the two decisions.
        let span = four[3].1 - four[0].0;
        assert!(span >= Duration::from_secs(1), "4 were admitted within {span:?}");
    }
}

#[tokio::test]
async fn the_ready_configuration_limits_noro_to_a_hundred_calls_a_minute() {
    let server = Setup::new().ready("noro").start();
    let mut client = server.client().await;
    let noro = made(create(&mut client, ROOT, CreateRequest::default()).await);
    let VerifyResponse { rate_limit, expire_time, create_time, .. } = verify(&mut client, check(&noro.secret)).await;
    assert_eq!(rate_limit.map(|state| (state.limit, state.remaining)), Some((100, 99)));
    let life = micros(expire_time.unwrap()) - micros(create_time.unwrap());
    assert_eq!(life, 90 * 86_400 * 1_000_000, "90 days by default");
}
