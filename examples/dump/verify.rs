//! Holds everything in a partition directory against everything else.
//!
//! What was written last is read first (checkpoints, then indexes, then logs), so that a log that grows meanwhile is
//! no reason to complain.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;

use annals::format::{ControlType, LeaderEpochs, PartitionMetadata, ProducerSnapshot, crc32};
use annals::{Error, OffsetIndex, RecordBatch, Segment, TimeIndex, TransactionIndex};

use crate::batches::DECOMPRESSED_BYTES_MAX;
use crate::files::{self, Kind};
use crate::output::{Output, Place, Row};
use crate::store::Known;

/// What is remembered of a batch while its segment is checked.
struct Batch {
    position: u64,
    base: u64,
    last: u64,
    max_timestamp: i64,
    /// The producer, if it is a control batch, and what its record says, if it has one.
    control: Option<(Option<i64>, Option<ControlType>)>,
}

/// What a log file holds.
#[derive(Default)]
struct Content {
    batches: Vec<Batch>,
    /// Stretches that are no batch. What an index says of them cannot be checked.
    damaged: Vec<Range<u64>>,
}

/// The indexes of a segment as they lay on disk before its log was read.
struct Indexes {
    offset: Result<OffsetIndex, Error>,
    time: Result<TimeIndex, Error>,
    transaction: Result<TransactionIndex, Error>,
}

/// What is known of the log so far.
#[derive(Default)]
struct Log {
    /// Behind the last batch that could be read.
    end: u64,
    start: Option<u64>,
    segments: u64,
    batches: u64,
    /// Batches of which no record is missing, and how many of them hold more than one.
    whole: u64,
    whole_of_many: u64,
    records: u64,
    bytes: u64,
    epoch: i32,
    gaps: Vec<(u64, u64)>,
}

/// Checks a partition directory, or one segment of it, and says how much was checked.
pub(crate) fn partition(
    directory: &Path,
    only: Option<u64>,
    known: &Known,
    out: &mut Output,
) -> io::Result<()> {
    out.begin(directory);
    let names = match files::list(directory) {
        Ok(names) => names,
        Err(error) => return out.unreadable(error),
    };
    let found = (out.damages, out.notes);
    let bases: Vec<u64> = names
        .iter()
        .filter_map(|(_, kind)| if let Kind::Log(base) = kind { Some(*base) } else { None })
        .filter(|base| only.is_none_or(|only| only == *base))
        .collect();
    let mut indexes: BTreeMap<u64, Indexes> =
        bases.iter().map(|&base| (base, Indexes::open(directory, base))).collect();
    let mut log = Log { epoch: -1, ..Log::default() };
    for (n, &base) in bases.iter().enumerate() {
        let sealed = n + 1 < bases.len() || only.is_some_and(|only| names_hold_later(&names, only));
        let Some(indexes) = indexes.remove(&base) else { continue };
        let durable = known.recovery_points.iter().map(|(_, offset)| *offset).max().unwrap_or(0);
        segment(directory, base, sealed, durable, &mut log, indexes, out)?;
    }
    if only.is_none() {
        out.begin(directory);
        gaps(&log, known.dense, out)?;
        for (name, kind) in &names {
            beside_the_log(&directory.join(name), kind, known, &log, &bases, out)?;
        }
        written_down(directory, known, &log, out)?;
    }
    out.begin(directory);
    let row = Row::new("verified", "VERIFIED ").with("directory", directory.display().to_string());
    let row = row.with("logStart", log.start).with("logEnd", log.end).with("segments", log.segments);
    let row = row.with("batches", log.batches).with("records", log.records).with("bytes", log.bytes);
    out.row(row.with("damages", out.damages - found.0).with("notes", out.notes - found.1))
}

fn names_hold_later(names: &[(String, Kind)], base: u64) -> bool {
    names.iter().any(|(_, kind)| matches!(kind, Kind::Log(other) if *other > base))
}

impl Indexes {
    fn open(directory: &Path, base: u64) -> Indexes {
        Indexes {
            offset: OffsetIndex::open(directory, base),
            time: TimeIndex::open(directory, base),
            transaction: TransactionIndex::open(directory, base),
        }
    }
}

