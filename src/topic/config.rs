//! A topic's settings: [`TopicConfig`], and the one table of keys from which everything about them is derived.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::TimestampType;
use crate::partition::{
    CleanupPolicy, CompressionType, DURABILITY_FORMS, Durability, LogConfig, RetentionTime,
};

/// The settings of a topic: how many partitions, and whatever differs from the defaults.
///
/// Keys, defaults and bounds are those of Kafka 4; keys of annals' own begin with `annals.`. There are methods for
/// the settings most used and [`set`](TopicConfig::set) for all of them. `set` checks each value at once; the
/// methods take any value, and what is out of bounds or contradicts another setting is reported by
/// [`resolve`](TopicConfig::resolve), so by whatever creates or changes a topic.
///
/// ```
/// use annals::{Durability, TopicConfig};
///
/// let config = TopicConfig::new()
///     .partitions(3)
///     .durability(Durability::Process)
///     .segment_bytes(1 << 20)
///     .set("retention.ms", "1000")?;
/// assert_eq!(config.get("retention.ms").as_deref(), Some("1000"));
/// assert_eq!(config.get("cleanup.policy").as_deref(), Some("delete"));
/// assert_eq!(config.resolve()?.retention_ms, Some(1000));
/// assert!(TopicConfig::new().set("retention.hours", "1").is_err());
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicConfig {
    partitions: Option<u32>,
    /// Only keys of [`KEYS`]; values in their canonical form if they are in bounds.
    overrides: BTreeMap<&'static str, String>,
}

/// One setting, as [`TopicConfig::describe`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigEntry {
    /// The key.
    pub key: &'static str,
    /// The value in force.
    pub value: String,
    /// Whether nobody set it.
    pub is_default: bool,
    /// The value if nobody sets it.
    pub default: &'static str,
    /// What it does, in a sentence.
    pub doc: &'static str,
}

impl TopicConfig {
    /// One partition, and every setting at its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many partitions the topic has; 1 if this is not called, at most `i32::MAX`.
    #[must_use]
    pub fn partitions(mut self, count: u32) -> Self {
        self.partitions = Some(count);
        self
    }

    /// What an append survives once it has returned (`annals.durability`). An interval's time counts in whole
    /// milliseconds.
    #[must_use]
    pub fn durability(self, level: Durability) -> Self {
        self.put("annals.durability", level)
    }

    /// The largest size of a segment file (`segment.bytes`).
    #[must_use]
    pub fn segment_bytes(self, bytes: u32) -> Self {
        self.put("segment.bytes", bytes)
    }

    /// The age at which a segment is rolled even if it is not full (`segment.ms`), in whole milliseconds.
    #[must_use]
    pub fn segment_age(self, age: Duration) -> Self {
        self.put("segment.ms", age.as_millis())
    }

    /// How many bytes of log lie between two index entries (`index.interval.bytes`).
    #[must_use]
    pub fn index_interval_bytes(self, bytes: u32) -> Self {
        self.put("index.interval.bytes", bytes)
    }

    /// The largest batch accepted, after compression (`max.message.bytes`).
    #[must_use]
    pub fn max_message_bytes(self, bytes: u32) -> Self {
        self.put("max.message.bytes", bytes)
    }

    /// The age at which records may be deleted (`retention.ms`), in whole milliseconds; `None` keeps them forever.
    #[must_use]
    pub fn retention(self, age: Option<Duration>) -> Self {
        self.put("retention.ms", age.map_or("-1".to_owned(), |age| age.as_millis().to_string()))
    }

    /// The size of a partition above which its oldest segments go (`retention.bytes`); `None` is no limit.
    #[must_use]
    pub fn retention_bytes(self, bytes: Option<u64>) -> Self {
        self.put("retention.bytes", bytes.map_or("-1".to_owned(), |bytes| bytes.to_string()))
    }

    /// What happens to old records (`cleanup.policy`).
    #[must_use]
    pub fn cleanup_policy(self, policy: CleanupPolicy) -> Self {
        self.put("cleanup.policy", policy_text(policy))
    }

    /// How batches are compressed on append (`compression.type`).
    #[must_use]
    pub fn compression(self, codec: CompressionType) -> Self {
        self.put("compression.type", name_of(COMPRESSION_TYPES, codec))
    }

    /// Who gives records their timestamp (`message.timestamp.type`).
    #[must_use]
    pub fn timestamp_type(self, kind: TimestampType) -> Self {
        self.put("message.timestamp.type", name_of(TIMESTAMP_TYPES, kind))
    }

    /// Sets any key.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if the key is unknown or the value out of its bounds.
    pub fn set(mut self, key: &str, value: &str) -> Result<Self> {
        let key = Key::find(key, value)?;
        self.overrides.insert(key.name, key.canonical(value)?);
        Ok(self)
    }

