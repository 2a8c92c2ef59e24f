//! What waits to be sent to the guest: answers and watch events, bounded.

use std::collections::{HashSet, VecDeque};

use super::StoreError;
use super::wire::Message;

/// Bytes that wait, beyond which no further request is taken up: a guest that does not read its answers gets no more of them.
pub const BACKLOG_BYTES: usize = 64 * 1024;
/// Bytes that wait, beyond which watch events are dropped (one request can cause very many).
pub const WAITING_BYTES_MAX: usize = 512 * 1024;

/// Encoded messages, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    messages: VecDeque<Queued>,
    /// Events in `messages`: the same event twice says no more than once (the remedy of XSA-326).
    events: HashSet<Vec<u8>>,
    /// Bytes of the first message that are sent already.
    sent: usize,
    waiting_bytes: usize,
    dropped_events: u64,
}

#[derive(Debug)]
struct Queued {
    bytes: Vec<u8>,
    is_event: bool,
}

impl Outbox {
    /// Queues an answer.
    pub fn push_answer(&mut self, answer: &Message) {
        self.push(answer.encode(), false);
    }

    /// Queues an event, unless the same one waits or too much does.
    pub fn push_event(&mut self, event: &Message) {
        let bytes = event.encode();
        if self.events.contains(&bytes) {
            return;
        }
        if self.waiting_bytes + bytes.len() > WAITING_BYTES_MAX {
            self.drop_event();
            return;
        }
        self.events.insert(bytes.clone());
        self.push(bytes, true);
    }

    /// Counts an event that was never queued.
    pub fn drop_event(&mut self) {
        self.dropped_events += 1;
    }

    /// The next bytes to send; empty when nothing waits.
    #[must_use]
    pub fn next_bytes(&self) -> &[u8] {
        self.messages.front().map_or(&[], |first| &first.bytes[self.sent..])
    }

    /// Notes that `count` of [`Outbox::next_bytes`] were sent.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(count);
        let Some(first) = self.messages.front() else { return };
        if first.is_event {
            // The guest may read the first half now; a change from here on is a new event.
            self.events.remove(&first.bytes);
        }
        if self.sent >= first.bytes.len() {
            self.sent = 0;
            self.messages.pop_front();
        }
    }

    /// Whether so much waits that no further request is to be taken up.
    #[must_use]
    pub fn is_backlogged(&self) -> bool {
        self.waiting_bytes > BACKLOG_BYTES
    }

    /// Events that were dropped since the start.
    #[must_use]
    pub fn dropped_events(&self) -> u64 {
        self.dropped_events
    }

    /// What waits, in order, and how many bytes of the first have gone.
    #[must_use]
    pub fn save(&self) -> (Vec<(Vec<u8>, bool)>, usize) {
        (self.messages.iter().map(|queued| (queued.bytes.clone(), queued.is_event)).collect(), self.sent)
    }

    /// The same again.
    ///
    /// # Errors
    /// EINVAL: more has gone than the first message has.
    pub fn restore(waiting: &[(Vec<u8>, bool)], sent: usize) -> Result<Self, StoreError> {
        if sent > 0 && waiting.first().is_none_or(|(first, _)| sent >= first.len()) {
            return Err(StoreError::Invalid);
        }
        let mut outbox = Self::default();
        for (index, (bytes, is_event)) in waiting.iter().enumerate() {
            // One that has begun to leave may come again.
            if *is_event && !(index == 0 && sent > 0) {
                outbox.events.insert(bytes.clone());
            }
            outbox.push(bytes.clone(), *is_event);
        }
        (outbox.sent, outbox.waiting_bytes) = (sent, outbox.waiting_bytes - sent);
        Ok(outbox)
    }

    fn push(&mut self, bytes: Vec<u8>, is_event: bool) {
        self.waiting_bytes += bytes.len();
        self.messages.push_back(Queued { bytes, is_event });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !outbox.next_bytes().is_empty() {
            let count = step.min(outbox.next_bytes().len());
            all.extend(&outbox.next_bytes()[..count]);
            outbox.sent(count);
        }
        all
    }

    #[test]
    fn messages_leave_in_order_in_pieces_of_any_size() {
        let (first, second) = (Message::watch_event("/a", b"1"), Message::watch_event("/b", b"2"));
        for step in [1, 7, 4096] {
            let mut outbox = Outbox::default();
            outbox.push_event(&first);
            outbox.push_answer(&second);
            assert_eq!(drain(&mut outbox, step), [first.encode(), second.encode()].concat());
            assert!(outbox.events.is_empty());
            assert_eq!(outbox.waiting_bytes, 0);
        }
    }

    #[test]
    fn an_event_that_waits_is_not_queued_again_until_it_began_to_leave() {
        let event = Message::watch_event("/a", b"1");
        let mut outbox = Outbox::default();
        outbox.push_event(&event);
        outbox.push_event(&event);
        assert_eq!(outbox.messages.len(), 1);
        outbox.sent(3);
        outbox.push_event(&event);
        assert_eq!(outbox.messages.len(), 2);
    }

    #[test]
    fn events_beyond_the_limit_are_dropped_and_counted() {
        let mut outbox = Outbox::default();
        for index in 0..20_000 {
            outbox.push_event(&Message::watch_event(
                "/local/domain/1/device/vif",
                format!("{index:032}").as_bytes(),
            ));
        }
        assert!(outbox.is_backlogged());
        assert!(outbox.waiting_bytes <= WAITING_BYTES_MAX);
        assert_eq!(outbox.messages.len() as u64 + outbox.dropped_events(), 20_000);
    }
}
