//! What may happen to a partition: the steps of a case, and how they are drawn.

use std::time::Duration;

use annals::{Durability, TopicConfig};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// What the topic is told about durability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Synced,
    Interval,
    Process,
}

/// How many bytes may be unsynced with [`Level::Interval`].
pub(crate) const INTERVAL_BYTES: u64 = 700;

/// The topic of a case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) level: Level,
    pub(crate) replicated: bool,
    pub(crate) compact: bool,
    pub(crate) segment_bytes: u32,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) seed: u64,
}

pub(crate) const RETENTION_MS: i64 = 5_000;

impl Setup {
    /// A plain one, for regression tests.
    pub(crate) const fn of(level: Level) -> Self {
        Setup {
            level,
            replicated: false,
            compact: false,
            segment_bytes: 700,
            retention_bytes: Some(2_000),
            seed: 1,
        }
    }

    pub(crate) fn config(&self) -> TopicConfig {
        let level = match self.level {
            Level::Synced => Durability::Synced,
            Level::Interval => {
                Durability::Interval { time: Duration::from_millis(40), bytes: INTERVAL_BYTES }
            }
            Level::Process => Durability::Process,
        };
        let policy = if self.compact { "compact,delete" } else { "delete" };
        TopicConfig::new()
            .durability(level)
            .segment_bytes(self.segment_bytes)
            .index_interval_bytes(150)
            .retention(Some(Duration::from_millis(RETENTION_MS as u64)))
            .retention_bytes(self.retention_bytes)
            .set("cleanup.policy", policy)
            .and_then(|config| config.set("annals.replicated", &self.replicated.to_string()))
            .and_then(|config| config.set("min.cleanable.dirty.ratio", "0"))
            .and_then(|config| config.set("delete.retention.ms", "1000"))
            .and_then(|config| config.set("file.delete.delay.ms", "1000"))
            .expect("the settings are known")
    }
}

/// A record to append; its value follows from a count of all records, so that no two are the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft {
    pub(crate) key: Option<u8>,
    pub(crate) tombstone: bool,
    /// Milliseconds from now.
    pub(crate) age: i16,
}

/// How the next batch of an idempotent producer is numbered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Numbered {
    /// As it should be.
    Next,
    /// As one of its last batches, and as long.
    Again { back: u8 },
    /// One number is left out.
    Gap,
    /// In the epoch before.
    OldEpoch,
    /// From 0 on in a new epoch.
    NewEpoch,
}

/// In which epoch a transaction is ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    Right,
    OldEpoch,
    NewEpoch,
    NewCoordinator,
}

/// One thing that happens. Places are parts of 255 of the way from one offset to another.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Append { records: Vec<Draft>, synced: bool },
    Produce { producer: u8, numbered: Numbered, transactional: bool, records: Vec<Draft> },
    End { producer: u8, commit: bool, ended: Ended },
    Roll,
    Flush,
    Maintain,
    DeleteRecords { part: u8 },
    ApplyRetention,
    Advance { millis: u16 },
    TruncateTo { part: u8 },
    TruncateFully { part: u8, start: Option<u8> },
    Lead { up: u8 },
    RaiseHighWatermark { part: u8 },
    Compact,
    FailSync { nth: u8 },
    FillDisk { spare: u16 },
    Heal,
    ReopenPartition,
    CloseAndOpen,
    Kill,
    CutPower { seed: u8 },
}

fn records() -> impl Strategy<Value = Vec<Draft>> {
    let draft = (option::weighted(0.7, 0..4u8), prop::bool::weighted(0.15), -300..300i16)
        .prop_map(|(key, tombstone, age)| Draft { key, tombstone, age: age * 10 });
    vec(draft, 1..=4)
}

fn numbered() -> impl Strategy<Value = Numbered> {
    prop_oneof![
        10 => Just(Numbered::Next),
        3 => (0..6u8).prop_map(|back| Numbered::Again { back }),
        1 => Just(Numbered::Gap),
        1 => Just(Numbered::OldEpoch),
        1 => Just(Numbered::NewEpoch),
    ]
}

fn ended() -> impl Strategy<Value = Ended> {
    prop_oneof![
        8 => Just(Ended::Right),
        1 => Just(Ended::OldEpoch),
        1 => Just(Ended::NewEpoch),
        1 => Just(Ended::NewCoordinator),
    ]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (records(), prop::bool::weighted(0.1))
            .prop_map(|(records, synced)| Step::Append { records, synced }),
        14 => (0..3u8, numbered(), prop::bool::weighted(0.6), records()).prop_map(
            |(producer, numbered, transactional, records)| Step::Produce {
                producer,
                numbered,
                transactional,
                records
            }
        ),
        7 => (0..3u8, any::<bool>(), ended())
            .prop_map(|(producer, commit, ended)| Step::End { producer, commit, ended }),
        3 => Just(Step::Roll),
        2 => Just(Step::Flush),
        1 => Just(Step::Maintain),
        2 => any::<u8>().prop_map(|part| Step::DeleteRecords { part }),
        2 => Just(Step::ApplyRetention),
        3 => (0..4000u16).prop_map(|millis| Step::Advance { millis }),
        2 => any::<u8>().prop_map(|part| Step::TruncateTo { part }),
        1 => (any::<u8>(), option::weighted(0.3, 0..5u8))
            .prop_map(|(part, start)| Step::TruncateFully { part, start }),
        2 => (0..4u8).prop_map(|up| Step::Lead { up }),
        3 => any::<u8>().prop_map(|part| Step::RaiseHighWatermark { part }),
        2 => Just(Step::Compact),
        1 => (1..4u8).prop_map(|nth| Step::FailSync { nth }),
        1 => (0..900u16).prop_map(|spare| Step::FillDisk { spare }),
        1 => Just(Step::Heal),
        1 => Just(Step::ReopenPartition),
        2 => Just(Step::CloseAndOpen),
        2 => Just(Step::Kill),
        3 => (0..40u8).prop_map(|seed| Step::CutPower { seed }),
    ]
}

/// Topics of a level. Only topics that can be compacted are drawn to be.
pub(crate) fn setup(level: Level) -> impl Strategy<Value = Setup> {
    (prop::bool::weighted(0.3), any::<bool>(), 400..1500u32, option::of(500..4000u64), 1..1000u64).prop_map(
        move |(replicated, compact, segment_bytes, retention_bytes, seed)| Setup {
            level,
            replicated,
            compact,
            segment_bytes,
            retention_bytes,
            seed,
        },
    )
}
