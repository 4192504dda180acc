//! The write protocol, once: encode, number, write, note, publish, settle. Everything that appends goes this way.
//!
//! Encoding and checksum happen before the writer lock is taken: in a v2 batch the base offset and the leader epoch
//! lie outside the checksum, so they are stamped on under the lock without another pass over the bytes.

use std::cell::RefCell;

use bytes::Bytes;

use super::commit::Written;
use super::producers::{BatchKind, BatchMetadata, Origin, ProducerBatch};
use super::{CompressionType, Durability, Log, LogConfig, Partition, State, Writer};
use crate::error::{Error, FormatError, Result};
use crate::format::{
    self, BatchBuilder, BatchHeader, BatchOptions, Codec, Compression, EndTransactionMarker, Record,
    RecordBatch, RecordSet, TimestampType, increment_sequence,
};
use crate::types::{OFFSET_MAX, TopicPartition};

/// Where an append ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The offset of the first record.
    pub base_offset: u64,
    /// The offset of the last record.
    pub last_offset: u64,
    /// The time given to the records if the topic stamps them (`message.timestamp.type=LogAppendTime`), in
    /// milliseconds since the epoch.
    pub append_time: Option<i64>,
    /// Whether it was appended before, by the same producer under the same sequence numbers: then nothing was
    /// written now, and the offsets are those of the first time.
    pub duplicate: bool,
}

/// How one append differs from what its topic says.
#[derive(Debug, Clone, Copy, Default)]
pub struct AppendOptions {
    durability: Option<Durability>,
    producer: Option<Producer>,
    coordinator: bool,
}

/// Who appends, where that matters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Producer {
    pub(super) id: i64,
    pub(super) epoch: i16,
    pub(super) base_sequence: i32,
    pub(super) transactional: bool,
}

impl AppendOptions {
    /// As the topic says.
    pub fn new() -> Self {
        AppendOptions::default()
    }

    /// At least this durable. It can only be stronger than the topic's.
    #[must_use]
    pub fn durability(mut self, at_least: Durability) -> Self {
        self.durability = Some(at_least);
        self
    }

    /// As the next batch of an idempotent producer: its records have the sequence numbers from `base_sequence` on.
    /// Appended again, it is recognised ([`Appended::duplicate`]); out of order, it is refused. Ids, epochs and
    /// sequences are not negative; after `i32::MAX` comes 0. An encoded batch says all this itself.
    #[must_use]
    pub fn idempotent(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        let (id, epoch) = (producer_id, producer_epoch);
        self.producer = Some(Producer { id, epoch, base_sequence, transactional: false });
        self
    }

    /// As [`idempotent`](Self::idempotent), in the producer's transaction, which the first such batch opens and
    /// [`Partition::end_transaction`] ends. Readers of committed data see it once it is committed.
    #[must_use]
    pub fn transactional(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        let (id, epoch) = (producer_id, producer_epoch);
        self.producer = Some(Producer { id, epoch, base_sequence, transactional: true });
        self
    }

    /// On behalf of a coordinator (Kafka's origin `COORDINATOR`): epochs are checked, sequences are not, and
    /// repetitions are not looked for. Offsets committed in a transaction are appended so.
    #[must_use]
    pub fn coordinator(mut self) -> Self {
        self.coordinator = true;
        self
    }

    fn origin(&self) -> Origin {
        if self.coordinator { Origin::Coordinator } else { Origin::Client }
    }
}

/// A buffer kept for the next append of the thread is not kept beyond this size.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A batch ready to be numbered and written.
pub(super) struct Prepared<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) count: u64,
    pub(super) max_timestamp: i64,
    pub(super) append_time: Option<i64>,
    /// The time of the append.
    pub(super) now: i64,
    /// What concerns its producer, if it has one; its offsets are given with those of the batch.
    pub(super) producer: Option<ProducerBatch>,
}

/// A batch that is written and not settled yet.
#[derive(Debug)]
pub(super) struct Begun {
    placed: Placed,
    written: Written,
    rolled: bool,
    size: u64,
    count: u64,
    append_time: Option<i64>,
    durability: Durability,
}

