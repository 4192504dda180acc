//! What a partition is told to do: [`LogConfig`], resolved and validated elsewhere, and [`Durability`].
//!
//! Nothing here parses a setting or knows a default of its own; the topic layer keeps the one table of keys and
//! fills a [`LogConfig`] from it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::TimestampType;

/// When an append is on disk, and therefore what it survives.
///
/// Whatever the level, an append that returned survives the end of the process, `kill -9` included, and what
/// survives is always a prefix of the log: no record is lost from before one that was kept. The levels differ
/// when the machine itself stops: power cut, kernel crash, hard reset.
///
/// | | process killed | machine stops |
/// |---|---|---|
/// | [`Synced`](Durability::Synced) | nothing is lost | nothing is lost |
/// | [`Interval`](Durability::Interval) | nothing is lost | at most what was appended since the last sync |
/// | [`Process`](Durability::Process) | nothing is lost | whatever the system had not written by itself |
///
/// All of it holds for a disk that keeps what it says it has synced. No level survives the loss of the disk.
///
/// ```
/// use annals::Durability;
/// use std::time::Duration;
///
/// let relaxed: Durability = "interval:50:1048576".parse()?;
/// assert_eq!(relaxed, Durability::Interval { time: Duration::from_millis(50), bytes: 1 << 20 });
/// assert_eq!(relaxed.stronger(Durability::Process), relaxed);
/// assert!(Durability::default().is_at_least(relaxed));
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Durability {
    /// On disk before the append returns; callers that wait at the same time share one sync. An append that
    /// returned survives the machine stopping.
    #[default]
    Synced,
    /// A sync is due once `time` has passed since the oldest append that is not on disk, or once `bytes` are not
    /// on disk, whichever comes first. The machine stopping loses at most what was appended since the last sync
    /// that finished.
    Interval {
        /// The longest that an append may wait for the sync that covers it to be due.
        time: Duration,
        /// How many bytes may wait before a sync is due.
        bytes: u64,
    },
    /// Handed to the operating system before the append returns, and written by it when it likes; this is what
    /// Kafka does. The machine stopping may lose any number of the latest appends.
    Process,
}

impl Durability {
    /// Whether whatever survives under `other` survives under `self` as well.
    ///
    /// Two intervals of which one is shorter in time and the other in bytes are neither at least the other.
    pub fn is_at_least(self, other: Durability) -> bool {
        match (self, other) {
            (Durability::Synced, _) | (_, Durability::Process) => true,
            (
                Durability::Interval { time, bytes },
                Durability::Interval { time: other_time, bytes: other_bytes },
            ) => time <= other_time && bytes <= other_bytes,
            (Durability::Process, _) | (Durability::Interval { .. }, Durability::Synced) => false,
        }
    }

    /// The weakest level that is at least both: of two intervals the shorter time and the fewer bytes.
    pub fn stronger(self, other: Durability) -> Durability {
        match (self, other) {
            (Durability::Synced, _) | (_, Durability::Synced) => Durability::Synced,
            (Durability::Process, level) | (level, Durability::Process) => level,
            (
                Durability::Interval { time, bytes },
                Durability::Interval { time: other_time, bytes: other_bytes },
            ) => Durability::Interval { time: time.min(other_time), bytes: bytes.min(other_bytes) },
        }
    }
}

/// `synced`, `process`, or `interval:<milliseconds>:<bytes>`; a time is cut to whole milliseconds, which is the
/// stronger side.
impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Durability::Synced => f.write_str("synced"),
            Durability::Process => f.write_str("process"),
            Durability::Interval { time, bytes } => write!(f, "interval:{}:{bytes}", time.as_millis()),
        }
    }
}

impl FromStr for Durability {
    type Err = Error;

