//! A TCP proxy that can cut connections, go silent, and lose, delay or hold back replies, on real sockets.

#![allow(dead_code, reason = "each test target uses a part of this")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::{Notify, watch},
};

/// A running proxy. It ends with the runtime.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// Where new connections lead to.
    upstream: watch::Sender<SocketAddr>,
    /// Connections made under an older number are cut.
    generation: watch::Sender<u64>,
    /// While it is set new connections are reset at once.
    down: AtomicBool,
    /// On connections with a lower number nothing passes, and neither side learns of it.
    silent_below: watch::Sender<u64>,
    /// The next reply is thrown away, and its connection with it.
    lose_reply: AtomicBool,
    lost: Notify,
    /// The next reply passes, and then nothing on its connection.
    strand: AtomicBool,
    /// Cut connections end with a reset rather than in order.
    reset: AtomicBool,
    /// Every reply is this late.
    delay: watch::Sender<Duration>,
    /// Replies are held back on connections that were sent these bytes.
    hold: watch::Sender<Option<Vec<u8>>>,
    held: Notify,
}

/// One connection.
struct Link {
    number: u64,
    /// The bytes to hold for were sent on it.
    marked: AtomicBool,
}

impl Proxy {
    /// Listens on a free port and passes everything on to `upstream`.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            upstream: watch::Sender::new(upstream),
            generation: watch::Sender::new(0),
            down: AtomicBool::new(false),
            silent_below: watch::Sender::new(0),
            lose_reply: AtomicBool::new(false),
            lost: Notify::new(),
            strand: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            delay: watch::Sender::new(Duration::ZERO),
            hold: watch::Sender::new(None),
            held: Notify::new(),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((client, _)) = listener.accept().await {
                if shared.down.load(Ordering::SeqCst) {
                    let _ = client.set_zero_linger();
                    continue;
                }
                tokio::spawn(pass(Arc::clone(&shared), number, client));
                number += 1;
            }
        });
        Self { address, state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections to another address, such as that of a process which replaced another one.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.state.upstream.send_replace(upstream);
    }

    /// Cuts every open connection with a reset.
    pub fn reset(&self) {
        self.state.reset.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Makes every reply so late; zero ends it.
    pub fn delay_replies(&self, delay: Duration) {
        self.state.delay.send_replace(delay);
    }

    /// Holds back the replies on each connection on which these bytes are sent from now on, until they are released.
    pub fn hold_replies_to(&self, bytes: &[u8]) {
        self.state.hold.send_replace(Some(bytes.to_vec()));
    }

    /// Lets the replies pass that were held back.
    pub fn release(&self) {
        self.state.hold.send_replace(None);
    }

    /// Waits until a reply is held back.
    pub async fn holds_a_reply(&self) {
        self.state.held.notified().await;
    }

    /// Cuts every open connection.
    pub fn cut(&self) {
        self.state.generation.send_modify(|generation| *generation += 1);
    }

    /// Cuts every open connection, and resets new ones until it is up again.
    pub fn down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
        if down {
            self.cut();
        }
    }

    /// Stops or goes on passing bytes, without closing anything.
    pub fn silence(&self, silent: bool) {
        self.state.silent_below.send_replace(if silent { u64::MAX } else { 0 });
    }

    /// After the next reply, goes silent for good on every connection so far; new ones work.
    pub fn strand_after_next_reply(&self) {
        self.state.strand.store(true, Ordering::SeqCst);
    }

    /// Throws the next reply away and cuts its connection.
    pub fn lose_next_reply(&self) {
        self.state.lose_reply.store(true, Ordering::SeqCst);
    }

    /// Waits until a reply was lost.
    pub async fn lost_a_reply(&self) {
        self.state.lost.notified().await;
    }
}

async fn pass(state: Arc<State>, number: u64, client: TcpStream) {
    let mut generation = state.generation.subscribe();
    // Not reached either while it is silent: a server that waits for a first word is slow to stop.
    let mut silent = state.silent_below.subscribe();
    tokio::select! {
        passes = silent.wait_for(|below| number >= *below) => if passes.is_err() { return },
        _ = generation.changed() => return,
    }
    let upstream = *state.upstream.borrow();
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let link = Link { number, marked: AtomicBool::new(false) };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::select! {
        () = copy(&state, &link, &mut from_client, &mut to_server, false) => {}
        () = copy(&state, &link, &mut from_server, &mut to_client, true) => {}
        _ = generation.changed() => {
            if state.reset.load(Ordering::SeqCst) {
                let _ = (from_client.as_ref().set_zero_linger(), from_server.as_ref().set_zero_linger());
            }
        }
    }
}

async fn copy(state: &State, link: &Link, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, replies: bool) {
    let mut silent = state.silent_below.subscribe();
    let mut hold = state.hold.subscribe();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..length];
        if silent.wait_for(|below| link.number >= *below).await.is_err() {
            return;
        }
        if replies {
            if state.lose_reply.swap(false, Ordering::SeqCst) {
                state.lost.notify_one();
                return;
            }
            let delay = *state.delay.borrow();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if link.marked.load(Ordering::SeqCst) {
                state.held.notify_one();
                let _ = hold.wait_for(Option::is_none).await;
                link.marked.store(false, Ordering::SeqCst);
            }
        } else if hold.borrow().as_ref().is_some_and(|wanted| holds(bytes, wanted)) {
            link.marked.store(true, Ordering::SeqCst);
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
        if replies && state.strand.swap(false, Ordering::SeqCst) {
            state.silent_below.send_replace(link.number + 1);
        }
    }
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
