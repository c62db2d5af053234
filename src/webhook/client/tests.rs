use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    sync::{Mutex, atomic::AtomicUsize, atomic::Ordering},
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{super::scheduler::HostScheduler, *};
use crate::domain::clock::SystemClock;

/// Resolves each name to the next list of addresses.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    queries: AtomicUsize,
}

#[async_trait]
impl Resolve for Script {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        let next = self.answers.lock().unwrap().pop_front();
        next.ok_or_else(|| io::Error::other("no such name"))
    }
}

fn script(answers: &[&[&str]]) -> Arc<Script> {
    let parse = |list: &&[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
    Arc::new(Script { answers: Mutex::new(answers.iter().map(parse).collect()), queries: AtomicUsize::new(0) })
}

/// Allows loopback, and nothing else that is not public.
fn loopback() -> Egress {
    Egress { allow_http: true, allow_cidrs: vec!["127.0.0.1/32".parse().unwrap()], ..Egress::default() }
}

async fn post(egress: Egress, resolver: Arc<Script>, url: &str) -> Result<ReceiverResponse, SendError> {
    post_within(Duration::from_secs(30), egress, resolver, url).await
}

async fn post_within(
    timeout: Duration,
    egress: Egress,
    resolver: Arc<Script>,
    url: &str,
) -> Result<ReceiverResponse, SendError> {
    let client = WebhookClient::new(egress, resolver, timeout);
    let target = client.target(url)?;
    let mut slot = slot(&mut scheduler(32), &target);
    client.post(&target, &[], Bytes::from_static(b"{}"), &mut slot).await
}

fn scheduler(total: usize) -> HostScheduler<()> {
    HostScheduler::new(4, total, Arc::new(SystemClock))
}

fn slot(scheduler: &mut HostScheduler<()>, target: &Target) -> Slot {
    scheduler.enqueue(target.authority.clone(), ());
    scheduler.start_next().expect("there is room").0
}

/// A receiver that answers every connection with these bytes and then closes it, or never answers if there are none.
/// Returns its port and its count of connections.
async fn receiver(answer: Option<Vec<u8>>) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let Some(answer) = &answer else {
                open.push(stream);
                continue;
            };
            let mut request = vec![0; 4_096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        }
    });
    (port, connections)
}

#[tokio::test]
async fn a_name_with_any_address_that_is_not_public_is_refused() {
    let (port, connections) = receiver(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())).await;
    let url = format!("http://hook.example:{port}/");
    for hostile in [
        &["127.0.0.2"][..],
        &["10.0.0.1"],
        &["172.16.0.1"],
        &["192.168.0.1"],
        &["169.254.169.254"],
        &["100.64.0.1"],
        &["168.63.129.16"],
        &["0.0.0.0"],
        &["224.0.0.1"],
        &["255.255.255.255"],
        &["::1"],
        &["::"],
        &["::ffff:127.0.0.1"],
        &["64:ff9b::7f00:1"],
        &["64:ff9b:1::7f00:1"],
        &["2002:7f00:1::"],
        &["2001::1"],
        &["fd00::1"],
        &["fe80::1"],
        &["ff02::1"],
        // The first address alone would be allowed.
        &["127.0.0.1", "127.0.0.2"],
        &["127.0.0.1", "fd00::1"],
        &["127.0.0.1", "::1"],
    ] {
        assert_eq!(post(loopback(), script(&[hostile]), &url).await, Err(SendError::NotPublic), "{hostile:?}");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 0);
    assert_eq!(post(loopback(), script(&[&["127.0.0.1"]]), &url).await.unwrap().status, 200);
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    assert_eq!(post(loopback(), script(&[]), &url).await, Err(SendError::Unresolved));
    assert_eq!(post(loopback(), script(&[&[]]), &url).await, Err(SendError::Unresolved));
}

