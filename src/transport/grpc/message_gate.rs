//! Splits the data of a request into gRPC messages, so that a message is passed on once all of it has arrived.
//!
//! Tonic reserves memory for the length in a message's prefix, so a client could exhaust the memory by announcing long
//! messages and sending little. Here an incomplete message takes only as much memory as was received of it.

use bytes::{Buf as _, Bytes, BytesMut};

/// Length of the prefix of each message: a flag, and the length in four bytes.
const PREFIX_BYTES: usize = 5;

/// Holds back the message that is not complete.
pub(super) struct MessageGate {
    /// Longer messages are passed on without waiting for their end, since tonic refuses them by their prefix.
    max_message_bytes: usize,
    /// Data that was not processed yet.
    unread: Bytes,
    /// The received part of an incomplete message.
    partial: BytesMut,
    /// A message that is too long has begun.
    oversized: bool,
}

impl MessageGate {
    pub(super) fn new(max_message_bytes: usize, received: Bytes) -> Self {
        Self { max_message_bytes, unread: received, partial: BytesMut::new(), oversized: false }
    }

    /// Adds data that has arrived. All data that was added before must have been taken by [`Self::next`].
    pub(super) fn push(&mut self, data: Bytes) {
        debug_assert!(self.unread.is_empty(), "data is taken before more is read");
        self.unread = data;
    }

    /// Received bytes of the incomplete message.
    pub(super) fn partial_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Whether a message that is too long has begun.
    pub(super) fn oversized(&self) -> bool {
        self.oversized
    }

    /// The next complete messages; `None` if more data is needed. The rest of the data is kept.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if self.unread.is_empty() {
            return None;
        }
        if self.oversized {
            return Some(std::mem::take(&mut self.unread));
        }
        if self.partial.is_empty() {
            let whole = self.whole_messages();
            if whole > 0 {
                return Some(self.unread.split_to(whole));
            }
        }
        // First complete the prefix, which contains the length; then the message.
        self.fill_partial_to(PREFIX_BYTES);
        let length = message_length(&self.partial)?;
        if length > self.max_message_bytes {
            self.oversized = true;
        } else {
            self.fill_partial_to(PREFIX_BYTES + length);
            if self.partial.len() < PREFIX_BYTES + length {
                return None;
            }
        }
        Some(std::mem::take(&mut self.partial).freeze())
    }

    /// What is left at the end of the body: an incomplete message, if anything.
    pub(super) fn take_partial(&mut self) -> Option<Bytes> {
        Some(std::mem::take(&mut self.partial).freeze()).filter(|partial| !partial.is_empty())
    }

    /// Bytes of complete messages at the beginning of the unread data.
    fn whole_messages(&mut self) -> usize {
        let mut whole = 0;
        while let Some(length) = message_length(&self.unread[whole..]) {
            if length > self.max_message_bytes {
                self.oversized = true;
                return self.unread.len();
            }
            let end = whole + PREFIX_BYTES + length;
            if end > self.unread.len() {
                break;
            }
            whole = end;
        }
        whole
    }

    /// Moves unread data into the incomplete message until it has `length` bytes.
    fn fill_partial_to(&mut self, length: usize) {
        let missing = length.saturating_sub(self.partial.len()).min(self.unread.len());
        self.partial.extend_from_slice(&self.unread[..missing]);
        self.unread.advance(missing);
    }
}

/// The length in a prefix; `None` if the prefix is not complete.
fn message_length(data: &[u8]) -> Option<usize> {
    let (_, length) = data.first_chunk::<PREFIX_BYTES>()?.split_first_chunk::<1>()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    Some(usize::try_from(length).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.extend((0..length).map(|at| at.to_le_bytes()[0]));
        bytes
    }

    #[test]
    fn only_whole_messages_are_passed_on_wherever_the_data_is_cut() {
        let messages: Vec<Vec<u8>> = [0, 1, 300, 7, 0, 64].map(message).into();
        let all = messages.concat();
        let mut ends: Vec<usize> = messages
            .iter()
            .scan(0, |end, message| {
                *end += message.len();
                Some(*end)
            })
            .collect();
        ends.push(0);
        for cut in 1..=all.len() {
            let (mut gate, mut passed) = (MessageGate::new(300, Bytes::new()), Vec::new());
            for piece in all.chunks(cut) {
                gate.push(Bytes::copy_from_slice(piece));
                while let Some(whole) = gate.next() {
                    passed.extend_from_slice(&whole);
                    assert!(ends.contains(&passed.len()), "cut {cut}: {} bytes", passed.len());
                }
            }
            assert_eq!((passed, gate.take_partial()), (all.clone(), None), "cut {cut}");
        }
    }

    #[test]
    fn a_message_takes_no_more_memory_than_was_sent_of_it() {
        let mut gate = MessageGate::new(1 << 20, Bytes::new());
        gate.push(Bytes::copy_from_slice(&message(1 << 20)[..PREFIX_BYTES]));
        assert_eq!(gate.next(), None);
        assert_eq!(gate.partial_bytes(), PREFIX_BYTES);
        assert!(gate.partial.capacity() < 1_024, "{}", gate.partial.capacity());
        assert_eq!(gate.take_partial().map(|take_partial| take_partial.len()), Some(PREFIX_BYTES));
    }

    #[test]
    fn a_message_that_is_too_long_is_passed_on_by_its_prefix() {
        for first in [1, 5, 9] {
            let all = message(11);
            let mut gate = MessageGate::new(10, Bytes::copy_from_slice(&all[..first]));
            let mut passed = Vec::new();
            passed.extend(gate.next().unwrap_or_default());
            gate.push(Bytes::copy_from_slice(&all[first..]));
            while let Some(data) = gate.next() {
                passed.extend(data);
            }
            assert_eq!(passed, all);
        }
    }
}
