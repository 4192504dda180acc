//! One transactional id: what is known of it, and whose turn it is to change that.
//!
//! A change is decided under a lock that is held for a moment, then written to disk under none, and then takes effect.
//! Whoever has the turn is alone with the id from the first of these to the last; others are sent away, or wait.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::format::transaction_records::TransactionValue;
use crate::types::TopicPartition;

/// A transactional id.
#[derive(Debug, Default)]
pub(super) struct Entry {
    inner: Mutex<Inner>,
    free: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// `None` until its first producer is written down.
    known: Option<Known>,
    /// Whether it is somebody's turn.
    taken: bool,
    /// It is not kept any more; one of the same id may be.
    forgotten: bool,
}

/// What is known of a transactional id.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// As it is written down.
    pub(super) value: TransactionValue,
    /// Partitions that do not have the marker of the decided transaction yet.
    pub(super) unmarked: BTreeSet<TopicPartition>,
    /// When the transaction was begun.
    pub(super) begun: Moment,
    /// When it was written down.
    pub(super) written: Moment,
}

/// A moment that monotonic time tells the distance of, even if it was before this process began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    seen: Duration,
    ago: Duration,
}

impl Moment {
    pub(super) fn now(clock: &dyn Clock) -> Self {
        Moment { seen: clock.monotonic(), ago: Duration::ZERO }
    }

    /// One that is known by wall time, in milliseconds since the epoch. What lies ahead is taken for now.
    pub(super) fn at(millis: i64, clock: &dyn Clock) -> Self {
        let ago = clock.now().saturating_sub(millis).max(0).unsigned_abs();
        Moment { seen: clock.monotonic(), ago: Duration::from_millis(ago) }
    }

    pub(super) fn elapsed(&self, clock: &dyn Clock) -> Duration {
        self.ago.saturating_add(clock.monotonic().saturating_sub(self.seen))
    }
}

impl Known {
    /// As it was found written down.
    pub(super) fn loaded(value: TransactionValue, clock: &dyn Clock) -> Self {
        let begun = Moment::at(value.started.unwrap_or(value.last_update), clock);
        let written = Moment::at(value.last_update, clock);
        Known { unmarked: value.partitions.clone(), value, begun, written }
    }
}

/// What to do while somebody else has the turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Wait: it takes no longer than the disk does.
    Wait,
    /// Go away with [`Error::ConcurrentTransactions`].
    Refuse,
}

/// What became of asking for the turn.
pub(super) enum Taken {
    /// It is the asker's, who must [give it back](Entry::give_back).
    Turn(Option<Known>),
    /// The entry is not kept any more: look for the id again.
    Forgotten,
}

impl Entry {
    pub(super) fn loaded(known: Known) -> Self {
        let inner = Inner { known: Some(known), ..Inner::default() };
        Entry { inner: Mutex::new(inner), free: Condvar::new() }
    }

    /// Asks for the turn; `check` says whether the asker may have it, each time before it waits.
    pub(super) fn take(
        &self,
        id: &str,
        turn: Turn,
        check: impl Fn(Option<&TransactionValue>) -> Result<()>,
    ) -> Result<Taken> {
        let mut inner = self.inner.lock();
        loop {
            if inner.forgotten {
                return Ok(Taken::Forgotten);
            }
            check(inner.known.as_ref().map(|known| &known.value))?;
            if !inner.taken {
                inner.taken = true;
                return Ok(Taken::Turn(inner.known.clone()));
            }
            if turn == Turn::Refuse {
                return Err(Error::ConcurrentTransactions { transactional_id: id.to_owned() });
            }
            self.free.wait(&mut inner);
        }
    }

    /// Takes effect: by whoever has the turn, once it is written down.
    pub(super) fn set(&self, known: Option<Known>) {
        self.inner.lock().known = known;
    }

    /// Ends the turn. Returns whether the entry is forgotten with it, since nothing is known of it.
    pub(super) fn give_back(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.taken = false;
        inner.forgotten |= inner.known.is_none();
        self.free.notify_all();
        inner.forgotten
    }

    /// What is known, if anything, as far as `look` wants it.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Known) -> T) -> Option<T> {
        self.inner.lock().known.as_ref().map(look)
    }
}
