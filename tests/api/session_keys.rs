//! The issuer's keys: rarely fetched, kept while the issuer is unavailable, and dropped once the issuer withdraws them.

use std::time::{Duration, Instant};

use keyward::proto::ListRequest;
use serde_json::json;

use crate::support::{
    Reply, Server, Setup,
    grpc::{assert_refused, eventually},
    oidc::{Provider, token, until_fetched},
    reply,
    server::{ROOT, with},
};

const MANY: &str = "/api/api-keys";

fn start(provider: &Provider, more: &str) -> Server {
    Setup::new().ready("norrix").and(&provider.table("dashboard", &["norrix"], more)).start()
}

async fn get_response(server: &Server, token: &str) -> Reply {
    reply(server.rest("GET", MANY).bearer_auth(token)).await
}

fn good(provider: &Provider, key: &str) -> String {
    provider.sign(key, &provider.claims("dashboard", &json!({})))
}

/// A well-formed token with a key id that the issuer does not have.
fn of_unknown_key(provider: &Provider, id: &str) -> String {
    let header = json!({"alg": "RS256", "kid": id});
    token(&header, &provider.claims("dashboard", &json!({})), |_| "c2lnbmF0dXJl".to_owned())
}

/// Tokens of strangers must not cause many requests to the issuer.
#[tokio::test]
async fn a_flood_of_unknown_key_ids_causes_one_fetch() {
    let provider = Provider::start();
    let server = start(&provider, "");
    until_fetched(&provider, 1).await;
    get_response(&server, &good(&provider, "first")).await.good(200);
    assert_eq!(provider.fetches(), 1, "one fetch at the start serves every token");
    let flood = (0..200).map(|number| {
        let token = of_unknown_key(&provider, &format!("key-{number}"));
        let request = server.rest("GET", MANY).bearer_auth(token);
        tokio::spawn(async move { reply(request).await })
    });
    let flood: Vec<_> = flood.collect();
    for answer in flood {
        answer.await.unwrap().refused(401, "malformed");
    }
    assert_eq!(provider.fetches(), 2);
    get_response(&server, &good(&provider, "first")).await.good(200);
    assert_eq!(provider.fetches(), 2);
}

#[tokio::test]
async fn a_token_with_a_new_key_id_causes_a_fetch() {
    let mut provider = Provider::start();
    let server = start(&provider, "");
    get_response(&server, &good(&provider, "first")).await.good(200);
    provider.again("second,first");
    get_response(&server, &good(&provider, "second")).await.good(200);
    get_response(&server, &good(&provider, "first")).await.good(200);
    assert_eq!(provider.fetches(), 1, "of the new one");
}

/// Some providers keep the id when they replace the key.
#[tokio::test]
async fn a_new_key_under_the_same_id_causes_a_fetch() {
    let mut provider = Provider::start();
    let server = start(&provider, "");
    let old = good(&provider, "first");
    get_response(&server, &old).await.good(200);
    provider.again_with_new_keys("first");
    get_response(&server, &good(&provider, "first")).await.good(200);
    get_response(&server, &old).await.refused(401, "malformed");
    assert_eq!(provider.fetches(), 1, "of the new one: the next fetch of this kind waits 30 seconds");
}

/// A token whose signature is wrong is rejected although the issuer is away: its key is known.
#[tokio::test]
async fn a_wrong_signature_by_a_known_key_is_401_while_the_issuer_is_unavailable() {
    let mut provider = Provider::start();
    let server = start(&provider, "refresh = \"1s\"");
    let token = good(&provider, "first");
    get_response(&server, &token).await.good(200);
    provider.stop();
    server.logged("fetching the issuer's keys failed, will retry").await;
    let (message, _) = token.rsplit_once('.').unwrap();
    get_response(&server, &format!("{message}.c2lnbmF0dXJl")).await.refused(401, "malformed");
    get_response(&server, &token).await.good(200);
}

#[tokio::test]
async fn a_withdrawn_key_is_not_accepted_after_the_next_refresh() {
    let mut provider = Provider::with_keys("first,second");
    let server = start(&provider, "refresh = \"1s\"");
    let (withdrawn, kept) = (good(&provider, "first"), good(&provider, "second"));
    get_response(&server, &withdrawn).await.good(200);
    provider.again("second");
    eventually(Duration::from_secs(5), "the key is given up", async || {
        get_response(&server, &withdrawn).await.status == 401
    })
    .await;
    get_response(&server, &kept).await.good(200);
    // The keys were refreshed before their maximum age, without a request.
    let fetches = provider.fetches();
    until_fetched(&provider, fetches + 2).await;
}

/// Sessions work while the issuer is unavailable, but a token with an unknown key is neither accepted nor rejected.
#[tokio::test]
async fn while_the_issuer_is_unavailable_its_cached_keys_are_used_without_waiting() {
    let mut provider = Provider::start();
    let server = start(&provider, "refresh = \"1s\"");
    let token = good(&provider, "first");
    get_response(&server, &token).await.good(200);
    provider.stop();
    server.logged("fetching the issuer's keys failed, will retry").await;
    let start = Instant::now();
    for _ in 0..20 {
        get_response(&server, &token).await.good(200);
    }
    get_response(&server, &of_unknown_key(&provider, "new")).await.refused(503, "unavailable");
    let mut client = server.client().await;
    let unknown = client.list(with(&of_unknown_key(&provider, "new"), ListRequest::default())).await;
    assert_refused(unknown, tonic::Code::Unavailable, "UNAVAILABLE");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    // API keys need no issuer.
    reply(server.rest("GET", MANY).bearer_auth(ROOT)).await.good(200);
    let metrics = reply(server.rest("GET", "/metrics")).await.text;
    let failures = metrics.lines().find_map(|line| line.strip_prefix("keyward_session_key_fetch_failures_total "));
    assert!(failures.is_some_and(|count| count.parse::<u64>().unwrap() > 0), "{metrics}");

    provider.again("second");
    let new = good(&provider, "second");
    eventually(Duration::from_secs(40), "the new key", async || get_response(&server, &new).await.status == 200).await;
    get_response(&server, &token).await.refused(401, "malformed");
}

