//! When the sender has to look at which queue: it sleeps until then, and is woken if that changes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::queue::PartitionQueue;
use crate::clock::Clock;

/// What the sender has to look at next.
///
/// Every queue that holds a batch, and is not in the sender's hands, has an entry. An entry may come too early, or be
/// left over; the queue itself knows what is due.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    entries: BinaryHeap<Entry>,
    /// How many want everything sent at once: flushes, and the closing.
    forced: usize,
    /// Look at all of them once.
    hurry: bool,
    /// Come back even if nothing is due.
    woken: bool,
    /// Until when the sender sleeps, if it does.
    asleep: Option<Duration>,
}

#[derive(Debug)]
struct Entry {
    at: Duration,
    queue: Arc<PartitionQueue>,
}

impl Ord for Entry {
    /// The earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

/// The queues to look at, each once, and whether lingering is over for all.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) queues: Vec<Arc<PartitionQueue>>,
    pub(super) forced: bool,
}

impl Schedule {
    /// Has a queue looked at then, or at once if it is in a hurry, or if everything is. It is asked `hurried` under the
    /// lock: who [hurries](Self::hurry) all queues, having said so before, either is seen by that or finds this one.
    pub(super) fn add(&self, queue: &Arc<PartitionQueue>, at: Duration, hurried: impl FnOnce() -> bool) {
        let mut state = self.state.lock();
        let at = if state.forced > 0 || hurried() { Duration::ZERO } else { at };
        state.entries.push(Entry { at, queue: Arc::clone(queue) });
        if state.asleep.is_some_and(|until| at < until) {
            state.asleep = None;
            self.changed.notify_one();
        }
    }

    /// As [`add`](Self::add), of what has to wait even if everything else has not to.
    pub(super) fn add_later(&self, queue: &Arc<PartitionQueue>, at: Duration) {
        // Only the sender does this, so it is awake.
        self.state.lock().entries.push(Entry { at, queue: Arc::clone(queue) });
    }

    /// Has all queues looked at once, as if their time had come.
    pub(super) fn hurry(&self) {
        let mut state = self.state.lock();
        state.hurry = true;
        self.wake_locked(&mut state);
    }

    /// As [`hurry`](Self::hurry), and so what is added from now on.
    pub(super) fn force(&self) {
        self.state.lock().forced += 1;
        self.hurry();
    }

    /// Takes one [`force`](Self::force) back.
    pub(super) fn relax(&self) {
        self.state.lock().forced -= 1;
    }

    pub(super) fn wake(&self) {
        let mut state = self.state.lock();
        self.wake_locked(&mut state);
    }

    fn wake_locked(&self, state: &mut State) {
        state.woken = true;
        state.asleep = None;
        self.changed.notify_one();
    }

    /// Sleeps until something is due, or `latest`, or somebody wakes it.
    pub(super) fn next(&self, clock: &dyn Clock, latest: Option<Duration>) -> Due {
        let mut state = self.state.lock();
        loop {
            let now = clock.monotonic();
            let hurry = std::mem::take(&mut state.hurry);
            let mut queues = Vec::new();
            while let Some(entry) = state.entries.peek_mut().filter(|entry| hurry || entry.at <= now) {
                queues.push(std::collections::binary_heap::PeekMut::pop(entry).queue);
            }
            let woken = std::mem::take(&mut state.woken);
            let late = latest.is_some_and(|latest| latest <= now);
            if woken || late || !queues.is_empty() {
                if queues.len() > 1 {
                    let mut seen = HashSet::new();
                    queues.retain(|queue| seen.insert(Arc::as_ptr(queue)));
                }
                return Due { queues, forced: hurry || state.forced > 0 };
            }
            let first = state.entries.peek().map(|entry| entry.at);
            match [first, latest].into_iter().flatten().min() {
                Some(until) => {
                    state.asleep = Some(until);
                    self.changed.wait_for(&mut state, until.saturating_sub(now));
                }
                None => {
                    state.asleep = Some(Duration::MAX);
                    self.changed.wait(&mut state);
                }
            }
            state.asleep = None;
        }
    }

    /// For whoever is to wake the sender.
    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::new(Alarm(Arc::clone(self))))
    }
}

/// Wakes the sender.
struct Alarm(Arc<Schedule>);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::types::TopicPartition;

    #[test]
    fn who_hurries_while_a_queue_is_added_finds_it() {
        let (schedule, clock) = (Schedule::default(), ManualClock::new(0));
        let queue = PartitionQueue::new(TopicPartition::from_dir_name("t-0").unwrap());
        let hour = Duration::from_secs(3600);
        schedule.add(&queue, hour, || {
            assert!(schedule.state.is_locked(), "a hurry that is not seen here comes behind");
            false
        });
        assert!(schedule.next(&clock, Some(Duration::ZERO)).queues.is_empty());
        schedule.hurry();
        assert_eq!(schedule.next(&clock, None).queues.len(), 1);
        schedule.add(&queue, hour, || true);
        assert_eq!(schedule.next(&clock, None).queues.len(), 1);
    }
}
