//! A directory goes back and forth between a broker and a store: what a store has appended to the directories that
//! Kafka wrote is held, file by file, against what Kafka's rules make of the bytes in the log, without a store.
#![cfg(all(feature = "gzip", feature = "lz4", feature = "snappy", feature = "zstd"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/expected.rs"]
mod expected;
#[path = "common/files.rs"]
mod files;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annals::clock::ManualClock;
use annals::format::{
    AbortedTransaction, EndTransactionMarker, Frame, LeaderEpochs, OffsetCheckpoint, OffsetIndexEntry,
    ProducerEntry, ProducerSnapshot, TimeIndexEntry, increment_sequence,
};
use annals::{AppendOptions, Isolation, Partition, Record, RecordBatch, Store, StoredRecord};
use expected::{Expected, read_expected};
use files::{copy_directory, log_bases, segment_file};
use tempfile::TempDir;

/// After every record that Kafka wrote, and before any of its tombstones may go.
const NOW: i64 = 1_718_002_000_000;
/// The default of `index.interval.bytes`.
const INTERVAL: u64 = 4_096;
/// How much one record may take up, decompressed.
const LIMIT: usize = 1 << 20;

// ---- a partition directory, read without a store ----

/// One log file: its base offset, and each batch with its position.
struct LogFile {
    base: u64,
    size: u64,
    batches: Vec<(u64, RecordBatch)>,
}

/// The log files of a directory, in order.
struct Files {
    directory: PathBuf,
    logs: Vec<LogFile>,
}

impl LogFile {
    fn read(directory: &Path, base: u64) -> Self {
        let bytes = std::fs::read(segment_file(directory, base, "log")).unwrap();
        let (mut batches, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let size = Frame::parse(&bytes[at..]).unwrap().size as usize;
            let batch = RecordBatch::parse(bytes[at..at + size].to_vec().into());
            batches.push((at as u64, batch.unwrap_or_else(|error| panic!("{base} at {at}: {error}"))));
            at += size;
        }
        LogFile { base, size: bytes.len() as u64, batches }
    }

    /// The entries of one of its index files. Empty slots would be entries to a broker.
    fn entries<const SIZE: usize>(&self, directory: &Path, extension: &str) -> Vec<[u8; SIZE]> {
        let bytes = std::fs::read(segment_file(directory, self.base, extension)).unwrap_or_default();
        assert_eq!(bytes.len() % SIZE, 0, "the {extension} of {} has a torn entry", self.base);
        let entries: Vec<[u8; SIZE]> = bytes.chunks(SIZE).map(|entry| entry.try_into().unwrap()).collect();
        let empty = entries.iter().any(|entry| entry.iter().all(|&byte| byte == 0));
        assert!(!empty, "the {extension} of {} has empty slots", self.base);
        entries
    }
}

impl Files {
    fn read(directory: &Path) -> Self {
        let logs = log_bases(directory).into_iter().map(|base| LogFile::read(directory, base)).collect();
        Files { directory: directory.to_owned(), logs }
    }

    fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        self.logs.iter().flat_map(|log| log.batches.iter().map(|(_, batch)| batch))
    }

    fn end(&self) -> u64 {
        self.batches().last().unwrap().next_offset()
    }

    /// Batches and records follow each other; without compaction, without a gap.
    fn check_logs(&self, dense: bool) {
        let mut next = self.logs[0].base;
        for log in &self.logs {
            assert!(log.base >= next, "the segment {} begins below {next}", log.base);
            for (position, batch) in &log.batches {
                let (header, place) = (batch.header(), format!("{} at {position}", log.base));
                assert!(header.last_offset - log.base <= i32::MAX as u64);
                let records = batch.records(LIMIT).unwrap();
                assert_eq!(header.records_count.unwrap_or(records.len() as u32) as usize, records.len());
                let offsets: Vec<u64> = records.iter().map(|record| record.offset()).collect();
                assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "{place}");
                let (first, last) = (offsets.first().copied(), offsets.last().copied());
                assert!(first.is_none_or(|first| first >= next.max(log.base)), "{place}");
                assert!(last.is_none_or(|last| last <= header.last_offset), "{place}");
                assert!(header.last_offset >= next, "{place}");
                if dense {
                    assert_eq!((first, last), (Some(next), Some(header.last_offset)), "{place}");
                    assert_eq!(offsets.len() as u64, header.last_offset + 1 - next, "{place}");
                }
                next = batch.next_offset();
            }
        }
    }

    /// Sections 5.3 and 5.4: what an entry says of the batches before it and behind it.
    fn check_indexes(&self) {
        for log in &self.logs {
            self.check_offset_index(log);
            self.check_time_index(log);
        }
    }

    fn check_offset_index(&self, log: &LogFile) {
        let entries = log.entries(&self.directory, "index");
        let entries: Vec<_> = entries.iter().map(|bytes| OffsetIndexEntry::decode(bytes).unwrap()).collect();
        let rises = |pair: &[OffsetIndexEntry]| {
            pair[0].relative_offset < pair[1].relative_offset && pair[0].position < pair[1].position
        };
        assert!(entries.windows(2).all(rises), "the index of {} falls", log.base);
        for entry in &entries {
            let (offset, position) = (log.base + u64::from(entry.relative_offset), u64::from(entry.position));
            let at = log.batches.binary_search_by_key(&position, |(position, _)| *position);
            let at = at.unwrap_or_else(|_| panic!("{}: no batch begins at {position}", log.base));
            assert_eq!(log.batches[at].1.last_offset(), offset, "{} at {position}", log.base);
        }
        // Counted anew by each writer, so that a stretch may be twice as long.
        let largest = log.batches.iter().map(|(_, batch)| batch.header().size).max().unwrap_or(0);
        let places = entries.iter().map(|entry| u64::from(entry.position));
        let places: Vec<u64> = std::iter::once(0).chain(places).chain([log.size]).collect();
        let longest = places.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest <= 2 * (INTERVAL + largest), "{}: {longest} bytes without an entry", log.base);
    }

    fn check_time_index(&self, log: &LogFile) {
        let entries = log.entries(&self.directory, "timeindex");
        let entries: Vec<_> = entries.iter().map(|bytes| TimeIndexEntry::decode(bytes).unwrap()).collect();
        let rises = |pair: &[TimeIndexEntry]| {
            pair[0].timestamp < pair[1].timestamp && pair[0].relative_offset <= pair[1].relative_offset
        };
        assert!(entries.windows(2).all(rises), "the time index of {} falls", log.base);
        let headers = || log.batches.iter().map(|(_, batch)| batch.header());
        for &TimeIndexEntry { timestamp, relative_offset } in &entries {
            let offset = log.base + u64::from(relative_offset);
            let first = headers().find(|header| header.max_timestamp >= timestamp).unwrap();
            assert_eq!((first.max_timestamp, first.last_offset), (timestamp, offset), "in {}", log.base);
        }
        // A broker makes both indexes of a segment again where the first is missing, and only there.
        let there = |extension| segment_file(&self.directory, log.base, extension).exists();
        if !there("index") {
            let active = self.logs.last().is_some_and(|last| last.base == log.base);
            assert!(active && !there("timeindex"), "the index of {} is missing", log.base);
            return;
        }
        // The last entry of a file that was closed says what the largest timestamp is.
        let largest = headers().map(|header| header.max_timestamp).max().filter(|&largest| largest >= 0);
        let last = entries.last().map(|last| last.timestamp);
        assert_eq!(last, largest, "the largest timestamp of {}", log.base);
    }

    /// Section 5.5, with what is aborted and the last stable offset worked out from the markers. Where compaction has
    /// taken aborted records away, from the log as it was before.
    fn check_transaction_indexes(&self, replayed: &Replayed, before: Option<&[AbortedTransaction]>) {
        for log in &self.logs {
            let entries = log.entries(&self.directory, "txnindex");
            let entries: Vec<_> =
                entries.iter().map(|bytes| AbortedTransaction::decode(bytes).unwrap()).collect();
            let here = |aborted: &&AbortedTransaction| {
                log.batches.iter().any(|(_, batch)| batch.base_offset() == aborted.last_offset)
            };
            let expected: Vec<_> = replayed.aborted.iter().filter(here).cloned().collect();
            let Some(before) = before else {
                assert_eq!(entries, expected, "what was aborted in {}", log.base);
                continue;
            };
            assert!(entries.windows(2).all(|pair| pair[0].last_offset < pair[1].last_offset));
            for entry in &entries {
                assert!(before.contains(entry) && here(&entry), "{entry:?} was not, or has no marker");
            }
            for expected in &expected {
                let found = entries.iter().any(|entry| entry.last_offset == expected.last_offset);
                assert!(found, "{expected:?} has batches, and no entry");
            }
        }
    }

    fn newest_snapshot(&self) -> Option<(u64, ProducerSnapshot)> {
        let names = std::fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().file_name());
        let offset =
            names.filter_map(|name| name.to_str()?.strip_suffix(".snapshot")?.parse::<u64>().ok()).max()?;
        let bytes = std::fs::read(segment_file(&self.directory, offset, "snapshot")).unwrap();
        Some((offset, ProducerSnapshot::decode(&bytes).unwrap()))
    }

    fn check_snapshot(&self, replayed: &Replayed, compacted: bool) {
        let (offset, snapshot) = self.newest_snapshot().unwrap();
        assert_eq!(offset, self.end(), "the newest snapshot is of another offset");
        let without_times = |mut entry: ProducerEntry| {
            if compacted {
                // A batch forgets the time of a record that compaction took away.
                entry.last_timestamp = 0;
            }
            (entry.producer_id, entry)
        };
        let found: BTreeMap<_, _> = snapshot.entries.iter().cloned().map(without_times).collect();
        let expected: BTreeMap<_, _> = replayed.producers.values().cloned().map(without_times).collect();
        assert_eq!(found, expected);
    }

    /// The offset from which on each leader epoch has batches.
    fn check_epochs(&self, log_start: u64, compacted: bool) {
        let text = std::fs::read(self.directory.join("leader-epoch-checkpoint")).unwrap();
        let written: Vec<_> = LeaderEpochs::decode(&text).unwrap().entries;
        let mut expected: Vec<(i32, u64, u64)> = Vec::new();
        let mut before = 0;
        for batch in self.batches() {
            if let Some(epoch) = batch.header().leader_epoch {
                if expected.last().is_none_or(|(latest, ..)| epoch > *latest) {
                    expected.push((epoch, before, batch.base_offset()));
                }
            }
            before = batch.next_offset();
        }
        assert_eq!(written.len(), expected.len(), "{written:?}");
        for (entry, (epoch, before, first)) in written.iter().zip(expected) {
            assert_eq!(entry.epoch, epoch);
            // Compaction may take the first batches of an epoch.
            let first = first.max(log_start);
            let begins = if compacted { before..=first } else { first..=first };
            assert!(begins.contains(&entry.start_offset), "{entry:?}, but its batches begin at {first}");
        }
    }

    /// Nothing in it that a broker would not know, but for the checksums beside transaction indexes.
    fn check_names(&self) {
        for entry in std::fs::read_dir(&self.directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let known = match name.split_once('.') {
                Some((offset, extension)) if offset.len() == 20 => {
                    let whole = ["log", "index", "timeindex", "txnindex", "txnindex.crc", "snapshot"];
                    whole.contains(&extension) || extension.ends_with(".deleted")
                }
                _ => ["leader-epoch-checkpoint", "partition.metadata"].contains(&&*name),
            };
            assert!(known, "{name} is left over");
        }
    }
}