#[tokio::test]
async fn without_the_issuer_the_service_starts_and_sessions_are_503_until_it_is_available() {
    let mut provider = Provider::start();
    provider.stop();
    let server = start(&provider, "");
    let token = good(&provider, "first");
    get_response(&server, &token).await.refused(503, "unavailable");
    reply(server.rest("GET", "/readyz")).await.good(200);
    reply(server.rest("GET", MANY).bearer_auth(ROOT)).await.good(200);
    // A token of another issuer is rejected without this issuer's keys.
    let other = provider.sign("first", &provider.claims("elsewhere", &json!({})));
    get_response(&server, &other).await.refused(401, "malformed");
    let metrics = reply(server.rest("GET", "/metrics")).await.text;
    assert!(metrics.contains("keyward_session_issuers_without_keys 1"), "{metrics}");
    provider.again("first");
    eventually(Duration::from_secs(40), "the session", async || get_response(&server, &token).await.status == 200)
        .await;
}

/// An issuer that is silent, sends endless documents or claims another identity counts as unavailable.
#[tokio::test]
async fn an_issuer_with_invalid_responses_counts_as_unavailable() {
    let bad = BadIssuer::start();
    let provider = Provider::start();
    for (path, why) in [
        ("silent", "timed out"),
        ("endless", "more than 1048576 bytes"),
        ("endless-keys", "more than 1048576 bytes"),
        ("another", "is another issuer's"),
        ("moved", "302"),
        ("plain-keys", "is not https"),
        ("foreign-keys", "jwks_uri is on keys.example, which is neither"),
        ("no-keys", "no key that can be used"),
        ("garbage", "expected"),
    ] {
        let issuer = format!("http://{}/{path}", bad.address);
        let table = provider.table("dashboard", &["norrix"], "").replace(&provider.issuer, &issuer);
        let server = Setup::new().ready("norrix").and(&table).start();
        let token = provider.sign("first", &provider.claims("dashboard", &json!({"iss": issuer})));
        let start = Instant::now();
        get_response(&server, &token).await.refused(503, "unavailable");
        assert!(start.elapsed() < Duration::from_secs(9), "{path}");
        server.logged(why).await;
        reply(server.rest("GET", MANY).bearer_auth(ROOT)).await.good(200);
    }
}

/// Whoever changes the discovery document must not choose which hosts this server asks.
#[tokio::test]
async fn keys_on_another_host_are_fetched_only_if_it_is_named() {
    let (bad, provider) = (BadIssuer::start(), Provider::start());
    // The provider's keys, under a host that is not the issuer's.
    let port = provider.issuer.rsplit_once(':').unwrap().1;
    let issuer = format!("http://{}/keys-at-{port}", bad.address);
    let token = provider.sign("first", &provider.claims("dashboard", &json!({"iss": issuer})));
    let start = |more: &str| {
        let table = provider.table("dashboard", &["norrix"], more).replace(&provider.issuer, &issuer);
        Setup::new().ready("norrix").and(&table).start()
    };
    let server = start("jwks_hosts = [\"keys.example\"]");
    get_response(&server, &token).await.refused(503, "unavailable");
    server.logged("jwks_uri is on localhost, which is neither the issuer's host nor in jwks_hosts").await;
    assert_eq!(provider.fetches(), 0, "the host is not asked");
    let server = start("jwks_hosts = [\"localhost\"]");
    get_response(&server, &token).await.good(200);
    assert_eq!(provider.fetches(), 1);
}

/// An issuer with faulty responses.
struct BadIssuer {
    address: std::net::SocketAddr,
}

impl BadIssuer {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || answer(stream, address));
            }
        });
        Self { address }
    }
}

fn answer(mut stream: std::net::TcpStream, address: std::net::SocketAddr) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    reader.read_line(&mut request).unwrap();
    let path = request.split_whitespace().nth(1).unwrap().to_owned();
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
        line.clear();
    }
    let name = path.trim_start_matches('/').split('/').next().unwrap().to_owned();
    let issuer = format!("http://{address}/{name}");
    let discovery = |issuer: &str, keys: &str| json!({"issuer": issuer, "jwks_uri": keys}).to_string();
    let keys = path.ends_with("/keys");
    let endless = (name == "endless" && !keys) || (name == "endless-keys" && keys);
    let body = match name.as_str() {
        "silent" => return std::thread::sleep(Duration::from_secs(20)),
        "another" => discovery("https://another.example", &format!("{issuer}/keys")),
        "plain-keys" => discovery(&issuer, "http://keys.example/keys"),
        "foreign-keys" => discovery(&issuer, "https://keys.example/keys"),
        "no-keys" if keys => json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}).to_string(),
        "garbage" => "<html>".to_owned(),
        // The keys are on another host.
        _ if name.starts_with("keys-at-") => {
            discovery(&issuer, &format!("http://localhost:{}/jwks", &name["keys-at-".len()..]))
        }
        _ => discovery(&issuer, &format!("{issuer}/keys")),
    };
    if name == "moved" {
        let head = format!("HTTP/1.1 302 Found\r\nlocation: http://{address}/garbage\r\ncontent-length: 0\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
    } else if endless {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n");
        while stream.write_all(&[b' '; 4096]).is_ok() {}
    } else {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    }
}
