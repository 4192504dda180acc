//! The only place that asks the time. Everything else is handed a [`Clock`].

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where the crate gets its time from.
///
/// Offsets and their order never depend on a clock. Wall time stamps records and ages segments; it may jump.
/// Monotonic time measures waits and intervals; it never goes back.
pub trait Clock: std::fmt::Debug + Send + Sync {
    /// Wall time in milliseconds since the Unix epoch. May jump either way.
    fn now(&self) -> i64;

    /// Time since some fixed moment. Must never go back.
    fn monotonic(&self) -> Duration;

    /// Lets so much time pass; for work that keeps to a rate. A clock that does not go by itself should move on.
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// The machine's clock.
///
/// ```
/// use annals::clock::{Clock, SystemClock};
/// assert!(SystemClock::new().now() > 1_700_000_000_000);
/// ```
#[derive(Debug, Clone)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> Self {
        SystemClock { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis),
        }
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A clock that stands still until it is moved by hand, for tests.
///
/// ```
/// use annals::clock::{Clock, ManualClock};
/// let clock = ManualClock::new(1_000);
/// clock.advance(std::time::Duration::from_millis(5));
/// assert_eq!(clock.now(), 1_005);
/// clock.set(7); // the wall clock may jump back, monotonic time does not
/// assert_eq!((clock.now(), clock.monotonic().as_millis()), (7, 5));
/// ```
#[derive(Debug)]
pub struct ManualClock {
    wall: AtomicI64,
    monotonic_nanos: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `now` milliseconds since the epoch.
    pub fn new(now: i64) -> Self {
        ManualClock { wall: AtomicI64::new(now), monotonic_nanos: AtomicU64::new(0) }
    }

    /// Moves both times on.
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.wall.fetch_add(millis, Ordering::SeqCst);
        self.monotonic_nanos.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Sets wall time alone, as an administrator or NTP would.
    pub fn set(&self, now: i64) {
        self.wall.store(now, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> i64 {
        self.wall.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic_nanos.load(Ordering::SeqCst))
    }

    fn sleep(&self, time: Duration) {
        self.advance(time);
    }
}
