//! Who waits for a sync, and who does it: concurrent appenders share one (group commit).
//!
//! The first to find no sync under way does one for everybody whose bytes are written by then; those who come
//! meanwhile wait for the next. The writer lock is not held, so appends go on during a sync. A sync that fails
//! fails everybody waiting, poisons the partition, and is never tried again on the same bytes (P5).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Durability, DurableMark, Log, State, Writer};
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
    /// What was appended since the last sync, and when that was; for intervals.
    bytes_pending: u64,
    records_pending: u64,
    last_sync: Duration,
}

/// What one sync has to cover.
struct Round {
    sealed: Vec<(Arc<Segment>, u64)>,
    active: Arc<Segment>,
    position: u64,
    end: u64,
    created: Option<u64>,
}

/// Ends a round even if the file system panics in it, so that nobody waits for ever.
struct Syncing<'a>(&'a Commit);

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

    /// Takes note that everything below `durable` was made durable by other means.
    pub(super) fn reset(&self, durable: u64) {
        self.progress.lock().durable = durable;
    }
}

impl Log {
    /// Returns once everything below `offset` is on disk.
    pub(super) fn sync_to(&self, offset: u64) -> Result<()> {
        let mut progress = self.commit.progress.lock();
        let failures = progress.failures;
        loop {
            if progress.durable >= offset {
                return Ok(());
            }
            if progress.failures != failures {
                drop(progress);
                self.writer.lock().check(&self.id)?;
                // It was reopened in between, and cut this append away.
                let cause = "a sync of other appends failed with it".to_string();
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
        if let Err(error) = self.sync_files(&round) {
            self.writer.lock().poison("sync", &error);
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
        if writer.durable.offset <= round.end {
            writer.durable = DurableMark { offset: round.end, segment, position: round.position };
        }
        drop(writer);
        self.recovery_point.fetch_max(round.end, Ordering::AcqRel);
        self.publish(round.sealed.iter(), &round.active, round.position, round.end);
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
        if self.log_end.fetch_max(end, Ordering::AcqRel) < end {
            self.waiters.wake();
        }
    }

    /// Does what the durability of an append asks for, once it is written and the writer lock is released.
    pub(super) fn settle(&self, end: u64, bytes: u64, records: u64, durability: Durability) -> Result<()> {
        match durability {
            Durability::Synced => self.sync_to(end),
            _ => self.sync_if_due(bytes, records, durability).map(drop),
        }
    }

    /// Syncs if so much has been appended, or so much time has passed, since the last sync as is allowed: by the
    /// interval, and by Kafka's `flush.messages` and `flush.ms`.
    pub(super) fn sync_if_due(&self, bytes: u64, records: u64, durability: Durability) -> Result<bool> {
        let config = self.config.load();
        let flush_time = match config.flush_ms {
            i64::MAX => Duration::MAX,
            millis => Duration::from_millis(millis.max(0) as u64),
        };
        let (time, bytes_max) = match durability {
            Durability::Interval { time, bytes } => (time.min(flush_time), bytes),
            _ => (flush_time, u64::MAX),
        };
        if time == Duration::MAX && bytes_max == u64::MAX && config.flush_messages == i64::MAX as u64 {
            return Ok(false);
        }
        {
            let mut progress = self.commit.progress.lock();
            progress.bytes_pending += bytes;
            progress.records_pending += records;
            let waited = self.clock.monotonic().saturating_sub(progress.last_sync);
            let due = progress.bytes_pending >= bytes_max
                || progress.records_pending >= config.flush_messages
                || waited >= time;
            let pending = self.log_end.load(Ordering::Acquire) > progress.durable;
            if !due || !pending || progress.syncing {
                return Ok(false);
            }
        }
        let end = self.writer.lock().next_offset;
        self.sync_to(end)?;
        Ok(true)
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
    /// A sync is refused only where what it would cover is not known to be whole.
    fn check_sync(&self, id: &crate::types::TopicPartition) -> Result<()> {
        match self.state {
            State::Poisoned { .. } => self.check(id),
            _ => Ok(()),
        }
    }
}