    /// Sets and (with `None`) resets any number of keys: all of them, or none if one is refused.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if a key is unknown, a value out of its bounds, or the result contradicts itself.
    ///
    /// ```
    /// # use annals::TopicConfig;
    /// let mut config = TopicConfig::new().segment_bytes(4096);
    /// config.update([("segment.bytes", None), ("retention.bytes", Some("1000000"))])?;
    /// assert_eq!(config.entries().collect::<Vec<_>>(), [("retention.bytes", "1000000")]);
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn update<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Result<()> {
        let mut changed = self.clone();
        for (name, value) in changes {
            let key = Key::find(name, value.unwrap_or_default())?;
            match value {
                Some(value) => changed.overrides.insert(key.name, key.canonical(value)?),
                None => changed.overrides.remove(key.name),
            };
        }
        changed.resolve()?;
        *self = changed;
        Ok(())
    }

    /// How many partitions the topic has.
    pub fn partition_count(&self) -> u32 {
        self.partitions.unwrap_or(1)
    }

    /// The value in force for a key: the one set, or else the default. `None` if there is no such key.
    pub fn get(&self, key: &str) -> Option<String> {
        KEYS.iter().find(|known| known.name == key).map(|key| self.value(key).to_owned())
    }

    /// The keys that were set and their values, sorted by key.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.overrides.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// Every key there is, sorted, with the value in force.
    pub fn describe(&self) -> Vec<ConfigEntry> {
        let entry = |key: &Key| ConfigEntry {
            key: key.name,
            value: self.value(key).to_owned(),
            is_default: !self.overrides.contains_key(key.name),
            default: key.default,
            doc: key.doc,
        };
        KEYS.iter().map(entry).collect()
    }

    /// These settings, and where nothing is set, those of `defaults`.
    ///
    /// ```
    /// # use annals::TopicConfig;
    /// let store = TopicConfig::new().partitions(8).segment_bytes(1 << 20);
    /// let topic = TopicConfig::new().partitions(2).or(&store);
    /// assert_eq!((topic.partition_count(), topic.get("segment.bytes").as_deref()), (2, Some("1048576")));
    /// ```
    #[must_use]
    pub fn or(&self, defaults: &TopicConfig) -> TopicConfig {
        let mut overrides = defaults.overrides.clone();
        overrides.extend(self.overrides.iter().map(|(key, value)| (*key, value.clone())));
        TopicConfig { partitions: self.partitions.or(defaults.partitions), overrides }
    }

    /// The settings as a partition uses them.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for the first value that is out of bounds or contradicts another.
    pub fn resolve(&self) -> Result<LogConfig> {
        let count = self.partition_count();
        if !(1..=i32::MAX as u32).contains(&count) {
            return Err(invalid("partitions", &count.to_string(), format!("it must be 1 to {}", i32::MAX)));
        }
        let mut log = blank();
        for key in KEYS {
            let value = self.value(key);
            (key.apply)(&mut log, value).map_err(|reason| invalid(key.name, value, reason))?;
        }
        if log.min_compaction_lag_ms > log.max_compaction_lag_ms {
            let reason = format!("it must not be above max.compaction.lag.ms={}", log.max_compaction_lag_ms);
            return Err(invalid("min.compaction.lag.ms", &log.min_compaction_lag_ms.to_string(), reason));
        }
        Ok(log)
    }

    /// The text in force for a key.
    fn value(&self, key: &Key) -> &str {
        self.overrides.get(key.name).map_or(key.default, String::as_str)
    }

    /// Sets a key of the table to what may be out of bounds; in bounds, it is canonical by construction.
    fn put(mut self, key: &'static str, value: impl ToString) -> Self {
        self.overrides.insert(key, value.to_string());
        self
    }
}

/// Everything known about one key.
struct Key {
    name: &'static str,
    /// In canonical form.
    default: &'static str,
    /// Reads a text into its field and returns its canonical form, or what would be valid.
    apply: Apply,
    doc: &'static str,
}

type Apply = fn(&mut LogConfig, &str) -> Result<String, String>;

impl Key {
    /// The key of a name; the value only serves the message.
    fn find(name: &str, value: &str) -> Result<&'static Key> {
        let known = KEYS.iter().find(|key| key.name == name);
        known.ok_or_else(|| invalid(name, value, "there is no such key; `describe` lists them".into()))
    }

    /// The one form in which a value is kept: Kafka trims values, so spaces around them are let through here.
    fn canonical(&self, value: &str) -> Result<String> {
        (self.apply)(&mut blank(), value.trim()).map_err(|reason| invalid(self.name, value, reason))
    }
}

