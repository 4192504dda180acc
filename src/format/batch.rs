//! A stored batch: its frame, its header, its checksum, and the fields that may be stamped after it was
//! encoded.
//!
//! A `.log` file is batches one behind the other, nothing before, between or after them. The header of a v2
//! batch (Kafka's `DefaultRecordBatch`), all integers big-endian:
//!
//! ```text
//!  0 i64 base offset            never changed by compaction
//!  8 i32 batch length           bytes that follow this field
//! 12 i32 partition leader epoch -1 = none
//! 16 i8  magic                  2
//! 17 u32 CRC-32C                of all that follows
//! 21 i16 attributes             bits 0-2 codec, 3 append time, 4 transactional, 5 control, 6 delete horizon
//! 23 i32 last offset delta      as first written
//! 27 i64 base timestamp         or the delete horizon, if attribute bit 6 is set
//! 35 i64 max timestamp          -1 = none
//! 43 i64 producer id            -1 = none
//! 51 i16 producer epoch         -1 = none
//! 53 i32 base sequence          -1 = none
//! 57 i32 number of records      really present
//! 61     records, compressed as one piece if at all
//! ```
//!
//! What stands before the checksum lies outside it, so that offset and epoch can be set without computing it
//! again. In batches of magic 0 and 1 (see `legacy`) offset, length and magic stand at the same places.

use byteorder::{BigEndian, ByteOrder};
use bytes::Bytes;

use super::checksum::{crc32, crc32c};
use super::codec::Reader;
use super::compression::{Compression, decompress};
use super::legacy;
use super::record_set::RecordSet;
use crate::error::FormatError;
use crate::types::OFFSET_MAX;

const BASE_OFFSET: usize = 0;
const LENGTH: usize = BASE_OFFSET + 8;
const LEADER_EPOCH: usize = LENGTH + 4;
const MAGIC: usize = LEADER_EPOCH + 4;
const CRC: usize = MAGIC + 1;
const ATTRIBUTES: usize = CRC + 4;
const LAST_OFFSET_DELTA: usize = ATTRIBUTES + 2;
const BASE_TIMESTAMP: usize = LAST_OFFSET_DELTA + 4;
const MAX_TIMESTAMP: usize = BASE_TIMESTAMP + 8;
const PRODUCER_ID: usize = MAX_TIMESTAMP + 8;
const PRODUCER_EPOCH: usize = PRODUCER_ID + 8;
const BASE_SEQUENCE: usize = PRODUCER_EPOCH + 2;
const RECORDS_COUNT: usize = BASE_SEQUENCE + 4;
const RECORDS: usize = RECORDS_COUNT + 4;

/// The offset and the length in front of every batch of any magic: what the length does not count.
pub const LOG_OVERHEAD: usize = LEADER_EPOCH;

/// The header of a v2 batch, in bytes.
pub const RECORD_BATCH_OVERHEAD: usize = RECORDS;

const _: () = assert!(LOG_OVERHEAD == 12 && CRC == Frame::LEN && RECORD_BATCH_OVERHEAD == 61);
const _: () = assert!(legacy::CRC_AT == LOG_OVERHEAD && legacy::CRC_COVERS_FROM == MAGIC);

/// The largest batch, so that its size fits an `i32` as Kafka holds it.
pub(super) const BATCH_BYTES_MAX: usize = i32::MAX as usize;

/// The version of the batches that are written.
const MAGIC_2: u8 = 2;

// The low byte of the attributes; the high one is unused.
const CODEC_MASK: u8 = 0x07;
const APPEND_TIME_FLAG: u8 = 0x08;
const TRANSACTIONAL_FLAG: u8 = 0x10;
const CONTROL_FLAG: u8 = 0x20;
const DELETE_HORIZON_FLAG: u8 = 0x40;

/// The first 17 bytes of a batch of any magic: enough to step to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The base offset; for magic 0 and 1 the last offset of a compressed message, or the offset of a single
    /// one.
    pub offset: u64,
    /// The whole batch in bytes, this frame included: the length field plus [`LOG_OVERHEAD`].
    pub size: u64,
    /// The version: 0, 1 or 2.
    pub magic: u8,
}

impl Frame {
    /// Bytes that [`parse`](Self::parse) needs.
    pub const LEN: usize = CRC;

