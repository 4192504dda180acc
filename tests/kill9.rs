//! `kill -9` in the middle of compaction, retention, rolling, truncation and deletion: a process is killed at some
//! moment, again and again, and what it leaves must be a state that what it said allows.
//!
//! `ANNALS_KILL_CYCLES` sets how often each is killed (default 8).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and the child speaks on its standard output"
)]

#[path = "common/kills.rs"]
mod kills;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use annals::{AppendOptions, Durability, Isolation, Partition, Record, Store, TopicConfig};
use kills::{killed, last, moments, say};

const KEYS: u64 = 23;

fn config() -> TopicConfig {
    TopicConfig::new()
        .durability(Durability::Process)
        .segment_bytes(6_000)
        .index_interval_bytes(500)
        .set("file.delete.delay.ms", "0")
        .unwrap()
}

fn open(directory: &Path) -> (Store, Partition) {
    let store = Store::open(directory).unwrap();
    let topic = store.topic("t").unwrap();
    let log = topic.partition(0).unwrap();
    (store, log)
}

/// A value says its number.
fn value(number: u64) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(20 + (number * 31 % 90) as usize, number as u8);
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    let number = u64::from_be_bytes(*bytes.first_chunk().unwrap());
    assert_eq!(bytes, value(number), "the rest of value {number} is wrong");
    number
}

/// Offsets and numbers of all records.
fn read(log: &Partition, isolation: Isolation) -> BTreeMap<u64, u64> {
    let records = log.read_from_with(log.log_start(), isolation).unwrap();
    records
        .map(|record| record.unwrap())
        .map(|record| (record.offset(), number(record.value().unwrap())))
        .collect()
}

fn append(log: &Partition, number: u64) -> u64 {
    let key = (number % KEYS).to_be_bytes();
    log.append(&Record::new(&value(number)).key(&key)).unwrap()
}

fn directory(config: TopicConfig) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.create_topic("t", config).unwrap();
    store.close().unwrap();
    directory
}

/// The child, if this process is one.
#[test]
fn child() {
    let Some((kind, directory)) = kills::role() else { return };
    match kind.as_str() {
        "truncation" => truncate_for_ever(&directory),
        "deletion" => delete_for_ever(&directory),
        "transactions" => commit_for_ever(&directory),
        kind => append_for_ever(&directory, kind),
    }
}

/// Appends, while another thread does what the kind is.
fn append_for_ever(directory: &Path, kind: &str) {
    let (_store, log) = open(directory);
    say("ready");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                match kind {
                    "compaction" => drop(log.compact().unwrap()),
                    "retention" => say(&format!("start {}.", log.apply_retention().unwrap().log_start)),
                    "records" => say(&format!("start {}.", log.delete_records(log.log_end()).unwrap())),
                    _ => log.roll().unwrap(),
                }
            }
        });
        loop {
            let next = log.log_end();
            say(&format!("end {}.", append(&log, next) + 1));
        }
    });
}

/// What must hold after appends with numbers equal to their offsets.
fn check_appends(log: &Partition, said: &[String], dense: bool) {
    assert!(log.recovery_report().damage.is_empty(), "{:?}", log.recovery_report());
    let (start, end) = (log.log_start(), log.log_end());
    assert!(end >= last(said, "end ").unwrap_or(0), "acknowledged records are lost: {end}");
    assert!(start >= last(said, "start ").unwrap_or(0), "the log start went back: {start}");
    let found = read(log, Isolation::ReadUncommitted);
    assert!(found.iter().all(|(offset, number)| offset == number), "{found:?}");
    if dense {
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), (start..end).collect::<Vec<_>>());
    }
    // Of each key that is left, the last one is there.
    for number in end.saturating_sub(KEYS).max(start)..end {
        assert!(found.contains_key(&number), "the last record of a key, {number}, is gone");
    }
}

fn appends_survive(kind: &str, config: TopicConfig, dense: bool) {
    let directory = directory(config);
    for moment in moments("end ") {
        let said = killed(kind, directory.path(), moment);
        let (store, log) = open(directory.path());
        check_appends(&log, &said, dense);
        drop(store);
    }
}

