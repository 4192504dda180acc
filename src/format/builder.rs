//! Makes one v2 batch, straight into the buffer that will be written (Kafka's `MemoryRecordsBuilder`).

use super::batch::{BATCH_BYTES_MAX, BatchHeader, RECORD_BATCH_OVERHEAD, TimestampType, checked_last_offset};
use super::compression::{Codec, Compression, compress};
use super::record::{EncodedRecord, HeaderSource, Record, RecordView};
use crate::error::FormatError;

/// All of a batch but its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchOptions {
    /// The offset of the first record. It lies outside the checksum: [`stamp`](super::stamp) can set it
    /// later.
    pub base_offset: u64,
    /// The leader epoch, -1 for none. [`stamp`](super::stamp) can set it later.
    pub leader_epoch: i32,
    /// How to compress the records.
    pub codec: Codec,
    /// Whose clock the timestamps come from.
    pub timestamp_type: TimestampType,
    /// The timestamp of records that have none of their own, in milliseconds since the epoch; -1 is none.
    pub default_timestamp: i64,
    /// The time of the append, which all records will have with [`TimestampType::LogAppendTime`]; -1 is none.
    pub append_time: i64,
    /// The producer, -1 for none.
    pub producer_id: i64,
    /// The producer's epoch, -1 for none.
    pub producer_epoch: i16,
    /// The sequence number of the first record, -1 for none.
    pub base_sequence: i32,
    /// Whether the batch belongs to a transaction; then it needs a producer.
    pub transactional: bool,
    /// Whether it holds control records; then it is not compressed.
    pub control: bool,
    /// When compaction may drop its tombstones, in milliseconds since the epoch.
    pub delete_horizon: Option<i64>,
    /// The last offset relative to the base offset, if records were removed behind the last one pushed;
    /// otherwise that of the last one pushed.
    pub last_offset_delta: Option<u32>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        BatchOptions {
            base_offset: 0,
            leader_epoch: -1,
            codec: Codec::default(),
            timestamp_type: TimestampType::CreateTime,
            default_timestamp: -1,
            append_time: -1,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            transactional: false,
            control: false,
            delete_horizon: None,
            last_offset_delta: None,
        }
    }
}

impl BatchOptions {
    /// What compaction must keep when it writes a v2 batch again with fewer records: everything but the
    /// records. The codec gets its default level, the delete horizon stays as it is. (A legacy message has
    /// less to keep, and what its compressed form calls base offset is not: set `base_offset` to that of the
    /// first record and leave out `last_offset_delta`.)
    pub fn rewriting(header: &BatchHeader) -> Self {
        BatchOptions {
            base_offset: header.base_offset,
            leader_epoch: header.leader_epoch.unwrap_or(-1),
            codec: header.compression.into(),
            timestamp_type: header.timestamp_type,
            default_timestamp: -1,
            append_time: match header.timestamp_type {
                TimestampType::CreateTime => -1,
                TimestampType::LogAppendTime => header.max_timestamp,
            },
            producer_id: header.producer_id.unwrap_or(-1),
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            transactional: header.transactional,
            control: header.control,
            delete_horizon: header.delete_horizon,
            last_offset_delta: Some(header.last_offset_delta().unsigned_abs()),
        }
    }

    /// The rules for a batch as a whole (`MemoryRecordsBuilder`).
    fn check(&self) -> Result<(), FormatError> {
        let refuse = |what, found, expected| Err(FormatError::Invalid { what, found, expected });
        if self.leader_epoch < -1 {
            return refuse("leader epoch", self.leader_epoch.into(), "at least -1");
        }
        if self.producer_id < -1 {
            return refuse("producer id", self.producer_id, "at least -1");
        }
        if self.producer_id == -1 && self.transactional {
            return refuse("producer id", self.producer_id, "at least 0 in a transactional batch");
        }
        if self.producer_id != -1 && self.producer_epoch < 0 {
            return refuse("producer epoch", self.producer_epoch.into(), "at least 0 with a producer id");
        }
        if self.producer_id != -1 && !self.control && self.base_sequence < 0 {
            return refuse("base sequence", self.base_sequence.into(), "at least 0 with a producer id");
        }
        if self.control && self.codec.compression != Compression::None {
            let id = self.codec.compression.id();
            return refuse("compression of a control batch", id.into(), "0 (none)");
        }
        if self.timestamp_type == TimestampType::LogAppendTime && self.append_time < -1 {
            return refuse("append time", self.append_time, "at least -1");
        }
        match self.delete_horizon {
            Some(horizon @ ..0) => refuse("delete horizon", horizon, "at least 0"),
            _ => Ok(()),
        }
    }
}