/// An error that quotes no more of what it was given than a reader needs.
fn invalid(key: &str, value: &str, reason: String) -> Error {
    let short = |text: &str| text.chars().take(100).collect();
    Error::InvalidConfig { key: short(key), value: short(value), reason }
}

const INT: i64 = i32::MAX as i64;
const LONG: i64 = i64::MAX;

/// Every key, sorted. Defaults and bounds are those of Kafka's `LogConfig`, where a comment does not say otherwise.
#[rustfmt::skip]
const KEYS: &[Key] = &[
    Key { name: "annals.durability", default: "synced", apply: |log, text| durability(&mut log.durability, text),
        doc: "What an append survives once it has returned: synced, interval:<ms>:<bytes>, or process." },
    Key { name: "annals.max.decompressed.bytes", default: "268435456", apply: |log, text| integer(&mut log.max_decompressed_bytes, text, 1..=INT),
        doc: "The largest content of a compressed batch; one that holds more is refused." },
    Key { name: "annals.max.producers", default: "100000", apply: |log, text| integer(&mut log.max_producers, text, 1..=INT),
        doc: "How many producers a partition remembers at most; a batch of one more is refused." },
    // Kafka's `producer.id.expiration.ms`, which is a setting of the broker there.
    Key { name: "annals.producer.expiration.ms", default: "86400000", apply: |log, text| integer(&mut log.producer_expiration_ms, text, 1..=LONG),
        doc: "How long a producer is remembered after its last append." },
    Key { name: "annals.replicated", default: "false", apply: |log, text| boolean(&mut log.replicated, text),
        doc: "Whether a replicator sets the high watermark; otherwise it is the log end." },
    Key { name: "annals.retention.by", default: "record", apply: |log, text| one_of(&mut log.retention_by, text, RETENTION_TIMES),
        doc: "Whether records grow old by their own time (record) or by that of their append (append)." },
    Key { name: "cleanup.policy", default: "delete", apply: |log, text| policy(&mut log.cleanup_policy, text),
        doc: "What happens to old records: delete, compact, or both." },
    Key { name: "compression.gzip.level", default: "-1", apply: |log, text| level(&mut log.compression_gzip_level, text, 1..=9),
        doc: "The level of gzip, 1 to 9; -1 is its own default." },
    // By Kafka's `CompressionType` only gzip knows -1 as "the codec's own"; for zstd it is a level like others.
    Key { name: "compression.lz4.level", default: "9", apply: |log, text| some(&mut log.compression_lz4_level, text, 1..=17),
        doc: "The level of LZ4, 1 to 17." },
    Key { name: "compression.type", default: "producer", apply: |log, text| one_of(&mut log.compression, text, COMPRESSION_TYPES),
        doc: "The codec of stored batches; producer keeps the one that a batch comes with." },
    Key { name: "compression.zstd.level", default: "3", apply: |log, text| some(&mut log.compression_zstd_level, text, -131_072..=22),
        doc: "The level of Zstandard, -131072 to 22." },
    Key { name: "delete.retention.ms", default: "86400000", apply: |log, text| integer(&mut log.delete_retention_ms, text, 0..=LONG),
        doc: "How long compaction keeps a tombstone readable." },
    Key { name: "file.delete.delay.ms", default: "60000", apply: |log, text| integer(&mut log.file_delete_delay_ms, text, 0..=LONG),
        doc: "How long a deleted segment's files stay on disk." },
    Key { name: "flush.messages", default: "9223372036854775807", apply: |log, text| integer(&mut log.flush_messages, text, 1..=LONG),
        doc: "How many records may be unsynced before a sync is forced." },
    Key { name: "flush.ms", default: "9223372036854775807", apply: |log, text| integer(&mut log.flush_ms, text, 0..=LONG),
        doc: "How long a record may be unsynced before a sync is forced." },
    Key { name: "index.interval.bytes", default: "4096", apply: |log, text| integer(&mut log.index_interval_bytes, text, 0..=INT),
        doc: "How many bytes of log lie between two index entries." },
    Key { name: "local.retention.bytes", default: "-2", apply: |_, text| only(text, "-2"), doc: TIERED },
    Key { name: "local.retention.ms", default: "-2", apply: |_, text| only(text, "-2"), doc: TIERED },
    Key { name: "max.compaction.lag.ms", default: "9223372036854775807", apply: |log, text| integer(&mut log.max_compaction_lag_ms, text, 1..=LONG),
        doc: "The age above which a record is compacted in any case." },
    Key { name: "max.message.bytes", default: "1048588", apply: |log, text| integer(&mut log.max_message_bytes, text, 0..=INT),
        doc: "The largest batch accepted, after compression." },
    Key { name: "message.timestamp.after.max.ms", default: "3600000", apply: |log, text| integer(&mut log.message_timestamp_after_max_ms, text, 0..=LONG),
        doc: "How far a record's timestamp may lie in the future." },
    Key { name: "message.timestamp.before.max.ms", default: "9223372036854775807", apply: |log, text| integer(&mut log.message_timestamp_before_max_ms, text, 0..=LONG),
        doc: "How far a record's timestamp may lie in the past." },
    Key { name: "message.timestamp.type", default: "CreateTime", apply: |log, text| one_of(&mut log.message_timestamp_type, text, TIMESTAMP_TYPES),
        doc: "Who gives records their timestamp: CreateTime, or LogAppendTime." },
    Key { name: "min.cleanable.dirty.ratio", default: "0.5", apply: |log, text| ratio(&mut log.min_cleanable_dirty_ratio, text),
        doc: "The part of the log that must be uncompacted before compaction starts, 0 to 1." },
    Key { name: "min.compaction.lag.ms", default: "0", apply: |log, text| integer(&mut log.min_compaction_lag_ms, text, 0..=LONG),
        doc: "The age below which a record is not compacted." },
    Key { name: "min.insync.replicas", default: "1", apply: |log, text| integer(&mut log.min_insync_replicas, text, 1..=INT),
        doc: "How many replicas must have a record that is acknowledged by all." },
    Key { name: "preallocate", default: "false", apply: |log, text| boolean(&mut log.preallocate, text),
        doc: "Kept for Kafka's sake, without effect: a log file is as long as what is in it." },
    Key { name: "remote.log.copy.disable", default: "false", apply: |_, text| only(text, "false"), doc: TIERED },
    Key { name: "remote.log.delete.on.disable", default: "false", apply: |_, text| only(text, "false"), doc: TIERED },
    Key { name: "remote.storage.enable", default: "false", apply: |_, text| only(text, "false"), doc: TIERED },
    // Kafka takes any negative number as no limit; here a slip of the pen is not one.
    Key { name: "retention.bytes", default: "-1", apply: |log, text| limit(&mut log.retention_bytes, text),
        doc: "The size of a partition above which its oldest segments go; -1 is no limit." },
    Key { name: "retention.ms", default: "604800000", apply: |log, text| limit(&mut log.retention_ms, text),
        doc: "The age at which records may be deleted; -1 is never." },
    // Kafka 4 raised the minimum to 1 MiB (KIP-1030). An embedded log may be small on purpose, tests want to roll
    // after a few records, and directories of older brokers have small segments: the older bound stays.
    Key { name: "segment.bytes", default: "1073741824", apply: |log, text| integer(&mut log.segment_bytes, text, 14..=INT),
        doc: "The largest size of a segment file." },
    Key { name: "segment.index.bytes", default: "10485760", apply: |log, text| integer(&mut log.segment_index_bytes, text, 4..=INT),
        doc: "The largest size of an offset or time index file." },
    Key { name: "segment.jitter.ms", default: "0", apply: |log, text| integer(&mut log.segment_jitter_ms, text, 0..=LONG),
        doc: "The most by which segment.ms is lowered at random for each segment." },
    Key { name: "segment.ms", default: "604800000", apply: |log, text| integer(&mut log.segment_ms, text, 1..=LONG),
        doc: "The age at which a segment is rolled even if it is not full." },
    Key { name: "unclean.leader.election.enable", default: "false", apply: |log, text| boolean(&mut log.unclean_leader_election_enable, text),
        doc: "Whether a replica that lags may lead when no other is left." },
];

