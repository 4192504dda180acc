//! The memory for batches under way: taken by whoever begins a batch, first come, first served.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::wake::Signal;
use std::task::Wake;

/// Buffers of finished batches that are kept for the next ones.
const SPARE_MAX: usize = 64;

/// So many bytes, shared out in batches (Kafka's `BufferPool`).
///
/// Who asks for more than is left waits in line: nobody is served before those who came earlier, however little they
/// ask for, so that a large batch is not starved by small ones.
#[derive(Debug)]
pub(super) struct BufferPool {
    clock: Arc<dyn Clock>,
    total: usize,
    /// The usual size of a buffer.
    piece: usize,
    /// How many wait; read without the lock.
    waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    available: usize,
    line: VecDeque<Arc<Signal>>,
    closed: bool,
    spare: Vec<Vec<u8>>,
}

/// Memory of the pool; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    pool: Arc<BufferPool>,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.pool.release(self.bytes);
    }
}

impl BufferPool {
    pub(super) fn new(total: usize, piece: usize, clock: Arc<dyn Clock>) -> Arc<Self> {
        let state = State { available: total, line: VecDeque::new(), closed: false, spare: Vec::new() };
        let (waiting, state) = (AtomicUsize::new(0), Mutex::new(state));
        Arc::new(BufferPool { clock, total, piece, waiting, state })
    }

    /// Whether somebody waits for memory.
    pub(super) fn is_exhausted(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    pub(super) fn available(&self) -> usize {
        self.state.lock().available
    }

    /// Takes `bytes`, and a buffer to put them in; waits for it at most so long, having called `hurry`.
    pub(super) fn take(
        self: &Arc<Self>,
        bytes: usize,
        wait: Duration,
        hurry: impl FnOnce(),
    ) -> Result<(Reservation, Vec<u8>)> {
        let signal = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(closed());
            }
            if state.line.is_empty() && state.available >= bytes {
                return Ok(self.hand_out(&mut state, bytes));
            }
            let signal = Signal::new();
            state.line.push_back(Arc::clone(&signal));
            self.waiting.store(state.line.len(), Ordering::SeqCst);
            signal
        };
        let deadline = self.clock.monotonic().saturating_add(wait);
        hurry();
        loop {
            let left = deadline.saturating_sub(self.clock.monotonic());
            signal.wait(left);
            let mut state = self.state.lock();
            let first = state.line.front().is_some_and(|first| Arc::ptr_eq(first, &signal));
            let result = if state.closed {
                Err(closed())
            } else if first && state.available >= bytes {
                Ok(())
            } else if left.is_zero() {
                let what = format!("waiting for {bytes} of {} bytes of buffer memory", self.total);
                Err(Error::Timeout { what, waited: wait })
            } else {
                continue;
            };
            state.line.retain(|waiting| !Arc::ptr_eq(waiting, &signal));
            self.waiting.store(state.line.len(), Ordering::SeqCst);
            let taken = result.map(|()| self.hand_out(&mut state, bytes));
            state.wake_first();
            return taken;
        }
    }

    fn hand_out(self: &Arc<Self>, state: &mut State, bytes: usize) -> (Reservation, Vec<u8>) {
        state.available = state.available.saturating_sub(bytes);
        let spare = if bytes <= self.piece { state.spare.pop() } else { None };
        let buffer = spare.unwrap_or_else(|| Vec::with_capacity(bytes));
        (Reservation { pool: Arc::clone(self), bytes }, buffer)
    }

    fn release(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.available = self.total.min(state.available.saturating_add(bytes));
        state.wake_first();
    }

    /// Keeps a buffer that is done with, if it is of the usual size.
    pub(super) fn keep(&self, buffer: Vec<u8>) {
        let usual = self.piece..=self.piece.saturating_mul(2);
        if self.piece > 0 && usual.contains(&buffer.capacity()) {
            let mut state = self.state.lock();
            if state.spare.len() < SPARE_MAX {
                state.spare.push(buffer);
            }
        }
    }

    /// Sends everybody away, now and later.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.line.iter().for_each(|waiting| waiting.wake_by_ref());
    }
}

impl State {
    fn wake_first(&self) {
        if let Some(first) = self.line.front() {
            first.wake_by_ref();
        }
    }
}