/// Makes one v2 batch, straight into its buffer: records go behind the room left for the header, which
/// [`finish`](Self::finish) fills in. With a buffer that is large enough, nothing is allocated unless records
/// are compressed.
///
/// ```
/// use annals::format::{BatchBuilder, BatchOptions, Record, stamp, verify};
/// let mut builder = BatchBuilder::new(BatchOptions::default());
/// builder.push(&Record::new("hello"))?;
/// let mut batch = builder.finish()?;
/// stamp(&mut batch, 17, 3)?;
/// assert_eq!(verify(&batch)?.next_offset(), 18);
/// # Ok::<(), annals::FormatError>(())
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// The header's room, then the records uncompressed.
    buffer: Vec<u8>,
    count: u32,
    last_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// A builder with a buffer of its own.
    pub fn new(options: BatchOptions) -> Self {
        Self::with_buffer(options, Vec::new())
    }

    /// A builder that uses the memory of `buffer`; what it holds is dropped.
    pub fn with_buffer(options: BatchOptions, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(RECORD_BATCH_OVERHEAD, 0);
        let base_timestamp = options.delete_horizon.unwrap_or(-1);
        BatchBuilder { options, buffer, count: 0, last_delta: -1, base_timestamp, max_timestamp: -1 }
    }

    /// Adds a record at the next offset.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for a timestamp that is negative and not -1, [`FormatError::Limit`] if the
    /// batch would become too large for the format. The builder is unchanged then.
    pub fn push(&mut self, record: &Record<'_>) -> Result<(), FormatError> {
        let delta = self
            .last_delta
            .checked_add(1)
            .ok_or(FormatError::Limit { what: "number of records in the batch", limit: i32::MAX as u64 })?;
        self.push_at(delta as u32, record)
    }

    /// Adds a record at an offset relative to the base offset, which must be larger than that of the record
    /// before it.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`FormatError::Invalid`] for an offset that does not follow.
    pub fn push_at(&mut self, offset_delta: u32, record: &Record<'_>) -> Result<(), FormatError> {
        let timestamp = record.timestamp_millis().unwrap_or(self.options.default_timestamp);
        let headers = HeaderSource::List(record.headers());
        self.write(offset_delta, timestamp, record.key_bytes(), record.value_bytes(), headers)
    }

    /// As [`push`](Self::push), with this timestamp whatever the record says.
    pub(crate) fn push_stamped(&mut self, record: &Record<'_>, timestamp: i64) -> Result<(), FormatError> {
        let headers = HeaderSource::List(record.headers());
        self.write(self.count, timestamp, record.key_bytes(), record.value_bytes(), headers)
    }

    /// Says whose batch it is, if that was not known when it was begun. Counts once it is finished.
    pub(crate) fn set_producer(&mut self, id: i64, epoch: i16, base_sequence: i32, transactional: bool) {
        let options = &mut self.options;
        (options.producer_id, options.producer_epoch) = (id, epoch);
        (options.base_sequence, options.transactional) = (base_sequence, transactional);
    }

    /// Adds a record read from another batch, under its own offset and timestamp.
    ///
    /// # Errors
    /// As [`push_at`](Self::push_at).
    pub fn push_view(&mut self, record: &RecordView<'_>) -> Result<(), FormatError> {
        let delta =
            record.offset.checked_sub(self.options.base_offset).and_then(|delta| u32::try_from(delta).ok());
        let delta = delta.ok_or(FormatError::Invalid {
            what: "record offset",
            found: record.offset as i64,
            expected: "at most 2147483647 above the base offset of the batch",
        })?;
        let headers = HeaderSource::Encoded { count: record.header_count, bytes: record.headers };
        self.write(delta, record.timestamp, record.key, record.value, headers)
    }

    /// The largest timestamp that the finished batch will have; -1 is none.
    pub fn max_timestamp(&self) -> i64 {
        match self.options.timestamp_type {
            TimestampType::CreateTime => self.max_timestamp,
            TimestampType::LogAppendTime => self.options.append_time,
        }
    }

    /// The number of records pushed.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether no record was pushed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The size of the batch in bytes if it were finished now: exact if it is not compressed, otherwise what
    /// it would be without compression. 0 if it is empty.
    pub fn size_estimate(&self) -> usize {
        if self.is_empty() { 0 } else { self.buffer.len() }
    }

    /// Fills in the header, compresses if so set, and hands over the batch. A builder without records gives
    /// no bytes, not an empty batch.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for options that contradict each other or leave the range of the format,
    /// [`FormatError::Limit`] for a batch too large for the format, [`FormatError::CodecDisabled`] if the
    /// codec was compiled out.
    pub fn finish(mut self) -> Result<Vec<u8>, FormatError> {
        self.options.check()?;
        if self.is_empty() {
            self.buffer.clear();
            return Ok(self.buffer);
        }
        let header = self.header()?;
        let mut batch = self.buffer;
        if header.compression != Compression::None {
            let plain = batch;
            batch = vec![0; RECORD_BATCH_OVERHEAD];
            let records = plain.get(RECORD_BATCH_OVERHEAD..).unwrap_or_default();
            compress(self.options.codec, records, &mut batch)?;
        }
        header.seal(&mut batch)?;
        Ok(batch)
    }

    fn write(
        &mut self,
        offset_delta: u32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeaderSource<'_>,
    ) -> Result<(), FormatError> {
        let invalid = |what, found, expected| FormatError::Invalid { what, found, expected };
        let offset_delta =
            i32::try_from(offset_delta).ok().filter(|&delta| delta > self.last_delta).ok_or_else(|| {
                invalid("record offset delta", offset_delta.into(), "above that before, at most 2^31-1")
            })?;
        if timestamp < -1 {
            return Err(invalid("record timestamp", timestamp, "at least -1"));
        }
        let first = self.is_empty() && self.options.delete_horizon.is_none();
        let base_timestamp = if first { timestamp } else { self.base_timestamp };
        let timestamp_delta = timestamp.checked_sub(base_timestamp).ok_or_else(|| {
            invalid("record timestamp", timestamp, "less than 2^63 after that of the first record")
        })?;
        let start = self.buffer.len();
        EncodedRecord { timestamp_delta, offset_delta, key, value, headers }.write(&mut self.buffer)?;
        // Compressed ones are bounded too: readers take all their records into memory at once.
        if self.buffer.len() > BATCH_BYTES_MAX {
            self.buffer.truncate(start);
            return Err(FormatError::Limit { what: "batch", limit: BATCH_BYTES_MAX as u64 });
        }
        self.base_timestamp = base_timestamp;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.last_delta = offset_delta;
        self.count += 1;
        Ok(())
    }

    fn header(&self) -> Result<BatchHeader, FormatError> {
        let options = &self.options;
        let pushed = self.last_delta.unsigned_abs();
        let last_delta = options.last_offset_delta.unwrap_or(pushed);
        if last_delta < pushed || last_delta > i32::MAX as u32 {
            return Err(FormatError::Invalid {
                what: "last offset delta",
                found: last_delta.into(),
                expected: "that of the last record to 2147483647",
            });
        }
        Ok(BatchHeader {
            base_offset: options.base_offset,
            last_offset: checked_last_offset(options.base_offset, last_delta)?,
            // Size and checksum are known when the batch is sealed.
            size: 0,
            crc: 0,
            leader_epoch: (options.leader_epoch >= 0).then_some(options.leader_epoch),
            magic: 2,
            compression: options.codec.compression,
            timestamp_type: options.timestamp_type,
            transactional: options.transactional,
            control: options.control,
            delete_horizon: options.delete_horizon,
            base_timestamp: self.base_timestamp,
            max_timestamp: match options.timestamp_type {
                TimestampType::CreateTime => self.max_timestamp,
                TimestampType::LogAppendTime => options.append_time,
            },
            producer_id: (options.producer_id >= 0).then_some(options.producer_id),
            producer_epoch: options.producer_epoch,
            base_sequence: options.base_sequence,
            records_count: Some(self.count),
        })
    }
}