#[test]
fn killed_in_compaction() {
    let config = config().set("cleanup.policy", "compact").unwrap();
    appends_survive("compaction", config, false);
}

#[test]
fn killed_in_retention() {
    appends_survive("retention", config().retention_bytes(Some(20_000)), true);
}

#[test]
fn killed_in_the_deletion_of_records() {
    let directory = directory(config());
    for moment in moments("start ") {
        let said = killed("records", directory.path(), moment);
        let (_store, log) = open(directory.path());
        assert!(log.recovery_report().damage.is_empty(), "{:?}", log.recovery_report());
        assert!(log.log_start() >= last(&said, "start ").unwrap_or(0));
        assert!(log.log_end() >= last(&said, "end ").unwrap_or(0));
        let found: Vec<u64> = read(&log, Isolation::ReadUncommitted).into_keys().collect();
        assert_eq!(found, (log.log_start()..log.log_end()).collect::<Vec<_>>());
    }
}

#[test]
fn killed_while_rolling() {
    appends_survive("roll", config(), true);
}

/// Appends some, takes some back, says before and after what it does.
fn truncate_for_ever(directory: &Path) {
    let (_store, log) = open(directory);
    let mut number = read(&log, Isolation::ReadUncommitted).values().max().map_or(0, |last| last + 1);
    say("ready");
    loop {
        for _ in 0..1 + number % 60 {
            say(&format!("try {number}."));
            append(&log, number);
            say(&format!("appended {number}."));
            number += 1;
        }
        let end = log.log_end();
        let to = end - (number * 7 % 50).min(end);
        say(&format!("cut {to}."));
        log.truncate_to(to).unwrap();
        say(&format!("cut-done {to}."));
    }
}

#[test]
fn killed_in_truncation() {
    let directory = directory(config());
    let mut model: Vec<u64> = Vec::new();
    for moment in moments("cut-done ") {
        let said = killed("truncation", directory.path(), moment);
        let (mut trying, mut cutting) = (None, None);
        for line in &said {
            let (word, argument) = line.split_once(' ').unwrap();
            let argument: u64 = argument.parse().unwrap();
            match word {
                "try" => trying = Some(argument),
                "appended" => {
                    trying = None;
                    model.push(argument);
                }
                "cut" => cutting = Some(argument as usize),
                _ => {
                    cutting = None;
                    model.truncate(argument as usize);
                }
            }
        }
        let (_store, log) = open(directory.path());
        assert!(log.recovery_report().damage.is_empty(), "{:?}", log.recovery_report());
        let found: Vec<u64> = read(&log, Isolation::ReadUncommitted).into_values().collect();
        assert_eq!(log.log_end(), found.len() as u64);
        let least = cutting.unwrap_or(model.len());
        assert!(found.len() >= least, "{} records are left, at least {least} must be", found.len());
        model.extend(trying);
        assert!(model.starts_with(&found), "{found:?} is no beginning of {model:?}");
        model = found;
    }
}

/// Makes a topic, appends, deletes it, and again.
fn delete_for_ever(directory: &Path) {
    let store = Store::open(directory).unwrap();
    let mut life = store
        .topic("d")
        .ok()
        .and_then(|topic| read(&topic.partition(0).unwrap(), Isolation::ReadUncommitted).into_values().max())
        .map_or(0, |last| last / 1_000 + 1);
    if store.topic("d").is_ok() {
        store.delete_topic("d").unwrap();
    }
    say("ready");
    loop {
        say(&format!("life {life}."));
        let log = store.create_topic("d", config()).unwrap().partition(0).unwrap();
        for n in 0..40 + life % 7 {
            append(&log, life * 1_000 + n);
        }
        say(&format!("whole {life}."));
        store.delete_topic("d").unwrap();
        store.maintain().unwrap();
        say(&format!("deleted {life}."));
        life += 1;
    }
}