    /// Reads the frame at the front of `bytes`; more may follow.
    ///
    /// # Errors
    /// [`FormatError::Short`] for fewer than 17 bytes. [`FormatError::Invalid`] for a negative offset, a magic
    /// that is not 0 to 2, or a length too small for that magic or too large for any batch.
    pub fn parse(bytes: &[u8]) -> Result<Frame, FormatError> {
        let mut reader = Reader::new(bytes);
        let mut frame = Reader::new(reader.take(Frame::LEN, "batch frame")?);
        let offset = frame.offset("base offset")?;
        let length = frame.i32("batch length")?;
        frame.i32("partition leader epoch")?;
        let magic = frame.i8("magic")?;
        let length_min = match magic {
            0 => legacy::MESSAGE_BYTES_MIN[0],
            1 => legacy::MESSAGE_BYTES_MIN[1],
            2 => (RECORD_BATCH_OVERHEAD - LOG_OVERHEAD) as u32,
            _ => return Err(FormatError::Invalid { what: "magic", found: magic.into(), expected: "0 to 2" }),
        };
        let length_max = (BATCH_BYTES_MAX - LOG_OVERHEAD) as u32;
        let length = u32::try_from(length)
            .ok()
            .filter(|length| (length_min..=length_max).contains(length))
            .ok_or(FormatError::Invalid {
            what: "batch length",
            found: length.into(),
            expected: "the overhead of a batch to 2147483635",
        })?;
        Ok(Frame { offset, size: u64::from(length) + LOG_OVERHEAD as u64, magic: magic as u8 })
    }
}

/// Whose clock a batch's timestamps come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// Each record has the time that its producer gave it.
    #[default]
    CreateTime,
    /// All records have the time at which the batch was appended.
    LogAppendTime,
}

