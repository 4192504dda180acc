//! What goes from the front of the log: segments too old or too many, and what was deleted by offset (Kafka's
//! `UnifiedLog.deleteOldSegments`, `maybeIncrementLogStartOffset`).
//!
//! Nothing at or above the high watermark goes. The log start is raised and written down before any file is touched,
//! so that a crash never makes a loss of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Log, LogConfig, Partition, RetentionTime, State};
use crate::error::{Error, Result};
use crate::observe;
use crate::storage::Segment;

/// What a pass of retention did to a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Expired {
    /// The log start now.
    pub log_start: u64,
    /// The segments that went.
    pub segments: usize,
    /// The bytes of their log files.
    pub bytes: u64,
}

impl Partition {
    /// Deletes the records below `before`, as far as the high watermark: they cannot be read any more, and the
    /// space of whole segments is freed after `file.delete.delay.ms`. Returns the log start, which is at least
    /// `before` and survives a crash. What is known of producers stays.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`] if `before` lies above the high watermark; [`Error::PolicyViolation`] if the
    /// topic's `cleanup.policy` does not include `delete`; otherwise as the system calls fail.
    pub fn delete_records(&self, before: u64) -> Result<u64> {
        self.log.delete_records(before)
    }

    /// Deletes what the retention settings no longer keep, now. [`Store::maintain`](crate::Store::maintain) does it
    /// for all partitions.
    ///
    /// # Errors
    /// As the system calls fail; [`Error::ReadOnly`], [`Error::Closed`], [`Error::Damaged`].
    pub fn apply_retention(&self) -> Result<Expired> {
        let log = &self.log;
        let raised = log.expire(true)?;
        if raised {
            log.save_start()?;
        }
        log.drop_below_start()
    }

    /// Raises the log start to where retention says; the caller writes it down, then
    /// [drops](Self::drop_expired) what lies below.
    pub(crate) fn expire(&self, by_time: bool) -> Result<bool> {
        self.log.expire(by_time)
    }

    /// Takes away what lies below the log start; `saved` is one known to be written down.
    pub(crate) fn drop_expired(&self, saved: Option<u64>) -> Result<Expired> {
        saved.into_iter().for_each(|saved| self.log.note_saved_start(saved));
        self.log.drop_below_start()
    }

    /// Removes files whose time has come.
    pub(crate) fn remove_due(&self) -> Result<Vec<std::path::PathBuf>> {
        let _upkeep = self.log.upkeep.lock();
        if self.log.writer.lock().is_over() {
            return Ok(Vec::new());
        }
        self.log.remove_due()
    }

    /// Forgets producers that have not appended for long. Returns how many.
    pub(crate) fn expire_producers(&self) -> usize {
        let config = self.log.config.load();
        let now = self.log.clock.now();
        self.log.writer.lock().producers.expire(now, config.producer_expiration_ms)
    }
}

impl Log {
    fn delete_records(&self, before: u64) -> Result<u64> {
        let config = self.config.load();
        if !config.cleanup_policy.delete {
            let (partition, action) = (self.id.to_string(), "delete records of");
            let reason = "its cleanup.policy does not include delete".into();
            return Err(Error::PolicyViolation { partition, action, reason });
        }
        self.check_may_delete()?;
        let high_watermark = self.high_watermark();
        if before > high_watermark {
            return Err(Error::OffsetOutOfRange {
                partition: self.id.to_string(),
                requested: before,
                log_start: self.log_start.load(Ordering::Acquire),
                log_end: high_watermark,
            });
        }
        self.raise_log_start(before);
        self.save_start()?;
        let log_start = self.drop_below_start()?.log_start;
        let first_base = self.segments.load().first().map(|first| first.base_offset());
        if self.start_unsaved() && first_base < Some(log_start) {
            // The disk is full, and no name of a file tells of a start within a segment.
            self.write_start()?;
        }
        Ok(self.log_start.load(Ordering::Acquire))
    }

    /// Damage must be looked at first; a partition that is poisoned may well be so because there is no room.
    fn check_may_delete(&self) -> Result<()> {
        let writer = self.writer.lock();
        match writer.state {
            State::Poisoned { .. } => Ok(()),
            _ => writer.check(&self.id),
        }
    }

    /// Raises the log start to the first segment that is to be kept. Returns whether it moved, or segments lie
    /// below it.
    fn expire(&self, by_time: bool) -> Result<bool> {
        self.check_may_delete()?;
        let config = self.config.load();
        let mut segments = self.segments.load_full();
        let mut expired = self.count_expired(&segments, &config, by_time)?;
        if expired == segments.len() {
            // There must be an active one. What was appended until then is looked at once more.
            match self.roll_now() {
                // Then it is the last one, this time: what goes before it may make the room.
                Err(Error::StorageFull { .. } | Error::TooManyOpenFiles { .. } | Error::Poisoned { .. }) => {
                    expired -= 1;
                }
                rolled => {
                    rolled?;
                    segments = self.segments.load_full();
                    expired = self.count_expired(&segments, &config, by_time)?;
                }
            }
        }
        let start = segments.get(expired).filter(|_| expired > 0).map(|kept| kept.base_offset());
        let before = self.log_start.load(Ordering::Acquire);
        let start = start.unwrap_or(before).min(self.high_watermark());
        self.raise_log_start(start);
        Ok(start > before || expired > 0)
    }

