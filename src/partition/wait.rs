//! Waiting for data: readers sleep until an append, or whatever lets them read on, wakes them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Isolation, Log};
use crate::error::{Error, Result};

/// Those who wait for a position to move: the log end, the high watermark or the last stable offset.
///
/// An append that nobody waits for must not pay for it, so it only looks at the count. Each side stores, then loads
/// what the other stores (append: log end, then count; waiter: count, then log end), all four sequentially
/// consistent, so at least one of them sees the other.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: AtomicUsize,
    closed: AtomicBool,
    lock: Mutex<()>,
    moved: Condvar,
}

impl Waiters {
    /// Wakes everybody, after the log end was stored.
    pub(super) fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // Taken so that nobody is between its look at the log end and its sleep.
            drop(self.lock.lock());
            self.moved.notify_all();
        }
    }

    /// Sends everybody home with an error, now and later.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.wake();
    }
}

impl Log {
    pub(super) fn wait_for(&self, offset: u64, isolation: Isolation, timeout: Duration) -> Result<bool> {
        let there = || self.bound(isolation) > offset;
        if there() {
            return Ok(true);
        }
        let deadline = self.clock.monotonic().saturating_add(timeout);
        let waiters = &self.waiters;
        let mut lock = waiters.lock.lock();
        waiters.waiting.fetch_add(1, Ordering::SeqCst);
        let result = loop {
            if there() {
                break Ok(true);
            }
            if waiters.closed.load(Ordering::SeqCst) {
                break Err(Error::Closed { what: self.id.to_string() });
            }
            let left = deadline.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                break Ok(false);
            }
            waiters.moved.wait_for(&mut lock, left);
        };
        waiters.waiting.fetch_sub(1, Ordering::Relaxed);
        result
    }
}
