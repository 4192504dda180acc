//! The text files: `leader-epoch-checkpoint`, the offset checkpoints, `partition.metadata` and the marker of
//! a clean shutdown (Kafka's `CheckpointFile`, `PartitionMetadataFile`, `CleanShutdownFileHandler`).
//!
//! A checkpoint is a version line (`0`), a line with the number of entries, and a line for each; an empty
//! file has none.

use std::fmt::Write;

use crate::error::FormatError;
use crate::types::{TopicName, TopicPartition, Uuid};

const CHECKPOINT_VERSION: i64 = 0;
const PARTITION_MAX: u32 = i32::MAX as u32;

/// The first offset of a leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEntry {
    /// The epoch, not negative.
    pub epoch: i32,
    /// The offset of the first record appended in it.
    pub start_offset: u64,
}

/// The content of `leader-epoch-checkpoint`: where each leader epoch began. Epochs and offsets both rise
/// strictly.
///
/// ```
/// use annals::format::LeaderEpochs;
/// let epochs = LeaderEpochs::decode(b"0\n2\n0 0\n7 100\n")?;
/// assert_eq!(epochs.entries[1].start_offset, 100);
/// assert_eq!(epochs.encode(), "0\n2\n0 0\n7 100\n");
/// # Ok::<(), annals::FormatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaderEpochs {
    /// The epochs, oldest first.
    pub entries: Vec<EpochEntry>,
}

impl LeaderEpochs {
    /// The file's content.
    pub fn encode(&self) -> String {
        encode_lines(&self.entries, |out, entry| writeln!(out, "{} {}", entry.epoch, entry.start_offset))
    }

    /// Reads the file's content.
    ///
    /// # Errors
    /// [`FormatError::Version`] for another version, [`FormatError::Text`] for a line that is not an epoch
    /// and an offset or does not follow the one before it.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut previous: Option<EpochEntry> = None;
        let entries = decode_lines("leader epoch checkpoint", bytes, |line| {
            let mut fields = line.split_whitespace();
            let epoch =
                number(fields.next(), i32::MAX as u64, "the epoch is not a number of 31 bits")? as i32;
            let start_offset = number(fields.next(), i64::MAX as u64, OFFSET)?;
            if fields.next().is_some() {
                return Err("there is more than an epoch and an offset");
            }
            let entry = EpochEntry { epoch, start_offset };
            if previous.is_some_and(|last| epoch <= last.epoch || start_offset <= last.start_offset) {
                return Err("epoch and offset must both be larger than in the line before");
            }
            previous = Some(entry);
            Ok(entry)
        })?;
        Ok(LeaderEpochs { entries })
    }
}

/// The content of an offset checkpoint (recovery points, log starts, high watermarks, cleaned offsets): one
/// offset for each partition of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OffsetCheckpoint {
    /// The offsets, in the order of the file.
    pub entries: Vec<(TopicPartition, u64)>,
}

impl OffsetCheckpoint {
    /// The file's content.
    pub fn encode(&self) -> String {
        encode_lines(&self.entries, |out, (at, offset)| {
            writeln!(out, "{} {} {offset}", at.topic, at.partition)
        })
    }

    /// Reads the file's content.
    ///
    /// # Errors
    /// [`FormatError::Version`] for another version, [`FormatError::Text`] for a line that is not a topic, a
    /// partition and an offset.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let entries = decode_lines("offset checkpoint", bytes, |line| {
            let mut fields = line.split_whitespace();
            let topic =
                fields.next().and_then(|name| TopicName::new(name).ok()).ok_or("not a topic's name")?;
            let partition =
                number(fields.next(), PARTITION_MAX.into(), "the partition is not a number of 31 bits")?
                    as u32;
            let offset = number(fields.next(), i64::MAX as u64, OFFSET)?;
            if fields.next().is_some() {
                return Err("there is more than a topic, a partition and an offset");
            }
            Ok((TopicPartition { topic, partition }, offset))
        })?;
        Ok(OffsetCheckpoint { entries })
    }
}