/// What the header of a batch says; for a message of magic 0 or 1, the same as far as it says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHeader {
    /// The offset of the first record as first written (compaction may have removed that record). Of a
    /// *compressed* legacy message it is unknown until that is decompressed: there it equals `last_offset`.
    pub base_offset: u64,
    /// The last offset that the batch takes up, whether or not a record with it is left.
    pub last_offset: u64,
    /// The whole batch in bytes.
    pub size: u64,
    /// The leader epoch in which it was appended; never known of legacy messages.
    pub leader_epoch: Option<i32>,
    /// The version: 0, 1 or 2.
    pub magic: u8,
    /// The checksum stored: CRC-32C for magic 2, CRC-32 for legacy messages.
    pub crc: u32,
    /// How the records are compressed.
    pub compression: Compression,
    /// Whose clock the timestamps come from.
    pub timestamp_type: TimestampType,
    /// Whether it belongs to a transaction.
    pub transactional: bool,
    /// Whether it holds control records, which are not for applications.
    pub control: bool,
    /// When the tombstones and markers in it may go, in milliseconds since the epoch; set by compaction.
    pub delete_horizon: Option<i64>,
    /// What the records' timestamps are relative to: *not* a record's time when `delete_horizon` is set.
    pub base_timestamp: i64,
    /// The largest timestamp of its records, or the append time; -1 if it has none.
    pub max_timestamp: i64,
    /// The producer, if it was idempotent or transactional.
    pub producer_id: Option<i64>,
    /// The producer's epoch, -1 for none.
    pub producer_epoch: i16,
    /// The sequence number of the first record as first written, -1 for none.
    pub base_sequence: i32,
    /// How many records are left in it; unknown of a compressed legacy message.
    pub records_count: Option<u32>,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`: 61 bytes for magic 2, 26 for magic 1, 18 for magic 0. More
    /// may follow. The checksum is not looked at, since it covers the whole batch; [`verify`] does that.
    ///
    /// # Errors
    /// As [`Frame::parse`], and [`FormatError::Invalid`] for a field that no writer could have filled so.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, FormatError> {
        BatchHeader::behind(Frame::parse(bytes)?, bytes)
    }

    /// Reads the header at the front of `bytes`, of which the frame was read before.
    fn behind(frame: Frame, bytes: &[u8]) -> Result<BatchHeader, FormatError> {
        if frame.magic < MAGIC_2 {
            return legacy::parse_header(bytes);
        }
        let header: &[u8; RECORD_BATCH_OVERHEAD] = bytes.first_chunk().ok_or(FormatError::Short {
            what: "batch header",
            needed: RECORD_BATCH_OVERHEAD as u64,
            available: bytes.len() as u64,
        })?;
        let attributes = header[ATTRIBUTES + 1];
        let base_timestamp = BigEndian::read_i64(&header[BASE_TIMESTAMP..MAX_TIMESTAMP]);
        let append_time = attributes & APPEND_TIME_FLAG != 0;
        Ok(BatchHeader {
            base_offset: frame.offset,
            last_offset: last_offset(frame.offset, header)?,
            size: frame.size,
            leader_epoch: leader_epoch(BigEndian::read_i32(&header[LEADER_EPOCH..MAGIC]))?,
            magic: frame.magic,
            crc: BigEndian::read_u32(&header[CRC..ATTRIBUTES]),
            compression: Compression::from_id(attributes & CODEC_MASK)?,
            timestamp_type: if append_time {
                TimestampType::LogAppendTime
            } else {
                TimestampType::CreateTime
            },
            transactional: attributes & TRANSACTIONAL_FLAG != 0,
            control: attributes & CONTROL_FLAG != 0,
            delete_horizon: (attributes & DELETE_HORIZON_FLAG != 0).then_some(base_timestamp),
            base_timestamp,
            max_timestamp: BigEndian::read_i64(&header[MAX_TIMESTAMP..PRODUCER_ID]),
            producer_id: Some(BigEndian::read_i64(&header[PRODUCER_ID..PRODUCER_EPOCH]))
                .filter(|&id| id >= 0),
            producer_epoch: BigEndian::read_i16(&header[PRODUCER_EPOCH..BASE_SEQUENCE]),
            base_sequence: BigEndian::read_i32(&header[BASE_SEQUENCE..RECORDS_COUNT]),
            records_count: Some(not_negative(
                "number of records",
                BigEndian::read_i32(&header[RECORDS_COUNT..RECORDS]),
            )?),
        })
    }

    /// Whether [`base_offset`](Self::base_offset) is what it says: of a compressed legacy message it is not known.
    pub fn base_offset_known(&self) -> bool {
        self.magic >= MAGIC_2 || self.compression == Compression::None
    }

    /// The offset after the last one that the batch takes up.
    pub fn next_offset(&self) -> u64 {
        self.last_offset.saturating_add(1)
    }

    /// The sequence number of the last record as first written, -1 for none.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            -1
        } else {
            increment_sequence(self.base_sequence, self.last_offset_delta())
        }
    }

    /// The last offset relative to the first: at most `i32::MAX` in every header that was parsed or built.
    pub(super) fn last_offset_delta(&self) -> i32 {
        let delta = self.last_offset.saturating_sub(self.base_offset);
        i32::try_from(delta).unwrap_or(i32::MAX)
    }

    /// Writes the header over the front of `batch`, which holds the records behind it already, and the
    /// checksum of both.
    ///
    /// # Errors
    /// [`FormatError::Limit`] if the batch is too large for the format.
    pub(super) fn seal(&self, batch: &mut [u8]) -> Result<(), FormatError> {
        let too_large = FormatError::Limit { what: "batch", limit: BATCH_BYTES_MAX as u64 };
        let length = i32::try_from(batch.len()).map_err(|_| too_large)?.saturating_sub(LOG_OVERHEAD as i32);
        let available = batch.len() as u64;
        let header: &mut [u8; RECORD_BATCH_OVERHEAD] = batch.first_chunk_mut().ok_or(FormatError::Short {
            what: "batch",
            needed: RECORD_BATCH_OVERHEAD as u64,
            available,
        })?;
        BigEndian::write_u64(&mut header[BASE_OFFSET..LENGTH], self.base_offset);
        BigEndian::write_i32(&mut header[LENGTH..LEADER_EPOCH], length);
        BigEndian::write_i32(&mut header[LEADER_EPOCH..MAGIC], self.leader_epoch.unwrap_or(-1));
        header[MAGIC] = MAGIC_2;
        BigEndian::write_u16(&mut header[ATTRIBUTES..LAST_OFFSET_DELTA], self.attributes().into());
        BigEndian::write_i32(&mut header[LAST_OFFSET_DELTA..BASE_TIMESTAMP], self.last_offset_delta());
        BigEndian::write_i64(&mut header[BASE_TIMESTAMP..MAX_TIMESTAMP], self.base_timestamp);
        BigEndian::write_i64(&mut header[MAX_TIMESTAMP..PRODUCER_ID], self.max_timestamp);
        BigEndian::write_i64(&mut header[PRODUCER_ID..PRODUCER_EPOCH], self.producer_id.unwrap_or(-1));
        BigEndian::write_i16(&mut header[PRODUCER_EPOCH..BASE_SEQUENCE], self.producer_epoch);
        BigEndian::write_i32(&mut header[BASE_SEQUENCE..RECORDS_COUNT], self.base_sequence);
        BigEndian::write_u32(&mut header[RECORDS_COUNT..RECORDS], self.records_count.unwrap_or_default());
        write_crc(batch);
        Ok(())
    }

    fn attributes(&self) -> u8 {
        let flag = |set, flag| if set { flag } else { 0 };
        self.compression.id()
            | flag(self.timestamp_type == TimestampType::LogAppendTime, APPEND_TIME_FLAG)
            | flag(self.transactional, TRANSACTIONAL_FLAG)
            | flag(self.control, CONTROL_FLAG)
            | flag(self.delete_horizon.is_some(), DELETE_HORIZON_FLAG)
    }
}

fn last_offset(base: u64, header: &[u8; RECORD_BATCH_OVERHEAD]) -> Result<u64, FormatError> {
    let delta = BigEndian::read_i32(&header[LAST_OFFSET_DELTA..BASE_TIMESTAMP]);
    checked_last_offset(base, not_negative("last offset delta", delta)?)
}

/// The last offset of a batch, if it is one.
pub(super) fn checked_last_offset(base: u64, delta: u32) -> Result<u64, FormatError> {
    base.checked_add(delta.into()).filter(|&last| last <= OFFSET_MAX).ok_or(FormatError::Invalid {
        what: "base offset",
        found: base as i64,
        expected: "one from which the last offset of the batch fits 63 bits",
    })
}

fn leader_epoch(found: i32) -> Result<Option<i32>, FormatError> {
    match found {
        -1 => Ok(None),
        0.. => Ok(Some(found)),
        _ => Err(FormatError::Invalid {
            what: "partition leader epoch",
            found: found.into(),
            expected: "at least -1",
        }),
    }
}

fn not_negative(what: &'static str, found: i32) -> Result<u32, FormatError> {
    u32::try_from(found).map_err(|_| FormatError::Invalid {
        what,
        found: found.into(),
        expected: "at least 0",
    })
}

/// One stored batch of any magic whose size, checksum and header were verified. Its records are checked when
/// they are asked for.
///
/// ```
/// use annals::format::{BatchBuilder, BatchOptions, Record, RecordBatch};
/// let mut builder = BatchBuilder::new(BatchOptions { base_offset: 40, ..BatchOptions::default() });
/// builder.push(&Record::new("first").timestamp(1_700_000_000_000))?;
/// builder.push(&Record::new("second").key("k").timestamp(1_700_000_000_001))?;
/// let batch = RecordBatch::parse(builder.finish()?.into())?;
/// assert_eq!((batch.base_offset(), batch.next_offset()), (40, 42));
/// let records = batch.records(1 << 20)?;
/// assert_eq!(records.iter().map(|record| record.offset()).collect::<Vec<_>>(), [40, 41]);
/// # Ok::<(), annals::FormatError>(())
/// ```
#[derive(Debug, Clone)]
pub struct RecordBatch {
    bytes: Bytes,
    header: BatchHeader,
}

