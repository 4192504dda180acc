//! A `.snapshot` file: what is known of each producer at an offset (Kafka's `ProducerStateManager`).
//!
//! ```text
//!  0 i16 version, 1
//!  2 u32 CRC-32C of all that follows
//!  6 i32 number of entries
//! 10 { i64 producer id                 i16 producer epoch         i32 last sequence
//!      i64 last offset                 i32 offset delta           i64 last timestamp
//!      i32 coordinator epoch           i64 first offset of the open transaction }*
//! ```

use super::checksum::crc32c;
use super::codec::Reader;
use crate::error::FormatError;

const VERSION: i16 = 1;
const CRC_AT: usize = 2;
const COUNT_AT: usize = CRC_AT + 4;
const ENTRIES_AT: usize = COUNT_AT + 4;
const ENTRY_BYTES: usize = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8;
const _: () = assert!(ENTRY_BYTES == 46);

/// What is known of one producer. The numbers are Kafka's: -1 is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerEntry {
    /// The producer.
    pub producer_id: i64,
    /// Its epoch, -1 for none.
    pub producer_epoch: i16,
    /// The last sequence number of its last batch of data, -1 for none.
    pub last_sequence: i32,
    /// The last offset of that batch.
    pub last_offset: Option<u64>,
    /// The last offset of that batch less its first; 0 if there is none.
    pub offset_delta: i32,
    /// The largest timestamp of that batch, or the time of a later marker; -1 for none.
    pub last_timestamp: i64,
    /// The epoch of the coordinator that wrote its last marker, -1 for none.
    pub coordinator_epoch: i32,
    /// The first offset of its open transaction.
    pub transaction_first_offset: Option<u64>,
}

/// What is known of every producer at an offset, which is in the file's name. The order means nothing.
///
/// ```
/// use annals::format::ProducerSnapshot;
/// let none = ProducerSnapshot::default().encode()?;
/// assert_eq!(none.len(), 10);
/// assert_eq!(ProducerSnapshot::decode(&none)?, ProducerSnapshot::default());
/// # Ok::<(), annals::FormatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProducerSnapshot {
    /// The producers.
    pub entries: Vec<ProducerEntry>,
}

impl ProducerSnapshot {
    /// The file's content.
    ///
    /// # Errors
    /// [`FormatError::Limit`] for more entries than the format can count.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let count = i32::try_from(self.entries.len())
            .map_err(|_| FormatError::Limit { what: "number of producers", limit: i32::MAX as u64 })?;
        let mut covered = Vec::with_capacity(ENTRIES_AT + self.entries.len() * ENTRY_BYTES);
        covered.extend_from_slice(&count.to_be_bytes());
        for entry in &self.entries {
            entry.write(&mut covered);
        }
        let mut out = Vec::with_capacity(COUNT_AT + covered.len());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&crc32c(&covered).to_be_bytes());
        out.append(&mut covered);
        Ok(out)
    }

    /// Reads the file's content.
    ///
    /// # Errors
    /// [`FormatError::Version`] for another version, [`FormatError::Checksum`] if the bytes are not what was
    /// written, [`FormatError::Short`], [`FormatError::Trailing`] or [`FormatError::Invalid`] if they are not
    /// whole entries.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "the producer snapshot";
        let mut reader = Reader::new(bytes);
        let version = reader.i16(WHAT)?;
        if version != VERSION {
            return Err(FormatError::Version { what: WHAT, found: version.into(), supported: "1" });
        }
        let stored = reader.u32(WHAT)?;
        let computed = crc32c(reader.rest());
        if stored != computed {
            return Err(FormatError::Checksum { what: WHAT, stored, computed });
        }
        let count = reader.i32("number of producers")?;
        let count = usize::try_from(count).map_err(|_| FormatError::Invalid {
            what: "number of producers",
            found: count.into(),
            expected: "at least 0",
        })?;
        let mut entries = Reader::new(reader.take(count.saturating_mul(ENTRY_BYTES), "producer entries")?);
        reader.finish(WHAT)?;
        let entries = (0..count).map(|_| ProducerEntry::read(&mut entries)).collect::<Result<_, _>>()?;
        Ok(ProducerSnapshot { entries })
    }
}

impl ProducerEntry {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.producer_id.to_be_bytes());
        out.extend_from_slice(&self.producer_epoch.to_be_bytes());
        out.extend_from_slice(&self.last_sequence.to_be_bytes());
        out.extend_from_slice(&offset_or_none(self.last_offset).to_be_bytes());
        out.extend_from_slice(&self.offset_delta.to_be_bytes());
        out.extend_from_slice(&self.last_timestamp.to_be_bytes());
        out.extend_from_slice(&self.coordinator_epoch.to_be_bytes());
        out.extend_from_slice(&offset_or_none(self.transaction_first_offset).to_be_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(ProducerEntry {
            producer_id: reader.i64("producer id")?,
            producer_epoch: reader.i16("producer epoch")?,
            last_sequence: reader.i32("last sequence")?,
            last_offset: optional_offset(reader, "last offset")?,
            offset_delta: reader.i32("offset delta")?,
            last_timestamp: reader.i64("last timestamp")?,
            coordinator_epoch: reader.i32("coordinator epoch")?,
            transaction_first_offset: optional_offset(reader, "first offset of the open transaction")?,
        })
    }
}

fn offset_or_none(offset: Option<u64>) -> i64 {
    offset.map_or(-1, |offset| offset as i64)
}

fn optional_offset(reader: &mut Reader<'_>, what: &'static str) -> Result<Option<u64>, FormatError> {
    match reader.i64(what)? {
        -1 => Ok(None),
        found => match u64::try_from(found) {
            Ok(offset) => Ok(Some(offset)),
            Err(_) => Err(FormatError::Invalid { what, found, expected: "at least -1" }),
        },
    }
}
