//! A store or log directory as a whole: what is written down about its partitions, and which there are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use annals::format::codec::Reader;
use annals::format::{OffsetCheckpoint, crc32};
use annals::{FormatError, TopicName, TopicPartition, Uuid};

use crate::files::{self, Kind};
use crate::output::{Output, Place, Row};
use crate::verify;

/// What `annals.manifest` says of a topic.
pub(crate) struct Topic {
    name: TopicName,
    id: Uuid,
    partitions: u32,
    sparse: bool,
    deleting: bool,
    settings: Vec<(String, String)>,
}

/// What `annals.checkpoint` says of a partition.
pub(crate) struct Position {
    partition: TopicPartition,
    log_start: u64,
    recovery_point: u64,
    segment: u64,
    position: u64,
    /// -1 for none, as in Kafka's files.
    high_watermark: i64,
    first_dirty: i64,
    /// The losses that were accepted: from one offset to behind another.
    accepted: [u64; 2],
    producers: bool,
    clean: bool,
}

/// What somebody wrote down about one partition, and where.
#[derive(Default)]
pub(crate) struct Known {
    /// Whether offsets must follow each other without a gap, if that is known.
    pub(crate) dense: Option<bool>,
    pub(crate) topic_id: Option<Uuid>,
    /// Offsets below these were on disk, by the file that says so.
    pub(crate) recovery_points: Vec<(PathBuf, u64)>,
    pub(crate) log_starts: Vec<(PathBuf, u64)>,
}

/// A directory that holds partitions.
pub(crate) struct Store {
    root: PathBuf,
    topics: Vec<Topic>,
    partitions: BTreeSet<TopicPartition>,
    recovery_points: Vec<(PathBuf, TopicPartition, u64)>,
    log_starts: Vec<(PathBuf, TopicPartition, u64)>,
    names: Vec<(String, Kind)>,
}

impl Store {
    /// Reads what the root says. Files in it that are damaged are reported, and say nothing.
    pub(crate) fn read(root: &Path, out: &mut Output) -> io::Result<Store> {
        let mut store = Store {
            root: root.to_path_buf(),
            topics: Vec::new(),
            partitions: BTreeSet::new(),
            recovery_points: Vec::new(),
            log_starts: Vec::new(),
            names: files::list(root)?,
        };
        let names = store.names.clone();
        for (name, kind) in &names {
            let path = root.join(name);
            if let Err(problem) = store.take(&path, kind) {
                out.begin(&path);
                match problem {
                    files::Failure::Damaged(what) => out.damage(Place::default(), what)?,
                    files::Failure::Unreadable(what) => out.unreadable(what)?,
                }
            }
        }
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                store.partitions.extend(TopicPartition::from_dir_name(&entry.file_name().to_string_lossy()));
            }
        }
        Ok(store)
    }

    /// What the directory around a partition says of it; nothing, if it is none.
    pub(crate) fn around(partition: &Path, out: &mut Output) -> io::Result<Store> {
        let root = partition.parent().unwrap_or(partition);
        Store::read(root, out).or_else(|_| Store::read(partition, out))
    }

    fn take(&mut self, path: &Path, kind: &Kind) -> Result<(), files::Failure> {
        match kind {
            Kind::Manifest => self.topics = decode_manifest(&files::read(path)?)?,
            Kind::Checkpoint => {
                for position in decode_checkpoint(&files::read(path)?)? {
                    let id = position.partition;
                    self.log_starts.push((path.to_path_buf(), id.clone(), position.log_start));
                    self.recovery_points.push((path.to_path_buf(), id, position.recovery_point));
                }
            }
            Kind::ProducerIds => drop(decode_producer_ids(&files::read(path)?)?),
            Kind::OffsetCheckpoint => {
                let entries = OffsetCheckpoint::decode(&files::read(path)?)?.entries;
                let list = match path.file_name().and_then(|name| name.to_str()) {
                    Some("recovery-point-offset-checkpoint") => &mut self.recovery_points,
                    Some("log-start-offset-checkpoint") => &mut self.log_starts,
                    _ => return Ok(()),
                };
                list.extend(entries.into_iter().map(|(id, offset)| (path.to_path_buf(), id, offset)));
            }
            _ => {}
        }
        Ok(())
    }

    /// The partitions there are, in order.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = &TopicPartition> {
        self.partitions.iter()
    }

    /// What is known of the partition in a directory.
    pub(crate) fn knows_of(&self, directory: &Path) -> Known {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let Some(id) = TopicPartition::from_dir_name(&name) else { return Known::default() };
        let topic = self.topics.iter().find(|topic| topic.name == id.topic);
        let of = |list: &[(PathBuf, TopicPartition, u64)]| {
            let own = list.iter().filter(|(_, partition, _)| *partition == id);
            own.map(|(path, _, offset)| (path.clone(), *offset)).collect()
        };
        Known {
            dense: topic.map(|topic| !topic.sparse),
            topic_id: topic.map(|topic| topic.id),
            recovery_points: of(&self.recovery_points),
            log_starts: of(&self.log_starts),
        }
    }

    /// Checks every partition, and that those written down are there.
    pub(crate) fn verify(&self, out: &mut Output) -> io::Result<()> {
        for (name, kind) in &self.names {
            out.begin(&self.root.join(name));
            match kind {
                Kind::Unknown => out.note(Place::default(), "not a file of a store")?,
                Kind::Leftover => out.note(Place::default(), "a leftover of a change")?,
                _ => {}
            }
        }
        self.verify_missing(out)?;
        for id in &self.partitions {
            let directory = self.root.join(id.to_string());
            verify::partition(&directory, None, &self.knows_of(&directory), out)?;
        }
        Ok(())
    }

    fn verify_missing(&self, out: &mut Output) -> io::Result<()> {
        let mut missing: BTreeMap<&TopicPartition, u64> = BTreeMap::new();
        for (_, id, offset) in self.recovery_points.iter().filter(|(_, id, _)| !self.partitions.contains(id))
        {
            let highest = missing.entry(id).or_default();
            *highest = (*highest).max(*offset);
        }
        for (id, recovery_point) in missing {
            out.begin(&self.root.join(id.to_string()));
            let named =
                |topic: &&Topic| topic.name == id.topic && !topic.deleting && id.partition < topic.partitions;
            let what = format!("no such directory, though offsets below {recovery_point} were on disk");
            match self.topics.iter().find(named) {
                Some(_) if recovery_point > 0 => out.damage(Place::default(), what)?,
                // A broker forgets a deleted topic with its next checkpoint.
                _ => out.note(Place::default(), what)?,
            }
        }
        Ok(())
    }
}

