//! One session: one stream to one replica.

mod keys;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code as Rpc, Streaming};
use zeroize::Zeroizing;

use self::keys::LookUp;
use super::{
    AttachState, Shared, WhileAway,
    clock::boottime,
    memory::{Digest, Memory, Writer},
    stopped,
    tag::Tag,
};
use crate::{
    endpoint::Endpoint,
    proto::{
        AttachAcknowledge, AttachRenew, AttachRequest, AttachResponse, AttachStopped, AttachUse, AttachUses,
        attach_request::Message as Up, attach_response::Message as Down, key_service_client::KeyServiceClient,
    },
};

const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// A renewal that got no grant for this long is abandoned, and a new one is sent.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay before the next renewal if the last one granted nothing, or while no check reads the memory.
const IDLE_INTERVAL: Duration = Duration::from_millis(250);
/// Longest grant that is accepted. A longer one is shortened to this.
const MAX_GRANT: Duration = Duration::from_mins(1);
/// Look-ups without an answer. While there are this many, no further look-up is sent.
const MAX_LOOK_UPS: usize = 1_024;
const USES_INTERVAL: Duration = Duration::from_secs(1);
/// Metadata of the stream's response, see [`super::LocalMemory::gateway_rules`].
const GATEWAY_RULES: &str = "keyward-gateway-rules";
/// Uses in one report.
const MAX_USES: usize = 1_000;
/// How long the replica may take to end the stream of a client that has stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// A key to keep.
pub(super) struct LookUpRequest {
    pub(super) tag: Tag,
    pub(super) secret: Zeroizing<String>,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its client was detached or dropped.
    ClientGone,
    /// The stream is broken, or the replica is stopping.
    Broken,
    /// The replica does not implement Attach.
    Unsupported,
    /// The replica does not let this caller attach.
    Refused,
}

/// Runs a session to its end.
pub(super) async fn run(
    shared: &Arc<Shared>,
    endpoint: &Arc<Endpoint>,
    requests: &mut mpsc::Receiver<LookUpRequest>,
    stop: &mut watch::Receiver<bool>,
) -> End {
    let (up, messages) = mpsc::unbounded_channel();
    let mut client = KeyServiceClient::with_interceptor(endpoint.channel.clone(), endpoint.credential.clone());
    let opened = tokio::select! {
        opened = timeout(OPEN_TIMEOUT, client.attach(UnboundedReceiverStream::new(messages))) => opened,
        () = stopped(stop) => return End::ClientGone,
    };
    let (metadata, inbound) = match opened {
        Ok(Ok(response)) => {
            let (metadata, inbound, _) = response.into_parts();
            (metadata, inbound)
        }
        Ok(Err(status)) => {
            let code = status.code();
            if crate::error::is_transport(&status) {
                endpoint.mark_down();
            }
            return match code {
                Rpc::Unimplemented => End::Unsupported,
                Rpc::Unauthenticated | Rpc::PermissionDenied | Rpc::ResourceExhausted => End::Refused,
                _ => End::Broken,
            };
        }
        Err(_) => return End::Broken,
    };
    shared.set_state(AttachState::Open);
    shared.sessions.fetch_add(1, Ordering::Relaxed);
    let writer = Writer::new(shared.options.bytes);
    if let Some(rules) = metadata.get(GATEWAY_RULES).and_then(|rules| rules.to_str().ok()) {
        writer.memory.set_gateway_rules(rules.to_owned());
    }
    let session = Session {
        shared: Arc::clone(shared),
        writer,
        up,
        renewal: None,
        renewals: 0,
        look_ups: HashMap::new(),
        next_look_up: 0,
        watched: HashMap::new(),
        undecided: Vec::new(),
    };
    session.serve(inbound, requests, stop).await
}

/// A renewal that waits for its grant.
struct Renewal {
    number: u64,
    /// The clock, read before the renewal was sent.
    sent_at: i64,
    since: Instant,
}

struct Session {
    shared: Arc<Shared>,
    writer: Writer,
    up: mpsc::UnboundedSender<AttachRequest>,
    renewal: Option<Renewal>,
    renewals: u64,
    /// Look-ups without an answer.
    look_ups: HashMap<u64, LookUp>,
    next_look_up: u64,
    /// Watched keys that this session covers. A key may be here although it is not watched any more.
    watched: HashMap<Digest, Tag>,
    /// Watched keys on which the replica had no verdict. They are looked up again with the next report of uses.
    undecided: Vec<Tag>,
}

impl Session {
    async fn serve(
        mut self,
        mut inbound: Streaming<AttachResponse>,
        requests: &mut mpsc::Receiver<LookUpRequest>,
        stop: &mut watch::Receiver<bool>,
    ) -> End {
        let mut uses = interval(USES_INTERVAL);
        uses.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renew_at = Instant::now();
        let watches = Arc::clone(&self.shared.watches);
        let end = loop {
            tokio::select! {
                // Read the stream first: invalidations must not wait behind other work.
                biased;
                message = inbound.message() => match message {
                    Ok(Some(AttachResponse { message: Some(message) })) => match self.handle(message) {
                        Handled::Granted(length) => renew_at = Instant::now() + renewal_delay(length),
                        Handled::Done => {}
                        Handled::Over(end) => break end,
                    },
                    // A message of a later version.
                    Ok(Some(AttachResponse { message: None })) => {}
                    Err(status) if matches!(status.code(), Rpc::Unauthenticated | Rpc::PermissionDenied) => {
                        self.writer.memory.end();
                        break End::Refused;
                    }
                    Ok(None) | Err(_) => break End::Broken,
                },
                () = stopped(stop) => {
                    self.stop();
                    break End::ClientGone;
                }
                () = sleep_until(renew_at) => renew_at = self.renew(),
                Some(key) = requests.recv(), if self.look_ups.len() < MAX_LOOK_UPS => self.look_up(&key),
                () = watches.requested(), if self.look_ups.len() < MAX_LOOK_UPS => self.cover(),
                _ = uses.tick() => {
                    self.report_uses(&self.writer.memory);
                    self.undecided.drain(..).for_each(|tag| watches.request(tag));
                }
            }
        };
        self.close(inbound, end).await
    }