/// Checks one segment: every batch and record, then the indexes against them.
fn segment(
    directory: &Path,
    base: u64,
    sealed: bool,
    durable: u64,
    log: &mut Log,
    indexes: Indexes,
    out: &mut Output,
) -> io::Result<()> {
    let name = |extension: &str| directory.join(format!("{base:020}.{extension}"));
    out.begin(&name("log"));
    let segment = match Segment::open(directory, base) {
        Ok(segment) => segment,
        Err(error) if is_missing(&error) => {
            return out.note(Place::offset(base), "removed while it was checked");
        }
        Err(error) => return out.unreadable(error),
    };
    if log.start.is_some() && base < log.end {
        out.damage(Place::at(0, base), format!("the segment before it ends at offset {}", log.end))?;
    } else if log.start.is_some() && base > log.end {
        log.gaps.push((log.end, base));
    }
    log.start.get_or_insert(base);
    log.end = log.end.max(base);
    log.segments += 1;
    log.bytes += segment.size();
    let content = batches(&segment, sealed, durable, log, out)?;
    out.begin(&name("index"));
    offset_index(indexes.offset, &content, segment.size(), sealed, out)?;
    out.begin(&name("timeindex"));
    time_index(indexes.time, &content, sealed, out)?;
    out.begin(&name("txnindex"));
    transaction_index(indexes.transaction, &content, out)
}

/// Reads every batch and record of a segment.
fn batches(
    segment: &Segment,
    sealed: bool,
    durable: u64,
    log: &mut Log,
    out: &mut Output,
) -> io::Result<Content> {
    let mut found = Content::default();
    let mut batches = segment.batches();
    loop {
        let position = batches.position();
        match batches.next() {
            None => return Ok(found),
            Some(Ok(batch)) => found.batches.push(one_batch(&batch, position, log, out)?),
            Some(Err(Error::Corruption { detail, .. })) => {
                let behind = match batches.skip_damage() {
                    Ok(behind) => behind,
                    Err(error) => {
                        out.unreadable(error)?;
                        return Ok(found);
                    }
                };
                let place = Place::at(position, log.end);
                let bytes = behind.unwrap_or(segment.size()) - position;
                found.damaged.push(position..position + bytes);
                // Being written just now, or cut by a crash: recovery removes it.
                if behind.is_none() && !sealed && log.end >= durable {
                    out.note(place, format!("an incomplete end of {bytes} bytes: {detail}"))?;
                } else {
                    out.damage(place, format!("{bytes} bytes are no batch: {detail}"))?;
                }
            }
            Some(Err(error)) => {
                out.unreadable(error)?;
                return Ok(found);
            }
        }
    }
}

fn one_batch(batch: &RecordBatch, position: u64, log: &mut Log, out: &mut Output) -> io::Result<Batch> {
    let header = batch.header();
    let place = Place::at(position, header.base_offset);
    let mut control = header.control.then_some((header.producer_id, None));
    let mut first = header.base_offset;
    match batch.records(DECOMPRESSED_BYTES_MAX) {
        Ok(records) => {
            // Of a compressed legacy batch only the records know where it begins.
            if header.magic < 2 {
                first = records.iter().next().map_or(first, |record| record.offset());
            }
            let span = header.last_offset - first + 1;
            log.records += records.len() as u64;
            log.whole += u64::from(records.len() as u64 == span);
            log.whole_of_many += u64::from(records.len() as u64 == span && span > 1);
            if let (Some((_, kind)), Some(record)) = (&mut control, records.iter().next()) {
                match ControlType::parse(record.key().unwrap_or_default()) {
                    Ok(parsed) => *kind = Some(parsed),
                    Err(error) => {
                        out.damage(place, format!("its control record does not decode: {error}"))?
                    }
                }
            }
        }
        Err(error @ annals::FormatError::CodecDisabled { .. }) => out.note(place, error)?,
        Err(error) => out.damage(place, format!("its records do not decode: {error}"))?,
    }
    if first < log.end {
        out.damage(place, format!("it begins at offset {first}, but the batch before ends at {}", log.end))?;
    } else if first > log.end {
        log.gaps.push((log.end, first));
    }
    match header.leader_epoch {
        Some(epoch) if epoch < log.epoch => {
            out.damage(place, format!("leader epoch {epoch} comes after {}", log.epoch))?;
        }
        Some(epoch) => log.epoch = epoch,
        None => {}
    }
    log.batches += 1;
    log.end = log.end.max(header.next_offset());
    let (base, last, max_timestamp) = (first, header.last_offset, header.max_timestamp);
    Ok(Batch { position, base, last, max_timestamp, control })
}

/// Every entry must name a batch and an offset at which it, or one behind it, ends.
fn offset_index(
    index: Result<OffsetIndex, Error>,
    content: &Content,
    size: u64,
    sealed: bool,
    out: &mut Output,
) -> io::Result<()> {
    let Some(index) = present(index, sealed, out)? else { return Ok(()) };
    let batches = &content.batches;
    for (n, entry) in index.entries().enumerate() {
        let place = Place::at(n as u64 * 8, entry.offset);
        let position = entry.position;
        if content.damaged.iter().any(|range| range.contains(&position)) {
            continue;
        }
        match batches.binary_search_by_key(&position, |batch| batch.position) {
            // Recovery drops it together with the end of the log.
            Err(_) if position >= size && !sealed => {
                out.note(place, format!("it points behind the log, to {position}"))?
            }
            Err(_) => out.damage(place, format!("no batch begins at position {position} of the log"))?,
            Ok(at) => {
                // Older brokers noted the end of a whole append for its first batch.
                let ends = |batch: &Batch| batch.last == entry.offset;
                if !batches.get(at..).unwrap_or_default().iter().any(ends) {
                    out.damage(place, format!("no batch from position {position} on ends at that offset"))?;
                }
            }
        }
    }
    Ok(())
}