// ---- what the batches of a log say of producers ----

#[derive(Default)]
struct Replayed {
    producers: BTreeMap<i64, ProducerEntry>,
    aborted: Vec<AbortedTransaction>,
}

impl Replayed {
    fn of(files: &Files) -> Self {
        let mut replayed = Replayed::default();
        files.batches().for_each(|batch| replayed.note(batch));
        replayed
    }

    fn note(&mut self, batch: &RecordBatch) {
        let header = batch.header();
        let Some(producer_id) = header.producer_id else { return };
        let unknown = ProducerEntry {
            producer_id,
            producer_epoch: header.producer_epoch,
            last_sequence: -1,
            last_offset: None,
            offset_delta: 0,
            last_timestamp: -1,
            coordinator_epoch: -1,
            transaction_first_offset: None,
        };
        if header.control {
            let records = batch.records(LIMIT).unwrap();
            let Some(record) = records.iter().next() else { return };
            let marker = EndTransactionMarker::parse(&record).unwrap().unwrap();
            let entry = self.producers.entry(producer_id).or_insert(unknown.clone());
            let first = entry.transaction_first_offset.take();
            if entry.producer_epoch != header.producer_epoch {
                *entry = unknown;
            }
            (entry.last_timestamp, entry.coordinator_epoch) =
                (header.max_timestamp, marker.coordinator_epoch);
            let open = self.producers.values().filter_map(|other| other.transaction_first_offset).min();
            if let (Some(first_offset), false) = (first, marker.commit) {
                let last_stable_offset = open.unwrap_or(header.base_offset + 1);
                let last_offset = header.base_offset;
                self.aborted.push(AbortedTransaction {
                    producer_id,
                    first_offset,
                    last_offset,
                    last_stable_offset,
                });
            }
            return;
        }
        let entry = self.producers.entry(producer_id).or_insert(unknown);
        entry.producer_epoch = header.producer_epoch;
        entry.last_sequence = header.last_sequence();
        entry.last_offset = Some(header.last_offset);
        entry.offset_delta = (header.last_offset - header.base_offset) as i32;
        entry.last_timestamp = header.max_timestamp;
        if header.transactional {
            entry.transaction_first_offset.get_or_insert(header.base_offset);
        }
    }
}