fn closed() -> Error {
    Error::Closed { what: "the producer".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    /// Memory for tests, of 100 bytes in pieces of 10.
    fn pool() -> (Arc<BufferPool>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(0));
        (BufferPool::new(100, 10, Arc::clone(&clock) as _), clock)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn line(pool: &BufferPool) -> usize {
        pool.state.lock().line.len()
    }

    /// Waits for memory in a thread of its own; returns once it stands in line.
    fn wait_in_line<'scope>(
        scope: &'scope std::thread::Scope<'scope, '_>,
        pool: &'scope Arc<BufferPool>,
        bytes: usize,
    ) -> std::thread::ScopedJoinHandle<'scope, Result<(Reservation, Vec<u8>)>> {
        let before = line(pool);
        let waiting = scope.spawn(move || pool.take(bytes, HOUR, || {}));
        while line(pool) == before {
            std::thread::yield_now();
        }
        waiting
    }

    #[test]
    fn memory_is_counted_and_buffers_of_the_usual_size_serve_again() {
        let (pool, _) = pool();
        let (held, mut buffer) = pool.take(10, HOUR, || {}).unwrap();
        assert_eq!((pool.available(), buffer.capacity()), (90, 10));
        buffer.push(1);
        let place = buffer.as_ptr();
        pool.keep(buffer);
        drop(held);
        assert_eq!(pool.available(), 100);
        let (_small, again) = pool.take(7, HOUR, || {}).unwrap();
        assert_eq!(again.as_ptr(), place);
        let (_large, other) = pool.take(50, HOUR, || {}).unwrap();
        assert!(other.capacity() >= 50);
        pool.keep(other);
        assert!(pool.state.lock().spare.is_empty(), "an unusual size is not kept");
        assert_eq!(pool.available(), 43);
    }

    #[test]
    fn who_comes_first_is_served_first_however_little_others_want() {
        let (pool, _) = pool();
        let (pool, order) = (&pool, &Mutex::new(Vec::new()));
        let first = pool.take(60, HOUR, || {}).unwrap();
        let second = pool.take(40, HOUR, || {}).unwrap();
        std::thread::scope(|scope| {
            let large = wait_in_line(scope, pool, 90);
            let small = wait_in_line(scope, pool, 5);
            assert!(pool.is_exhausted());
            // Enough for the small one, but it is not its turn; nor is it that of who comes now.
            drop(second);
            assert!(matches!(pool.take(1, Duration::ZERO, || {}), Err(Error::Timeout { .. })));
            assert!(!small.is_finished());
            drop(first);
            let large = large.join().unwrap().unwrap();
            order.lock().push("large");
            let small = small.join().unwrap().unwrap();
            order.lock().push("small");
            assert_eq!(pool.available(), 5);
            drop((large, small));
        });
        assert_eq!(pool.available(), 100);
        assert!(!pool.is_exhausted());
    }

    #[test]
    fn who_gives_up_lets_the_next_one_through() {
        let (pool, clock) = pool();
        let pool = &pool;
        let held = pool.take(60, HOUR, || {}).unwrap();
        let hurried = &std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let impatient = scope.spawn(move || {
                pool.take(90, Duration::from_millis(20), || hurried.store(true, Ordering::SeqCst))
            });
            while line(pool) == 0 {
                std::thread::yield_now();
            }
            let next = wait_in_line(scope, pool, 40);
            clock.advance(Duration::from_millis(20));
            assert!(matches!(impatient.join().unwrap(), Err(Error::Timeout { .. })));
            assert!(hurried.load(Ordering::SeqCst));
            next.join().unwrap().unwrap();
        });
        drop(held);
        assert_eq!(pool.available(), 100);
    }

    #[test]
    fn closing_sends_everybody_away() {
        let (pool, _) = pool();
        let held = pool.take(100, HOUR, || {}).unwrap();
        std::thread::scope(|scope| {
            let waiting = [wait_in_line(scope, &pool, 1), wait_in_line(scope, &pool, 1)];
            pool.close();
            for one in waiting {
                assert!(matches!(one.join().unwrap(), Err(Error::Closed { .. })));
            }
        });
        drop(held);
        assert!(matches!(pool.take(1, HOUR, || {}), Err(Error::Closed { .. })));
    }
}