#[test]
fn killed_in_the_deletion_of_topics() {
    let directory = directory(config());
    for moment in moments("deleted ") {
        let said = killed("deletion", directory.path(), moment);
        let store = Store::open(directory.path()).unwrap();
        let (life, whole) = (last(&said, "life "), last(&said, "whole "));
        // It was about to be made, or to be deleted.
        let Ok(topic) = store.topic("d") else { continue };
        let log = topic.partition(0).unwrap();
        assert!(log.recovery_report().damage.is_empty(), "{:?}", log.recovery_report());
        let found: Vec<u64> = read(&log, Isolation::ReadUncommitted).into_values().collect();
        let lives: BTreeSet<u64> = found.iter().map(|number| number / 1_000).collect();
        assert!(lives.len() <= 1 && lives.iter().all(|found| Some(*found) == life), "{lives:?} of {life:?}");
        assert!(found.iter().enumerate().all(|(at, number)| at as u64 == number % 1_000), "{found:?}");
        assert!(life.is_none() || last(&said, "deleted ") != life, "a deleted topic came back");
        if let Some(life) = life.filter(|_| whole == life) {
            assert_eq!(found.len() as u64, 40 + life % 7);
        }
    }
}

/// Two transactional producers by turns, committing and aborting, with sequences that go on.
fn commit_for_ever(directory: &Path) {
    let (_store, log) = open(directory);
    let known: BTreeMap<i64, _> =
        log.producers().into_iter().map(|known| (known.producer_id, known)).collect();
    let mut sequences: BTreeMap<i64, i32> = BTreeMap::new();
    for producer in [1, 2] {
        let next = known.get(&producer).and_then(|known| known.last_sequence).map_or(0, |last| last + 1);
        sequences.insert(producer, next);
    }
    let mut number = log.log_end();
    let marker = |commit| annals::format::EndTransactionMarker { coordinator_epoch: 0, commit };
    // What the one before left open.
    for open in log.open_transactions() {
        log.end_transaction(open.producer_id, 0, marker(false), AppendOptions::new()).unwrap();
    }
    say("ready");
    loop {
        for producer in [1, 2] {
            let sequence = sequences[&producer];
            let values = [value(number), value(number + 1)];
            let records: Vec<Record<'_>> = values.iter().map(|value| Record::new(value).key(b"k")).collect();
            let options = AppendOptions::new().transactional(producer, 0, sequence);
            let offset = log.append_batch_with(&records, options).unwrap().base_offset;
            assert_eq!(log.append_batch_with(&records, options).unwrap().base_offset, offset);
            sequences.insert(producer, sequence + 2);
            let commit = number % 3 != 0;
            if commit {
                say(&format!("commit {offset}."));
            } else {
                say(&format!("abort {offset}."));
            }
            log.end_transaction(producer, 0, marker(commit), AppendOptions::new()).unwrap();
            say(&format!("ended {offset}."));
            number += 1;
        }
    }
}

#[test]
fn killed_in_transactions() {
    let directory = directory(config());
    for moment in moments("ended ") {
        let said = killed("transactions", directory.path(), moment);
        let (_store, log) = open(directory.path());
        assert!(log.recovery_report().damage.is_empty(), "{:?}", log.recovery_report());
        let committed = read(&log, Isolation::ReadCommitted);
        let ended: BTreeSet<u64> =
            said.iter().filter_map(|line| line.strip_prefix("ended ")?.trim().parse().ok()).collect();
        for line in &said {
            let Some((word, offset)) = line.split_once(' ') else { continue };
            let offset: u64 = offset.parse().unwrap();
            match word {
                "commit" if ended.contains(&offset) => {
                    assert!(committed.contains_key(&offset) && committed.contains_key(&(offset + 1)));
                }
                "abort" => assert!(!committed.contains_key(&offset), "what was aborted is read: {offset}"),
                _ => {}
            }
        }
        assert!(log.open_transactions().len() <= 1);
        if log.open_transactions().is_empty() {
            assert_eq!(log.last_stable_offset(), log.log_end());
        }
    }
}
