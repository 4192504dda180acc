//! Messages of magic 0 and 1, which old logs hold: read, never written (Kafka's `LegacyRecord`,
//! `AbstractLegacyRecordBatch`).
//!
//! ```text
//!  0 i64 offset           of a compressed wrapper: the offset of its LAST inner message
//!  8 i32 size             of all that follows
//! 12 u32 CRC-32           of all from the magic on
//! 16 i8  magic            0 or 1
//! 17 i8  attributes       bits 0-2 codec, bit 3 (magic 1) append time
//! 18 i64 timestamp        magic 1 only
//!    i32 key length, -1 = null; key; i32 value length, -1 = null; value
//! ```
//!
//! A compressed message is a wrapper: its value is the compressed concatenation of whole messages. Inner
//! offsets are absolute in magic 0; in magic 1 they count from the first message of the wrapper.

use bytes::Bytes;

use super::batch::{BatchHeader, LOG_OVERHEAD, TimestampType};
use super::checksum::crc32;
use super::codec::Reader;
use super::compression::{Compression, decompress};
use super::record::RecordView;
use super::record_set::{RecordSet, check_order};
use crate::error::FormatError;

/// Bytes of the smallest message after offset and size, by magic.
pub(super) const MESSAGE_BYTES_MIN: [u32; 2] = [14, 22];

/// Where the checksum stands, and where what it covers begins.
pub(super) const CRC_AT: usize = LOG_OVERHEAD;
pub(super) const CRC_COVERS_FROM: usize = CRC_AT + 4;

const CODEC_MASK: u8 = 0x07;
const APPEND_TIME_FLAG: u8 = 0x08;
const MAGIC_1: u8 = 1;

/// The part before key and value.
struct Prefix {
    offset: u64,
    size: u32,
    crc: u32,
    magic: u8,
    compression: Compression,
    timestamp_type: TimestampType,
    timestamp: i64,
}

impl Prefix {
    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let offset = reader.offset("message offset")?;
        let size = reader.i32("message size")?;
        let crc = reader.u32("message checksum")?;
        let magic = reader.i8("message magic")?;
        let attributes = reader.i8("message attributes")? as u8;
        let (size_min, timestamp) = match magic {
            0 => (MESSAGE_BYTES_MIN[0], -1),
            1 => (MESSAGE_BYTES_MIN[1], reader.i64("message timestamp")?),
            _ => {
                return Err(FormatError::Invalid {
                    what: "message magic",
                    found: magic.into(),
                    expected: "0 or 1",
                });
            }
        };
        let size = u32::try_from(size).ok().filter(|&size| size >= size_min).ok_or(FormatError::Invalid {
            what: "message size",
            found: size.into(),
            expected: "at least the overhead of a message",
        })?;
        let compression = Compression::from_id(attributes & CODEC_MASK)?;
        if compression == Compression::Zstd {
            return Err(FormatError::Invalid {
                what: "compression type of a legacy message",
                found: compression.id().into(),
                expected: "0 (none) to 3 (lz4)",
            });
        }
        let append_time = magic == 1 && attributes & APPEND_TIME_FLAG != 0;
        let timestamp_type =
            if append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
        Ok(Prefix { offset, size, crc, magic: magic as u8, compression, timestamp_type, timestamp })
    }
}

/// What the prefix of a message says, in the words of a batch header.
pub(super) fn parse_header(bytes: &[u8]) -> Result<BatchHeader, FormatError> {
    let prefix = Prefix::read(&mut Reader::new(bytes))?;
    Ok(BatchHeader {
        base_offset: prefix.offset,
        last_offset: prefix.offset,
        size: LOG_OVERHEAD as u64 + u64::from(prefix.size),
        leader_epoch: None,
        magic: prefix.magic,
        crc: prefix.crc,
        compression: prefix.compression,
        timestamp_type: prefix.timestamp_type,
        transactional: false,
        control: false,
        delete_horizon: None,
        base_timestamp: prefix.timestamp,
        max_timestamp: prefix.timestamp,
        producer_id: None,
        producer_epoch: -1,
        base_sequence: -1,
        records_count: (prefix.compression == Compression::None).then_some(1),
    })
}

