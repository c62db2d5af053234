//! The body of a request: it passes a message on once all of it has arrived, and buffers no more than the budget
//! allows.

use std::{
    borrow::Cow,
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};

use super::message_gate::MessageGate;
use crate::{
    domain::error::{Error, ErrorKind},
    transport::{
        budget::{BudgetExceeded, BudgetPart, ConnectionBudget, Reservation},
        status,
    },
};

/// Memory of a call besides its headers and its message: the state of its stream and its task.
const CALL_BYTES: usize = 4 << 10;
/// The HTTP/2 window of each stream of an unauthenticated client, in bytes. h2 buffers this data, so the budget charges
/// the whole window for each stream.
pub(crate) const ANONYMOUS_WINDOW_BYTES: usize = 4 << 10;
/// Memory that tonic allocates for a call.
const TONIC_BYTES: usize = 10 << 10;
/// Memory of a header besides its name and its value.
const HEADER_BYTES: usize = 64;
/// When to retry a call for which no memory was left.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
pub(crate) struct RequestBody {
    gate: MessageGate,
    /// `None`: nothing more is read.
    body: Option<RecvStream>,
    /// The first messages, which [`Self::poll_begin`] has read.
    first_messages: Option<Bytes>,
    /// The body is one message.
    unary: bool,
    charge: Charge,
    /// When the first message of a stream is overdue. `None` once it was passed on.
    first_due: Option<Pin<Box<Sleep>>>,
}

/// The reservations of one call in the budget.
pub(crate) struct Charge {
    budget: ConnectionBudget,
    part: BudgetPart,
    /// For the call itself, its headers and its first message.
    call: Option<Reservation>,
    /// For a later message that is not complete.
    partial: Option<Reservation>,
    /// Bytes of messages that are charged.
    bytes: usize,
}

/// The bounds of the messages of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageBounds {
    /// The longest message.
    pub(crate) max_bytes: usize,
    /// The request is one message.
    pub(crate) unary: bool,
}

/// Why a body cannot be read.
pub(crate) enum BodyError {
    /// The client has reset the stream, or the connection failed.
    Connection(h2::Error),
    /// The budget has no memory left.
    Exceeded(BudgetExceeded),
    /// The message did not arrive in time.
    Late,
}

impl BodyError {
    /// The error for the client; `None` if the client has disconnected.
    pub(crate) fn refusal(&self) -> Option<Error> {
        match self {
            Self::Connection(_) => None,
            Self::Exceeded(exceeded) => Some(overloaded(exceeded.to_string())),
            Self::Late => {
                Some(Error::new(ErrorKind::DeadlineExceeded, "DEADLINE_EXCEEDED", "The request did not arrive in time"))
            }
        }
    }
}

impl From<BodyError> for BoxError {
    fn from(error: BodyError) -> Self {
        match (error.refusal(), error) {
            (Some(refusal), _) => status::grpc(&refusal).into(),
            (None, BodyError::Connection(error)) => error.into(),
            (None, BodyError::Exceeded(exceeded)) => exceeded.into(),
            (None, BodyError::Late) => "the message is late".into(),
        }
    }
}

/// The error of a call for which there is no room.
pub(crate) fn overloaded(why: impl Into<Cow<'static, str>>) -> Error {
    Error { retry_after: Some(RETRY_AFTER), ..Error::new(ErrorKind::ResourceExhausted, "OVERLOADED", why) }
}

impl Charge {
    /// Charges a call before its body is read; `buffers`: also for what tonic allocates.
    ///
    /// # Errors
    ///
    /// The budget has no memory left.
    pub(crate) fn new(
        budget: &ConnectionBudget,
        headers: &HeaderMap,
        part: BudgetPart,
        buffers: bool,
    ) -> Result<Self, BudgetExceeded> {
        let ahead = if part == BudgetPart::Anonymous { ANONYMOUS_WINDOW_BYTES } else { 0 };
        let buffers = if buffers { TONIC_BYTES } else { 0 };
        let headers = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
        let call = budget.reserve(CALL_BYTES + ahead + buffers + headers.sum::<usize>(), part)?;
        Ok(Self { budget: budget.clone(), part, call: Some(call), partial: None, bytes: 0 })
    }

    /// Moves what is charged to the part of authenticated callers.
    ///
    /// # Errors
    ///
    /// That part is used up.
    pub(crate) fn authenticate(&mut self) -> Result<(), BudgetExceeded> {
        if let Some(call) = &mut self.call {
            call.authenticate()?;
        }
        self.part = BudgetPart::Authenticated;
        Ok(())
    }