#[tokio::test]
async fn a_name_is_resolved_once_for_each_request() {
    let (port, connections) = receiver(Some(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())).await;
    // Public when it is checked, another address if it were resolved again.
    let resolver = script(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let url = format!("http://rebinding.example:{port}/");
    assert_eq!(post(loopback(), Arc::clone(&resolver), &url).await.unwrap().status, 204);
    assert_eq!((resolver.queries.load(Ordering::Relaxed), connections.load(Ordering::Relaxed)), (1, 1));
    // No connection is kept: the next request resolves the name again, and is refused.
    assert_eq!(post(loopback(), resolver, &url).await, Err(SendError::NotPublic));
}

#[tokio::test]
async fn an_address_in_the_url_is_checked_too() {
    let (port, connections) = receiver(Some(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())).await;
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::ffff:127.0.0.1]"] {
        let egress = Egress { allow_http: true, ..Egress::default() };
        let refused = post(egress, script(&[&["127.0.0.1"]]), &format!("http://{host}:{port}/")).await;
        assert_eq!(refused, Err(SendError::Refused("must not name an address that is not public")), "{host}");
    }
    // A target that was allowed under other rules is checked again before connecting.
    let target = loopback().target(&format!("http://127.0.0.1:{port}/")).unwrap();
    let strict = WebhookClient::new(Egress::default(), script(&[]), Duration::from_secs(1));
    let mut slot = slot(&mut scheduler(32), &target);
    assert_eq!(strict.post(&target, &[], Bytes::new(), &mut slot).await, Err(SendError::NotPublic));
    assert_eq!(connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (there, followed) = receiver(Some(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())).await;
    for status in [301, 302, 303, 307, 308] {
        let answer =
            format!("HTTP/1.1 {status} Moved\r\nlocation: http://127.0.0.1:{there}/\r\ncontent-length: 0\r\n\r\n");
        let (port, _) = receiver(Some(answer.into_bytes())).await;
        let answer = post(loopback(), script(&[]), &format!("http://127.0.0.1:{port}/")).await.unwrap();
        assert_eq!(answer.status, status);
    }
    assert_eq!(followed.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_request_ends_in_time_whatever_the_receiver_does() {
    let (silent, _) = receiver(None).await;
    let url = |port| format!("http://127.0.0.1:{port}/");
    let timed_out = post_within(Duration::from_millis(300), loopback(), script(&[]), &url(silent)).await;
    assert_eq!(timed_out, Err(SendError::TimedOut));
    let (garbage, _) = receiver(Some(b"\x16\x03\x01 this is not HTTP\r\n\r\n".to_vec())).await;
    assert!(matches!(post(loopback(), script(&[]), &url(garbage)).await, Err(SendError::InvalidResponse(_))));
    let (closes, _) = receiver(Some(Vec::new())).await;
    assert!(matches!(post(loopback(), script(&[]), &url(closes)).await, Err(SendError::InvalidResponse(_))));
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(1 << 20));
    let (endless, _) = receiver(Some(endless.into_bytes())).await;
    assert!(matches!(post(loopback(), script(&[]), &url(endless)).await, Err(SendError::InvalidResponse(_))));
    let closed_port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    assert!(matches!(post(loopback(), script(&[]), &url(closed_port)).await, Err(SendError::Unreachable(_))));
    // TLS to a port that does not use TLS.
    let (plain, _) = receiver(Some(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())).await;
    let tls = format!("https://127.0.0.1:{plain}/");
    assert!(matches!(post(loopback(), script(&[]), &tls).await, Err(SendError::Tls(_))));
}

/// Whatever a proxy in front of the receiver does to the headers.
#[tokio::test]
async fn the_status_decides_however_many_and_odd_the_headers_are() {
    let many = |count: usize| (0..count).map(|number| format!("x-{number}: v\r\n")).collect::<Vec<_>>().concat();
    for (what, headers) in [
        ("16 KiB in one header", format!("x: {}\r\n", "a".repeat(16 * 1_024))),
        ("60 KiB in many headers", format!("x: {}\r\n", "a".repeat(1_000)).repeat(60)),
        ("110 headers", many(110)),
        ("900 headers", many(900)),
        ("the same header 110 times", "set-cookie: a=b\r\n".repeat(110)),
        ("a folded header", "x: a\r\n b\r\n\tc\r\n".to_owned()),
        ("a space before the colon", "x : a\r\n".to_owned()),
        ("no name", ": a\r\n".to_owned()),
        ("no colon", "nonsense\r\n".to_owned()),
        ("a name that is no token", "x y(z): a\r\n".to_owned()),
        ("bytes above ASCII", "x: J\u{f6}rg\r\n".to_owned()),
        ("an empty value", "x:\r\n".to_owned()),
        ("a length given twice", "content-length: 2\r\ncontent-length: 2\r\n".to_owned()),
        ("line feeds alone", "x: a\ny: b\n".to_owned()),
    ] {
        for (status, version) in [(200, "HTTP/1.1"), (500, "HTTP/1.1"), (204, "HTTP/1.0")] {
            let answer = format!("{version} {status} Whatever\r\n{headers}\r\nok");
            let (port, _) = receiver(Some(answer.into_bytes())).await;
            let answer = post(loopback(), script(&[]), &format!("http://127.0.0.1:{port}/")).await;
            assert_eq!(answer.map(|answer| answer.status), Ok(status), "{what}");
        }
    }
    for line in [
        "HTTP/1.1 200\r\n",
        "HTTP/1.1 200 J\u{f6}rg\r\n",
        "HTTP/1.1 200 OK\n",
        "HTTP/1.1 103 Early\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\n",
    ] {
        let (port, _) = receiver(Some(format!("{line}\r\n").into_bytes())).await;
        let answer = post(loopback(), script(&[]), &format!("http://127.0.0.1:{port}/")).await;
        assert_eq!(answer.map(|answer| answer.status), Ok(200), "{line:?}");
    }
}

#[tokio::test]
async fn the_first_kibibyte_of_a_body_is_kept_as_text() {
    let long = [&b"HTTP/1.1 500 Oops\r\n\r\n"[..], &vec![b'x'; 100_000]].concat();
    let (port, _) = receiver(Some(long)).await;
    let answer = post(loopback(), script(&[]), &format!("http://127.0.0.1:{port}/")).await.unwrap();
    assert_eq!((answer.status, answer.body), (500, "x".repeat(MAX_BODY_BYTES)));
    let (port, _) = receiver(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na\0\xffb".to_vec())).await;
    let answer = post(loopback(), script(&[]), &format!("http://127.0.0.1:{port}/")).await.unwrap();
    assert_eq!(answer.body, "a\u{fffd}\u{fffd}b");
    assert!(text(&[0; 2 * MAX_BODY_BYTES]).len() <= MAX_BODY_BYTES);
}

#[tokio::test]
async fn one_receiver_with_many_names_leaves_attempts_to_others() {
    let (silent, connections) = receiver(None).await;
    let (good, _) = receiver(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())).await;
    let resolver = script(&[&["127.0.0.1"][..]; 40]);
    let client = Arc::new(WebhookClient::new(loopback(), resolver, Duration::from_secs(60)));
    let mut scheduler = scheduler(20);
    let mut send = |name: String, port: u16| {
        let client = Arc::clone(&client);
        let target = client.target(&format!("http://{name}:{port}/")).unwrap();
        let mut slot = slot(&mut scheduler, &target);
        async move { client.post(&target, &[], Bytes::new(), &mut slot).await }
    };
    let mut attempts = tokio::task::JoinSet::new();
    for number in 0..20 {
        attempts.spawn(send(format!("n{number}.example"), silent));
    }
    for _ in 0..10 {
        assert_eq!(attempts.join_next().await.unwrap().unwrap(), Err(SendError::ConcurrencyLimited));
    }
    assert_eq!(send("good.example".to_owned(), good).await.unwrap().status, 200);
    // Half of all attempts hold a connection to the silent receiver, and none of them has ended.
    tokio::time::timeout(Duration::from_secs(30), async {
        while connections.load(Ordering::Relaxed) < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!((connections.load(Ordering::Relaxed), attempts.len()), (10, 10));
}
