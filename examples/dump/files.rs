//! One file of each kind: what its name says it is, and its content as rows.

use std::io;
use std::path::Path;

use annals::format::{LeaderEpochs, OffsetCheckpoint, PartitionMetadata, ProducerSnapshot};
use annals::{Error, OffsetIndex, TimeIndex, TransactionIndex};

use crate::Options;
use crate::batches;
use crate::output::{Output, Place, Row};
use crate::store;

/// No file of these kinds is larger; what claims to be is not read.
const SMALL_FILE_BYTES_MAX: u64 = 1 << 30;

/// What a file is, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Log(u64),
    OffsetIndex(u64),
    TimeIndex(u64),
    TransactionIndex(u64),
    /// The checksum of the one before; annals' own.
    TransactionChecksum(u64),
    /// Named after the first offset that it does not cover.
    Snapshot(u64),
    LeaderEpochs,
    PartitionMetadata,
    OffsetCheckpoint,
    Manifest,
    Checkpoint,
    ProducerIds,
    /// Belongs there, but there is nothing to show.
    Known,
    /// A step of a change that was interrupted, or is going on.
    Leftover,
    Unknown,
}

impl Kind {
    pub(crate) fn of(name: &str) -> Kind {
        let known = match name {
            "leader-epoch-checkpoint" => Kind::LeaderEpochs,
            "partition.metadata" => Kind::PartitionMetadata,
            "annals.manifest" => Kind::Manifest,
            "annals.checkpoint" => Kind::Checkpoint,
            "annals.producer-ids" => Kind::ProducerIds,
            ".lock" | ".kafka_cleanshutdown" | "meta.properties" | "bootstrap.checkpoint" => Kind::Known,
            name if name.ends_with("-offset-checkpoint") => Kind::OffsetCheckpoint,
            name if [".tmp", ".deleted", ".cleaned", ".swap", ".doubtful"]
                .iter()
                .any(|end| name.ends_with(end)) =>
            {
                Kind::Leftover
            }
            _ => Kind::Unknown,
        };
        let Some((digits, extension)) = name.split_once('.').filter(|_| known == Kind::Unknown) else {
            return known;
        };
        let is_offset = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        match (digits.parse(), extension) {
            (Ok(offset), "log") if is_offset => Kind::Log(offset),
            (Ok(offset), "index") if is_offset => Kind::OffsetIndex(offset),
            (Ok(offset), "timeindex") if is_offset => Kind::TimeIndex(offset),
            (Ok(offset), "txnindex") if is_offset => Kind::TransactionIndex(offset),
            (Ok(offset), "txnindex.crc") if is_offset => Kind::TransactionChecksum(offset),
            (Ok(offset), "snapshot") if is_offset => Kind::Snapshot(offset),
            _ => Kind::Unknown,
        }
    }

    /// The segment that a file is part of.
    pub(crate) fn segment(&self) -> Option<u64> {
        match self {
            Kind::Log(base)
            | Kind::OffsetIndex(base)
            | Kind::TimeIndex(base)
            | Kind::TransactionIndex(base)
            | Kind::TransactionChecksum(base) => Some(*base),
            _ => None,
        }
    }

    pub(crate) fn belongs_to_partition(&self) -> bool {
        matches!(self, Kind::Snapshot(_) | Kind::LeaderEpochs | Kind::PartitionMetadata)
            || self.segment().is_some()
    }
}

/// The regular files in a directory, by name.
pub(crate) fn list(directory: &Path) -> io::Result<Vec<(String, Kind)>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // Nothing else is opened: a FIFO would block, a link lead elsewhere.
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = Kind::of(&name);
            names.push((name, kind));
        }
    }
    names.sort();
    Ok(names)
}

/// The whole of a small file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > SMALL_FILE_BYTES_MAX {
        return Err(io::Error::other("it is no file, or too large for one of this kind"));
    }
    std::fs::read(path)
}

/// Prints what is in a file.
pub(crate) fn dump(path: &Path, kind: &Kind, options: &Options, out: &mut Output) -> io::Result<()> {
    if matches!(kind, Kind::Known | Kind::Leftover | Kind::Unknown) {
        out.begin(path);
        return match kind {
            Kind::Known => Ok(()),
            Kind::Leftover => out.note(Place::default(), "a leftover of a change, not looked into"),
            _ => out.note(Place::default(), "not a file of a log"),
        };
    }
    let bytes = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) => {
            out.begin(path);
            return out.unreadable(error);
        }
    };
    out.announce(path, bytes)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let shown = match kind {
        Kind::Log(base) => return batches::dump(directory, *base, options.records, out),
        kind => rows(path, directory, kind),
    };
    match shown {
        Ok(rows) => rows.into_iter().try_for_each(|row| out.row(row)),
        Err(Failure::Unreadable(error)) => out.unreadable(error),
        Err(Failure::Damaged(what)) => {
            out.row(Row::new("invalid", "").with("isvalid", false).with("what", what))
        }
    }
}