    /// Charges for `bytes` of messages in all.
    ///
    /// # Errors
    ///
    /// The budget has no memory left.
    pub(crate) fn cover(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        let grown = bytes.saturating_sub(self.bytes);
        if grown == 0 {
            return Ok(());
        }
        match self.call.as_mut().or(self.partial.as_mut()) {
            Some(reservation) => reservation.grow(grown)?,
            None => self.partial = Some(self.budget.reserve(grown, self.part)?),
        }
        self.bytes = bytes;
        Ok(())
    }

    /// A message that came after the first one has been passed on.
    fn passed_on(&mut self) {
        if self.call.is_none() {
            self.partial = None;
            self.bytes = 0;
        }
    }
}

impl RequestBody {
    /// A body of which `received` has been read already. The first message of a stream is due within `first`.
    pub(crate) fn new(
        received: Bytes,
        body: RecvStream,
        bounds: MessageBounds,
        charge: Charge,
        first: Duration,
    ) -> Self {
        let gate = MessageGate::new(bounds.max_bytes, received);
        let first_due = (!bounds.unary).then(|| Box::pin(sleep(first)));
        Self { gate, body: Some(body), first_messages: None, unary: bounds.unary, charge, first_due }
    }

    /// Whether the body is one message.
    pub(crate) fn is_unary(&self) -> bool {
        self.unary
    }

    /// Moves what is charged to the part of authenticated callers.
    ///
    /// # Errors
    ///
    /// That part is used up.
    pub(crate) fn authenticate(&mut self) -> Result<(), BudgetExceeded> {
        self.charge.authenticate()
    }

    /// Takes the reservation of the call and its first message. Later messages have reservations of their own.
    pub(crate) fn take_charge(&mut self) -> Option<Reservation> {
        self.charge.bytes = 0;
        self.charge.call.take()
    }

    /// Reads the first message, and of a unary call the end of the body.
    pub(crate) fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.first_messages.is_none() {
            let Some(messages) = ready!(self.poll_messages(cx)?) else { return Poll::Ready(Ok(())) };
            self.charge.cover(messages.len()).map_err(BodyError::Exceeded)?;
            self.first_messages = Some(messages);
        }
        if self.unary && self.body.is_some() && !self.gate.oversized() {
            // Whatever follows the message is not read; usually it is the end.
            while let Some(data) = ready!(self.poll_more(cx)?) {
                if !data.is_empty() {
                    break;
                }
            }
            self.body = None;
        }
        Poll::Ready(Ok(()))
    }

    /// The next messages that are complete.
    fn poll_messages(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        loop {
            let messages = self.gate.next();
            if messages.is_some() {
                self.first_due = None;
                return Poll::Ready(Ok(messages));
            }
            self.charge.cover(self.gate.partial_bytes()).map_err(BodyError::Exceeded)?;
            match self.poll_more(cx)? {
                Poll::Ready(Some(data)) => self.gate.push(data),
                // Pass an incomplete message on: tonic refuses it with the right error.
                Poll::Ready(None) => return Poll::Ready(Ok(self.gate.take_partial())),
                Poll::Pending => match &mut self.first_due {
                    Some(due) => {
                        ready!(due.as_mut().poll(cx));
                        return Poll::Ready(Err(BodyError::Late));
                    }
                    None => return Poll::Pending,
                },
            }
        }
    }

    /// The next piece of data.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(None)) };
        Poll::Ready(ready!(poll_data(body, cx)).transpose().map_err(BodyError::Connection))
    }
}

/// Reads the next piece of a body, and opens the client's flow-control window by its length. The caller uses the piece
/// at once, or buffers it within the budget.
pub(crate) fn poll_data(body: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
    let data = ready!(body.poll_data(cx));
    if let Some(Ok(data)) = &data {
        // This fails only if more is released than was received.
        let _ = body.flow_control().release_capacity(data.len());
    }
    Poll::Ready(data)
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(first_messages) = self.first_messages.take() {
            return Poll::Ready(Some(Ok(Frame::data(first_messages))));
        }
        self.charge.passed_on();
        if let Some(messages) = ready!(self.poll_messages(cx)?) {
            return Poll::Ready(Some(Ok(Frame::data(messages))));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let trailers = ready!(body.poll_trailers(cx));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers).map_err(BoxError::from)))
    }
}
