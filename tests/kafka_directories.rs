//! Partition directories that Apache Kafka's own storage classes wrote: every record is found as Kafka finds it,
//! and what Kafka wrote stays as it is. What each directory holds is told in `tests/compat/kafka/README.md`.
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

use std::path::{Path, PathBuf};

use annals::format::{Compression, ControlType};
use annals::{
    Error, FetchOptions, OffsetIndex, Partition, Record, RecordBatch, Segment, Store, StoredRecord, TimeIndex,
};
use expected::{Expected, read_expected};
use files::{copy_directory, log_bases, segment_file, tree};
use tempfile::TempDir;

const TOPICS: [&str; 6] = ["plain", "codecs", "txns", "compacted", "unclean", "legacy"];
/// What an unclean broker's torn last batch leaves of the active segment of `unclean-0`: the end of the valid bytes
/// is found here by reading, so that it does not rest on what is tested.
const UNCLEAN_ACTIVE: u64 = 168;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/kafka")
}

fn expected_of(topic: &str) -> Vec<Expected> {
    read_expected(&source().join(format!("{topic}-0.expected.jsonl")))
}

/// A directory of log directories as a broker has them, with the partitions of some topics.
fn root_of(topics: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for topic in topics {
        let name = format!("{topic}-0");
        copy_directory(&source().join(&name), &root.path().join(&name));
    }
    root
}

fn partition(store: &Store, topic: &str) -> Partition {
    store.topic(topic).unwrap().partition(0).unwrap()
}