pub(crate) fn manifest_rows(topics: &[Topic]) -> Vec<Row> {
    let mut rows = Vec::new();
    for topic in topics {
        let row =
            Row::new("topic", "").with("topic", topic.name.as_str()).with("topicId", topic.id.to_string());
        let row = row.with("partitions", topic.partitions).with("sparse", topic.sparse);
        let settings: Vec<String> =
            topic.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        rows.push(row.with("deleting", topic.deleting).with("settings", settings.join(" ")));
    }
    rows
}

pub(crate) fn checkpoint_rows(positions: &[Position]) -> Vec<Row> {
    let mut rows = Vec::new();
    for position in positions {
        let row = Row::new("position", "").with("partition", position.partition.to_string());
        let row = row.with("logStart", position.log_start).with("recoveryPoint", position.recovery_point);
        rows.push(
            row.with("segment", position.segment)
                .with("position", position.position)
                .with("highWatermark", position.high_watermark)
                .with("firstDirty", position.first_dirty)
                .with("accepted", format!("{}..{}", position.accepted[0], position.accepted[1]))
                .with("producers", position.producers)
                .with("clean", position.clean),
        );
    }
    rows
}

/// Reads `annals.manifest`, as `src/topic/manifest.rs` draws it.
pub(crate) fn decode_manifest(bytes: &[u8]) -> Result<Vec<Topic>, FormatError> {
    const WHAT: &str = "the manifest";
    let mut body = unframe(bytes, b"annalsM1", 1, WHAT)?;
    let mut topics = Vec::new();
    for _ in 0..body.u32(WHAT)? {
        let name = topic_name(&mut body)?;
        let mut id = Uuid::ZERO;
        id.0.copy_from_slice(body.take(16, WHAT)?);
        let (partitions, flags) = (body.u32(WHAT)?, body.u32(WHAT)?);
        let mut settings = Vec::new();
        for _ in 0..body.u32(WHAT)? {
            settings.push((text(&mut body)?, text(&mut body)?));
        }
        let (sparse, deleting) = (flags & 1 != 0, flags & 2 != 0);
        topics.push(Topic { name, id, partitions, sparse, deleting, settings });
    }
    body.finish(WHAT)?;
    Ok(topics)
}

