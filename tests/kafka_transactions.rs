//! Transactions and producers in a partition directory that Apache Kafka's own storage classes wrote: what is
//! committed, aborted and open is what Kafka's list of its records says, with its files, without them, and with
//! damaged ones. What the directory holds is told in `tests/compat/kafka/README.md`.
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
#[path = "common/transactions.rs"]
mod transactions;

use std::path::{Path, PathBuf};

use annals::format::{EndTransactionMarker, ProducerSnapshot};
use annals::{AppendOptions, FetchOptions, Isolation, Partition, ProducerState, Record, Store, StoredRecord};
use expected::{Expected, read_expected};
use files::{copy_directory, segment_file};
use tempfile::TempDir;
use transactions::{check, filtered_as_by_kafka};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/kafka")
}

fn expected() -> Vec<Expected> {
    read_expected(&source().join("txns-0.expected.jsonl"))
}

fn copy() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("txns-0");
    copy_directory(&source().join("txns-0"), &directory);
    (root, directory)
}

fn open(root: &TempDir) -> (Store, Partition) {
    let store = Store::open(root.path()).unwrap();
    let log = store.topic("txns").unwrap().partition(0).unwrap();
    (store, log)
}

/// The offsets of the records that Kafka says are committed, below the first that is in an open transaction.
fn committed(expected: &[Expected]) -> (Vec<u64>, u64) {
    let open = expected.iter().find(|record| record.transaction == "open" && record.control.is_none());
    let stable = open.map_or(expected.last().unwrap().offset + 1, |record| record.offset);
    let visible = expected.iter().filter(|record| {
        let decided = ["none", "committed"].contains(&record.transaction.as_str());
        record.offset < stable && record.control.is_none() && decided
    });
    (visible.map(|record| record.offset).collect(), stable)
}

/// A producer: id, epoch, last sequence, last offset, last timestamp, coordinator epoch, first offset of its
/// transaction.
type Known = (i64, i16, Option<i32>, Option<u64>, i64, Option<i32>, Option<u64>);

/// What Kafka wrote into its snapshot, in the words of a partition.
fn producers_of(snapshot: &Path) -> Vec<Known> {
    let snapshot = ProducerSnapshot::decode(&std::fs::read(snapshot).unwrap()).unwrap();
    let number = |number: i32| Some(number).filter(|&number| number >= 0);
    let mut found: Vec<_> = snapshot
        .entries
        .iter()
        .map(|entry| {
            let (sequence, coordinator) = (number(entry.last_sequence), number(entry.coordinator_epoch));
            let (id, epoch, time) = (entry.producer_id, entry.producer_epoch, entry.last_timestamp);
            (id, epoch, sequence, entry.last_offset, time, coordinator, entry.transaction_first_offset)
        })
        .collect();
    found.sort_unstable();
    found
}

fn producers(log: &Partition) -> Vec<Known> {
    let state = |it: &ProducerState| {
        let (id, epoch, time) = (it.producer_id, it.producer_epoch, it.last_timestamp);
        (id, epoch, it.last_sequence, it.last_offset, time, it.coordinator_epoch, it.transaction_first_offset)
    };
    log.producers().iter().map(state).collect()
}

fn check_as_listed(log: &Partition) {
    let expected = expected();
    let (committed, stable) = committed(&expected);
    assert_eq!(log.last_stable_offset(), stable);
    assert!(stable < log.log_end(), "no transaction is open");
    let read: Vec<StoredRecord> =
        log.read_from_with(0, Isolation::ReadCommitted).unwrap().collect::<annals::Result<_>>().unwrap();
    assert_eq!(read.iter().map(StoredRecord::offset).collect::<Vec<_>>(), committed);
    for record in &read {
        let listed = expected.iter().find(|listed| listed.offset == record.offset()).unwrap();
        assert_eq!(record.key().map(<[u8]>::to_vec), listed.key);
        assert_eq!(record.value().map(<[u8]>::to_vec), listed.value);
    }
    for max_bytes in [1, 2_000, 1 << 20] {
        let (mut offset, mut found) = (0, Vec::new());
        while offset < stable {
            let options = FetchOptions::new().max_bytes(max_bytes).isolation(Isolation::ReadCommitted);
            let fetched = log.fetch(offset, options).unwrap();
            found.extend(filtered_as_by_kafka(&fetched.batches, &fetched.aborted, offset));
            offset = fetched.next_offset;
        }
        assert_eq!(found, committed, "fetched {max_bytes}");
    }
    check(log);
    assert_eq!(producers(log), producers_of(&segment_file(&source().join("txns-0"), 305, "snapshot")));
}

