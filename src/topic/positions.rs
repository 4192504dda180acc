//! [`Positions`]: from where each partition must be recovered, in our own file and in Kafka's.
//!
//! Kafka's files carry no checksum, and a broker may have run in between. So our file, which does, also holds the
//! CRC-32 of Kafka's recovery points as we wrote them, before and after: if they are neither, somebody else wrote,
//! and each recovery point is the lower of the two.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::checkpoints::{CHECKPOINT_FILE, Checkpoint, PartitionCheckpoint as Stored};
use crate::error::Result;
use crate::format::OffsetCheckpoint;
use crate::fs::{FileSystem, read_if_there, replace_file};
use crate::partition::{AcceptedLoss, PartitionCheckpoint};
use crate::types::TopicPartition;

const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
const LOG_STARTS: &str = "log-start-offset-checkpoint";
const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
const FIRST_DIRTY: &str = "cleaner-offset-checkpoint";
/// Of checkpoints of 10 million partitions; a length beyond that is damage.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// What was last written down, or is about to be.
#[derive(Debug, Default)]
pub(super) struct Positions {
    partitions: BTreeMap<TopicPartition, PartitionCheckpoint>,
    /// The CRC-32 of Kafka's file of recovery points as it lies on disk.
    kafka_checksum: u32,
    /// Whether the files still name a partition that is not among these any more.
    forgotten: bool,
    /// Whether anything of it changed since the files were written.
    unsaved: bool,
    /// Whether Kafka's file may lie on disk as it was or as it was to be.
    kafka_in_doubt: bool,
    /// What was last written to the files that are only written when they change.
    written: BTreeMap<&'static str, Vec<u8>>,
}

impl Positions {
    /// Reads both files. Also says whether another program has written Kafka's since we did.
    ///
    /// A file that is missing or damaged is no error: recovery then reads more of the log.
    pub(super) fn read(fs: &dyn FileSystem) -> Result<(Self, bool)> {
        let text = read_if_there(fs, Path::new(RECOVERY_POINTS), FILE_BYTES_MAX)?;
        let kafka_checksum = text.as_deref().map_or(0, crc32fast::hash);
        let ours = read_if_there(fs, Path::new(CHECKPOINT_FILE), FILE_BYTES_MAX)?;
        let ours = ours.and_then(|bytes| Checkpoint::decode(&bytes).ok());
        // One that does not decode was written by nobody: as good as none.
        let kafkas = text.as_deref().and_then(offsets);
        let Some(ours) = ours else {
            let others = Others::read(fs)?;
            let foreign = |(id, recovery_point)| {
                let known = others.of(&id, recovery_point);
                (id, known)
            };
            let partitions = kafkas.unwrap_or_default().into_iter().map(foreign).collect();
            return Ok((Positions { partitions, kafka_checksum, ..Positions::default() }, false));
        };
        let undisturbed = kafkas.is_none() || ours.kafka_checksums.contains(&kafka_checksum);
        let kafkas = kafkas.unwrap_or_default();
        let others = if undisturbed { Others::default() } else { Others::read(fs)? };
        let mut partitions = BTreeMap::new();
        for (id, stored) in ours.partitions {
            let known = if undisturbed {
                known(&stored)
            } else {
                // What we knew of places and starts says nothing any more.
                let kafkas = kafkas.get(&id).copied().unwrap_or(0);
                let recovery_point = stored.recovery_point.min(kafkas);
                PartitionCheckpoint { log_start: None, ..others.of(&id, recovery_point) }
            };
            partitions.insert(id, known);
        }
        Ok((Positions { partitions, kafka_checksum, ..Positions::default() }, !undisturbed))
    }

    pub(super) fn get(&self, id: &TopicPartition) -> Option<PartitionCheckpoint> {
        self.partitions.get(id).copied()
    }

    pub(super) fn forget(&mut self, id: &TopicPartition) {
        self.forgotten |= self.partitions.remove(id).is_some();
    }

    /// Writes both files if they still name a partition that was forgotten: another log may take its name now.
    pub(super) fn write_forgotten(&mut self, fs: &dyn FileSystem) -> Result<()> {
        if self.forgotten { self.write(fs) } else { Ok(()) }
    }

    /// Takes note of new positions of some partitions; those of the others stay as they were.
    pub(super) fn update(
        &mut self,
        positions: impl IntoIterator<Item = (TopicPartition, Option<PartitionCheckpoint>)>,
    ) {
        for (id, position) in positions {
            let Some(position) = position else { continue };
            self.unsaved |= self.partitions.get(&id) != Some(&position);
            self.partitions.insert(id, position);
        }
    }

    /// Whether the files do not say what is known.
    pub(super) fn are_unsaved(&self) -> bool {
        self.unsaved
    }