impl Begun {
    /// Where it is, though it may not be on disk.
    pub(super) fn appended(&self) -> Appended {
        let append_time = self.append_time;
        match &self.placed {
            &Placed::New { base_offset, last_offset } => {
                Appended { base_offset, last_offset, append_time, duplicate: false }
            }
            Placed::Before(batch) => {
                let append_time = append_time.map(|_| batch.timestamp);
                let (base_offset, last_offset) = (batch.base_offset(), batch.last_offset);
                Appended { base_offset, last_offset, append_time, duplicate: true }
            }
        }
    }
}

/// What became of a batch under the writer lock.
#[derive(Debug)]
enum Placed {
    New { base_offset: u64, last_offset: u64 },
    Before(BatchMetadata),
}

impl Partition {
    /// Appends one record, as a batch of its own. Returns its offset once it is as durable as the topic says.
    ///
    /// # Errors
    /// - [`Error::InvalidTimestamp`], [`Error::InvalidRecord`], [`Error::TooLarge`]: the record may not be stored.
    /// - [`Error::StorageFull`]: there is no room now; try again when there is.
    /// - [`Error::Io`]: writing or syncing failed. Whether the record will be there after a restart is unknown,
    ///   and the partition is poisoned.
    /// - [`Error::Fenced`], [`Error::OutOfOrderSequence`], [`Error::InvalidTransactionState`]: its producer, if it
    ///   has one, may not append it.
    /// - [`Error::Poisoned`], [`Error::Damaged`], [`Error::ReadOnly`], [`Error::Closed`]: appends are not taken.
    pub fn append(&self, record: &Record<'_>) -> Result<u64> {
        let appended = self.append_batch_with(std::slice::from_ref(record), AppendOptions::new())?;
        Ok(appended.base_offset)
    }

