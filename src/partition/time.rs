//! Finding offsets by time (Kafka's `ListOffsets`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::read::Cursor;
use super::{Log, Partition};
use crate::error::{Error, Result};
use crate::format::{RecordBatch, RecordSet};

/// A record found by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimestampOffset {
    /// The record's timestamp, in milliseconds since the epoch.
    pub timestamp: i64,
    /// Its offset.
    pub offset: u64,
    /// The epoch of the leader that wrote it, if its batch says so.
    pub leader_epoch: Option<i32>,
}

impl Partition {
    /// The first record, in the order of offsets, whose timestamp is `timestamp` or later; `None` if there is none.
    ///
    /// Timestamps need not be in order: records behind it may be earlier.
    ///
    /// # Errors
    /// [`Error::Corruption`] if a batch that has to be looked at is damaged.
    pub fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<TimestampOffset>> {
        self.log.first_record(timestamp)
    }

    /// The first record that has the largest timestamp of all; `None` if no record has one.
    ///
    /// # Errors
    /// As [`offset_for_timestamp`](Self::offset_for_timestamp).
    pub fn offset_of_max_timestamp(&self) -> Result<Option<TimestampOffset>> {
        let mut largest = -1;
        for segment in self.log.segments.load().iter() {
            largest = largest.max(segment.max_timestamp()?);
        }
        if largest < 0 {
            return Ok(None);
        }
        match self.offset_for_timestamp(largest)? {
            Some(found) => Ok(Some(found)),
            // It belongs to a marker, or to what is not readable yet or was cut: the batches themselves decide.
            None => match self.log.largest_readable()? {
                Some(largest) => self.offset_for_timestamp(largest),
                None => Ok(None),
            },
        }
    }
}

impl Log {
    fn first_record(self: &Arc<Self>, timestamp: i64) -> Result<Option<TimestampOffset>> {
        let start = self.log_start.load(Ordering::Acquire);
        let bound = self.high_watermark();
        let segments = self.segments.load_full();
        for (at, segment) in segments.iter().enumerate() {
            let end = segments.get(at + 1).map_or(bound, |next| next.base_offset()).min(bound);
            if end <= start || segment.max_timestamp()? < timestamp {
                continue;
            }
            let hint = segment.offset_hint(timestamp.saturating_sub(1))?;
            let mut cursor = Cursor::new(Arc::clone(self), hint.max(start));
            while let Some(batch) = cursor.next(end)? {
                cursor.wanted = batch.next_offset();
                if let Some(found) = self.first_in(&batch, start, timestamp)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// The largest timestamp of all records that can be read.
    fn largest_readable(self: &Arc<Self>) -> Result<Option<i64>> {
        let (start, bound) = (self.log_start.load(Ordering::Acquire), self.high_watermark());
        let mut cursor = Cursor::new(Arc::clone(self), start);
        let mut largest = None;
        while let Some(batch) = cursor.next(bound)? {
            cursor.wanted = batch.next_offset();
            // One that compaction has emptied still says what its largest timestamp was.
            if batch.header().control || batch.header().records_count == Some(0) {
                continue;
            }
            let newest = if batch.base_offset() < start {
                // What is above the start need not be the newest of it.
                let records = self.records_in(&batch)?;
                let readable = records.iter().filter(|record| record.offset() >= start);
                readable.map(|record| record.timestamp()).max()
            } else {
                Some(batch.header().max_timestamp)
            };
            largest = largest.max(newest.filter(|&timestamp| timestamp >= 0));
        }
        Ok(largest)
    }

    fn records_in(&self, batch: &RecordBatch) -> Result<RecordSet> {
        let limit = self.config.load().max_decompressed_bytes as usize;
        batch.records(limit).map_err(|error| {
            let path = crate::fs::full_path(self.fs(), self.directory());
            let (position, offset) = (0, batch.base_offset());
            Error::Corruption { path, position, offset, detail: error.to_string() }
        })
    }

    fn first_in(&self, batch: &RecordBatch, start: u64, timestamp: i64) -> Result<Option<TimestampOffset>> {
        let header = batch.header();
        if header.max_timestamp < timestamp || header.control {
            return Ok(None);
        }
        let records = self.records_in(batch)?;
        let found = records.iter().find(|record| record.timestamp() >= timestamp && record.offset() >= start);
        Ok(found.map(|record| TimestampOffset {
            timestamp: record.timestamp(),
            offset: record.offset(),
            leader_epoch: header.leader_epoch,
        }))
    }
}
