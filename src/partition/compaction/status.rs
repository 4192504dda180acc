//! What is known of the compaction of a partition: how dirty it is, what the last run did, and what went wrong.
//!
//! A run that fails is tried again, after a while that doubles with each failure; nothing is ever given up silently.

use std::time::Duration;

use parking_lot::Mutex;

use crate::partition::{Log, Partition};

/// The first wait after a failure (Kafka's `log.cleaner.backoff.ms`), and the longest.
const BACKOFF_MIN: Duration = Duration::from_secs(15);
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// How dirty a partition is, and how its compaction fares.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct CompactionStatus {
    /// The first offset that compaction has not been over.
    pub first_dirty: u64,
    /// The first offset that may not be compacted now: it is too young, in the active segment, or of a transaction
    /// that is undecided.
    pub first_uncleanable: u64,
    /// The bytes that may be compacted and were not before.
    pub dirty_bytes: u64,
    /// The bytes that were compacted before.
    pub clean_bytes: u64,
    /// The part of both that is dirty, 0 to 1; above `min.cleanable.dirty.ratio` compaction is due.
    pub dirty_ratio: f64,
    /// Whether compaction is due.
    pub due: bool,
    /// Whether it is under way.
    pub running: bool,
    /// Runs since the partition was opened, failed ones included.
    pub runs: u64,
    /// What the last run that succeeded did.
    pub last_run: Option<CompactionReport>,
    /// Why the last run failed, if it did.
    pub last_error: Option<String>,
    /// The runs that failed since the last that did not.
    pub failures: u32,
    /// How long the next one waits because of that.
    pub retry_after: Option<Duration>,
}

/// What a run of compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CompactionReport {
    /// The first offset that was dirty before.
    pub from: u64,
    /// The first offset that is dirty now.
    pub to: u64,
    /// How often the log was gone through: more than once if the keys did not fit into memory.
    pub passes: u32,
    /// The segments that were exchanged, and those that took their place.
    pub segments_before: usize,
    /// See `segments_before`.
    pub segments_after: usize,
    /// The bytes of their log files before.
    pub bytes_before: u64,
    /// And after.
    pub bytes_after: u64,
    /// Records that were looked at.
    pub records_read: u64,
    /// Records that stayed.
    pub records_kept: u64,
    /// Records without a key, which a compacted topic does not keep.
    pub without_key: u64,
    /// How long it took.
    pub took: Duration,
}

/// The state behind [`CompactionStatus`].
#[derive(Debug, Default)]
pub(in crate::partition) struct Compaction {
    state: Mutex<State>,
}

#[derive(Debug, Default, Clone)]
struct State {
    running: bool,
    runs: u64,
    last_run: Option<CompactionReport>,
    last_error: Option<String>,
    failures: u32,
    retry_at: Duration,
}

impl Compaction {
    pub(super) fn begin(&self) {
        let mut state = self.state.lock();
        state.running = true;
        state.runs += 1;
    }

    /// A run that was told to stop says nothing about the next.
    pub(super) fn stopped(&self) {
        self.state.lock().running = false;
    }

    pub(super) fn succeeded(&self, report: CompactionReport) {
        let mut state = self.state.lock();
        (state.running, state.failures, state.last_error) = (false, 0, None);
        state.last_run = Some(report);
    }

    pub(super) fn failed(&self, error: String, now: Duration) {
        let mut state = self.state.lock();
        let wait = BACKOFF_MIN.saturating_mul(1 << state.failures.min(16)).min(BACKOFF_MAX);
        (state.running, state.last_error) = (false, Some(error));
        state.failures = state.failures.saturating_add(1);
        state.retry_at = now.saturating_add(wait);
    }

    /// Whether the wait after the last failure is over.
    pub(super) fn may_retry(&self, now: Duration) -> bool {
        let state = self.state.lock();
        state.failures == 0 || now >= state.retry_at
    }
}

impl Partition {
    /// How dirty it is, and how its compaction fares. Looks at the timestamps of segments, so the first call may
    /// read index files.
    pub fn compaction_status(&self) -> CompactionStatus {
        self.log.compaction_status()
    }
}

impl Log {
    fn compaction_status(&self) -> CompactionStatus {
        let state = self.compaction.state.lock().clone();
        let now = self.clock.monotonic();
        let waits = (state.failures > 0).then(|| state.retry_at.saturating_sub(now));
        // What cannot be read now is what the last error is about.
        let dirtiness = self.plan_compaction().ok().map(|plan| plan.dirtiness);
        CompactionStatus {
            first_dirty: dirtiness.map_or(0, |dirtiness| dirtiness.first_dirty),
            first_uncleanable: dirtiness.map_or(0, |dirtiness| dirtiness.first_uncleanable),
            dirty_bytes: dirtiness.map_or(0, |dirtiness| dirtiness.cleanable_bytes),
            clean_bytes: dirtiness.map_or(0, |dirtiness| dirtiness.clean_bytes),
            dirty_ratio: dirtiness.map_or(0.0, |dirtiness| dirtiness.ratio()),
            due: dirtiness.is_some_and(|dirtiness| dirtiness.due),
            running: state.running,
            runs: state.runs,
            last_run: state.last_run,
            last_error: state.last_error,
            failures: state.failures,
            retry_after: waits,
        }
    }
}
