//! Who waits for a sync, and who does it: concurrent appenders share one (group commit).
//!
//! The first to find no sync under way does one for everybody whose bytes are written by then; those who come
//! meanwhile wait for the next. The writer lock is not held, so appends go on during a sync. A sync that fails
//! fails everybody waiting, poisons the partition, and is never tried again on the same bytes (P5).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Durability, DurableMark, Log, LogConfig, Mark, State, Writer};
use crate::error::{Error, Result};
use crate::storage::Segment;

/// The progress of syncs.
#[derive(Debug, Default)]
pub(super) struct Commit {
    progress: Mutex<Progress>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Offsets below it are on disk.
    durable: u64,
    syncing: bool,
    /// Counts syncs that failed; a waiter that sees it move was among those who lost.
    failures: u64,
    /// Counts reopenings, each of which cuts what was not published away.
    life: u64,
    /// What was appended since the last sync, and when that was; for intervals.
    bytes_pending: u64,
    records_pending: u64,
    /// The strongest that any of them was promised.
    promised: Option<Durability>,
    last_sync: Duration,
}

/// Where a written batch ends, and in which life of the log: its offsets may be given again in the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) end: u64,
    pub(super) life: u64,
}

/// What one sync has to cover.
struct Round {
    sealed: Vec<(Arc<Segment>, u64)>,
    active: Arc<Segment>,
    position: u64,
    end: u64,
    created: Option<u64>,
}

/// The right to sync, or to keep others from it. Given back even if the file system panics, so that nobody waits
/// for ever.
pub(super) struct Syncing<'a>(&'a Commit);

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        self.0.progress.lock().syncing = false;
        self.0.done.notify_all();
    }
}

impl Commit {
    pub(super) fn new(durable: u64) -> Self {
        let progress = Progress { durable, ..Progress::default() };
        Commit { progress: Mutex::new(progress), done: Condvar::new() }
    }

    /// Waits for the sync under way, and keeps others from beginning one.
    pub(super) fn hold(&self) -> Syncing<'_> {
        let mut progress = self.progress.lock();
        while progress.syncing {
            self.done.wait(&mut progress);
        }
        progress.syncing = true;
        Syncing(self)
    }

    /// Begins another life of the log, in which everything below `durable` is on disk.
    pub(super) fn begin_life(&self, life: u64, durable: u64) {
        let mut progress = self.progress.lock();
        (progress.life, progress.durable) = (life, durable);
    }
}

impl Log {
    /// Returns once everything below the end of what was written is on disk.
    pub(super) fn sync_to(&self, written: Written) -> Result<()> {
        let mut progress = self.commit.progress.lock();
        let failures = progress.failures;
        loop {
            if progress.life == written.life && progress.durable >= written.end {
                return Ok(());
            }
            if progress.failures != failures || progress.life != written.life {
                let cause = "the sync that was to cover it failed".to_string();
                return Err(Error::Poisoned { partition: self.id.to_string(), action: "sync", cause });
            }
            if progress.syncing {
                self.commit.done.wait(&mut progress);
                continue;
            }
            // Asked before: a clock that panics must not leave a sync that nobody does.
            progress.last_sync = self.clock.monotonic();
            progress.syncing = true;
            (progress.bytes_pending, progress.records_pending) = (0, 0);
            progress.promised = None;
            drop(progress);
            let result = {
                let _syncing = Syncing(&self.commit);
                let result = self.sync_round();
                let mut progress = self.commit.progress.lock();
                match &result {
                    Ok(end) => progress.durable = progress.durable.max(*end),
                    Err(_) => progress.failures += 1,
                }
                result
            };
            result?;
            progress = self.commit.progress.lock();
        }
    }

    /// Makes durable, and then readable, what is written at this moment. Returns the end of it.
    fn sync_round(&self) -> Result<u64> {
        let round = {
            let writer = self.writer.lock();
            writer.check_sync(&self.id)?;
            Round::new(&writer)
        };
        let began = self.clock.monotonic();
        let synced = self.sync_files(&round);
        self.counters.synced(self.clock.monotonic().saturating_sub(began));
        if let Err(error) = synced {
            self.writer.lock().poison(&self.id, "sync", &error);
            return Err(error);
        }
        let mut writer = self.writer.lock();
        writer
            .unsynced
            .retain(|(segment, _)| !round.sealed.iter().any(|(done, _)| Arc::ptr_eq(done, segment)));
        if let Some(created) = round.created {
            writer.created_synced = writer.created_synced.max(created);
        }
        let segment = round.active.base_offset();
        {
            let mut marks = self.marks.lock();
            if marks.now.durable.offset <= round.end {
                let durable = DurableMark { offset: round.end, segment, position: round.position };
                marks.now = Mark { durable, producers: !writer.producers.is_empty() };
            }
        }
        self.recovery_point.fetch_max(round.end, Ordering::AcqRel);
        // Still under the lock: another append's publication must not overtake the sealed segments of this one.
        self.publish(round.sealed.iter(), &round.active, round.position, round.end);
        self.settle_transactions(&mut writer);
        drop(writer);
        Ok(round.end)
    }