// ---- what a store does in between ----

/// A log directory with one partition of Kafka's, and what must be in it.
struct Handover {
    root: TempDir,
    topic: &'static str,
    clock: Arc<ManualClock>,
    /// Offsets and values that were appended and not aborted.
    ours: Vec<(u64, String)>,
    count: usize,
    /// Whether the store has compacted it, and what had been aborted before.
    cleaned: bool,
    aborted: Vec<AbortedTransaction>,
}

impl Handover {
    fn new(topic: &'static str) -> Self {
        let root = tempfile::tempdir().unwrap();
        copy_directory(&source().join(format!("{topic}-0")), &root.path().join(format!("{topic}-0")));
        Handover {
            root,
            topic,
            clock: Arc::new(ManualClock::new(NOW)),
            ours: Vec::new(),
            count: 0,
            cleaned: false,
            aborted: Vec::new(),
        }
    }

    fn compacted(&self) -> bool {
        self.topic == "compacted"
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join(format!("{}-0", self.topic))
    }

    fn open(&self) -> (Store, Partition) {
        let store = Store::options().clock(Arc::clone(&self.clock) as _).open(self.root.path()).unwrap();
        let log = store.topic(self.topic).unwrap().partition(0).unwrap();
        (store, log)
    }

    /// One batch of some records; returns their offsets and values.
    fn send(&mut self, log: &Partition, options: AppendOptions, records: usize) -> Vec<(u64, String)> {
        let first = self.count;
        self.count += records;
        let text = |number| format!("{number:04} {}", "appended in between ".repeat(20));
        let texts: Vec<_> = (first..self.count).map(|n| (format!("ours-{}", n % 7), text(n))).collect();
        let record = |(n, (key, value)): (usize, &'_ (String, String))| {
            // Times go up and down.
            let timestamp = NOW + (first + n * 3 % 5) as i64;
            (key.clone(), value.clone(), timestamp)
        };
        let owned: Vec<_> = texts.iter().enumerate().map(record).collect();
        let batch: Vec<_> =
            owned.iter().map(|(key, value, time)| Record::new(value).key(key).timestamp(*time)).collect();
        let appended = log.append_batch_with(&batch, options).unwrap();
        assert!(!appended.duplicate);
        (appended.base_offset..).zip(texts.into_iter().map(|(_, value)| value)).collect()
    }

    fn plain(&mut self, log: &Partition, batches: usize) {
        for _ in 0..batches {
            let sent = self.send(log, AppendOptions::new(), 2);
            self.ours.extend(sent);
        }
    }

    /// Every producer in the newest snapshot goes on with the sequence that comes next for it.
    fn go_on(&mut self, log: &Partition, known: &ProducerSnapshot, commit: bool) {
        for entry in &known.entries {
            let (id, epoch) = (entry.producer_id, entry.producer_epoch);
            let next = match entry.last_sequence {
                -1 => 0,
                last => increment_sequence(last, 1),
            };
            if entry.transaction_first_offset.is_none() && entry.coordinator_epoch < 0 {
                let options = AppendOptions::new().idempotent(id, epoch, next);
                let sent = self.send(log, options, 3);
                let again = [0; 3].map(|_| Record::new("x").key("x"));
                let again = log.append_batch_with(&again, options).unwrap();
                assert!(again.duplicate && again.base_offset == sent[0].0);
                self.ours.extend(sent);
                continue;
            }
            let sent = self.send(log, AppendOptions::new().transactional(id, epoch, next), 3);
            end(log, id, epoch, entry.coordinator_epoch.max(0), commit);
            if commit {
                self.ours.extend(sent);
            }
        }
    }