/// Reads `annals.checkpoint`, as `src/topic/checkpoints.rs` draws it.
pub(crate) fn decode_checkpoint(bytes: &[u8]) -> Result<Vec<Position>, FormatError> {
    const WHAT: &str = "the checkpoint";
    let mut body = unframe(bytes, b"annalsC1", 3, WHAT)?;
    // The checksums of Kafka's file, next and before.
    body.take(8, WHAT)?;
    let mut positions = Vec::new();
    for _ in 0..body.u32(WHAT)? {
        let topic = topic_name(&mut body)?;
        for _ in 0..body.u32(WHAT)? {
            let partition = TopicPartition { topic: topic.clone(), partition: body.u32(WHAT)? };
            let [log_start, recovery_point] = [body.offset(WHAT)?, body.offset(WHAT)?];
            let [segment, position] = [body.offset(WHAT)?, body.offset(WHAT)?];
            let [high_watermark, first_dirty] = [body.i64(WHAT)?, body.i64(WHAT)?];
            let accepted = [body.offset(WHAT)?, body.offset(WHAT)?];
            // The checksum of the leader epochs.
            body.u32(WHAT)?;
            let flags = body.i8(WHAT)?;
            positions.push(Position {
                partition,
                log_start,
                recovery_point,
                segment,
                position,
                high_watermark,
                first_dirty,
                accepted,
                producers: flags & 2 != 0,
                clean: flags & 1 != 0,
            });
        }
    }
    body.finish(WHAT)?;
    Ok(positions)
}

/// Reads `annals.producer-ids`, as `src/topic/producer_ids.rs` describes it: the first id that belongs to no block.
pub(crate) fn decode_producer_ids(bytes: &[u8]) -> Result<u64, FormatError> {
    const WHAT: &str = "the file of producer ids";
    let mut body = unframe(bytes, b"annalsP1", 1, WHAT)?;
    let next = body.offset(WHAT)?;
    body.finish(WHAT)?;
    Ok(next)
}

pub(crate) fn producer_ids_row(next: u64) -> Row {
    Row::new("producerIds", "").with("nextBlock", next)
}

/// What is inside the frame of `src/topic/framed.rs`: magic, version, length, body, CRC-32 of all before it.
fn unframe<'a>(
    bytes: &'a [u8],
    magic: &[u8; 8],
    known: i16,
    what: &'static str,
) -> Result<Reader<'a>, FormatError> {
    let mut reader = Reader::new(bytes);
    let found = reader.take(8, what)?;
    if found != magic {
        let found = found.iter().fold(0, |number, byte| number << 8 | i64::from(*byte));
        return Err(FormatError::Invalid { what, found, expected: "the magic of its kind" });
    }
    let version = reader.i16(what)?;
    let length = reader.offset(what)?;
    let body = reader.take(usize::try_from(length).unwrap_or(usize::MAX), what)?;
    let covered = bytes.len() - reader.remaining();
    let stored = reader.u32(what)?;
    reader.finish(what)?;
    let computed = crc32(bytes.get(..covered).unwrap_or_default());
    if stored != computed {
        return Err(FormatError::Checksum { what, stored, computed });
    }
    if version != known {
        let supported = "the version that this program was made for";
        return Err(FormatError::Version { what, found: version.into(), supported });
    }
    Ok(Reader::new(body))
}

fn topic_name(body: &mut Reader<'_>) -> Result<TopicName, FormatError> {
    const WHAT: &str = "a topic's name";
    let length = body.i8(WHAT)? as u8;
    let name = std::str::from_utf8(body.take(length.into(), WHAT)?).unwrap_or_default();
    TopicName::new(name).map_err(|_| FormatError::Invalid {
        what: WHAT,
        found: length.into(),
        expected: "legal",
    })
}

fn text(body: &mut Reader<'_>) -> Result<String, FormatError> {
    const WHAT: &str = "a setting";
    let length = usize::try_from(body.u32(WHAT)?).unwrap_or(usize::MAX);
    Ok(String::from_utf8_lossy(body.take(length, WHAT)?).into_owned())
}