    /// Reads what [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for anything else. Both numbers of an interval must be from 1 to `i64::MAX`: with
    /// 0 it would be `synced` under another name.
    fn from_str(text: &str) -> Result<Self> {
        let interval = |text: &str| {
            let (time, bytes) = text.strip_prefix("interval:")?.split_once(':')?;
            Some(Durability::Interval {
                time: Duration::from_millis(positive(time)?),
                bytes: positive(bytes)?,
            })
        };
        match text {
            "synced" => Ok(Durability::Synced),
            "process" => Ok(Durability::Process),
            _ => interval(text).ok_or_else(|| Error::InvalidConfig {
                key: "annals.durability".into(),
                value: text.chars().take(64).collect(),
                reason: DURABILITY_FORMS.into(),
            }),
        }
    }
}

/// What [`Durability`] reads, in words.
pub(crate) const DURABILITY_FORMS: &str =
    "it must be synced, process, or interval:<milliseconds>:<bytes> with both numbers at least 1";

/// A decimal from 1 to `i64::MAX`, without sign.
fn positive(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&number| digits && (1..=i64::MAX as u64).contains(&number))
}

/// How batches are compressed on append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CompressionType {
    /// As whoever made the batch left it.
    #[default]
    Producer,
    /// Not at all; a compressed batch is unpacked.
    Uncompressed,
    /// With gzip.
    Gzip,
    /// With snappy, in the framing of Kafka's clients.
    Snappy,
    /// With LZ4 frames.
    Lz4,
    /// With Zstandard.
    Zstd,
}

/// What happens to old records. With both, compacted records are deleted by age and size as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CleanupPolicy {
    /// Whole segments go once they are older or the log is larger than the retention settings allow.
    pub delete: bool,
    /// Of each key the last record stays.
    pub compact: bool,
}

/// By which time records grow old (`annals.retention.by`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum RetentionTime {
    /// By the largest timestamp of the records in a segment, as Kafka does. One record from the future keeps its
    /// segment, and all behind it.
    #[default]
    Record,
    /// By the time at which a segment was last appended to, whatever its records say.
    Append,
}