#[test]
fn what_kafka_says_is_committed_is_read_and_its_producers_are_known() {
    let expected = expected();
    for outcome in ["none", "committed", "aborted", "open"] {
        assert!(expected.iter().any(|record| record.transaction == outcome), "none is {outcome}");
    }
    let (root, _) = copy();
    let (store, log) = open(&root);
    check_as_listed(&log);
    drop(log);
    store.close().unwrap();
    let (_store, log) = open(&root);
    assert!(log.recovery_report().clean);
    check_as_listed(&log);
}

#[test]
fn a_reader_that_writes_nothing_finds_the_same() {
    let (root, directory) = copy();
    for snapshots in [true, false] {
        if !snapshots {
            for offset in [135, 305] {
                std::fs::remove_file(segment_file(&directory, offset, "snapshot")).unwrap();
            }
        }
        let store = Store::options().read_only(true).open(root.path()).unwrap();
        check_as_listed(&store.topic("txns").unwrap().partition(0).unwrap());
    }
}

#[test]
fn snapshots_that_are_missing_or_damaged_change_nothing() {
    for clean in [false, true] {
        for damaged in [&[305][..], &[135], &[135, 305]] {
            for kind in ["missing", "flipped", "cut", "empty"] {
                let (root, directory) = copy();
                if clean {
                    drop(open(&root));
                }
                for &offset in damaged {
                    let path = segment_file(&directory, offset, "snapshot");
                    let mut bytes = std::fs::read(&path).unwrap();
                    match kind {
                        "missing" => {
                            std::fs::remove_file(&path).unwrap();
                            continue;
                        }
                        "flipped" => bytes[40] ^= 4,
                        "cut" => bytes.truncate(100),
                        _ => bytes.clear(),
                    }
                    std::fs::write(&path, bytes).unwrap();
                }
                let (store, log) = open(&root);
                assert_eq!(log.recovery_report().clean, clean, "{damaged:?} {kind}");
                check_as_listed(&log);
                drop(log);
                store.close().unwrap();
                check_as_listed(&open(&root).1);
            }
        }
    }
}

#[test]
fn transaction_indexes_that_are_missing_or_damaged_are_made_again() {
    for base in [0, 135] {
        for kind in ["missing", "flipped", "cut", "empty"] {
            let (root, directory) = copy();
            // Closed once, so that there is something to hold them against.
            let (store, log) = open(&root);
            check_as_listed(&log);
            drop(log);
            store.close().unwrap();
            let path = segment_file(&directory, base, "txnindex");
            let mut bytes = std::fs::read(&path).unwrap();
            match kind {
                "missing" => std::fs::remove_file(&path).unwrap(),
                "flipped" => bytes[15] ^= 1,
                "cut" => bytes.truncate(bytes.len() - 34),
                _ => bytes.clear(),
            }
            if kind != "missing" {
                std::fs::write(&path, bytes).unwrap();
            }
            check_as_listed(&open(&root).1);
        }
    }
}

#[test]
fn the_producers_of_kafka_go_on_where_they_were() {
    let (root, _) = copy();
    let (_store, log) = open(&root);
    let open_one = log.open_transactions().remove(0);
    let known = log.producers().into_iter().find(|it| it.producer_id == open_one.producer_id).unwrap();
    assert_eq!(known.transaction_first_offset, Some(open_one.first_offset));
    let next = known.last_sequence.unwrap() + 1;
    let (id, epoch) = (known.producer_id, known.producer_epoch);
    let record = [Record::new("more").timestamp(1_718_009_999_000)];
    let send = |epoch, sequence| {
        log.append_batch_with(&record, AppendOptions::new().transactional(id, epoch, sequence))
    };
    assert_eq!(send(epoch, next + 1).unwrap_err().kafka_code(), Some(45));
    if epoch > 0 {
        assert_eq!(send(epoch - 1, next).unwrap_err().kafka_code(), Some(47));
    }
    send(epoch, next).unwrap();
    assert!(send(epoch, next).unwrap().duplicate);
    let coordinator_epoch = known.coordinator_epoch.unwrap_or(0);
    let marker = EndTransactionMarker { coordinator_epoch, commit: true };
    log.end_transaction(id, epoch, marker, AppendOptions::new()).unwrap();
    assert!(log.last_stable_offset() > open_one.first_offset);
    check(&log);
}