    /// Ends the session cleanly, if its stream still works.
    async fn close(self, mut inbound: Streaming<AttachResponse>, end: End) -> End {
        let Self { shared, writer, up, .. } = self;
        if shared.options.while_away == WhileAway::Refuse || end != End::Broken {
            writer.memory.end();
        }
        if let Some(now) = boottime() {
            shared.watches.uncover_all(writer.memory.lease_end(now));
        }
        // Ends this direction after what was enqueued; the replica then ends the other one.
        drop(up);
        let ended = async { while let Ok(Some(_)) = inbound.message().await {} };
        let _ = timeout(STOP_TIMEOUT, ended).await;
        end
    }

    fn send(&self, message: Up) {
        // Fails only if the stream is broken: the next read of its other direction fails, too.
        let _ = self.up.send(AttachRequest { message: Some(message) });
    }

    /// Requests a grant if the lease is used. Returns when to call this again.
    fn renew(&mut self) -> Instant {
        let now = Instant::now();
        let waits = self.renewal.as_ref().is_some_and(|renewal| renewal.since.elapsed() < RENEWAL_TIMEOUT);
        // Watched keys need the lease, too.
        let is_used = || {
            self.writer.memory.take_touched()
                | self.shared.lease_needed.swap(false, Ordering::Relaxed)
                | (self.shared.watches.keys() > 0)
        };
        if waits || !is_used() {
            return now + IDLE_INTERVAL;
        }
        self.renewals += 1;
        // Read before it is sent: a slow answer shortens the grant, and never lengthens it.
        let Some(sent_at) = boottime() else { return now + IDLE_INTERVAL };
        self.renewal = Some(Renewal { number: self.renewals, sent_at, since: now });
        self.send(Up::Renew(AttachRenew { number: self.renewals }));
        now + RENEWAL_TIMEOUT
    }

    fn report_uses(&self, memory: &Memory) {
        let Some(now) = boottime() else { return };
        let uses = memory.take_uses();
        let answers = uses.iter().map(|used| u64::from(used.count)).sum();
        self.shared.answers.fetch_add(answers, Ordering::Relaxed);
        for part in uses.chunks(MAX_USES) {
            let uses = part.iter().map(|used| AttachUse {
                digest: used.digest.to_vec(),
                count: used.count,
                age: Some(duration(now - used.last)),
            });
            self.send(Up::Uses(AttachUses { uses: uses.collect() }));
        }
    }

    /// Ends deadline and memory, and then notifies the replica.
    fn stop(&self) {
        self.writer.memory.end();
        self.send(Up::Stopped(AttachStopped {}));
    }

    fn handle(&mut self, message: Down) -> Handled {
        match message {
            Down::Grant(grant) => {
                // Ignore the grant of an earlier renewal: the time from which it counts is no longer stored.
                let Some(renewal) = self.renewal.take_if(|renewal| renewal.number == grant.number) else {
                    return Handled::Done;
                };
                let length = grant.length.and_then(length_of).unwrap_or_default();
                let length = length.min(MAX_GRANT);
                if !length.is_zero() {
                    self.writer.memory.extend(renewal.sent_at.saturating_add(micros(length)));
                    self.publish();
                }
                return Handled::Granted(length);
            }
            Down::Key(key) => self.keep(key),
            Down::Invalidate(invalidate) => self.invalidate(invalidate),
            Down::Clear(clear) => {
                self.clear();
                self.acknowledge(clear.number);
                self.cover();
            }
            Down::Going(_) => {
                self.stop();
                return Handled::Over(End::Broken);
            }
            Down::End(end) => {
                self.writer.memory.end();
                self.acknowledge(end.number);
                return Handled::Over(End::Refused);
            }
        }
        Handled::Done
    }

    fn acknowledge(&self, number: u64) {
        self.send(Up::Acknowledge(AttachAcknowledge { number }));
    }

    /// Lets checks read this session's memory. An earlier session is dropped as a whole.
    fn publish(&self) {
        let current = self.shared.current.load();
        if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &self.writer.memory)) {
            let earlier = self.shared.current.swap(Some(Arc::clone(&self.writer.memory)));
            // The stream of the earlier session has ended, so its memory gets no more invalidations.
            if let Some(earlier) = earlier {
                self.report_uses(&earlier);
            }
        }
    }
}

enum Handled {
    Done,
    /// A grant of this length.
    Granted(Duration),
    Over(End),
}

/// When to renew: at half of the grant, or somewhat before.
fn renewal_delay(length: Duration) -> Duration {
    if length.is_zero() { IDLE_INTERVAL } else { crate::backoff::spread(length / 2) }
}

/// Converts a duration of a message; none if it is negative or out of range.
fn length_of(length: prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(length.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(length.seconds).ok()?, nanos))
}

fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX)
}

fn duration(micros: i64) -> prost_types::Duration {
    let micros = micros.max(0);
    let nanos = i32::try_from(micros % 1_000_000 * 1_000).unwrap_or(0);
    prost_types::Duration { seconds: micros / 1_000_000, nanos }
}
