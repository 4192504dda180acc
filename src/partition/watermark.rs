//! How far readers may look: the high watermark and the last stable offset.
//!
//! Both only follow what the writer does, under its lock; readers take none. A reader loads the high watermark
//! first, then the first unstable offset: an offset below the watermark that belongs to a transaction was noted as
//! unstable before it was published, so the reader sees that, or a later state in which it was decided.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Isolation, Log, LogConfig, Partition, Writer};
use crate::error::{Error, Result};

/// Stands for no offset.
const NONE: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Watermarks {
    /// The high watermark where a replicator sets it; `NONE` where it is the log end.
    held: AtomicU64,
    /// The first offset of the earliest transaction that is undecided, or decided above the high watermark.
    first_unstable: AtomicU64,
}

impl Watermarks {
    pub(super) fn new(held: Option<u64>, first_unstable: Option<u64>) -> Self {
        Watermarks {
            held: AtomicU64::new(held.unwrap_or(NONE)),
            first_unstable: AtomicU64::new(first_unstable.unwrap_or(NONE)),
        }
    }
}

impl Partition {
    /// Offsets below it may be read. Without a replicator it is the log end.
    pub fn high_watermark(&self) -> u64 {
        self.log.high_watermark()
    }

    /// Offsets below it belong to no undecided transaction, and lie below the high watermark: what readers of
    /// committed data may have ([`Isolation::ReadCommitted`]).
    pub fn last_stable_offset(&self) -> u64 {
        self.log.last_stable_offset()
    }

    /// Moves the high watermark up to `offset`, or to the log end if that is lower: for a replicator that knows how
    /// many others have the data. It should be where a batch ends: readers get batches whole. Never goes back, but
    /// by truncation and by a crash, after which it is where it was last written down: at most as far as the log was
    /// on disk then. Returns where it is now.
    ///
    /// # Errors
    /// [`Error::PolicyViolation`] if the topic is not `annals.replicated`: then it follows the log end.
    pub fn set_high_watermark(&self, offset: u64) -> Result<u64> {
        self.log.set_high_watermark(offset)
    }
}

impl Log {
    pub(super) fn high_watermark(&self) -> u64 {
        let end = self.log_end.load(Ordering::SeqCst);
        self.watermarks.held.load(Ordering::SeqCst).min(end)
    }

    /// Where a replicator has set it.
    pub(super) fn held_watermark(&self) -> Option<u64> {
        Some(self.watermarks.held.load(Ordering::Acquire)).filter(|&held| held != NONE)
    }

    pub(super) fn last_stable_offset(&self) -> u64 {
        let high_watermark = self.high_watermark();
        let stable = self.watermarks.first_unstable.load(Ordering::SeqCst).min(high_watermark);
        // The start of a transaction may have been deleted.
        stable.max(self.log_start.load(Ordering::Acquire).min(high_watermark))
    }

    /// The offset below which a reader may look.
    pub(super) fn bound(&self, isolation: Isolation) -> u64 {
        match isolation {
            Isolation::LogEnd => self.log_end.load(Ordering::SeqCst),
            Isolation::ReadUncommitted => self.high_watermark(),
            Isolation::ReadCommitted => self.last_stable_offset(),
        }
    }

    fn set_high_watermark(&self, offset: u64) -> Result<u64> {
        let mut writer = self.writer.lock();
        if self.held_watermark().is_none() {
            let (partition, action) = (self.id.to_string(), "set the high watermark of");
            let reason = "it follows the log end unless the topic has annals.replicated=true".into();
            return Err(Error::PolicyViolation { partition, action, reason });
        }
        let offset = offset.min(self.log_end.load(Ordering::Acquire));
        if self.watermarks.held.fetch_max(offset, Ordering::SeqCst) < offset {
            self.settle_transactions(&mut writer);
            self.waiters.wake();
        }
        Ok(self.high_watermark())
    }

    /// Takes note of a change of `annals.replicated`. What readers could have they keep.
    pub(super) fn follow_config(&self, config: &LogConfig) {
        let mut writer = self.writer.lock();
        let end = self.log_end.load(Ordering::Acquire);
        let held = self.held_watermark();
        match (config.replicated, held) {
            (true, None) => self.watermarks.held.store(end, Ordering::SeqCst),
            (false, Some(_)) => {
                self.watermarks.held.store(NONE, Ordering::SeqCst);
                self.settle_transactions(&mut writer);
                self.waiters.wake();
            }
            _ => {}
        }
    }

    /// After a truncation, the only thing that takes it back.
    pub(super) fn lower_watermark(&self, end: u64) {
        if self.held_watermark().is_some() {
            self.watermarks.held.fetch_min(end, Ordering::SeqCst);
        }
    }

    /// A log that is begun anew is readable up to its end.
    pub(super) fn reset_watermark(&self, end: u64) {
        if self.held_watermark().is_some() {
            self.watermarks.held.store(end, Ordering::SeqCst);
        }
    }

    /// Before a batch of a transaction is published: readers of committed data must not run into it.
    pub(super) fn note_unstable(&self, writer: &Writer) {
        let first = writer.producers.first_unstable().unwrap_or(NONE);
        self.watermarks.first_unstable.store(first, Ordering::SeqCst);
    }

    /// After the high watermark moved: transactions whose markers lie below it now are decided for readers, too.
    pub(super) fn settle_transactions(&self, writer: &mut Writer) {
        let before = self.watermarks.first_unstable.load(Ordering::Relaxed);
        if before == NONE {
            return;
        }
        writer.producers.advance_high_watermark(self.high_watermark());
        let first = writer.producers.first_unstable().unwrap_or(NONE);
        if first != before {
            self.watermarks.first_unstable.store(first, Ordering::SeqCst);
            self.waiters.wake();
        }
    }
}