/// The content of `partition.metadata`: which topic the directory belongs to, whatever that is called.
///
/// ```
/// use annals::format::PartitionMetadata;
/// let text = "version: 0\ntopic_id: AQIDBAUGBwgREhMUFRYXGA";
/// assert_eq!(PartitionMetadata::decode(text.as_bytes())?.encode(), text);
/// # Ok::<(), annals::FormatError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// The version of the file; 0 is written, and higher ones are read alike.
    pub version: i32,
    /// The topic's identity.
    pub topic_id: Uuid,
}

impl PartitionMetadata {
    /// The file of a topic with this identity.
    pub fn new(topic_id: Uuid) -> Self {
        PartitionMetadata { version: 0, topic_id }
    }

    /// The file's content, which does not end its last line.
    pub fn encode(&self) -> String {
        format!("version: {}\ntopic_id: {}", self.version, self.topic_id)
    }

    /// Reads the file's content.
    ///
    /// # Errors
    /// [`FormatError::Text`] if it is not the two lines, or the identity is the reserved zero.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "partition metadata";
        let fail = |line, reason| FormatError::Text { what: WHAT, line, reason };
        let text = text_of(WHAT, bytes)?;
        let mut lines = text.lines();
        let version = field(lines.next(), "version");
        let version = number(version, i32::MAX as u64, "expected `version: ` and a number not negative")
            .map_err(|reason| fail(1, reason))? as i32;
        let topic_id = field(lines.next(), "topic_id")
            .and_then(|id| id.parse::<Uuid>().ok())
            .ok_or(fail(2, "expected `topic_id: ` and an identity of 22 characters"))?;
        if topic_id == Uuid::ZERO {
            return Err(fail(2, "the zero identity is reserved"));
        }
        if lines.any(|line| !line.trim().is_empty()) {
            return Err(fail(3, "there is more than version and topic_id"));
        }
        Ok(PartitionMetadata { version, topic_id })
    }
}

/// The content of `.kafka_cleanshutdown`. That the file is there says all; its content is optional.
///
/// ```
/// assert_eq!(annals::format::clean_shutdown(17), r#"{"version":0,"brokerEpoch":17}"#);
/// ```
pub fn clean_shutdown(broker_epoch: i64) -> String {
    format!(r#"{{"version":0,"brokerEpoch":{broker_epoch}}}"#)
}

const OFFSET: &str = "the offset is not a number of 63 bits";

fn encode_lines<T>(entries: &[T], write_entry: impl Fn(&mut String, &T) -> std::fmt::Result) -> String {
    let mut out = format!("{CHECKPOINT_VERSION}\n{}\n", entries.len());
    for entry in entries {
        // Writing to a string cannot fail.
        let _ = write_entry(&mut out, entry);
    }
    out
}

/// The entries of a checkpoint; `parse` says what is wrong with a line.
fn decode_lines<T>(
    what: &'static str,
    bytes: &[u8],
    mut parse: impl FnMut(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, FormatError> {
    let fail = |line, reason| FormatError::Text { what, line, reason };
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let mut lines = text_of(what, bytes)?.lines();
    let version = lines.next().and_then(|line| line.parse::<i64>().ok());
    match version.ok_or(fail(1, "the version is not a number"))? {
        CHECKPOINT_VERSION => {}
        found => return Err(FormatError::Version { what, found, supported: "0" }),
    }
    const COUNT: &str = "the number of entries is not a number of 31 bits";
    let count = number(lines.next(), i32::MAX as u64, COUNT).map_err(|reason| fail(2, reason))?;
    let entries = lines
        .enumerate()
        .map(|(index, line)| parse(line).map_err(|reason| fail(index + 3, reason)))
        .collect::<Result<Vec<T>, _>>()?;
    if entries.len() as u64 != count {
        return Err(fail(2, "the number of entries is not that of the lines that follow"));
    }
    Ok(entries)
}

fn text_of<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a str, FormatError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        FormatError::Text { what, line, reason: "it is not UTF-8" }
    })
}

/// A decimal number up to `max`, digits only.
fn number(text: Option<&str>, max: u64, reason: &'static str) -> Result<u64, &'static str> {
    text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|&number| number <= max)
        .ok_or(reason)
}

/// What stands behind `key: `.
fn field<'a>(line: Option<&'a str>, key: &str) -> Option<&'a str> {
    let value = line?.strip_prefix(key)?.strip_prefix(':')?;
    let trimmed = value.trim_start();
    (trimmed.len() < value.len()).then_some(trimmed.trim_end())
}