/// The keys of tiered storage are known, so that a configuration taken over from Kafka is, too.
const TIERED: &str =
    "Part of Kafka's tiered storage, which annals does not have: only the default is accepted.";

const COMPRESSION_TYPES: &[(&str, CompressionType)] = &[
    ("producer", CompressionType::Producer),
    ("uncompressed", CompressionType::Uncompressed),
    ("gzip", CompressionType::Gzip),
    ("snappy", CompressionType::Snappy),
    ("lz4", CompressionType::Lz4),
    ("zstd", CompressionType::Zstd),
];

const RETENTION_TIMES: &[(&str, RetentionTime)] =
    &[("record", RetentionTime::Record), ("append", RetentionTime::Append)];

const TIMESTAMP_TYPES: &[(&str, TimestampType)] =
    &[("CreateTime", TimestampType::CreateTime), ("LogAppendTime", TimestampType::LogAppendTime)];

fn integer<T: TryFrom<i64>>(
    field: &mut T,
    text: &str,
    bounds: RangeInclusive<i64>,
) -> Result<String, String> {
    let number = text.parse::<i64>().ok().filter(|number| bounds.contains(number));
    match number.and_then(|number| Some((number, T::try_from(number).ok()?))) {
        Some((number, value)) => {
            *field = value;
            Ok(number.to_string())
        }
        None => Err(format!("it must be a whole number from {} to {}", bounds.start(), bounds.end())),
    }
}