/// Checks that a file that belongs to no segment is one of its kind.
pub(crate) fn check(path: &Path, kind: &Kind, out: &mut Output) -> io::Result<()> {
    out.begin(path);
    match rows(path, path.parent().unwrap_or(Path::new(".")), kind) {
        Ok(_) => Ok(()),
        Err(Failure::Unreadable(error)) => out.unreadable(error),
        Err(Failure::Damaged(what)) => out.damage(Place::default(), what),
    }
}

/// Why a file cannot be shown.
pub(crate) enum Failure {
    Unreadable(String),
    Damaged(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Unreadable(error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Corruption { position, detail, .. } => {
                Failure::Damaged(format!("at byte {position}: {detail}"))
            }
            other => Failure::Unreadable(other.to_string()),
        }
    }
}

impl From<annals::FormatError> for Failure {
    fn from(error: annals::FormatError) -> Self {
        Failure::Damaged(error.to_string())
    }
}

/// The content of every kind of file but the log.
fn rows(path: &Path, directory: &Path, kind: &Kind) -> Result<Vec<Row>, Failure> {
    Ok(match kind {
        Kind::OffsetIndex(base) => offset_index(&OffsetIndex::open(directory, *base)?),
        Kind::TimeIndex(base) => time_index(&TimeIndex::open(directory, *base)?),
        Kind::TransactionIndex(base) => transaction_index(&TransactionIndex::open(directory, *base)?),
        Kind::Snapshot(_) => snapshot(&ProducerSnapshot::decode(&read(path)?)?),
        Kind::LeaderEpochs => leader_epochs(&LeaderEpochs::decode(&read(path)?)?),
        Kind::OffsetCheckpoint => offset_checkpoint(&OffsetCheckpoint::decode(&read(path)?)?),
        Kind::PartitionMetadata => {
            let metadata = PartitionMetadata::decode(&read(path)?)?;
            let row = Row::new("partitionMetadata", "").with("version", metadata.version);
            vec![row.with("topicId", metadata.topic_id.to_string())]
        }
        Kind::Manifest => store::manifest_rows(&store::decode_manifest(&read(path)?)?),
        Kind::Checkpoint => store::checkpoint_rows(&store::decode_checkpoint(&read(path)?)?),
        Kind::ProducerIds => vec![store::producer_ids_row(store::decode_producer_ids(&read(path)?)?)],
        Kind::Log(_) | Kind::TransactionChecksum(_) | Kind::Known | Kind::Leftover | Kind::Unknown => {
            Vec::new()
        }
    })
}

fn offset_index(index: &OffsetIndex) -> Vec<Row> {
    let row = |entry: annals::IndexEntry| {
        Row::new("indexEntry", "").with("offset", entry.offset).with("position", entry.position)
    };
    index.entries().map(row).collect()
}

fn time_index(index: &TimeIndex) -> Vec<Row> {
    let row = |entry: annals::TimeIndexEntry| {
        Row::new("timeIndexEntry", "").with("timestamp", entry.timestamp).with("offset", entry.offset)
    };
    index.entries().map(row).collect()
}

fn transaction_index(index: &TransactionIndex) -> Vec<Row> {
    let mut rows = Vec::new();
    for entry in index.entries() {
        let row = Row::new("abortedTransaction", "").with("producerId", entry.producer_id);
        let row = row.with("firstOffset", entry.first_offset).with("lastOffset", entry.last_offset);
        rows.push(row.with("lastStableOffset", entry.last_stable_offset));
    }
    rows
}

fn snapshot(snapshot: &ProducerSnapshot) -> Vec<Row> {
    let mut rows = Vec::new();
    for entry in &snapshot.entries {
        let row = Row::new("producer", "").with("producerId", entry.producer_id);
        let row = row.with("producerEpoch", entry.producer_epoch).with("lastSequence", entry.last_sequence);
        let row = row.with("lastOffset", entry.last_offset).with("offsetDelta", entry.offset_delta);
        let row =
            row.with("lastTimestamp", entry.last_timestamp).with("coordinatorEpoch", entry.coordinator_epoch);
        rows.push(row.with("currentTxnFirstOffset", entry.transaction_first_offset));
    }
    rows
}

fn leader_epochs(epochs: &LeaderEpochs) -> Vec<Row> {
    let mut rows = Vec::new();
    for entry in &epochs.entries {
        rows.push(
            Row::new("leaderEpoch", "").with("epoch", entry.epoch).with("startOffset", entry.start_offset),
        );
    }
    rows
}

fn offset_checkpoint(checkpoint: &OffsetCheckpoint) -> Vec<Row> {
    let mut rows = Vec::new();
    for (id, offset) in &checkpoint.entries {
        let row = Row::new("offset", "").with("topic", id.topic.as_str()).with("partition", id.partition);
        rows.push(row.with("offset", *offset));
    }
    rows
}
