//! One poll: what is due, step by step, and waiting for more.

use std::task::{Context, Poll};
use std::time::Duration;

use super::Consumer;
use super::records::ConsumerRecords;
use super::subscription::Wanted;
use crate::error::{Error, Result};

impl Consumer {
    /// The next records; none if there are none in time. Returns at once if there is something to return, and with a
    /// `timeout` of zero in any case; otherwise an append wakes it, nothing is polled.
    ///
    /// A consumer that is subscribed joins its group here, and stays in it by polling: rebalances, heartbeats and the
    /// commits that it makes by itself are part of a poll.
    ///
    /// Partitions take turns, so that none starves. No payload is copied: records share the memory their batches were
    /// read into.
    ///
    /// The deadline is decided by the store's clock.
    ///
    /// # Errors
    /// [`Error::Woken`] after a [wakeup](crate::WakeupHandle::wakeup). [`Error::InvalidState`] if it neither subscribes
    /// to nor is assigned anything. [`Error::Closed`] once the store is closed.
    ///
    /// A partition that cannot go on by itself says so once, then it is left alone, and the others go on:
    /// [`Error::NoOffset`] and [`Error::OffsetOutOfRange`] if [`OffsetReset::None`](super::OffsetReset::None) leaves
    /// its position to you, until a [`seek`](Self::seek); [`Error::Corruption`] and [`Error::MissingOffsets`] if its
    /// log is damaged, until a seek or [`skip_damage`](Self::skip_damage); [`Error::UnknownTopic`] if it was assigned
    /// by you and its topic deleted, until there is one of that name again. Other failures to read it are errors of
    /// each poll whose turn it is. Nothing that was read is lost by an error: the next poll returns it.
    pub fn poll(&mut self, timeout: Duration) -> Result<ConsumerRecords> {
        self.check_not_in_listener("poll")?;
        self.bell.wake_thread(&self.signal);
        let deadline = self.now().saturating_add(timeout);
        self.counters.polls += 1;
        loop {
            if let Some(records) = self.advance()? {
                return Ok(records);
            }
            let now = self.now();
            if now >= deadline {
                return Ok(ConsumerRecords::default());
            }
            let until = self.due.min(deadline);
            if until > now {
                self.signal.wait(until - now);
            }
        }
    }

    /// As [`poll`](Self::poll), for a task of any runtime: without a timeout, and without a thread that waits.
    ///
    /// A task has no clock. What is due by time alone (heartbeats, commits, the end of
    /// [`fetch_max_wait`](super::ConsumerConfig::fetch_max_wait)) is done when the task runs, and each
    /// [`Store::maintain`](crate::Store::maintain) has it run: call that from time to time, or have it
    /// [called](crate::StoreOptions::background).
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn poll_records(&mut self, context: &mut Context<'_>) -> Poll<Result<ConsumerRecords>> {
        self.bell.wake_task(context.waker());
        self.counters.polls += 1;
        match self.check_not_in_listener("poll").and_then(|()| self.advance()) {
            Ok(Some(records)) => Poll::Ready(Ok(records)),
            Err(error) => Poll::Ready(Err(error)),
            Ok(None) => {
                if self.due <= self.now() {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }

    /// Does all that can be done now. `None` if it has to wait, at most until `due`.
    fn advance(&mut self) -> Result<Option<ConsumerRecords>> {
        if self.bell.take_wakeup() {
            return Err(Error::Woken);
        }
        if matches!(self.wanted, Wanted::Nothing) {
            let reason = "it has nothing to read: subscribe to topics, or assign partitions".into();
            return Err(Error::InvalidState { action: "poll", reason });
        }
        self.due = Duration::MAX;
        self.follow_topics()?;
        let now = self.now();
        self.commit_if_due(now)?;
        self.take_part()?;
        // Twice if a position has to be found anew: a poll that does not wait should return what is there.
        for _ in 0..2 {
            self.settle(now)?;
            if let Some(error) = self.slots.failed.pop_front() {
                return Err(error);
            }
            self.commits.moved |= self.slots.read(now);
            if self.slots.is_ready(now) {
                if self.commit_before()? {
                    return Ok(Some(self.hand_out()));
                }
                // Nothing is handed out before the group is complete, and that calls.
                let goes_on = self.group.as_ref().is_some_and(|membership| membership.has_step());
                self.due = if goes_on { Duration::ZERO } else { self.due_to_others() };
                return Ok(None);
            }
            if !self.slots.unsettled {
                break;
            }
        }
        if let Some(error) = self.slots.failed.pop_front() {
            return Err(error);
        }
        self.due = self.due_to_partitions().min(self.due_to_others());
        Ok(None)
    }

    /// When partitions have to be looked at again though none of them calls.
    fn due_to_partitions(&self) -> Duration {
        if self.slots.has_work() {
            return Duration::ZERO;
        }
        let settle = if self.slots.unsettled { self.settle_at } else { Duration::MAX };
        settle.min(self.slots.waited_until().unwrap_or(Duration::MAX))
    }

    /// When something else is to be done though nobody calls.
    fn due_to_others(&self) -> Duration {
        let membership = self.group.as_ref().filter(|_| self.wanted.is_subscription());
        let group = membership.map_or(Duration::MAX, |membership| membership.due());
        self.due.min(self.commit_due()).min(group)
    }

    /// What was read is the caller's now.
    fn hand_out(&mut self) -> ConsumerRecords {
        let (records, bytes) = self.slots.take();
        self.commits.moved = true;
        self.counters.records += records.len() as u64;
        self.counters.bytes += bytes;
        self.intercept(records)
    }
}