fn some<T: TryFrom<i64> + Default>(
    field: &mut Option<T>,
    text: &str,
    bounds: RangeInclusive<i64>,
) -> Result<String, String> {
    integer(field.insert(T::default()), text, bounds)
}

fn level(field: &mut Option<i32>, text: &str, bounds: RangeInclusive<i64>) -> Result<String, String> {
    if text == "-1" {
        *field = None;
        return Ok(text.to_owned());
    }
    some(field, text, bounds).map_err(|reason| format!("{reason}, or -1"))
}

fn limit<T: TryFrom<i64> + Default>(field: &mut Option<T>, text: &str) -> Result<String, String> {
    if text == "-1" {
        *field = None;
        return Ok(text.to_owned());
    }
    some(field, text, 0..=LONG).map_err(|reason| format!("{reason}, or -1"))
}

fn ratio(field: &mut f64, text: &str) -> Result<String, String> {
    match text.parse::<f64>().ok().filter(|number| (0.0..=1.0).contains(number)) {
        Some(number) => {
            *field = number.abs(); // -0 is 0
            Ok(field.to_string())
        }
        None => Err("it must be a number from 0 to 1".into()),
    }
}

fn boolean(field: &mut bool, text: &str) -> Result<String, String> {
    *field = match text {
        _ if text.eq_ignore_ascii_case("true") => true,
        _ if text.eq_ignore_ascii_case("false") => false,
        _ => return Err("it must be true or false".into()),
    };
    Ok(field.to_string())
}

fn one_of<T: Copy>(field: &mut T, text: &str, names: &[(&str, T)]) -> Result<String, String> {
    match names.iter().find(|(name, _)| *name == text) {
        Some((name, value)) => {
            *field = *value;
            Ok((*name).to_owned())
        }
        None => {
            let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            Err(format!("it must be one of {}", names.join(", ")))
        }
    }
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

fn only(text: &str, value: &str) -> Result<String, String> {
    if text.eq_ignore_ascii_case(value) {
        Ok(value.to_owned())
    } else {
        Err(format!("it must be {value}: annals has no tiered storage"))
    }
}

fn policy(field: &mut CleanupPolicy, text: &str) -> Result<String, String> {
    let mut read = CleanupPolicy { delete: false, compact: false };
    for item in text.split(',') {
        let flag = match item.trim() {
            "delete" => &mut read.delete,
            "compact" => &mut read.compact,
            _ => return Err(POLICY_FORMS.into()),
        };
        if std::mem::replace(flag, true) {
            return Err(POLICY_FORMS.into());
        }
    }
    *field = read;
    Ok(policy_text(read).to_owned())
}

const POLICY_FORMS: &str = "it must be delete, compact, or both with a comma between them";

/// The list as it is kept; empty, and so refused, if nothing is chosen.
fn policy_text(policy: CleanupPolicy) -> &'static str {
    match (policy.compact, policy.delete) {
        (true, true) => "compact,delete",
        (true, false) => "compact",
        (false, true) => "delete",
        (false, false) => "",
    }
}

fn durability(field: &mut Durability, text: &str) -> Result<String, String> {
    *field = text.parse().map_err(|_| DURABILITY_FORMS.to_owned())?;
    Ok(field.to_string())
}