    /// Appends records as one batch: all of them or none.
    ///
    /// # Errors
    /// As [`append`](Self::append); errors about a record name its index. No records at all are refused, too.
    pub fn append_batch(&self, records: &[Record<'_>]) -> Result<Appended> {
        self.append_batch_with(records, AppendOptions::new())
    }

    /// As [`append_batch`](Self::append_batch), with more durability than the topic's.
    ///
    /// # Errors
    /// As [`append_batch`](Self::append_batch).
    pub fn append_batch_with(&self, records: &[Record<'_>], options: AppendOptions) -> Result<Appended> {
        let log = &*self.log;
        let config = log.config.load();
        let now = log.clock.now();
        check_records(records, &config, now)?;
        with_scratch(|scratch| {
            let max_timestamp = encode(records, &config, now, options.producer, scratch)?;
            check_batch_size(scratch.len(), &config)?;
            let append_time = config.append_time(now);
            let count = records.len() as u64;
            let producer = options.producer.map(|producer| producer.batch(count, max_timestamp));
            let batch = Prepared { bytes: scratch, count, max_timestamp, append_time, now, producer };
            log.write(batch, &config, options)
        })
    }

    /// Appends the marker that ends a producer's transaction on this partition: for transaction coordinators. From
    /// then on readers of committed data get its records, or never will. Without an open transaction it only says
    /// what the latest epochs are. Of the options, the durability counts.
    ///
    /// # Errors
    /// [`Error::Fenced`] if a newer epoch of the producer, or of the coordinator, is known; otherwise as
    /// [`append`](Self::append).
    ///
    /// ```
    /// use annals::format::EndTransactionMarker;
    /// use annals::{AppendOptions, Isolation, Record, Store, TopicConfig};
    /// # let directory = tempfile::tempdir().unwrap();
    /// let store = Store::open(directory.path())?;
    /// let log = store.create_topic("payments", TopicConfig::new())?.partition(0)?;
    /// log.append_batch_with(&[Record::new("10 EUR")], AppendOptions::new().transactional(7, 0, 0))?;
    /// assert_eq!((log.last_stable_offset(), log.log_end()), (0, 1));
    ///
    /// let commit = EndTransactionMarker { coordinator_epoch: 0, commit: true };
    /// log.end_transaction(7, 0, commit, AppendOptions::new())?;
    /// assert_eq!(log.last_stable_offset(), 2); // the marker has an offset, too
    /// assert_eq!(log.read_from_with(0, Isolation::ReadCommitted)?.count(), 1);
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn end_transaction(
        &self,
        producer_id: i64,
        producer_epoch: i16,
        marker: EndTransactionMarker,
        options: AppendOptions,
    ) -> Result<Appended> {
        let log = &*self.log;
        let config = log.config.load();
        let now = log.clock.now();
        let invalid = |source| Error::InvalidBatch { source };
        let fields =
            BatchOptions { default_timestamp: now, producer_id, producer_epoch, ..BatchOptions::default() };
        let mut bytes = marker.encode_batch(&fields).map_err(invalid)?;
        let append_time = config.append_time(now);
        if append_time.is_some() {
            format::stamp_append_time(&mut bytes, now).map_err(invalid)?;
        }
        let producer = Some(ProducerBatch {
            producer_id,
            producer_epoch,
            base_sequence: -1,
            last_sequence: -1,
            first_offset: 0,
            last_offset: 0,
            max_timestamp: now,
            kind: BatchKind::Marker(marker),
        });
        let batch = Prepared { bytes: &mut bytes, count: 1, max_timestamp: now, append_time, now, producer };
        log.write(batch, &config, options.coordinator())
    }

    /// Appends one batch that a client encoded (magic 2), after checking all of it: what a server does with a
    /// produce request. The bytes are stored as they came but for what Kafka's leader stamps too: base offset,
    /// leader epoch, and timestamps where the topic says so; a topic with its own `compression.type` has it
    /// compressed again.
    ///
    /// # Errors
    /// [`Error::InvalidBatch`] if the bytes are not exactly one valid batch from offset 0 on; otherwise as
    /// [`append_batch`](Self::append_batch).
    pub fn append_encoded(&self, batch: &[u8], options: AppendOptions) -> Result<Appended> {
        let log = &*self.log;
        let config = log.config.load();
        let now = log.clock.now();
        check_batch_size(batch.len(), &config)?;
        let (parsed, records) = check_encoded(batch, &config)?;
        check_encoded_records(&records, &config, now)?;
        let mut bytes = recompress(&parsed, &records, &config)?.unwrap_or_else(|| batch.to_vec());
        check_batch_size(bytes.len(), &config)?;
        let (max_timestamp, append_time) = stamp_time(&mut bytes, &parsed, &records, &config, now)?;
        let count = records.len() as u64;
        let producer = Producer::of(parsed.header()).map(|producer| producer.batch(count, max_timestamp));
        let batch = Prepared { bytes: &mut bytes, count, max_timestamp, append_time, now, producer };
        log.write(batch, &config, options)
    }
}

impl Producer {
    fn of(header: &BatchHeader) -> Option<Self> {
        Some(Producer {
            id: header.producer_id?,
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            transactional: header.transactional,
        })
    }

    /// What its state has to know of a batch of so many records.
    pub(super) fn batch(&self, count: u64, max_timestamp: i64) -> ProducerBatch {
        let span = i32::try_from(count - 1).unwrap_or(i32::MAX);
        let last_sequence =
            if self.base_sequence < 0 { -1 } else { increment_sequence(self.base_sequence, span) };
        ProducerBatch {
            producer_id: self.id,
            producer_epoch: self.epoch,
            base_sequence: self.base_sequence,
            last_sequence,
            first_offset: 0,
            last_offset: count - 1,
            max_timestamp,
            kind: BatchKind::Data { transactional: self.transactional },
        }
    }
}

fn with_scratch<T>(call: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    // Taken out, so that an append from within an append (a file system that logs, say) finds an empty one.
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let result = call(&mut scratch);
    if scratch.capacity() <= SCRATCH_BYTES_MAX {
        SCRATCH.set(scratch);
    }
    result
}

fn check_records(records: &[Record<'_>], config: &LogConfig, now: i64) -> Result<()> {
    if records.is_empty() {
        return Err(Error::InvalidRecord { index: 0, reason: "the batch has no records".into() });
    }
    for (index, record) in records.iter().enumerate() {
        check_key(index, record.key_bytes().is_some(), config)?;
        if let Some(timestamp) = record.timestamp_millis() {
            check_timestamp(index, timestamp, config, now)?;
        }
    }
    Ok(())
}

pub(super) fn check_key(index: usize, has_key: bool, config: &LogConfig) -> Result<()> {
    if config.cleanup_policy.compact && !has_key {
        let reason = "a compacted topic (cleanup.policy) needs a key in every record".into();
        return Err(Error::InvalidRecord { index, reason });
    }
    Ok(())
}

pub(super) fn check_timestamp(index: usize, timestamp: i64, config: &LogConfig, now: i64) -> Result<()> {
    let invalid = |reason: String| Err(Error::InvalidTimestamp { index, timestamp, reason });
    if timestamp < -1 {
        return invalid("it is negative; -1 alone means that there is none".into());
    }
    if timestamp == -1 || config.message_timestamp_type == TimestampType::LogAppendTime {
        return Ok(());
    }
    let (before, after) = (config.message_timestamp_before_max_ms, config.message_timestamp_after_max_ms);
    if now.saturating_sub(timestamp) > before {
        return invalid(format!("more than message.timestamp.before.max.ms={before} before now, {now}"));
    }
    if timestamp.saturating_sub(now) > after {
        return invalid(format!("more than message.timestamp.after.max.ms={after} after now, {now}"));
    }
    Ok(())
}

pub(super) fn check_batch_size(size: usize, config: &LogConfig) -> Result<()> {
    let too_large = |limit: u32, setting| {
        let (size, limit) = (size as u64, u64::from(limit));
        Err(Error::TooLarge { what: "a batch", size, limit, setting })
    };
    if size as u64 > u64::from(config.max_message_bytes) {
        return too_large(config.max_message_bytes, "max.message.bytes");
    }
    if size as u64 > u64::from(config.segment_bytes) {
        return too_large(config.segment_bytes, "segment.bytes");
    }
    Ok(())
}

/// Encodes the records into the buffer. Returns the largest timestamp.
fn encode(
    records: &[Record<'_>],
    config: &LogConfig,
    now: i64,
    producer: Option<Producer>,
    buffer: &mut Vec<u8>,
) -> Result<i64> {
    let mut options = BatchOptions {
        codec: config.codec().unwrap_or_default(),
        timestamp_type: config.message_timestamp_type,
        default_timestamp: now,
        append_time: now,
        ..BatchOptions::default()
    };
    if let Some(producer) = producer {
        let missing = |what, found: i64| {
            let source = FormatError::Invalid { what, found, expected: "at least 0" };
            Err(Error::InvalidBatch { source })
        };
        if producer.id < 0 {
            return missing("producer id", producer.id);
        }
        (options.producer_id, options.producer_epoch) = (producer.id, producer.epoch);
        (options.base_sequence, options.transactional) = (producer.base_sequence, producer.transactional);
    }
    let mut builder = BatchBuilder::with_buffer(options, std::mem::take(buffer));
    for (index, record) in records.iter().enumerate() {
        builder.push(record).map_err(|error| Error::InvalidRecord { index, reason: error.to_string() })?;
    }
    let max_timestamp = builder.max_timestamp();
    *buffer = builder.finish().map_err(|source| Error::InvalidBatch { source })?;
    Ok(max_timestamp)
}

/// The checks of a batch from a client (Kafka's `LogValidator.validateBatch`).
fn check_encoded(bytes: &[u8], config: &LogConfig) -> Result<(RecordBatch, RecordSet)> {
    let invalid = |source| Error::InvalidBatch { source };
    let field = |what, found: i64, expected| Err(invalid(FormatError::Invalid { what, found, expected }));
    let batch = RecordBatch::parse(Bytes::copy_from_slice(bytes)).map_err(invalid)?;
    let header = batch.header();
    if header.magic != 2 {
        return field("the magic of the batch", header.magic.into(), "2, older formats are read only");
    }
    if header.base_offset != 0 {
        return field(
            "the base offset of the batch",
            header.base_offset as i64,
            "0, the log assigns offsets",
        );
    }
    if header.control {
        return field("the control bit", 1, "0 in batches from clients");
    }
    if header.delete_horizon.is_some() {
        return field("the delete horizon bit", 1, "0 in batches from clients");
    }
    if header.timestamp_type == TimestampType::LogAppendTime {
        return field("the timestamp type", 1, "0 (create time) in batches from clients");
    }
    if header.producer_id.is_some() && header.base_sequence < 0 {
        return field(
            "the base sequence",
            header.base_sequence.into(),
            "0 or more, since there is a producer id",
        );
    }
    let records = batch.records(config.max_decompressed_bytes as usize).map_err(invalid)?;
    if records.is_empty() {
        return field("the number of records", 0, "1 or more");
    }
    let span = header.last_offset - header.base_offset + 1;
    if records.len() as u64 != span {
        return field("the number of records", records.len() as i64, "that of the offsets in the batch");
    }
    Ok((batch, records))
}

pub(super) fn check_encoded_records(records: &RecordSet, config: &LogConfig, now: i64) -> Result<()> {
    for (index, record) in records.iter().enumerate() {
        check_key(index, record.key().is_some(), config)?;
        check_timestamp(index, record.timestamp(), config, now)?;
    }
    Ok(())
}

/// The batch in the topic's codec, if that is another than its own (Kafka's `LogValidator`, target compression).
pub(super) fn recompress(
    batch: &RecordBatch,
    records: &RecordSet,
    config: &LogConfig,
) -> Result<Option<Vec<u8>>> {
    let header = batch.header();
    let Some(codec) = config.codec().filter(|codec| codec.compression != header.compression) else {
        return Ok(None);
    };
    let options = BatchOptions {
        codec,
        producer_id: header.producer_id.unwrap_or(-1),
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        transactional: header.transactional,
        ..BatchOptions::default()
    };
    let invalid = |source| Error::InvalidBatch { source };
    let mut builder = BatchBuilder::new(options);
    for record in records.iter() {
        builder.push_view(&record).map_err(invalid)?;
    }
    builder.finish().map(Some).map_err(invalid)
}

/// Puts the time into the batch that Kafka's leader would: the append time, or the true largest create time.
fn stamp_time(
    bytes: &mut [u8],
    batch: &RecordBatch,
    records: &RecordSet,
    config: &LogConfig,
    now: i64,
) -> Result<(i64, Option<i64>)> {
    let invalid = |source| Error::InvalidBatch { source };
    if config.message_timestamp_type == TimestampType::LogAppendTime {
        format::stamp_append_time(bytes, now).map_err(invalid)?;
        return Ok((now, Some(now)));
    }
    let largest = records.iter().map(|record| record.timestamp()).max().unwrap_or(-1);
    if largest != batch.header().max_timestamp {
        format::stamp_max_timestamp(bytes, largest).map_err(invalid)?;
    }
    Ok((largest, None))
}

impl LogConfig {
    /// The time given to the records of an append, if the topic stamps them.
    pub(super) fn append_time(&self, now: i64) -> Option<i64> {
        (self.message_timestamp_type == TimestampType::LogAppendTime).then_some(now)
    }
}

impl Log {
    /// Numbers a batch, writes it, and settles it as durability asks. The only way into the log.
    fn write(&self, batch: Prepared<'_>, config: &LogConfig, options: AppendOptions) -> Result<Appended> {
        let begun = self.begin(batch, config, options, None)?;
        self.finish(begun, config)
    }

    /// The first half: numbers a batch and writes it, but never behind one that was cut away since it was written.
    pub(super) fn begin(
        &self,
        batch: Prepared<'_>,
        config: &LogConfig,
        options: AppendOptions,
        after: Option<&Begun>,
    ) -> Result<Begun> {
        let durability =
            options.durability.map_or(config.durability, |asked| asked.stronger(config.durability));
        let size = batch.bytes.len() as u64;
        let (append_time, count) = (batch.append_time, batch.count);
        let mut writer = self.ready_writer()?;
        if after.is_some_and(|after| after.written.life != writer.life) {
            let cause = "what it was to follow is not there any more".to_string();
            return Err(Error::Poisoned { partition: self.id.to_string(), action: "an append", cause });
        }
        let placed = self.place(&mut writer, batch, config, options.origin())?;
        if durability != Durability::Synced {
            self.publish_written(&mut writer);
        }
        let (written, rolled) = (writer.written(), std::mem::take(&mut writer.rolled));
        Ok(Begun { placed, written, rolled, size, count, append_time, durability })
    }

    /// The second half: settles what was written as durability asks.
    pub(super) fn finish(&self, begun: Begun, config: &LogConfig) -> Result<Appended> {
        let appended = begun.appended();
        let Begun { written, size, count, durability, .. } = begun;
        if appended.duplicate {
            // As durable as the first one was to be.
            let end = appended.last_offset + 1;
            self.settle(config, Written { end, ..written }, 0, 0, durability)?;
            return Ok(appended);
        }
        self.settle(config, written, size, count, durability)?;
        self.keep_up(begun.rolled, size);
        Ok(appended)
    }

    /// Lets readers have all that was written, without waiting for the disk.
    pub(super) fn publish_written(&self, writer: &mut Writer) {
        let (position, end) = (writer.active.position(), writer.next_offset);
        self.publish(writer.unsynced.iter(), writer.active.segment(), position, end);
        self.settle_transactions(writer);
    }

    /// The writer, if appends are taken. One poisoned by something that passes, a full disk, heals by itself (P7).
    pub(super) fn ready_writer(&self) -> Result<parking_lot::MutexGuard<'_, Writer>> {
        let mut writer = self.writer.lock();
        if matches!(writer.state, State::Poisoned { retry: true, .. }) {
            drop(writer);
            self.reopen()?;
            writer = self.writer.lock();
        }
        writer.check(&self.id)?;
        Ok(writer)
    }

    /// Under the writer lock: gives the batch its offsets and writes it. If that fails, nothing has changed.
    fn place(
        &self,
        writer: &mut Writer,
        mut batch: Prepared<'_>,
        config: &LogConfig,
        origin: Origin,
    ) -> Result<Placed> {
        let base_offset = writer.next_offset;
        let last_offset = base_offset.saturating_add(batch.count - 1);
        check_last_offset(last_offset)?;
        if let Some(producer) = &mut batch.producer {
            (producer.first_offset, producer.last_offset) = (base_offset, last_offset);
            if let Some(before) = writer.producers.duplicate_of(producer).filter(|_| origin == Origin::Client)
            {
                return Ok(Placed::Before(before));
            }
            let max_producers = config.max_producers as usize;
            writer.producers.check(producer, origin, &self.id, max_producers)?;
        }
        let size = batch.bytes.len() as u64;
        let placed = (|| {
            self.roll_if_full(writer, config, size, last_offset, batch.max_timestamp, batch.now)?;
            format::stamp(batch.bytes, base_offset, writer.leader_epoch)
                .map_err(|source| Error::InvalidBatch { source })?;
            writer.active.append(batch.bytes, last_offset, batch.max_timestamp, batch.now)
        })();
        if let Err(error) = placed {
            writer.refuse_or_poison(&self.id, &error);
            return Err(error);
        }
        writer.next_offset = last_offset + 1;
        writer.appends.count(batch.count, size);
        self.note_appended(writer, batch.producer.as_ref(), base_offset, batch.now);
        Ok(Placed::New { base_offset, last_offset })
    }

    /// Takes note of what a batch that was just written means for its producer and its leader.
    pub(super) fn note_appended(
        &self,
        writer: &mut Writer,
        producer: Option<&ProducerBatch>,
        base_offset: u64,
        now: i64,
    ) {
        if writer.noted_epoch != Some(writer.leader_epoch) {
            self.epochs.lock().assign(writer.leader_epoch, base_offset);
            self.marks.lock().hold();
            writer.noted_epoch = Some(writer.leader_epoch);
        }
        self.note_producer(writer, producer, now);
    }

    pub(super) fn note_producer(&self, writer: &mut Writer, producer: Option<&ProducerBatch>, now: i64) {
        let Some(producer) = producer else { return };
        if let Some(aborted) = writer.producers.apply(producer, now) {
            writer.active.segment().note_aborted(aborted);
            self.marks.lock().hold();
        }
        if !matches!(producer.kind, BatchKind::Data { transactional: false }) {
            self.note_unstable(writer);
        }
    }
}

/// Whether there are offsets left.
pub(super) fn check_last_offset(last_offset: u64) -> Result<()> {
    if last_offset >= OFFSET_MAX {
        let limit = OFFSET_MAX;
        return Err(Error::TooLarge {
            what: "an offset",
            size: last_offset,
            limit,
            setting: "Kafka's format",
        });
    }
    Ok(())
}

impl Writer {
    /// No room and no descriptor are refusals, after which the next append may well work. Anything else is not.
    pub(super) fn refuse_or_poison(&mut self, id: &TopicPartition, error: &Error) {
        if !matches!(error, Error::StorageFull { .. } | Error::TooManyOpenFiles { .. }) {
            self.poison(id, "an append", error);
        }
    }
}

impl LogConfig {
    /// The codec in which the topic stores batches; none if it keeps the producer's.
    pub(super) fn codec(&self) -> Option<Codec> {
        let (compression, level) = match self.compression {
            CompressionType::Producer => return None,
            CompressionType::Uncompressed => (Compression::None, None),
            CompressionType::Gzip => (Compression::Gzip, self.compression_gzip_level),
            CompressionType::Snappy => (Compression::Snappy, None),
            CompressionType::Lz4 => (Compression::Lz4, self.compression_lz4_level),
            CompressionType::Zstd => (Compression::Zstd, self.compression_zstd_level),
        };
        Some(Codec { compression, level })
    }
}