    /// New producers, whose transactions lie across each other and across segments. One stays open.
    fn transact(&mut self, log: &Partition, ids: [i64; 4], behind: usize) {
        let [aborts, commits, alone, stays] = ids;
        let begin = |id, sequence| AppendOptions::new().transactional(id, 0, sequence);
        self.send(log, begin(aborts, 0), 2);
        let mut committed = self.send(log, begin(commits, 0), 4);
        log.roll().unwrap();
        self.plain(log, 30);
        self.send(log, begin(aborts, 2), 3);
        end(log, aborts, 0, 5, false);
        committed.extend(self.send(log, begin(commits, 4), 1));
        end(log, commits, 0, 5, true);
        self.ours.extend(committed);
        self.send(log, begin(alone, 0), 1);
        end(log, alone, 0, 6, false);
        log.roll().unwrap();
        self.plain(log, 1);
        if self.compacted() {
            log.flush().unwrap();
            let replayed = Replayed::of(&Files::read(&self.directory()));
            let known = |aborted: &AbortedTransaction| {
                self.aborted.iter().any(|known| known.last_offset == aborted.last_offset)
            };
            let new: Vec<_> = replayed.aborted.into_iter().filter(|aborted| !known(aborted)).collect();
            assert!(!new.is_empty());
            self.aborted.extend(new);
            let report = log.compact().unwrap().unwrap();
            assert!(report.bytes_after < report.bytes_before, "{report:?}");
            self.cleaned = true;
        }
        self.plain(log, behind);
        self.send(log, begin(stays, 0), 2);
    }

    /// Holds every file against the log, as one who takes the directory over.
    fn check_files(&self, log_start: u64) {
        let files = Files::read(&self.directory());
        let (replayed, compacted) = (Replayed::of(&files), self.compacted());
        files.check_logs(!compacted);
        files.check_indexes();
        files.check_transaction_indexes(&replayed, compacted.then_some(&self.aborted));
        files.check_snapshot(&replayed, compacted);
        files.check_epochs(log_start, compacted);
        files.check_names();
        let active = files.logs.last().unwrap().base;
        self.check_root(files.end(), log_start, active);
        let metadata = |directory: &Path| std::fs::read(directory.join("partition.metadata")).unwrap();
        assert_eq!(metadata(&self.directory()), metadata(&source().join(format!("{}-0", self.topic))));
    }