impl RecordBatch {
    /// Takes exactly one batch.
    ///
    /// # Errors
    /// As [`verify`].
    pub fn parse(bytes: Bytes) -> Result<RecordBatch, FormatError> {
        let header = verify(&bytes)?;
        Ok(RecordBatch { bytes, header })
    }

    /// What its header says.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The batch as stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The batch as stored, to be shared without a copy.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The offset of its first record as first written; see [`BatchHeader::base_offset`] about legacy
    /// messages.
    pub fn base_offset(&self) -> u64 {
        self.header.base_offset
    }

    /// The last offset that it takes up.
    pub fn last_offset(&self) -> u64 {
        self.header.last_offset
    }

    /// The offset after the last one that it takes up.
    pub fn next_offset(&self) -> u64 {
        self.header.next_offset()
    }

    /// All its records, decompressed into at most `limit` bytes and each checked to its last byte. Records
    /// that are not compressed share this batch's memory and are not limited. Control records come like any
    /// other.
    ///
    /// # Errors
    /// [`FormatError::Limit`] if they take more than `limit` bytes, [`FormatError::CodecDisabled`] if their
    /// codec was compiled out, any other [`FormatError`] if the bytes are not records as the header describes
    /// them.
    pub fn records(&self, limit: usize) -> Result<RecordSet, FormatError> {
        if self.header.magic < MAGIC_2 {
            return legacy::decode(&self.bytes, &self.header, limit);
        }
        let payload = self.bytes.slice(RECORDS.min(self.bytes.len())..);
        // A batch that was emptied keeps no payload to decompress.
        let payload = match self.header.compression {
            Compression::None => payload,
            _ if payload.is_empty() && self.header.records_count == Some(0) => payload,
            compression => decompress(compression, self.header.magic, &payload, limit)?.into(),
        };
        RecordSet::decode(payload, &self.header)
    }
}