/// Every entry must name a batch that has that time as its largest, all before it must be earlier, and the last entry
/// of a sealed segment must be the largest of all.
fn time_index(
    index: Result<TimeIndex, Error>,
    content: &Content,
    sealed: bool,
    out: &mut Output,
) -> io::Result<()> {
    let Some(index) = present(index, sealed, out)? else { return Ok(()) };
    let batches = &content.batches;
    let mut largest_before = Vec::with_capacity(batches.len());
    let (mut largest, mut told) = (-1, false);
    for batch in batches {
        largest = batch.max_timestamp.max(largest);
        largest_before.push(largest);
    }
    for (n, entry) in index.entries().enumerate() {
        let place = Place::at(n as u64 * 12, entry.offset);
        let at = batches.partition_point(|batch| batch.last < entry.offset);
        let batch = batches.get(at).filter(|batch| batch.base <= entry.offset);
        match batch.zip(largest_before.get(at)) {
            None if !sealed && batches.last().is_none_or(|last| last.last < entry.offset) => {
                out.note(place, "it points behind the log")?;
            }
            None if !content.damaged.is_empty() => {}
            None => out.damage(place, "no batch holds that offset")?,
            Some((batch, _)) if batch.max_timestamp != entry.timestamp => {
                let what = format!(
                    "the batch's largest timestamp is {}, not {}",
                    batch.max_timestamp, entry.timestamp
                );
                out.damage(place, what)?;
            }
            Some((_, before)) if *before > entry.timestamp => {
                // Once is enough: the same record is later than many an entry behind it.
                if !std::mem::replace(&mut told, true) {
                    out.damage(place, format!("a record before it has the later timestamp {before}"))?;
                }
            }
            Some(_) => {}
        }
    }
    let last = index.last().map_or(-1, |last| last.timestamp);
    if sealed && last < largest {
        let what = format!("its last entry is for timestamp {last}, but the segment goes up to {largest}");
        out.damage(Place::default(), what)?;
    }
    Ok(())
}

/// Every entry must name an abort marker of that producer.
fn transaction_index(
    index: Result<TransactionIndex, Error>,
    content: &Content,
    out: &mut Output,
) -> io::Result<()> {
    let index = match index {
        Ok(index) => index,
        Err(error) => return refused(error, out),
    };
    let batches = &content.batches;
    for (n, entry) in index.entries().iter().enumerate() {
        let place = Place::at(n as u64 * 34, entry.last_offset);
        let at = batches.partition_point(|batch| batch.last < entry.last_offset);
        let batch = batches.get(at).filter(|batch| batch.base <= entry.last_offset);
        match batch.map(|batch| batch.control) {
            Some(Some((producer, None | Some(ControlType::Abort))))
                if producer == Some(entry.producer_id) => {}
            None if !content.damaged.is_empty() => {}
            _ => out.damage(place, format!("there is no abort marker of producer {}", entry.producer_id))?,
        }
        if entry.first_offset > entry.last_offset {
            out.damage(
                place,
                format!("its transaction begins behind its marker, at {}", entry.first_offset),
            )?;
        }
    }
    Ok(())
}

/// An index, if there is one. It can be missing: it is made again from the log.
fn present<T>(index: Result<T, Error>, sealed: bool, out: &mut Output) -> io::Result<Option<T>> {
    match index {
        Ok(index) => Ok(Some(index)),
        Err(error) if is_missing(&error) => {
            if sealed {
                out.note(Place::default(), "missing; it will be made again from the log")?;
            }
            Ok(None)
        }
        Err(error) => refused(error, out).map(|()| None),
    }
}