/// What turns an inner message into a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageContext {
    /// Added to every inner offset; not zero only inside a wrapper of magic 1.
    offset_shift: u64,
    /// The timestamp of all messages if the wrapper has append time.
    append_time: Option<i64>,
}

impl MessageContext {
    pub(super) fn read<'a>(&self, reader: &mut Reader<'a>) -> Result<RecordView<'a>, FormatError> {
        let message = Message::read(reader)?;
        Ok(RecordView {
            // Both are below 2^63, so this cannot overflow.
            offset: self.offset_shift + message.prefix.offset,
            timestamp: self.append_time.unwrap_or(message.prefix.timestamp),
            sequence: -1,
            key: message.key,
            value: message.value,
            headers: &[],
            header_count: 0,
        })
    }
}

struct Message<'a> {
    prefix: Prefix,
    /// All that its checksum covers.
    covered: &'a [u8],
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

impl<'a> Message<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, FormatError> {
        let prefix = Prefix::read(&mut reader.clone())?;
        let bytes = reader.take(LOG_OVERHEAD + prefix.size as usize, "message")?;
        let covered = bytes.get(CRC_COVERS_FROM..).unwrap_or_default();
        let mut body = Reader::new(bytes);
        Prefix::read(&mut body)?;
        let key_length = body.i32("message key length")?;
        let key = body.nullable(key_length, "message key")?;
        let value_length = body.i32("message value length")?;
        let value = body.nullable(value_length, "message value")?;
        body.finish("the message")?;
        Ok(Message { prefix, covered, key, value })
    }

    fn check_crc(&self) -> Result<(), FormatError> {
        match crc32(self.covered) {
            computed if computed == self.prefix.crc => Ok(()),
            computed => {
                Err(FormatError::Checksum { what: "the inner message", stored: self.prefix.crc, computed })
            }
        }
    }
}

/// The records of a message or wrapper whose size and checksum were verified.
pub(super) fn decode(bytes: &Bytes, header: &BatchHeader, limit: usize) -> Result<RecordSet, FormatError> {
    let message = Message::read(&mut Reader::new(bytes))?;
    if header.compression == Compression::None {
        let context = MessageContext { offset_shift: 0, append_time: None };
        return Ok(RecordSet::from_legacy(bytes.clone(), context, 1));
    }
    let value = message.value.ok_or(FormatError::Invalid {
        what: "value length of a compressed message",
        found: -1,
        expected: "at least 0",
    })?;
    let inner = decompress(header.compression, header.magic, value, limit)?;
    let (count, last_inner) = check_inner(&inner)?;
    let context = MessageContext {
        offset_shift: offset_shift(header, last_inner)?,
        append_time: match header.timestamp_type {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp),
        },
    };
    Ok(RecordSet::from_legacy(inner.into(), context, count))
}

/// Checks every inner message; returns how many there are and the offset field of the last.
fn check_inner(inner: &[u8]) -> Result<(u32, u64), FormatError> {
    let mut reader = Reader::new(inner);
    let (mut count, mut previous) = (0u32, None);
    while reader.remaining() > 0 {
        let message = Message::read(&mut reader)?;
        message.check_crc()?;
        if message.prefix.compression != Compression::None {
            return Err(FormatError::Invalid {
                what: "compression type of an inner message",
                found: message.prefix.compression.id().into(),
                expected: "0 (none)",
            });
        }
        check_order(previous, message.prefix.offset, u64::MAX)?;
        previous = Some(message.prefix.offset);
        count = count.saturating_add(1);
    }
    match previous {
        Some(last) => Ok((count, last)),
        None => {
            Err(FormatError::Invalid { what: "number of inner messages", found: 0, expected: "at least 1" })
        }
    }
}

/// What to add to inner offsets.
fn offset_shift(header: &BatchHeader, last_inner: u64) -> Result<u64, FormatError> {
    // Some producers left the wrapper's offset at 0; then the inner ones count from 0 (librdkafka).
    if header.magic == MAGIC_1 && header.last_offset == 0 {
        return Ok(0);
    }
    let shift = header.last_offset.checked_sub(last_inner).ok_or(FormatError::Invalid {
        what: "offset of a compressed message",
        found: header.last_offset as i64,
        expected: "at least that of its last inner message",
    })?;
    Ok(if header.magic == MAGIC_1 { shift } else { 0 })
}