    /// How many segments from the first on are to go.
    fn count_expired(&self, segments: &[Arc<Segment>], config: &LogConfig, by_time: bool) -> Result<usize> {
        let (log_start, high_watermark) = (self.log_start.load(Ordering::Acquire), self.high_watermark());
        let now = self.clock.now();
        let total: u64 = segments.iter().map(|segment| segment.size()).sum();
        let mut excess = match config.retention_bytes {
            Some(limit) if config.cleanup_policy.delete => total.saturating_sub(limit),
            _ => 0,
        };
        let age_max = config.retention_ms.filter(|_| config.cleanup_policy.delete && by_time);
        for (at, segment) in segments.iter().enumerate() {
            let next = segments.get(at + 1).map(|next| next.base_offset());
            let end = next.unwrap_or_else(|| self.log_end.load(Ordering::Acquire));
            let empty_and_active = next.is_none() && segment.size() == 0;
            if end > high_watermark || empty_and_active {
                return Ok(at);
            }
            let below_start = next.is_some_and(|next| next <= log_start);
            let too_large = excess > 0 && excess >= segment.size();
            let too_old = || match age_max {
                Some(age_max) => {
                    Ok(now.saturating_sub(segment.retention_time(config.retention_by)?) > age_max)
                }
                None => Ok(false),
            };
            if !(below_start || too_large || too_old()?) {
                return Ok(at);
            }
            excess = excess.saturating_sub(segment.size());
        }
        Ok(segments.len())
    }

    fn raise_log_start(&self, log_start: u64) {
        let mut writer = self.writer.lock();
        if self.log_start.fetch_max(log_start, Ordering::AcqRel) < log_start {
            self.epochs.lock().truncate_from_start(log_start);
            writer.producers.raise_log_start(log_start);
            self.note_unstable(&writer);
        }
    }

    /// Writes the log start down. On a full disk it goes on without: the names of the files say it then.
    fn save_start(&self) -> Result<()> {
        match self.write_start() {
            Err(Error::StorageFull { .. }) => Ok(()),
            written => written,
        }
    }

    /// What is known of producers by segments that are about to go must be known without them.
    fn save_producers(&self) -> Result<()> {
        {
            let writer = self.writer.lock();
            if writer.is_over() {
                return Ok(());
            }
            self.note_snapshot(&writer);
        }
        match self.write_snapshots() {
            // What goes makes room.
            Err(Error::StorageFull { .. }) => Ok(()),
            written => written,
        }
    }

    /// Takes the segments out of the log that lie below its start.
    fn drop_below_start(&self) -> Result<Expired> {
        // Who compacts, truncates or reopens has the segments for himself.
        let _upkeep = self.upkeep.lock();
        // What an exchange made can only go once its files have their names.
        self.finish_swap_held()?;
        let log_start = self.log_start.load(Ordering::Acquire);
        if self.segments.load().get(1).is_some_and(|second| second.base_offset() <= log_start) {
            self.save_producers()?;
        }
        let gone: Vec<Arc<Segment>> = {
            let mut writer = self.writer.lock();
            if writer.is_over() {
                return Ok(Expired { log_start, ..Expired::default() });
            }
            let segments = self.segments.load_full();
            let below = segments.iter().skip(1).take_while(|next| next.base_offset() <= log_start).count();
            let (gone, kept) = segments.split_at(below);
            let is_gone = |segment: &Arc<Segment>| gone.iter().any(|gone| Arc::ptr_eq(gone, segment));
            writer.unsynced.retain(|(segment, _)| !is_gone(segment));
            writer.unindexed.retain(|segment| !is_gone(segment));
            if !gone.is_empty() {
                self.segments.store(Arc::new(kept.to_vec()));
            }
            gone.to_vec()
        };
        let bytes = gone.iter().map(|segment| segment.size()).sum();
        // If there are none as well: what failed before is not known to be on disk.
        self.retire_deleted(&gone)?;
        if gone.is_empty() {
            return Ok(Expired { log_start, ..Expired::default() });
        }
        self.tidy_snapshots()?;
        self.counters.expired(gone.len() as u64, bytes);
        observe::expired(&self.id, log_start, gone.len() as u64, bytes);
        Ok(Expired { log_start, segments: gone.len(), bytes })
    }
}

impl Segment {
    /// The time from which its age counts.
    fn retention_time(&self, by: RetentionTime) -> Result<i64> {
        if by == RetentionTime::Record {
            let largest = self.max_timestamp()?;
            if largest >= 0 {
                return Ok(largest);
            }
        }
        self.append_time()
    }
}