    /// Writes both files, ours first, so that Kafka's is never newer than what ours says of it.
    pub(super) fn write(&mut self, fs: &dyn FileSystem) -> Result<()> {
        if self.kafka_in_doubt {
            // Writing it failed the last time: it may be the old one or the new.
            let text = read_if_there(fs, Path::new(RECOVERY_POINTS), FILE_BYTES_MAX)?;
            self.kafka_checksum = text.as_deref().map_or(0, crc32fast::hash);
        }
        let entries = |offset: fn(&PartitionCheckpoint) -> Option<u64>| {
            let entry = |(id, position): (&TopicPartition, _)| Some((id.clone(), offset(position)?));
            OffsetCheckpoint { entries: self.partitions.iter().filter_map(entry).collect() }
                .encode()
                .into_bytes()
        };
        let text = entries(|position| Some(position.recovery_point));
        let log_starts = entries(|position| position.log_start.filter(|&start| start > 0));
        let high_watermarks = entries(|position| position.high_watermark);
        let first_dirty = entries(|position| position.first_dirty);
        let checksum = crc32fast::hash(&text);
        // One whose start is not known did not open; what Kafka's files say of it stands.
        let entry = |(id, position): (&TopicPartition, &PartitionCheckpoint)| {
            position.log_start.map(|log_start| (id.clone(), stored(position, log_start)))
        };
        let ours = Checkpoint {
            kafka_checksums: [checksum, self.kafka_checksum],
            partitions: self.partitions.iter().filter_map(entry).collect(),
        };
        replace_file(fs, Path::new(CHECKPOINT_FILE), &ours.encode())?;
        self.kafka_in_doubt = true;
        replace_file(fs, Path::new(RECOVERY_POINTS), &text)?;
        self.kafka_in_doubt = false;
        self.kafka_checksum = checksum;
        replace_file(fs, Path::new(LOG_STARTS), &log_starts)?;
        self.write_if_used(fs, HIGH_WATERMARKS, &high_watermarks)?;
        self.write_if_used(fs, FIRST_DIRTY, &first_dirty)?;
        (self.forgotten, self.unsaved) = (false, false);
        Ok(())
    }

    /// Most stores have no replicas, or nothing to compact: then these two are not worth a sync each time.
    fn write_if_used(&mut self, fs: &dyn FileSystem, name: &'static str, text: &[u8]) -> Result<()> {
        let none = OffsetCheckpoint::default().encode().into_bytes();
        let written = self.written.get(name).map_or(&none, |written| written);
        if *written != text {
            replace_file(fs, Path::new(name), text)?;
            self.written.insert(name, text.to_vec());
        }
        Ok(())
    }
}

/// What Kafka's other files say.
#[derive(Debug, Default)]
struct Others {
    log_starts: HashMap<TopicPartition, u64>,
    high_watermarks: HashMap<TopicPartition, u64>,
    first_dirty: HashMap<TopicPartition, u64>,
}

impl Others {
    fn read(fs: &dyn FileSystem) -> Result<Self> {
        let read = |name| {
            let text = read_if_there(fs, Path::new(name), FILE_BYTES_MAX)?;
            Ok(text.as_deref().and_then(offsets).unwrap_or_default())
        };
        Ok(Others {
            log_starts: read(LOG_STARTS)?,
            high_watermarks: read(HIGH_WATERMARKS)?,
            first_dirty: read(FIRST_DIRTY)?,
        })
    }

    fn of(&self, id: &TopicPartition, recovery_point: u64) -> PartitionCheckpoint {
        PartitionCheckpoint {
            log_start: self.log_starts.get(id).copied(),
            recovery_point,
            place: None,
            high_watermark: self.high_watermarks.get(id).copied(),
            first_dirty: self.first_dirty.get(id).copied(),
            accepted: AcceptedLoss::default(),
            epochs_checksum: None,
            producers: true,
            clean: false,
        }
    }
}

fn known(stored: &Stored) -> PartitionCheckpoint {
    PartitionCheckpoint {
        log_start: Some(stored.log_start),
        recovery_point: stored.recovery_point,
        place: Some((stored.segment_base, stored.position)),
        high_watermark: stored.high_watermark,
        first_dirty: stored.first_dirty,
        accepted: AcceptedLoss { from: stored.accepted.0, to: stored.accepted.1 },
        epochs_checksum: Some(stored.epochs_checksum),
        producers: stored.producers,
        clean: stored.clean,
    }
}

fn stored(position: &PartitionCheckpoint, log_start: u64) -> Stored {
    let (segment_base, place) = position.place.unwrap_or((position.recovery_point, 0));
    Stored {
        log_start,
        recovery_point: position.recovery_point,
        segment_base,
        position: place,
        high_watermark: position.high_watermark,
        first_dirty: position.first_dirty,
        accepted: (position.accepted.from, position.accepted.to),
        epochs_checksum: position.epochs_checksum.unwrap_or_default(),
        producers: position.producers,
        clean: position.clean,
    }
}

/// The offsets in one of Kafka's files, if it is whole.
fn offsets(text: &[u8]) -> Option<HashMap<TopicPartition, u64>> {
    Some(OffsetCheckpoint::decode(text).ok()?.entries.into_iter().collect())
}
