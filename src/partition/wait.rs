//! Waiting for data: readers sleep until an append, or whatever lets them read on, wakes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Isolation, Log, Partition};
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
    listeners: Mutex<Listeners>,
    moved: Condvar,
}

/// Those who do not sleep here, but want to be told.
#[derive(Debug, Default)]
struct Listeners {
    next: u64,
    wakers: Vec<(u64, Waker)>,
}

/// Tells a waker of the next move of a partition, once, unless it is dropped before; made by
/// [`Partition::listen`].
#[derive(Debug)]
pub(crate) struct Listening {
    log: Arc<Log>,
    key: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listeners = self.log.waiters.listeners.lock();
        let before = listeners.wakers.len();
        listeners.wakers.retain(|(key, _)| *key != self.key);
        self.log.waiters.waiting.fetch_sub(before - listeners.wakers.len(), Ordering::Relaxed);
    }
}

impl Waiters {
    /// Wakes everybody, after the log end was stored.
    pub(super) fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // Locked so that nobody is between its look at the log end and its sleep.
            let told = std::mem::take(&mut self.listeners.lock().wakers);
            self.waiting.fetch_sub(told.len(), Ordering::Relaxed);
            self.moved.notify_all();
            told.into_iter().for_each(|(_, waker)| waker.wake());
        }
    }

    /// Sends everybody home with an error, now and later.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.wake();
    }
}

impl Partition {
    /// Has the waker told once there may be something to read at `offset`, or the partition is closed; `None` if that
    /// is so already. It may be told of moves that do not reach so far, and should look again.
    pub(crate) fn listen(&self, offset: u64, isolation: Isolation, waker: &Waker) -> Option<Listening> {
        let log = &self.log;
        let waiters = &log.waiters;
        let mut listeners = waiters.listeners.lock();
        waiters.waiting.fetch_add(1, Ordering::SeqCst);
        if log.bound(isolation) > offset || waiters.closed.load(Ordering::SeqCst) {
            waiters.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let key = listeners.next;
        listeners.next += 1;
        listeners.wakers.push((key, waker.clone()));
        Some(Listening { log: Arc::clone(log), key })
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
        let mut lock = waiters.listeners.lock();
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