    fn sync_files(&self, round: &Round) -> Result<()> {
        if round.created.is_some() {
            crate::fs::sync_dir(self.fs(), self.directory())?;
        }
        for (segment, _) in &round.sealed {
            segment.log().file().sync()?;
        }
        round.active.log().file().sync()
    }

    /// Lets readers have what was written, bytes before offsets, and wakes who waits for it.
    pub(super) fn publish<'a>(
        &self,
        sealed: impl Iterator<Item = &'a (Arc<Segment>, u64)>,
        active: &Segment,
        position: u64,
        end: u64,
    ) {
        for (segment, len) in sealed {
            segment.log().publish(*len);
        }
        active.log().publish(position);
        // Sequentially consistent for the sake of those who wait; see there.
        if self.log_end.fetch_max(end, Ordering::SeqCst) < end {
            self.waiters.wake();
        }
    }

    /// Makes durable all that is written at this moment.
    pub(super) fn sync_written(&self) -> Result<()> {
        let written = self.writer.lock().written();
        self.sync_to(written)
    }

    /// Does what the durability of an append asks for, once it is written and the writer lock is released.
    pub(super) fn settle(
        &self,
        config: &LogConfig,
        written: Written,
        bytes: u64,
        records: u64,
        durability: Durability,
    ) -> Result<()> {
        match durability {
            Durability::Synced => self.sync_to(written),
            Durability::Interval { .. } => {
                self.interval_asked.store(true, Ordering::Relaxed);
                self.sync_behind(config, bytes, records, durability);
                Ok(())
            }
            Durability::Process => {
                self.sync_behind(config, bytes, records, durability);
                Ok(())
            }
        }
    }

    /// A sync that is due but not waited for. The append has happened and can be read, so a failure is not its own:
    /// it poisons the partition, and the next append or flush says so.
    fn sync_behind(&self, config: &LogConfig, bytes: u64, records: u64, durability: Durability) {
        let _ = self.sync_if_due(config, bytes, records, durability);
    }

    /// Syncs if so much has been appended, or so much time has passed, since the last sync as is allowed: by the
    /// interval, and by Kafka's `flush.messages` and `flush.ms`.
    pub(super) fn sync_if_due(
        &self,
        config: &LogConfig,
        bytes: u64,
        records: u64,
        durability: Durability,
    ) -> Result<bool> {
        let flush_time = match config.flush_ms {
            i64::MAX => Duration::MAX,
            millis => Duration::from_millis(millis.max(0) as u64),
        };
        if durability == Durability::Process && self.never_due(config) {
            return Ok(false);
        }
        {
            let mut progress = self.commit.progress.lock();
            progress.bytes_pending += bytes;
            progress.records_pending += records;
            let promised = progress.promised.map_or(durability, |promised| promised.stronger(durability));
            progress.promised = Some(promised);
            let (time, bytes_max) = match promised {
                Durability::Interval { time, bytes } => (time.min(flush_time), bytes),
                _ => (flush_time, u64::MAX),
            };
            let waited = self.clock.monotonic().saturating_sub(progress.last_sync);
            let due = progress.bytes_pending >= bytes_max
                || progress.records_pending >= config.flush_messages
                || waited >= time;
            let pending = self.log_end.load(Ordering::Acquire) > progress.durable;
            if !due || !pending || progress.syncing {
                return Ok(false);
            }
        }
        self.sync_written()?;
        Ok(true)
    }

    /// Whether no setting can make a sync due, and no append has asked for an interval.
    fn never_due(&self, config: &LogConfig) -> bool {
        config.flush_ms == i64::MAX
            && config.flush_messages == i64::MAX as u64
            && !self.interval_asked.load(Ordering::Relaxed)
    }
}

impl Round {
    fn new(writer: &Writer) -> Self {
        Round {
            sealed: writer.unsynced.clone(),
            active: Arc::clone(writer.active.segment()),
            position: writer.active.position(),
            end: writer.next_offset,
            created: (writer.created > writer.created_synced).then_some(writer.created),
        }
    }
}

impl Writer {
    pub(super) fn written(&self) -> Written {
        Written { end: self.next_offset, life: self.life }
    }

    /// A sync is refused only where what it would cover is not known to be whole.
    fn check_sync(&self, id: &crate::types::TopicPartition) -> Result<()> {
        match self.state {
            State::Poisoned { .. } => self.check(id),
            _ => Ok(()),
        }
    }
}