/// Checks that `bytes` are exactly one batch of any magic: its size, its checksum, and its header. Records
/// are not looked at.
///
/// # Errors
/// [`FormatError::Short`] or [`FormatError::Trailing`] if `bytes` is not one whole batch,
/// [`FormatError::Checksum`] if they are not what was written, otherwise as [`BatchHeader::parse`].
pub fn verify(bytes: &[u8]) -> Result<BatchHeader, FormatError> {
    const WHAT: &str = "the batch";
    let frame = whole_frame(bytes)?;
    let mut reader = Reader::new(bytes);
    let (stored, computed) = if frame.magic < MAGIC_2 {
        reader.take(legacy::CRC_AT, WHAT)?;
        (reader.u32(WHAT)?, crc32(reader.rest()))
    } else {
        reader.take(CRC, WHAT)?;
        (reader.u32(WHAT)?, crc32c(reader.rest()))
    };
    // Checked before the header, so that a damaged field is called damage and not a strange value.
    if stored != computed {
        return Err(FormatError::Checksum { what: WHAT, stored, computed });
    }
    BatchHeader::behind(frame, bytes)
}

/// The frame of exactly one batch.
fn whole_frame(bytes: &[u8]) -> Result<Frame, FormatError> {
    let frame = Frame::parse(bytes)?;
    let (needed, available) = (frame.size, bytes.len() as u64);
    match available.checked_sub(needed) {
        Some(0) => Ok(frame),
        Some(extra) => Err(FormatError::Trailing { what: "the batch", extra }),
        None => Err(FormatError::Short { what: "the batch", needed, available }),
    }
}

/// Sets where an encoded v2 batch goes. Both fields lie outside the checksum.
///
/// # Errors
/// [`FormatError`] if `batch` does not begin with a v2 header, or its last offset or the epoch (at least -1,
/// which is none) would be out of range. The batch is unchanged then.
pub fn stamp(batch: &mut [u8], base_offset: u64, epoch: i32) -> Result<(), FormatError> {
    let header = current_header(batch)?;
    let delta = BigEndian::read_i32(&header[LAST_OFFSET_DELTA..BASE_TIMESTAMP]);
    checked_last_offset(base_offset, not_negative("last offset delta", delta)?)?;
    leader_epoch(epoch)?;
    BigEndian::write_u64(&mut header[BASE_OFFSET..LENGTH], base_offset);
    BigEndian::write_i32(&mut header[LEADER_EPOCH..MAGIC], epoch);
    Ok(())
}

/// Gives all records of an encoded v2 batch the time of its append, and computes the checksum again.
///
/// # Errors
/// [`FormatError`] if `batch` is not exactly one v2 batch or `millis` is negative. The batch is unchanged
/// then.
pub fn stamp_append_time(batch: &mut [u8], millis: i64) -> Result<(), FormatError> {
    if millis < 0 {
        return Err(FormatError::Invalid { what: "append time", found: millis, expected: "at least 0" });
    }
    whole_frame(batch)?;
    let header = current_header(batch)?;
    header[ATTRIBUTES + 1] |= APPEND_TIME_FLAG;
    BigEndian::write_i64(&mut header[MAX_TIMESTAMP..PRODUCER_ID], millis);
    write_crc(batch);
    Ok(())
}