/// Fields to write into; [`KEYS`] has one key or more for each of them, and no value of these is ever used.
fn blank() -> LogConfig {
    LogConfig {
        segment_bytes: 0,
        segment_ms: 0,
        segment_jitter_ms: 0,
        segment_index_bytes: 0,
        index_interval_bytes: 0,
        max_message_bytes: 0,
        compression: CompressionType::Producer,
        compression_gzip_level: None,
        compression_lz4_level: None,
        compression_zstd_level: None,
        message_timestamp_type: TimestampType::CreateTime,
        message_timestamp_before_max_ms: 0,
        message_timestamp_after_max_ms: 0,
        retention_ms: None,
        retention_bytes: None,
        cleanup_policy: CleanupPolicy { delete: false, compact: false },
        delete_retention_ms: 0,
        min_compaction_lag_ms: 0,
        max_compaction_lag_ms: 0,
        min_cleanable_dirty_ratio: 0.0,
        file_delete_delay_ms: 0,
        flush_messages: 0,
        flush_ms: 0,
        min_insync_replicas: 0,
        preallocate: false,
        unclean_leader_election_enable: false,
        durability: Durability::Synced,
        max_decompressed_bytes: 0,
        replicated: false,
        retention_by: RetentionTime::Record,
        producer_expiration_ms: 0,
        max_producers: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(key: &str, value: &str) -> String {
        match TopicConfig::new().set(key, value) {
            Err(Error::InvalidConfig { key: named, reason, .. }) if named == key => reason,
            other => panic!("{key}={value:?} gave {other:?}"),
        }
    }

    fn canonical(key: &str, value: &str) -> String {
        TopicConfig::new().set(key, value).unwrap().get(key).unwrap()
    }

    #[test]
    fn the_table_is_sorted_canonical_and_unique() {
        assert!(KEYS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for key in KEYS {
            assert_eq!(canonical(key.name, key.default), key.default, "{}", key.name);
            assert!(key.doc.ends_with('.'), "{}", key.name);
        }
    }

    #[test]
    fn defaults_are_kafka_4s() {
        let log = TopicConfig::new().resolve().unwrap();
        let expected = LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: 604_800_000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            max_message_bytes: (1 << 20) + 12,
            compression: CompressionType::Producer,
            compression_gzip_level: None,
            compression_lz4_level: Some(9),
            compression_zstd_level: Some(3),
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: i64::MAX,
            message_timestamp_after_max_ms: 3_600_000,
            retention_ms: Some(604_800_000),
            retention_bytes: None,
            cleanup_policy: CleanupPolicy { delete: true, compact: false },
            delete_retention_ms: 86_400_000,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            min_cleanable_dirty_ratio: 0.5,
            file_delete_delay_ms: 60_000,
            flush_messages: i64::MAX as u64,
            flush_ms: i64::MAX,
            min_insync_replicas: 1,
            preallocate: false,
            unclean_leader_election_enable: false,
            durability: Durability::Synced,
            max_decompressed_bytes: 256 << 20,
            replicated: false,
            retention_by: RetentionTime::Record,
            producer_expiration_ms: 86_400_000,
            max_producers: 100_000,
        };
        assert_eq!(log, expected);
    }

    /// For each key a value that no other has and that is not its default.
    const OTHER_VALUES: [(&str, &str); 32] = [
        ("annals.durability", "interval:5:6"),
        ("annals.max.decompressed.bytes", "4"),
        ("annals.max.producers", "5"),
        ("annals.producer.expiration.ms", "6"),
        ("annals.replicated", "true"),
        ("annals.retention.by", "append"),
        ("cleanup.policy", "compact"),
        ("compression.gzip.level", "7"),
        ("compression.lz4.level", "8"),
        ("compression.type", "zstd"),
        ("compression.zstd.level", "-9"),
        ("delete.retention.ms", "10"),
        ("file.delete.delay.ms", "11"),
        ("flush.messages", "12"),
        ("flush.ms", "13"),
        ("index.interval.bytes", "14"),
        ("max.compaction.lag.ms", "15"),
        ("max.message.bytes", "16"),
        ("message.timestamp.after.max.ms", "17"),
        ("message.timestamp.before.max.ms", "18"),
        ("message.timestamp.type", "LogAppendTime"),
        ("min.cleanable.dirty.ratio", "0.25"),
        ("min.compaction.lag.ms", "1"),
        ("min.insync.replicas", "21"),
        ("preallocate", "true"),
        ("retention.bytes", "22"),
        ("retention.ms", "23"),
        ("segment.bytes", "24"),
        ("segment.index.bytes", "25"),
        ("segment.jitter.ms", "26"),
        ("segment.ms", "27"),
        ("unclean.leader.election.enable", "true"),
    ];

    #[test]
    fn every_key_reaches_its_own_field() {
        let values = OTHER_VALUES;
        let mut config = TopicConfig::new();
        config.update(values.map(|(key, value)| (key, Some(value)))).unwrap();
        let expected = LogConfig {
            segment_bytes: 24,
            segment_ms: 27,
            segment_jitter_ms: 26,
            segment_index_bytes: 25,
            index_interval_bytes: 14,
            max_message_bytes: 16,
            compression: CompressionType::Zstd,
            compression_gzip_level: Some(7),
            compression_lz4_level: Some(8),
            compression_zstd_level: Some(-9),
            message_timestamp_type: TimestampType::LogAppendTime,
            message_timestamp_before_max_ms: 18,
            message_timestamp_after_max_ms: 17,
            retention_ms: Some(23),
            retention_bytes: Some(22),
            cleanup_policy: CleanupPolicy { delete: false, compact: true },
            delete_retention_ms: 10,
            min_compaction_lag_ms: 1,
            max_compaction_lag_ms: 15,
            min_cleanable_dirty_ratio: 0.25,
            file_delete_delay_ms: 11,
            flush_messages: 12,
            flush_ms: 13,
            min_insync_replicas: 21,
            preallocate: true,
            unclean_leader_election_enable: true,
            durability: Durability::Interval { time: Duration::from_millis(5), bytes: 6 },
            max_decompressed_bytes: 4,
            replicated: true,
            retention_by: RetentionTime::Append,
            producer_expiration_ms: 6,
            max_producers: 5,
        };
        assert_eq!(config.resolve().unwrap(), expected);
        // Only the keys of tiered storage have no field.
        let without = |key: &ConfigEntry| !values.iter().any(|(name, _)| *name == key.key);
        let rest: Vec<_> = config.describe().into_iter().filter(without).collect();
        assert!(rest.iter().all(|key| key.doc == TIERED && key.is_default), "{rest:?}");
        assert_eq!((rest.len(), values.len() + rest.len()), (5, KEYS.len()));
    }

    #[test]
    fn bounds_hold_on_both_sides() {
        let long = i64::MAX.to_string();
        let int = i32::MAX.to_string();
        let bounds = [
            ("segment.bytes", "14", int.as_str()),
            ("segment.ms", "1", &long),
            ("segment.jitter.ms", "0", &long),
            ("segment.index.bytes", "4", &int),
            ("index.interval.bytes", "0", &int),
            ("max.message.bytes", "0", &int),
            ("flush.messages", "1", &long),
            ("flush.ms", "0", &long),
            ("retention.bytes", "-1", &long),
            ("retention.ms", "-1", &long),
            ("delete.retention.ms", "0", &long),
            ("min.compaction.lag.ms", "0", &long),
            ("max.compaction.lag.ms", "1", &long),
            ("file.delete.delay.ms", "0", &long),
            ("message.timestamp.before.max.ms", "0", &long),
            ("message.timestamp.after.max.ms", "0", &long),
            ("min.insync.replicas", "1", &int),
            ("compression.gzip.level", "1", "9"),
            ("compression.lz4.level", "1", "17"),
            ("compression.zstd.level", "-131072", "22"),
        ];
        for (key, least, most) in bounds {
            assert_eq!((canonical(key, least).as_str(), canonical(key, most).as_str()), (least, most));
            let below = least.parse::<i128>().unwrap() - 1;
            let above = most.parse::<i128>().unwrap() + 1;
            assert!(refused(key, &below.to_string()).contains("whole number"), "{key}");
            assert!(refused(key, &above.to_string()).contains("whole number"), "{key}");
        }
    }

    #[test]
    fn values_are_read_strictly() {
        let wrong = [
            ("segment.bytes", ""),
            ("segment.bytes", "1_000"),
            ("segment.bytes", "1e3"),
            ("segment.bytes", "0x10"),
            ("segment.bytes", "100k"),
            ("segment.bytes", "100.0"),
            ("segment.bytes", "1 000"),
            ("segment.bytes", "\u{0661}\u{0660}\u{0660}"),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("min.cleanable.dirty.ratio", "1.0001"),
            ("min.cleanable.dirty.ratio", "-0.1"),
            ("min.cleanable.dirty.ratio", "inf"),
            ("min.cleanable.dirty.ratio", ""),
            ("preallocate", "yes"),
            ("preallocate", "1"),
            ("preallocate", ""),
            ("cleanup.policy", ""),
            ("cleanup.policy", ","),
            ("cleanup.policy", "delete,"),
            ("cleanup.policy", "delete,delete"),
            ("cleanup.policy", "Delete"),
            ("cleanup.policy", "delete compact"),
            ("compression.type", "GZIP"),
            ("compression.type", "none"),
            ("message.timestamp.type", "createtime"),
            ("annals.durability", "interval"),
            ("remote.storage.enable", "true"),
            ("local.retention.ms", "1"),
        ];
        for (key, value) in wrong {
            refused(key, value);
        }
        for key in
            ["", "segment_bytes", "Segment.Bytes", "segment.bytes ", "annals.nothing", "log.segment.bytes"]
        {
            assert!(refused(key, "1").contains("no such key"));
            assert_eq!(TopicConfig::new().get(key), None);
        }
    }

    #[test]
    fn values_are_kept_in_one_form() {
        assert_eq!(canonical("segment.bytes", " +00100\n"), "100");
        assert_eq!(canonical("preallocate", "TRUE"), "true");
        assert_eq!(canonical("cleanup.policy", "delete , compact"), "compact,delete");
        assert_eq!(canonical("min.cleanable.dirty.ratio", "5e-1"), "0.5");
        assert_eq!(canonical("min.cleanable.dirty.ratio", "-0"), "0");
        assert_eq!(canonical("annals.durability", "interval:007:1"), "interval:7:1");
    }

    #[test]
    fn what_the_methods_take_is_checked_when_resolved() {
        let long = Duration::from_secs(u64::MAX);
        let wrong = [
            ("partitions", TopicConfig::new().partitions(0)),
            ("partitions", TopicConfig::new().partitions(1 << 31)),
            ("segment.bytes", TopicConfig::new().segment_bytes(13)),
            ("segment.bytes", TopicConfig::new().segment_bytes(u32::MAX)),
            ("segment.ms", TopicConfig::new().segment_age(Duration::ZERO)),
            ("index.interval.bytes", TopicConfig::new().index_interval_bytes(u32::MAX)),
            ("max.message.bytes", TopicConfig::new().max_message_bytes(u32::MAX)),
            ("retention.ms", TopicConfig::new().retention(Some(long))),
            ("retention.bytes", TopicConfig::new().retention_bytes(Some(u64::MAX))),
            (
                "cleanup.policy",
                TopicConfig::new().cleanup_policy(CleanupPolicy { delete: false, compact: false }),
            ),
            (
                "annals.durability",
                TopicConfig::new()
                    .durability(Durability::Interval { time: Duration::from_micros(999), bytes: 1 }),
            ),
        ];
        for (key, config) in wrong {
            match config.resolve() {
                Err(Error::InvalidConfig { key: named, .. }) => assert_eq!(named, key),
                other => panic!("{key} gave {other:?}"),
            }
        }
    }

    #[test]
    fn the_methods_set_what_they_say_in_canonical_form() {
        let config = TopicConfig::new()
            .partitions(4)
            .segment_bytes(100)
            .segment_age(Duration::from_secs(2))
            .index_interval_bytes(64)
            .max_message_bytes(2000)
            .retention(None)
            .retention_bytes(Some(5))
            .cleanup_policy(CleanupPolicy { delete: true, compact: true })
            .compression(CompressionType::Lz4)
            .timestamp_type(TimestampType::LogAppendTime)
            .durability(Durability::Interval { time: Duration::from_micros(1999), bytes: 7 });
        let mut again = TopicConfig::new().partitions(4);
        again.update(config.entries().map(|(key, value)| (key, Some(value)))).unwrap();
        assert_eq!(again, config);
        let log = config.resolve().unwrap();
        assert_eq!((log.segment_bytes, log.segment_ms, log.index_interval_bytes), (100, 2000, 64));
        assert_eq!((log.max_message_bytes, log.retention_ms, log.retention_bytes), (2000, None, Some(5)));
        assert_eq!(log.cleanup_policy, CleanupPolicy { delete: true, compact: true });
        assert_eq!(log.compression, CompressionType::Lz4);
        assert_eq!(log.message_timestamp_type, TimestampType::LogAppendTime);
        assert_eq!(log.durability, Durability::Interval { time: Duration::from_millis(1), bytes: 7 });
    }

    #[test]
    fn every_named_value_has_a_name() {
        for (name, value) in COMPRESSION_TYPES {
            assert_eq!(name_of(COMPRESSION_TYPES, *value), *name);
        }
        for (name, value) in TIMESTAMP_TYPES {
            assert_eq!(name_of(TIMESTAMP_TYPES, *value), *name);
        }
    }

    #[test]
    fn an_update_is_all_or_nothing_whatever_its_order() {
        let mut config = TopicConfig::new().set("max.compaction.lag.ms", "100").unwrap();
        let before = config.clone();
        let wrong: [&[(&str, Option<&str>)]; 3] = [
            &[("segment.ms", Some("5")), ("min.compaction.lag.ms", Some("101"))],
            &[("segment.ms", Some("5")), ("segment.bytes", Some("x"))],
            &[("segment.ms", Some("5")), ("nothing", None)],
        ];
        for changes in wrong {
            config.update(changes.iter().copied()).unwrap_err();
            assert_eq!(config, before);
        }
        let right = [("min.compaction.lag.ms", Some("500")), ("max.compaction.lag.ms", Some("500"))];
        config.update(right).unwrap();
        assert_eq!(config.entries().count(), 2);
        config.update([("max.compaction.lag.ms", None), ("segment.ms", None)]).unwrap();
        assert_eq!(config.entries().collect::<Vec<_>>(), [("min.compaction.lag.ms", "500")]);
    }

    #[test]
    fn a_contradiction_with_the_stores_defaults_is_found() {
        let store = TopicConfig::new().set("max.compaction.lag.ms", "5").unwrap();
        let topic = TopicConfig::new().set("min.compaction.lag.ms", "6").unwrap();
        assert!(topic.resolve().is_ok() && store.resolve().is_ok());
        topic.or(&store).resolve().unwrap_err();
    }
}