/// Offset, timestamp, key, value and headers.
type Plain = (u64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn stored(record: &StoredRecord) -> Plain {
    let headers = record.headers().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect();
    let (key, value) = (record.key().map(<[u8]>::to_vec), record.value().map(<[u8]>::to_vec));
    (record.offset(), record.timestamp(), key, value, headers)
}

/// The records of a batch as the lists have them; whether a transaction was decided is not in the batch.
fn of_batch(batch: &RecordBatch) -> Vec<Expected> {
    let header = batch.header();
    let records = batch.records(1 << 20).unwrap();
    let expected = |record: StoredRecord| {
        let (offset, timestamp, key, value, headers) = stored(&record);
        let control = header.control.then(|| match ControlType::parse(key.as_deref().unwrap()).unwrap() {
            ControlType::Commit => "COMMIT".to_owned(),
            ControlType::Abort => "ABORT".to_owned(),
            other => panic!("control type {other:?}"),
        });
        Expected {
            offset,
            timestamp,
            key,
            value,
            headers,
            codec: match header.compression {
                Compression::None => "none".into(),
                other => other.name().to_owned(),
            },
            transaction: if header.transactional { "transactional" } else { "none" }.into(),
            control,
            leader_epoch: header.leader_epoch.map_or(-1, i64::from),
            producer_id: header.producer_id.unwrap_or(-1),
        }
    };
    records.into_iter().map(expected).collect()
}

/// The same list with what a batch alone cannot say taken out.
fn without_outcomes(mut records: Vec<Expected>) -> Vec<Expected> {
    for record in &mut records {
        if record.transaction != "none" {
            record.transaction = "transactional".into();
        }
        // Kafka wrote down neither key nor value of its markers.
        if record.control.is_some() {
            (record.key, record.value) = (None, None);
        }
    }
    records
}

/// All batches of a partition, fetched a few hundred bytes at a time.
fn fetch_all(log: &Partition, max_bytes: u64) -> Vec<RecordBatch> {
    let (mut batches, mut offset) = (Vec::new(), log.log_start());
    while offset < log.log_end() {
        let fetched = log.fetch(offset, FetchOptions::new().max_bytes(max_bytes)).unwrap();
        assert!(fetched.next_offset > offset, "a fetch at {offset} that does not go on");
        assert_eq!((fetched.log_start, fetched.high_watermark), (log.log_start(), log.log_end()));
        offset = fetched.next_offset;
        batches.extend(fetched.batches);
    }
    batches
}

/// Everything that can be asked of a partition, against the list.
fn check(log: &Partition, expected: &[Expected]) {
    check_records(log, expected);
    for max_bytes in [1, 700, 1 << 20] {
        let records = fetch_all(log, max_bytes).iter().flat_map(of_batch).collect();
        assert_eq!(without_outcomes(records), without_outcomes(expected.to_vec()), "fetched {max_bytes}");
    }
    check_points(log, expected);
    check_times(log, expected);
}

fn check_records(log: &Partition, expected: &[Expected]) {
    let data: Vec<&Expected> = expected.iter().filter(|record| record.control.is_none()).collect();
    let read: Vec<StoredRecord> =
        log.read_from(log.log_start()).unwrap().collect::<annals::Result<_>>().unwrap();
    assert_eq!(read.len(), data.len());
    for (read, record) in read.iter().zip(data) {
        let Expected { offset, timestamp, key, value, headers, .. } = record.clone();
        assert_eq!(stored(read), (offset, timestamp, key, value, headers));
    }
}

/// Reading from each offset begins with the first record at or behind it, also in gaps and within batches.
fn check_points(log: &Partition, expected: &[Expected]) {
    for offset in log.log_start()..=log.log_end() {
        let next = expected.iter().find(|record| record.offset >= offset && record.control.is_none());
        let mut records = log.read_from(offset).unwrap();
        let found = records.next().transpose().unwrap().map(|record| record.offset());
        assert_eq!(found, next.map(|record| record.offset), "reading from {offset}");
        if offset < log.log_end() {
            let fetched = log.fetch(offset, FetchOptions::new().max_bytes(1)).unwrap();
            assert_eq!(fetched.batches.len(), 1, "fetching from {offset}");
            assert!(fetched.batches[0].last_offset() >= offset);
        }
    }
}

fn check_times(log: &Partition, expected: &[Expected]) {
    let data: Vec<&Expected> = expected.iter().filter(|record| record.control.is_none()).collect();
    let times = data.iter().flat_map(|record| [record.timestamp - 1, record.timestamp, record.timestamp + 1]);
    for time in times.filter(|&time| time >= 0).chain([0, i64::MAX]) {
        let first = data.iter().find(|record| record.timestamp >= time);
        let found = log.offset_for_timestamp(time).unwrap();
        assert_eq!(
            found.map(|found| (found.offset, found.timestamp)),
            first.map(|record| (record.offset, record.timestamp)),
            "the first record at or after {time}"
        );
        if let (Some(found), Some(first)) = (found, first) {
            assert_eq!(found.leader_epoch.map_or(-1, i64::from), first.leader_epoch);
        }
    }
    let largest = data.iter().map(|record| record.timestamp).max().unwrap();
    let first = data.iter().find(|record| record.timestamp == largest).unwrap();
    assert_eq!(log.offset_of_max_timestamp().unwrap().unwrap().offset, first.offset);
}

/// Where the valid batches of a log file end, by their length fields alone.
fn valid_end(log: &[u8]) -> usize {
    let mut end = 0;
    while let Some(length) = log.get(end + 8..end + 12) {
        let size = 12 + u32::from_be_bytes(length.try_into().unwrap()) as usize;
        if size < 26 || end + size > log.len() {
            break;
        }
        end += size;
    }
    end
}

/// The log files that Kafka wrote are still there, each with at least its valid bytes, and those unchanged.
fn check_untouched(root: &Path, topic: &str) {
    let name = format!("{topic}-0");
    for base in log_bases(&source().join(&name)) {
        let was = std::fs::read(segment_file(&source().join(&name), base, "log")).unwrap();
        let is = std::fs::read(segment_file(&root.join(&name), base, "log")).unwrap();
        let end = valid_end(&was);
        assert!(end == was.len() || (topic, base) == ("unclean", UNCLEAN_ACTIVE), "{topic} {base} is torn");
        assert!(is.starts_with(&was[..end]), "segment {base} of {topic} has changed");
    }
}

#[test]
fn every_record_is_found_in_a_store_and_what_is_there_stays_when_more_is_appended() {
    for topic in TOPICS {
        let (root, expected) = (root_of(&[topic]), expected_of(topic));
        let store = Store::open(root.path()).unwrap();
        let log = partition(&store, topic);
        let report = log.recovery_report();
        assert!(report.damage.is_empty() && report.unknown.is_empty(), "{topic}: {report:?}");
        assert_eq!(log.log_start(), 0);
        assert_eq!(log.log_end(), expected.last().unwrap().offset + 1, "{topic}");
        check(&log, &expected);
        check_untouched(root.path(), topic);

        let end = log.log_end();
        let values = ["one", "two", "three"];
        for (at, value) in values.iter().enumerate() {
            let offset = log.append(&Record::new(value).key("key").timestamp(1_718_009_999_000)).unwrap();
            assert_eq!(offset, end + at as u64);
        }
        store.close().unwrap();
        check_untouched(root.path(), topic);

        let store = Store::open(root.path()).unwrap();
        let log = partition(&store, topic);
        assert!(store.report().clean && log.recovery_report().clean, "{topic}");
        assert_eq!(store.report().warnings, [""; 0]);
        let records: Vec<StoredRecord> = log.read_from(end).unwrap().collect::<annals::Result<_>>().unwrap();
        let read: Vec<_> = records.iter().map(|record| record.value().unwrap()).collect();
        assert_eq!(read, values.map(str::as_bytes));
        drop((log, store));
        // A broker that takes the directory back finds the same, whatever becomes of our own files.
        for ours in ["annals.manifest", "annals.checkpoint"] {
            std::fs::remove_file(root.path().join(ours)).unwrap();
        }
        let store = Store::open(root.path()).unwrap();
        let log = partition(&store, topic);
        assert_eq!(log.log_end(), end + 3);
        assert!(log.recovery_report().damage.is_empty());
    }
}

#[test]
fn every_record_is_found_by_a_reader_that_writes_nothing() {
    for topic in TOPICS {
        let (root, expected) = (root_of(&[topic]), expected_of(topic));
        let before = tree(root.path());
        let store = Store::options().read_only(true).open(root.path()).unwrap();
        let log = partition(&store, topic);
        assert_eq!(log.log_end(), expected.last().unwrap().offset + 1, "{topic}");
        check(&log, &expected);
        assert!(matches!(log.append(&Record::new("x").key("k")), Err(Error::ReadOnly { .. })));
        assert!(matches!(store.flush(), Err(Error::ReadOnly { .. })));
        drop(log);
        store.close().unwrap();
        assert!(tree(root.path()) == before, "{topic}: reading has written");
    }
}

#[test]
fn appends_go_on_in_the_leader_epoch_of_the_broker() {
    for (topic, epoch) in [("txns", 3), ("plain", 0)] {
        let root = root_of(&[topic]);
        let store = Store::open(root.path()).unwrap();
        let log = partition(&store, topic);
        let before = fetch_all(&log, 1 << 20).last().unwrap().header().leader_epoch;
        assert_eq!(before, Some(epoch));
        let offset = log.append(&Record::new("x")).unwrap();
        let batch = log.fetch(offset, FetchOptions::new()).unwrap().batches.remove(0);
        assert_eq!(batch.header().leader_epoch, Some(epoch));
    }
}

#[test]
fn a_directory_of_all_of_them_opens_as_one_store() {
    let root = root_of(&TOPICS);
    // What a broker leaves beside its partitions.
    std::fs::write(
        root.path().join("recovery-point-offset-checkpoint"),
        "0\n2\nplain 0 444\nunclean 0 168\n",
    )
    .unwrap();
    std::fs::write(root.path().join("log-start-offset-checkpoint"), "0\n0\n").unwrap();
    std::fs::write(root.path().join("replication-offset-checkpoint"), "0\n0\n").unwrap();
    std::fs::write(root.path().join("meta.properties"), "version=1\nnode.id=1\ncluster.id=x\n").unwrap();
    let store = Store::open(root.path()).unwrap();
    assert!(store.report().unknown.is_empty(), "{:?}", store.report());
    assert_eq!(store.topics().len(), TOPICS.len());
    for topic in TOPICS {
        let expected = expected_of(topic);
        let log = partition(&store, topic);
        assert!(log.recovery_report().damage.is_empty());
        check(&log, &expected);
        // The topic keeps the identity that Kafka gave it.
        let metadata =
            std::fs::read_to_string(source().join(format!("{topic}-0/partition.metadata"))).unwrap();
        assert!(metadata.ends_with(&store.topic(topic).unwrap().id().to_string()), "{topic}");
    }
}

#[test]
fn a_log_start_that_kafka_wrote_down_is_kept() {
    let root = root_of(&["plain"]);
    std::fs::write(root.path().join("recovery-point-offset-checkpoint"), "0\n1\nplain 0 444\n").unwrap();
    std::fs::write(root.path().join("log-start-offset-checkpoint"), "0\n1\nplain 0 100\n").unwrap();
    for _ in 0..2 {
        let store = Store::open(root.path()).unwrap();
        let log = partition(&store, "plain");
        assert_eq!((log.log_start(), log.log_end()), (100, 444));
        assert!(matches!(log.read_from(99), Err(Error::OffsetOutOfRange { log_start: 100, .. })));
        assert_eq!(log.read_from(100).unwrap().next().unwrap().unwrap().offset(), 100);
    }
}

#[test]
fn segments_are_read_on_their_own_and_their_indexes_fit() {
    for topic in TOPICS {
        let (directory, expected) = (source().join(format!("{topic}-0")), expected_of(topic));
        let before = tree(&directory);
        let mut found = Vec::new();
        for base in log_bases(&directory) {
            let segment = Segment::open(&directory, base).unwrap();
            assert_eq!(segment.base_offset(), base);
            let mut batches = Vec::new();
            let mut reader = segment.batches();
            let end = loop {
                let position = reader.position();
                match reader.next() {
                    Some(Ok(batch)) => batches.push((position, batch)),
                    Some(Err(error)) => {
                        assert!(matches!(error, Error::Corruption { .. }), "{error}");
                        assert_eq!((topic, base), ("unclean", UNCLEAN_ACTIVE), "{error}");
                        assert!(reader.next().is_none(), "it goes on behind an error");
                        assert_eq!(reader.skip_damage().unwrap(), None);
                        break position;
                    }
                    None => break position,
                }
            };
            let bytes = std::fs::read(segment_file(&directory, base, "log")).unwrap();
            assert_eq!((end as usize, segment.size() as usize), (valid_end(&bytes), bytes.len()));
            check_index_entries(&segment, &batches, end);
            found.extend(batches.iter().flat_map(|(_, batch)| of_batch(batch)));
        }
        assert_eq!(without_outcomes(found), without_outcomes(expected), "{topic}");
        assert!(tree(&directory) == before);
    }
}

/// Kafka's own entries, checked against what they promise.
fn check_index_entries(segment: &Segment, batches: &[(u64, RecordBatch)], end: u64) {
    let (entries, largest) = segment
        .with_offset_index(|index| (index.entries().collect::<Vec<_>>(), index.lookup(u64::MAX)))
        .unwrap();
    assert_eq!(entries.last().copied().unwrap_or(largest), largest);
    // The torn batch of a killed broker has an entry, too, which nothing confirms.
    for entry in entries.iter().filter(|entry| entry.position < end) {
        let at = batches.iter().position(|(position, _)| *position == entry.position);
        let at = at.unwrap_or_else(|| panic!("no batch begins at {}", entry.position));
        // Kafka's cleaner appends several batches at once and notes the last offset of all of them.
        assert!(batches[at..].iter().any(|(_, batch)| batch.last_offset() == entry.offset));
        assert!(batches[..at].iter().all(|(_, batch)| batch.last_offset() < entry.offset));
    }
    let times = segment.with_time_index(|index| index.entries().collect::<Vec<_>>()).unwrap();
    for entry in &times {
        let later = batches.iter().filter(|(_, batch)| batch.header().max_timestamp > entry.timestamp);
        assert!(later.map(|(_, batch)| batch.base_offset()).all(|base| base > entry.offset));
    }
    let largest = batches.iter().map(|(_, batch)| batch.header().max_timestamp).max().unwrap();
    assert!(end < segment.size() || times.last().is_none_or(|last| last.timestamp <= largest));
}

#[test]
fn index_files_of_a_killed_broker_are_read_without_their_empty_slots() {
    let directory = source().join("unclean-0");
    let index = OffsetIndex::open(&directory, UNCLEAN_ACTIVE).unwrap();
    let times = TimeIndex::open(&directory, UNCLEAN_ACTIVE).unwrap();
    assert!(!index.is_empty() && index.len() < 100, "{} entries", index.len());
    assert!(!times.is_empty() && times.len() < 100, "{} entries", times.len());
    assert!(index.last().unwrap().offset > UNCLEAN_ACTIVE && times.last().unwrap().timestamp > 0);
}

#[test]
fn the_torn_tail_of_a_killed_broker_is_cut_and_nothing_before_it() {
    // With nothing known, with what a broker wrote down, and with a clean marker that has long been wrong.
    let checkpoint = "0\n1\nunclean 0 168\n";
    for (checkpoint, marker) in
        [(None, false), (Some(checkpoint), false), (None, true), (Some(checkpoint), true)]
    {
        let (root, expected) = (root_of(&["unclean"]), expected_of("unclean"));
        if let Some(text) = checkpoint {
            std::fs::write(root.path().join("recovery-point-offset-checkpoint"), text).unwrap();
        }
        if marker {
            std::fs::write(root.path().join(".kafka_cleanshutdown"), "{\"version\":0,\"brokerEpoch\":17}")
                .unwrap();
        }
        let directory = root.path().join("unclean-0");
        let active = segment_file(&directory, UNCLEAN_ACTIVE, "log");
        let was = std::fs::read(&active).unwrap();
        let end = valid_end(&was);
        assert!(end < was.len(), "the last batch is torn");

        let store = Store::open(root.path()).unwrap();
        let log = partition(&store, "unclean");
        let report = log.recovery_report();
        assert_eq!(report.truncated_bytes as usize, was.len() - end, "{checkpoint:?} {marker}");
        assert!(!report.clean && report.damage.is_empty());
        assert_eq!(std::fs::read(&active).unwrap(), was[..end]);
        assert_eq!(log.log_end(), expected.last().unwrap().offset + 1);
        check(&log, &expected);
        let last = expected.last().unwrap();
        assert_eq!(log.append(&Record::new("next").timestamp(last.timestamp)).unwrap(), last.offset + 1);
        store.close().unwrap();

        let is = std::fs::read(&active).unwrap();
        assert!(is.len() > end && is.starts_with(&was[..end]));
        for extension in ["index", "timeindex"] {
            let len = std::fs::metadata(segment_file(&directory, UNCLEAN_ACTIVE, extension)).unwrap().len();
            assert!(len < 2_000, "the {extension} is still {len} bytes long");
        }
        let store = Store::open(root.path()).unwrap();
        let log = partition(&store, "unclean");
        assert!(log.recovery_report().clean && store.report().clean);
        assert_eq!(log.log_end(), expected.last().unwrap().offset + 2);
        check_points(&log, &with_one_more(expected));
    }
}

fn with_one_more(mut expected: Vec<Expected>) -> Vec<Expected> {
    let last = expected.last().unwrap().clone();
    expected.push(Expected { offset: last.offset + 1, ..last });
    expected
}