/// Corrects the largest timestamp of an encoded v2 batch, and computes the checksum again.
///
/// # Errors
/// [`FormatError`] if `batch` is not exactly one v2 batch or `millis` is below -1, which is none. The batch is
/// unchanged then.
pub fn stamp_max_timestamp(batch: &mut [u8], millis: i64) -> Result<(), FormatError> {
    if millis < -1 {
        return Err(FormatError::Invalid {
            what: "largest timestamp",
            found: millis,
            expected: "at least -1",
        });
    }
    whole_frame(batch)?;
    let header = current_header(batch)?;
    BigEndian::write_i64(&mut header[MAX_TIMESTAMP..PRODUCER_ID], millis);
    write_crc(batch);
    Ok(())
}

/// Makes an encoded v2 batch another one of its producer, and computes the checksum again.
pub(crate) fn stamp_producer(
    batch: &mut [u8],
    id: i64,
    epoch: i16,
    base_sequence: i32,
) -> Result<(), FormatError> {
    whole_frame(batch)?;
    let header = current_header(batch)?;
    BigEndian::write_i64(&mut header[PRODUCER_ID..PRODUCER_EPOCH], id);
    BigEndian::write_i16(&mut header[PRODUCER_EPOCH..BASE_SEQUENCE], epoch);
    BigEndian::write_i32(&mut header[BASE_SEQUENCE..RECORDS_COUNT], base_sequence);
    write_crc(batch);
    Ok(())
}

fn current_header(batch: &mut [u8]) -> Result<&mut [u8; RECORD_BATCH_OVERHEAD], FormatError> {
    let available = batch.len() as u64;
    let header: &mut [u8; RECORD_BATCH_OVERHEAD] = batch.first_chunk_mut().ok_or(FormatError::Short {
        what: "batch header",
        needed: RECORD_BATCH_OVERHEAD as u64,
        available,
    })?;
    match header[MAGIC] {
        MAGIC_2 => Ok(header),
        other => Err(FormatError::Invalid { what: "magic", found: other.into(), expected: "2" }),
    }
}

fn write_crc(batch: &mut [u8]) {
    let (head, covered) = batch.split_at_mut_checked(ATTRIBUTES).unwrap_or_default();
    let crc = crc32c(covered);
    if let Some(field) = head.get_mut(CRC..) {
        field.copy_from_slice(&crc.to_be_bytes());
    }
}

/// What compaction leaves of a v2 batch none of whose records stay: its header alone, which keeps its offsets
/// and its producer's state.
///
/// # Errors
/// [`FormatError::Invalid`] for the header of a legacy message, which cannot be kept so.
pub fn encode_empty(header: &BatchHeader) -> Result<Vec<u8>, FormatError> {
    if header.magic < MAGIC_2 {
        return Err(FormatError::Invalid { what: "magic", found: header.magic.into(), expected: "2" });
    }
    let mut batch = vec![0; RECORD_BATCH_OVERHEAD];
    let empty = BatchHeader {
        compression: Compression::None,
        delete_horizon: None,
        base_timestamp: -1,
        records_count: Some(0),
        ..header.clone()
    };
    empty.seal(&mut batch)?;
    Ok(batch)
}

/// The sequence number `delta` after `sequence`: 0 comes after `i32::MAX`. Both must not be negative.
///
/// ```
/// assert_eq!(annals::format::increment_sequence(i32::MAX, 1), 0);
/// ```
pub fn increment_sequence(sequence: i32, delta: i32) -> i32 {
    // The numbers are a ring of 2^31, so the sign bit is what falls off.
    sequence.wrapping_add(delta) & i32::MAX
}

/// The sequence number `delta` before `sequence`: `i32::MAX` comes before 0. Both must not be negative.
///
/// ```
/// assert_eq!(annals::format::decrement_sequence(0, 1), i32::MAX);
/// ```
pub fn decrement_sequence(sequence: i32, delta: i32) -> i32 {
    sequence.wrapping_sub(delta) & i32::MAX
}