/// The settings of one partition, resolved and in bounds; made by [`TopicConfig::resolve`].
///
/// Times are milliseconds like timestamps, never negative; `i64::MAX` means never. `Option` is used where Kafka
/// writes -1.
///
/// [`TopicConfig::resolve`]: crate::TopicConfig::resolve
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LogConfig {
    /// `segment.bytes`: the largest size of a segment's log file; 14 to `i32::MAX`.
    pub segment_bytes: u32,
    /// `segment.ms`: the age at which a segment is rolled even if it is not full; at least 1.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: the most by which the age is lowered at random, so that not all roll at once.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`: the largest size of an offset or time index file; 4 to `i32::MAX`.
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`: how many bytes of log lie between two index entries.
    pub index_interval_bytes: u32,
    /// `max.message.bytes`: the largest batch accepted, after compression.
    pub max_message_bytes: u32,
    /// `compression.type`.
    pub compression: CompressionType,
    /// `compression.gzip.level`: 1 to 9; `None` is the codec's own default.
    pub compression_gzip_level: Option<i32>,
    /// `compression.lz4.level`: 1 to 17; `None` is the codec's own default.
    pub compression_lz4_level: Option<i32>,
    /// `compression.zstd.level`: -131072 to 22; `None` is the codec's own default.
    pub compression_zstd_level: Option<i32>,
    /// `message.timestamp.type`.
    pub message_timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far a record's timestamp may lie in the past.
    pub message_timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far a record's timestamp may lie in the future.
    pub message_timestamp_after_max_ms: i64,
    /// `retention.ms`: the age at which records may be deleted; `None` is never.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`: the size of the partition above which its oldest segments go; `None` is no limit.
    pub retention_bytes: Option<u64>,
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `delete.retention.ms`: how long compaction keeps a tombstone readable.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`: the age below which a record is not compacted.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`: the age above which a record is compacted in any case.
    pub max_compaction_lag_ms: i64,
    /// `min.cleanable.dirty.ratio`: the part of the log that must be uncompacted before compaction starts; 0 to 1.
    pub min_cleanable_dirty_ratio: f64,
    /// `file.delete.delay.ms`: how long a deleted segment's files stay on disk.
    pub file_delete_delay_ms: i64,
    /// `flush.messages`: how many records may be unsynced; at least 1; `i64::MAX` is no limit.
    pub flush_messages: u64,
    /// `flush.ms`: how long a record may be unsynced.
    pub flush_ms: i64,
    /// `min.insync.replicas`: how many replicas must have a record that is acknowledged by all; at least 1.
    pub min_insync_replicas: u32,
    /// `preallocate`: kept for Kafka's sake, without effect: a log file is as long as what is in it.
    pub preallocate: bool,
    /// `unclean.leader.election.enable`: whether a replica that lags may lead when no other is left.
    pub unclean_leader_election_enable: bool,
    /// `annals.durability`: what an append survives once it has returned.
    pub durability: Durability,
    /// `annals.replicated`: whether the high watermark is set by a replicator and does not follow the log end.
    pub replicated: bool,
    /// `annals.retention.by`: by which time `retention.ms` counts.
    pub retention_by: RetentionTime,
    /// `annals.producer.expiration.ms`: how long a producer is remembered after its last append.
    pub producer_expiration_ms: i64,
    /// `annals.max.producers`: how many producers are remembered at most; a batch of one more is refused.
    pub max_producers: u32,
    /// `annals.max.decompressed.bytes`: the largest content of a compressed batch; one that holds more is refused
    /// while it is decompressed.
    pub max_decompressed_bytes: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn level() -> impl Strategy<Value = Durability> {
        prop_oneof![
            Just(Durability::Synced),
            Just(Durability::Process),
            (1u64..4, 1u64..4)
                .prop_map(|(time, bytes)| Durability::Interval { time: Duration::from_millis(time), bytes }),
        ]
    }

    proptest! {
        #[test]
        fn stronger_is_the_least_level_above_both(a in level(), b in level(), c in level()) {
            let both = a.stronger(b);
            prop_assert_eq!(both, b.stronger(a));
            prop_assert!(both.is_at_least(a) && both.is_at_least(b));
            prop_assert_eq!(c.is_at_least(both), c.is_at_least(a) && c.is_at_least(b));
            prop_assert!(a.is_at_least(a));
            prop_assert_eq!(a.is_at_least(b) && b.is_at_least(a), a == b);
        }

        #[test]
        fn text_form_round_trips(level in level()) {
            prop_assert_eq!(level.to_string().parse::<Durability>().unwrap(), level);
        }
    }

    #[test]
    fn the_levels_are_ordered_as_documented() {
        let interval = Durability::Interval { time: Duration::from_secs(1), bytes: 1 };
        assert!(Durability::Synced.is_at_least(interval) && interval.is_at_least(Durability::Process));
        assert!(!Durability::Process.is_at_least(interval) && !interval.is_at_least(Durability::Synced));
        let (short, small) = (
            Durability::Interval { time: Duration::from_millis(1), bytes: 9 },
            Durability::Interval { time: Duration::from_millis(9), bytes: 1 },
        );
        assert!(!short.is_at_least(small) && !small.is_at_least(short));
        let meet = Durability::Interval { time: Duration::from_millis(1), bytes: 1 };
        assert_eq!(short.stronger(small), meet);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "Synced",
            " synced",
            "interval",
            "interval:",
            "interval:1",
            "interval:1:",
            "interval::1",
            "interval:0:1",
            "interval:1:0",
            "interval:-1:1",
            "interval:+1:1",
            "interval:1:1:1",
            "interval:1:x",
            "interval:1: 1",
            "interval:9223372036854775808:1",
            "interval:1:99999999999999999999",
        ] {
            let error = text.parse::<Durability>().unwrap_err();
            assert!(matches!(error, Error::InvalidConfig { .. }), "{text:?} gave {error}");
        }
    }
}