fn refused(error: Error, out: &mut Output) -> io::Result<()> {
    match error {
        Error::Corruption { position, detail, .. } => {
            out.damage(Place { position: Some(position), offset: None }, detail)
        }
        error => out.unreadable(error),
    }
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// Offsets between batches that no batch takes up: damage where none may be missing.
fn gaps(log: &Log, dense: Option<bool>, out: &mut Output) -> io::Result<()> {
    // Compaction takes records out of batches. Where none is missing from batches of many, it was not at work.
    let looks_dense = log.whole == log.batches && log.whole_of_many * 2 > log.batches;
    let is_damage = dense.unwrap_or(looks_dense);
    for (from, to) in &log.gaps {
        let what = format!("offsets {from} to {to} (exclusive) are missing");
        if is_damage {
            out.damage(Place::offset(*from), what)?;
        } else {
            out.note(Place::offset(*from), format!("{what}, as in a compacted log"))?;
        }
    }
    Ok(())
}

/// The files beside the logs and their indexes.
fn beside_the_log(
    path: &Path,
    kind: &Kind,
    known: &Known,
    log: &Log,
    bases: &[u64],
    out: &mut Output,
) -> io::Result<()> {
    out.begin(path);
    let read = || files::read(path).map_err(files::Failure::from);
    let checked = match kind {
        Kind::Snapshot(offset) => read().and_then(|bytes| snapshot(&bytes, *offset, log)),
        Kind::LeaderEpochs => read().and_then(|bytes| leader_epochs(&bytes, log)),
        Kind::PartitionMetadata => read().and_then(|bytes| metadata(&bytes, known)),
        Kind::TransactionChecksum(_) => read().and_then(|bytes| transaction_checksum(&bytes, path)),
        Kind::Leftover => return out.note(Place::default(), "a leftover of a change"),
        Kind::Unknown => return out.note(Place::default(), "not a file of a log"),
        kind if kind.segment().is_some_and(|base| !bases.contains(&base)) => {
            return out.note(Place::default(), "there is no log file for it");
        }
        _ => return Ok(()),
    };
    match checked {
        Ok(()) => Ok(()),
        Err(files::Failure::Damaged(what)) => out.damage(Place::default(), what),
        Err(files::Failure::Unreadable(what)) => out.unreadable(what),
    }
}

/// Two CRC-32, as `src/storage/transaction_index.rs` draws them: of the index beside it, and of that.
fn transaction_checksum(bytes: &[u8], path: &Path) -> Result<(), files::Failure> {
    let index = files::read(&path.with_extension(""))?;
    let stored = crc32(&index).to_be_bytes();
    let expected = [stored, crc32(&stored).to_be_bytes()].concat();
    match bytes == expected {
        true => Ok(()),
        false => Err(files::Failure::Damaged("it is not the checksum of the transaction index".into())),
    }
}

fn snapshot(bytes: &[u8], offset: u64, log: &Log) -> Result<(), files::Failure> {
    let damaged = |what| Err(files::Failure::Damaged(what));
    let snapshot = ProducerSnapshot::decode(bytes)?;
    if offset > log.end {
        return damaged(format!("it is for offset {offset}, but the log ends at {}", log.end));
    }
    let beyond = |last: &u64| *last >= offset;
    match snapshot.entries.iter().find(|entry| entry.last_offset.as_ref().is_some_and(beyond)) {
        Some(entry) => {
            damaged(format!("producer {} has an offset that it does not cover", entry.producer_id))
        }
        None => Ok(()),
    }
}

fn leader_epochs(bytes: &[u8], log: &Log) -> Result<(), files::Failure> {
    // That they increase is checked as they are read.
    match LeaderEpochs::decode(bytes)?.entries.last() {
        Some(last) if last.start_offset > log.end => {
            let (epoch, start, end) = (last.epoch, last.start_offset, log.end);
            Err(files::Failure::Damaged(format!(
                "epoch {epoch} begins at offset {start}, but the log ends at {end}"
            )))
        }
        _ => Ok(()),
    }
}

fn metadata(bytes: &[u8], known: &Known) -> Result<(), files::Failure> {
    let found = PartitionMetadata::decode(bytes)?.topic_id;
    match known.topic_id {
        Some(expected) if expected != found => Err(files::Failure::Damaged(format!(
            "it names topic id {found}, but the manifest has {expected}"
        ))),
        _ => Ok(()),
    }
}

/// What the checkpoints say must be in the log.
fn written_down(directory: &Path, known: &Known, log: &Log, out: &mut Output) -> io::Result<()> {
    let partition = directory.file_name().unwrap_or_default().to_string_lossy();
    for (path, recovery_point) in known.recovery_points.iter().filter(|(_, offset)| *offset > log.end) {
        out.begin(path);
        let what = format!(
            "{partition}: offsets below {recovery_point} were on disk, but the log ends at {}",
            log.end
        );
        out.damage(Place::offset(log.end), what)?;
    }
    for (path, log_start) in &known.log_starts {
        out.begin(path);
        match log.start {
            Some(first) if first > *log_start && known.dense == Some(true) => {
                let what =
                    format!("{partition}: the log starts at {log_start}, but its first segment at {first}");
                out.damage(Place::offset(*log_start), what)?;
            }
            _ if *log_start > log.end => {
                out.damage(
                    Place::offset(*log_start),
                    format!("{partition}: the log ends before, at {}", log.end),
                )?;
            }
            _ => {}
        }
    }
    Ok(())
}