    fn check_root(&self, end: u64, log_start: u64, active: u64) {
        let root = self.root.path();
        let lines = |name: &str| {
            let entries = OffsetCheckpoint::decode(&std::fs::read(root.join(name)).unwrap()).unwrap().entries;
            entries.iter().map(|(id, offset)| (id.to_string(), *offset)).collect::<Vec<_>>()
        };
        let name = format!("{}-0", self.topic);
        assert_eq!(lines("recovery-point-offset-checkpoint"), [(name.clone(), end)]);
        let starts = Vec::from_iter((log_start > 0).then(|| (name.clone(), log_start)));
        assert_eq!(lines("log-start-offset-checkpoint"), starts);
        if self.compacted() {
            assert_eq!(lines("cleaner-offset-checkpoint"), [(name, active)]);
        }
        let marker = std::fs::read_to_string(root.join(".kafka_cleanshutdown")).unwrap();
        assert!(marker.starts_with(r#"{"version":0,"brokerEpoch":"#) && marker.ends_with('}'), "{marker}");
    }

    /// Reads everything again through a store.
    fn check_records(&self, log: &Partition) {
        let expected = read_expected(&source().join(format!("{}-0.expected.jsonl", self.topic)));
        let behind = expected.last().unwrap().offset + 1;
        let read: Vec<_> = log.read_from(log.log_start()).unwrap().collect::<annals::Result<_>>().unwrap();
        let old: Vec<_> = read.iter().take_while(|record| record.offset() < behind).map(plain).collect();
        let listed: Vec<&Expected> = expected
            .iter()
            .filter(|record| record.control.is_none() && record.offset >= log.log_start())
            .collect();
        let committed = log.read_from_with(log.log_start(), Isolation::ReadCommitted).unwrap();
        let ours = committed
            .map(|record| record.unwrap())
            .filter(|record| record.offset() >= behind)
            .map(|record| (record.offset(), String::from_utf8(record.value().unwrap().to_vec()).unwrap()));
        let ours: Vec<_> = ours.collect();
        if !self.cleaned {
            assert_eq!(old, listed.iter().map(|record| of_list(record)).collect::<Vec<_>>());
            let mut sent = self.ours.clone();
            sent.retain(|(offset, _)| *offset < log.last_stable_offset());
            sent.sort_unstable();
            assert_eq!(ours, sent);
            return;
        }
        // Of each key the last record is there, and no record that was not.
        assert!(ours.iter().all(|record| self.ours.contains(record)));
        let mut sent: Vec<_> = self.ours.iter().map(|(offset, value)| (*offset, key_of(value))).collect();
        sent.sort_unstable();
        let last_of: BTreeMap<_, _> = sent.into_iter().map(|(offset, key)| (key, offset)).collect();
        assert!(last_of.values().all(|last| ours.iter().any(|(offset, _)| offset == last)), "{last_of:?}");
        let mut rest = listed.iter().map(|record| of_list(record));
        assert!(
            old.iter().all(|record| rest.any(|listed| listed == *record)),
            "a record that Kafka never wrote"
        );
        for listed in &listed {
            let superseded = expected.iter().any(|it| it.key == listed.key && it.offset > listed.offset);
            assert_eq!(old.contains(&of_list(listed)), !superseded, "{listed:?}");
        }
    }
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/kafka")
}

fn end(log: &Partition, id: i64, epoch: i16, coordinator_epoch: i32, commit: bool) {
    let marker = EndTransactionMarker { coordinator_epoch, commit };
    log.end_transaction(id, epoch, marker, AppendOptions::new()).unwrap();
}

/// The number of the key under which a value was sent.
fn key_of(value: &str) -> usize {
    value[..4].parse::<usize>().unwrap() % 7
}

/// Offset, timestamp, key, value and headers.
type Plain = (u64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn plain(record: &StoredRecord) -> Plain {
    let headers = record.headers().map(|it| (it.key.to_owned(), it.value.map(<[u8]>::to_vec))).collect();
    let (key, value) = (record.key().map(<[u8]>::to_vec), record.value().map(<[u8]>::to_vec));
    (record.offset(), record.timestamp(), key, value, headers)
}

fn of_list(record: &Expected) -> Plain {
    let Expected { offset, timestamp, key, value, headers, .. } = record.clone();
    (offset, timestamp, key, value, headers)
}

/// Twice: the second time, what lies there is Kafka's and ours.
fn hand_over(topic: &'static str) {
    let mut handover = Handover::new(topic);
    let mut log_start = 0;
    for round in 0..2usize {
        let known = Files::read_snapshot(&handover.directory());
        let (store, log) = handover.open();
        assert!(log.recovery_report().damage.is_empty());
        if round == 0 && handover.compacted() {
            let compacted = [("cleanup.policy", Some("compact")), ("min.cleanable.dirty.ratio", Some("0"))];
            store.topic(topic).unwrap().configure(compacted).unwrap();
        }
        handover.check_records(&log);
        handover.plain(&log, 3);
        handover.go_on(&log, &known, round == 0);
        log.set_leader_epoch(log.leader_epoch() + 2).unwrap();
        handover.plain(&log, 2);
        let first = 90_000 + 10 * round as i64;
        // The last segment is one with index entries, and then one too short for any.
        let behind = [14, 1][round];
        handover.transact(&log, [first, first + 1, first + 2, first + 3], behind);
        if topic == "plain" && round == 1 {
            // Inside a batch, and not in the first segment.
            log_start = log.delete_records(200).unwrap();
        }
        drop(log);
        store.close().unwrap();
        handover.check_files(log_start);

        let (store, log) = handover.open();
        assert!(store.report().clean && log.recovery_report().clean, "{:?}", log.recovery_report());
        handover.check_records(&log);
        drop(log);
        store.close().unwrap();
        handover.check_files(log_start);
    }
}

impl Files {
    /// What the newest snapshot says, where there are log files that may end in the middle of a batch.
    fn read_snapshot(directory: &Path) -> ProducerSnapshot {
        let files = Files { directory: directory.to_owned(), logs: Vec::new() };
        files.newest_snapshot().map(|(_, snapshot)| snapshot).unwrap_or_default()
    }
}

#[test]
fn plain_segments_are_taken_over() {
    hand_over("plain");
}

#[test]
fn batches_of_every_codec_are_taken_over() {
    hand_over("codecs");
}

#[test]
fn transactions_are_taken_over() {
    hand_over("txns");
}

#[test]
fn a_compacted_log_is_taken_over() {
    hand_over("compacted");
}

#[test]
fn what_a_killed_broker_left_is_taken_over() {
    hand_over("unclean");
}

#[test]
fn old_messages_are_taken_over() {
    hand_over("legacy");
}
