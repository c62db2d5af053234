//! What HTTP/2 keeps of connections without an authenticated call, on both ports.

use std::{sync::Arc, time::Duration};

use http::Request;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    grpc_hostile::LIST,
    hostile::{
        FLOOD, Flood, LONG, Polite, assert_bounded, flood_bytes, frame, framed, measurable, memory, pour, table_bytes,
    },
    support::{Server, Setup, grpc::key, server::ROOT},
};

/// Whether bytes wait in the system on their way to this address: in the sockets of its clients, or in its own.
fn in_flight(address: &str) -> bool {
    let port = format!(":{:04X}", address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap());
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().skip(1).any(|line| {
        let [_, own, peer, state, queues, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else { return false };
        let (sending, unread) = queues.split_once(':').unwrap();
        let waiting = |queue: &str| queue != "00000000";
        // A listener has its connections in this column.
        state != "0A" && (own.ends_with(&port) && waiting(unread) || peer.ends_with(&port) && waiting(sending))
    })
}

/// Resident memory of the server's process in KiB, once it has read everything that was sent to this address.
async fn settled(server: &Server, address: &str) -> usize {
    let mut last = 0;
    loop {
        let now = usize::try_from(memory(server, "VmRSS") >> 10).unwrap();
        if now == last && !in_flight(address) {
            return now;
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn entries_of_the_header_table_take_bounded_memory() {
    let bytes = Arc::new(table_bytes());
    for port in ["http", "grpc"] {
        let server = measurable().start();
        let address = if port == "http" { &server.http } else { &server.grpc };
        let name = format!("{port}, entries of the header table");
        assert_bounded(&name, &server, || pour(address.clone(), bytes.clone(), true)).await;
    }
}

/// Clients that never send the last frame of a header list, nor answer anything.
#[tokio::test]
async fn half_sent_headers_share_the_memory_for_requests() {
    // No timeout ends what is held.
    let text = "[http]\nidle_timeout = \"10m\"\n[server]\nkeepalive_interval = \"10m\"\n";
    // As many small headers as fit into the list, which take the most memory, and the beginning of a large one.
    let small = (0..440).flat_map(|n| [b"\x00\x04", format!("a{n:03}").as_bytes(), b"\x00"].concat());
    let mut list: Vec<u8> = small.chain(*b"\x00\x01x\x7f\xa0\xf7\x36").collect();
    list.resize(16 << 10, b'a');
    let mut bytes = flood_bytes(&Flood { path: "/healthz", gets: true, streams: 1, ..FLOOD });
    frame(&mut bytes, 1, 1, 3, &list);
    for _ in 0..5 {
        frame(&mut bytes, 9, 0, 3, &vec![b'a'; 16 << 10]);
    }
    for port in ["http", "grpc"] {
        // A server of its own: memory that was freed would be used again.
        let server = measurable().config(text).start();
        let address = if port == "http" { &server.http } else { &server.grpc };
        let before = settled(&server, address).await;
        let mut streams = Vec::new();
        for _ in 0..600 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // Fails once the server has closed the connection.
            let _ = stream.write_all(&bytes).await;
            streams.push(stream);
        }
        let added = settled(&server, address).await.saturating_sub(before);
        assert!(added <= 64 << 10, "{port}: {added} KiB are added");
        let mut open = 0;
        for stream in &mut streams {
            open += usize::from(!ends(stream, Duration::from_millis(10)).await);
        }
        // Each takes 98 kB twice, less the 16 KiB that are free, and 96 KiB for its list: of 8 MiB for one address, 31 fit.
        assert!((20..=31).contains(&open), "{port}: {open} connections are open");
        server.logged("connection without a valid credential closed").await;
        key(&mut server.client().await, "", "acme", &[]).await;
    }
}

/// A client without a credential that has sent much on one connection is asked to make another one. No request is lost.
/// One with a credential may send as much as it likes.
#[tokio::test]
async fn an_unauthenticated_connection_is_closed_gracefully_once_it_has_sent_256_kib() {
    let server = Setup::new().start();
    for (port, credential) in [("http", None), ("grpc", None), ("http", Some(ROOT)), ("grpc", Some(ROOT))] {
        let (address, request) = match port {
            "http" => (&server.http, Request::get("http://keyward/api/api-keys")),
            _ => (
                &server.grpc,
                Request::post(format!("http://keyward{LIST}")).header("content-type", "application/grpc"),
            ),
        };
        let request = match credential {
            Some(credential) => request.header("authorization", format!("Bearer {credential}")),
            None => request,
        };
        let request = request.body(()).unwrap();
        let mut client = Polite::connect(address).await;
        let mut answered = 0;
        while answered < 60
            && let Ok(ready) = client.sender.clone().ready().await
        {
            client.sender = ready;
            let mut request = request.clone();
            request.headers_mut().insert("x-filler", format!("{answered:08000}").parse().unwrap());
            let Ok((answer, mut body)) = client.sender.send_request(request, false) else { break };
            // A gRPC call is refused before its message is read.
            let _ = body.send_data(framed(&[]).into(), true);
            let answer = timeout(LONG, answer).await.unwrap().unwrap();
            let expected = if port == "http" && credential.is_none() { 401 } else { 200 };
            assert_eq!(answer.status(), expected, "{port}");
            answered += 1;
        }
        if credential.is_some() {
            assert_eq!(answered, 60, "{port}");
        } else {
            // A zero is compressed to five bits.
            assert!((45..=56).contains(&answered), "{port}: {answered}");
            timeout(LONG, client.connection).await.unwrap().unwrap().unwrap();
        }
    }
}

/// Whether the server ends the connection within this time.
async fn ends(stream: &mut TcpStream, within: Duration) -> bool {
    let mut buffer = [0; 4_096];
    timeout(within, async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} }).await.is_ok()
}
