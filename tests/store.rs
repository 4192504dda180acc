//! What a store promises about its topics and its directory: names, identities, settings, deletion, one owner,
//! many partitions.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/files.rs"]
mod files;
#[path = "common/logs.rs"]
mod logs;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use annals::fs::{Call, Crash, Fault, SimulatedDisk, When};
use annals::{Durability, Error, Partition, Record, Store, TopicConfig};
use files::tree;
use logs::{Machine, append, file, values};

fn names(store: &Store) -> Vec<String> {
    store.topics().iter().map(|topic| topic.name().to_string()).collect()
}

// ---- topics ----

#[test]
fn topics_are_made_listed_found_and_deleted() {
    let machine = Machine::new();
    let store = machine.open();
    assert_eq!(names(&store), [""; 0]);
    for (name, count) in [("b", 2), ("a-1", 1), ("C", 3)] {
        let topic = store.create_topic(name, TopicConfig::new().partitions(count)).unwrap();
        assert_eq!((topic.name().as_str(), topic.partition_count()), (name, count));
        assert_eq!(topic.partitions().unwrap().len() as u32, count);
    }
    assert_eq!(names(&store), ["C", "a-1", "b"]);
    assert!(
        matches!(store.create_topic("b", TopicConfig::new()), Err(Error::TopicExists { topic }) if topic == "b")
    );
    for unknown in ["d", "", "a/b", "c"] {
        let error = store.topic(unknown).unwrap_err();
        assert!(matches!(&error, Error::UnknownTopic { topic } if topic == unknown), "{error}");
        assert!(matches!(store.delete_topic(unknown), Err(Error::UnknownTopic { .. })));
    }
    let topic = store.topic("b").unwrap();
    let Error::UnknownPartition { partition, count, .. } = topic.partition(2).unwrap_err() else {
        panic!("a third partition of two")
    };
    assert_eq!((partition, count), (2, 2));
    for partition in 0..2 {
        append(&topic.partition(partition).unwrap(), &["v"]);
    }
    store.delete_topic("b").unwrap();
    assert_eq!(names(&store), ["C", "a-1"]);
    assert!(matches!(store.topic("b"), Err(Error::UnknownTopic { .. })));
    // What was made is there after a power cut, and what was deleted is not.
    let store = machine.cut_off().open();
    assert_eq!(names(&store), ["C", "a-1"]);
    assert_eq!(store.topic("C").unwrap().partition_count(), 3);
}

#[test]
fn names_that_may_not_be_are_refused_and_leave_no_trace() {
    let machine = Machine::new();
    let store = machine.open();
    store.create_topic("a.b", TopicConfig::new()).unwrap();
    let (before, calls) = (machine.disk.names(), machine.disk.calls());
    let long = "n".repeat(250);
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "../a",
        "a\\b",
        "a\0b",
        "a b",
        "ü",
        "a\n",
        "a:b",
        &long,
        "a_b",
        "__cluster_metadata",
    ] {
        let error = store.create_topic(name, TopicConfig::new()).unwrap_err();
        assert!(matches!(error, Error::InvalidName { kind: "topic", .. }), "{name:?} gave {error}");
    }
    let longest = "n".repeat(249);
    let error = store.create_topic(&longest, TopicConfig::new().partitions(1_000_001)).unwrap_err();
    assert!(matches!(error, Error::InvalidName { .. }), "{error}");
    for count in [0, u32::MAX, i32::MAX as u32 + 1] {
        let error = store.create_topic("t", TopicConfig::new().partitions(count)).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
    let error = store.create_topic("t", TopicConfig::new().segment_bytes(1)).unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    assert_eq!((machine.disk.names(), machine.disk.calls()), (before, calls));
    assert_eq!(names(&store), ["a.b"]);
    store.create_topic(&longest, TopicConfig::new()).unwrap();
    store.create_topic("a..b", TopicConfig::new()).unwrap();
    drop(store);
    assert_eq!(machine.open().topics().len(), 3);
}

#[test]
fn partitions_are_added_and_never_taken_away() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    append(&log, &["v"]);
    let topic = store.topic("t").unwrap();
    topic.add_partitions(4).unwrap();
    assert_eq!(topic.partition_count(), 4);
    for count in [0, 1, 4, u32::MAX] {
        assert!(matches!(topic.add_partitions(count), Err(Error::InvalidConfig { .. })), "{count}");
    }
    append(&topic.partition(3).unwrap(), &["w"]);
    for after in [machine.cut_off(), machine.killed()] {
        let (store, log) = after.restart();
        assert_eq!(store.topic("t").unwrap().partition_count(), 4);
        assert_eq!(values(&log, 0).len(), 1);
        assert_eq!(values(&store.topic("t").unwrap().partition(3).unwrap(), 0).len(), 1);
    }
}

#[test]
fn records_with_a_key_go_to_its_partition_and_others_in_turn() {
    let machine = Machine::new();
    let store = machine.open();
    let topic = store.create_topic("t", TopicConfig::new().partitions(4)).unwrap();
    for n in 0..40 {
        let key = format!("key {}", n % 10);
        let placed = topic.append(&Record::new("v").key(&key)).unwrap();
        assert_eq!(placed.partition, annals::partition_for_key(key.as_bytes(), 4));
        let log = topic.partition(placed.partition).unwrap();
        assert_eq!(placed.offset, log.log_end() - 1);
        let stored = log.read_from(placed.offset).unwrap().next().unwrap().unwrap();
        assert_eq!(stored.key(), Some(key.as_bytes()));
    }
    let total: u64 = topic.partitions().unwrap().iter().map(Partition::log_end).sum();
    assert_eq!(total, 40);
    topic.append(&Record::new("v")).unwrap();
}

#[test]
fn settings_changed_at_run_time_take_effect_with_the_next_append() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let topic = store.topic("t").unwrap();
    let value = "x".repeat(200);
    append(&log, &[&value]);
    topic.configure([("max.message.bytes", Some("100"))]).unwrap();
    assert!(matches!(log.append(&Record::new(&value)), Err(Error::TooLarge { limit: 100, .. })));
    topic.configure([("max.message.bytes", None), ("segment.bytes", Some("300"))]).unwrap();
    append(&log, &[&value]);
    append(&log, &[&value]);
    assert_eq!(log.segments(), [0, 1, 2]);

    let syncs = |act: &dyn Fn()| {
        machine.disk.record(true);
        act();
        let calls = machine.disk.recorded();
        machine.disk.record(false);
        calls.iter().filter(|(call, name)| *call == Call::Sync && name.starts_with("t-0")).count()
    };
    topic.configure([("annals.durability", Some("process")), ("segment.bytes", None)]).unwrap();
    let one = || assert!(append(&log, &["v"]) > 0);
    assert_eq!(syncs(&one), 0);
    topic.configure([("annals.durability", Some("synced"))]).unwrap();
    assert_eq!(syncs(&one), 1);

    // All or nothing.
    for bad in [("segment.bytes", Some("1")), ("no.such.key", Some("1")), ("no.such.key", None)] {
        let error = topic.configure([("max.message.bytes", Some("7")), bad]).unwrap_err();
        assert!(matches!(&error, Error::InvalidConfig { key, .. } if key == bad.0), "{error}");
        assert_eq!(topic.config().get("max.message.bytes").as_deref(), Some("1048588"));
    }
    append(&log, &[&value]);
    topic.configure([("retention.ms", Some("5"))]).unwrap();
    assert_eq!(log.config().retention_ms, Some(5));
    let (store, log) = machine.cut_off().restart();
    let config = store.topic("t").unwrap().config();
    let kept: Vec<_> = config.entries().collect();
    assert_eq!(kept, [("annals.durability", "synced"), ("retention.ms", "5")]);
    assert_eq!(log.config().retention_ms, Some(5));
}

#[test]
fn defaults_of_the_store_hold_where_a_topic_says_nothing_and_are_not_stored() {
    let machine = Machine::new();
    let defaults = TopicConfig::new().segment_bytes(300).partitions(2);
    let fs = || Arc::new(machine.disk.clone());
    let store = machine.options().topic_defaults(defaults).open_in(fs()).unwrap();
    let topic = store.create_topic("t", TopicConfig::new().max_message_bytes(250)).unwrap();
    assert_eq!(topic.partition_count(), 2);
    let config = topic.partition(0).unwrap().config();
    assert_eq!((config.segment_bytes, config.max_message_bytes), (300, 250));
    drop((topic, store));
    let store = machine.open();
    let config = store.topic("t").unwrap().partition(1).unwrap().config();
    assert_eq!((config.segment_bytes, config.max_message_bytes), (1 << 30, 250));
}

#[test]
fn a_topic_keeps_its_identity_until_it_is_deleted() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let id = store.topic("t").unwrap().id();
    append(&log, &["old"]);
    drop((log, store));
    let (store, _) = machine.restart();
    assert_eq!(store.topic("t").unwrap().id(), id);
    let (killed, _) = machine.killed().restart();
    assert_eq!(killed.topic("t").unwrap().id(), id);
    let old = store.topic("t").unwrap();
    store.delete_topic("t").unwrap();
    let new = store.create_topic("t", TopicConfig::new()).unwrap();
    assert_ne!(new.id(), id);
    assert_eq!(old.id(), id);
    let log = new.partition(0).unwrap();
    assert_eq!(log.log_end(), 0);
    append(&log, &["new"]);
    assert!(matches!(old.partition(0).unwrap().append(&Record::new("x")), Err(Error::Closed { .. })));
    let new_id = new.id();
    drop((log, new, old));
    store.close().unwrap();
    let (store, log) = machine.restart();
    assert_eq!((store.topic("t").unwrap().id(), values(&log, 0)), (new_id, vec![(0, "new".to_owned())]));
}

// ---- deletion ----

#[test]
fn files_of_a_deleted_topic_go_after_their_delay_and_readers_finish() {
    let machine = Machine::new();
    let config = TopicConfig::new().segment_bytes(300).set("file.delete.delay.ms", "1000").unwrap();
    let (store, log) = machine.start(config);
    for _ in 0..9 {
        append(&log, &["a value that is not short"]);
    }
    let mut reader = log.read_from(0).unwrap();
    assert!(reader.next().unwrap().is_ok());
    store.delete_topic("t").unwrap();
    assert!(matches!(log.append(&Record::new("x")), Err(Error::Closed { .. })));
    let doomed = |disk: &SimulatedDisk| {
        let names = disk.names();
        names.iter().filter(|name| name.to_str().unwrap().contains("-delete/")).count()
    };
    assert_eq!(machine.disk.names().iter().filter(|name| name.starts_with("t-0")).count(), 0);
    machine.clock.advance(Duration::from_millis(999));
    assert!(store.maintain().unwrap().removed.is_empty());
    assert!(doomed(&machine.disk) > 0);
    machine.clock.advance(Duration::from_millis(1));
    assert_eq!(store.maintain().unwrap().removed.len(), 1);
    assert_eq!(doomed(&machine.disk), 0);
    assert!(store.maintain().unwrap().removed.is_empty());

    // After a restart nobody reads them any more.
    store.create_topic("u", TopicConfig::new()).unwrap();
    store.delete_topic("u").unwrap();
    assert!(doomed(&machine.disk) > 0);
    drop(store);
    drop(machine.open());
    assert_eq!(doomed(&machine.disk), 0);
}

/// A store with two topics of three partitions each, with a record in every one.
fn two_topics() -> (Machine, Store) {
    let machine = Machine::new();
    let store = machine.open();
    for name in ["t", "u"] {
        let topic = store.create_topic(name, TopicConfig::new().partitions(3)).unwrap();
        for log in topic.partitions().unwrap() {
            append(&log, &["one", "two"]);
        }
    }
    (machine, store)
}

fn is_whole(store: &Store, name: &str) -> bool {
    let Ok(topic) = store.topic(name) else { return false };
    assert_eq!(topic.partition_count(), 3, "{name} is there in part");
    for log in topic.partitions().unwrap() {
        assert!(log.recovery_report().damage.is_empty());
        assert_eq!(values(&log, 0).len(), 2, "{name} is there in part");
    }
    true
}

#[test]
fn a_crash_at_any_call_of_a_deletion_leaves_the_topic_whole_or_gone() {
    let (machine, store) = two_topics();
    let before = machine.disk.calls();
    store.delete_topic("t").unwrap();
    let calls = machine.disk.calls() - before;
    assert!(calls > 5);
    let (mut whole, mut gone) = (0, 0);
    for call in 1..=calls + 1 {
        let (machine, store) = two_topics();
        machine.disk.fail(When::nth(call), Fault::PowerOff);
        let deleted = store.delete_topic("t").is_ok();
        let crashes = [0, 1, 2, 3, 4].map(|seed| Crash::PowerCut { seed });
        for crash in crashes.into_iter().chain([Crash::ProcessKill]) {
            let after = Machine::of(machine.disk.crash(crash));
            let store = after.open();
            assert!(is_whole(&store, "u"), "the other topic");
            let there = is_whole(&store, "t");
            assert!(!(there && deleted), "call {call}, {crash:?}: it was deleted");
            *(if there { &mut whole } else { &mut gone }) += 1;
            drop(store);
            // It does not come back, and nothing is left of it.
            let store = after.open();
            assert_eq!(is_whole(&store, "t"), there, "call {call}, {crash:?}");
            drop(store);
            if !there {
                let left = after.disk.names();
                assert!(!left.iter().any(|name| name.to_str().unwrap().starts_with("t-")), "{left:?}");
            }
        }
    }
    assert!(whole > 0 && gone > 0);
}

#[test]
fn a_crash_at_any_call_of_a_creation_leaves_the_topic_whole_or_none() {
    let machine = Machine::new();
    let store = machine.open();
    let before = machine.disk.calls();
    store.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    let calls = machine.disk.calls() - before;
    for call in 1..=calls + 1 {
        let machine = Machine::new();
        let store = machine.open();
        machine.disk.fail(When::nth(call), Fault::PowerOff);
        let made = store.create_topic("t", TopicConfig::new().partitions(3)).is_ok();
        for seed in 0..5 {
            let after = Machine::of(machine.disk.crash(Crash::PowerCut { seed }));
            let store = after.open();
            match store.topic("t") {
                Ok(topic) => {
                    assert_eq!(topic.partition_count(), 3);
                    for log in topic.partitions().unwrap() {
                        assert!(log.recovery_report().damage.is_empty());
                        assert_eq!(append(&log, &["v"]), 0);
                    }
                }
                Err(_) => {
                    assert!(!made, "call {call}, seed {seed}: it was made");
                    store.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_a_topic_and_takes_it_when_there_is_room() {
    for spare in (0..3_000).step_by(100) {
        let (machine, store) = two_topics();
        machine.disk.set_capacity(Some(machine.disk.used() + spare));
        let refused = match store.create_topic("v", TopicConfig::new().partitions(3)) {
            Ok(_) => false,
            Err(Error::StorageFull { .. }) => true,
            Err(error) => panic!("{spare}: {error}"),
        };
        assert!(is_whole(&store, "t") && is_whole(&store, "u"), "reads go on");
        store
            .delete_topic("t")
            .or_else(|error| if error.is_retryable() { Ok(()) } else { Err(error) })
            .unwrap();
        machine.disk.set_capacity(None);
        if refused && store.topic("v").is_err() {
            store.create_topic("v", TopicConfig::new().partitions(3)).unwrap();
        }
        for log in store.topic("v").unwrap().partitions().unwrap() {
            append(&log, &["v"]);
        }
        store.close().unwrap();
        assert!(is_whole(&machine.open(), "u"));
    }
}

// ---- one owner ----

/// Runs one of the tests below in a process of its own, where it finds a directory.
fn child(test: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("ANNALS_TEST_DIRECTORY", directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn directory_of_parent() -> Option<PathBuf> {
    std::env::var_os("ANNALS_TEST_DIRECTORY").map(Into::into)
}

fn wait_for(child: &mut Child, word: &str) {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap());
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the child ended without {word:?}");
    }
}

#[test]
fn a_directory_has_one_owner_at_a_time() {
    if let Some(directory) = directory_of_parent() {
        let store = Store::open(directory);
        if let Ok(store) = &store {
            let topic = store.topic("t").unwrap();
            topic.append(&Record::new("from the child")).unwrap();
        }
        println!("{}", if matches!(store, Err(Error::Locked { .. })) { "locked" } else { "opened" });
        std::io::stdout().flush().unwrap();
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    let test = "a_directory_has_one_owner_at_a_time";
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    store.create_topic("t", TopicConfig::new()).unwrap();
    for _ in 0..2 {
        let error = Store::open(root.path()).unwrap_err();
        assert!(matches!(&error, Error::Locked { path } if path == root.path()), "{error}");
        assert!(error.is_retryable());
    }
    let mut other = child(test, root.path());
    wait_for(&mut other, "locked");
    other.kill().unwrap();
    other.wait().unwrap();
    store.close().unwrap();
    let mut owner = child(test, root.path());
    wait_for(&mut owner, "opened");
    assert!(matches!(Store::open(root.path()), Err(Error::Locked { .. })));
    owner.kill().unwrap();
    owner.wait().unwrap();
    // The lock went with its process, and what that had appended is there.
    let store = Store::open(root.path()).unwrap();
    assert!(!store.report().clean);
    assert_eq!(values(&store.topic("t").unwrap().partition(0).unwrap(), 0).len(), 1);
}

#[test]
fn reading_only_writes_nothing_beside_a_live_store_and_in_a_directory_that_takes_no_writes() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let config = TopicConfig::new().segment_bytes(300).partitions(2);
    let log = store.create_topic("t", config).unwrap().partition(0).unwrap();
    let fill = || {
        for n in 0..5 {
            append(&log, &[&format!("a value, the number {n}")]);
        }
    };
    fill();
    let look = |count: usize| {
        let before = tree(root.path());
        let reader = Store::options().read_only(true).open(root.path()).unwrap();
        let topic = reader.topic("t").unwrap();
        let seen = topic.partition(0).unwrap();
        assert_eq!(values(&seen, 0).len(), count);
        assert_eq!(seen.offset_for_timestamp(0).unwrap().unwrap().offset, 0);
        for refused in [
            seen.append(&Record::new("x")).map(drop),
            topic.append(&Record::new("x")).map(drop),
            reader.create_topic("u", TopicConfig::new()).map(drop),
            reader.delete_topic("t"),
            topic.configure([("retention.ms", Some("1"))]),
            topic.add_partitions(9),
            reader.flush(),
            reader.maintain().map(drop),
        ] {
            assert!(matches!(refused, Err(Error::ReadOnly { .. })), "{refused:?}");
        }
        // Two of them do not mind each other.
        drop(Store::options().read_only(true).open(root.path()).unwrap());
        reader.close().unwrap();
        assert!(tree(root.path()) == before, "reading has written");
    };
    look(5);
    fill();
    look(10);
    drop(log);
    store.close().unwrap();
    look(10);
    // Indexes lost, a torn tail: a reader copes and repairs nothing.
    let active = files::log_bases(&root.path().join("t-0")).pop().unwrap();
    let path = files::segment_file(&root.path().join("t-0"), active, "log");
    std::fs::remove_file(files::segment_file(&root.path().join("t-0"), 0, "index")).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(&[0; 30]).unwrap();
    drop(file);
    look(10);
    let modes = |mode| {
        for entry in [root.path().to_path_buf(), root.path().join("t-0"), root.path().join("t-1")] {
            std::fs::set_permissions(entry, PermissionsExt::from_mode(mode)).unwrap();
        }
    };
    modes(0o500);
    look(10);
    modes(0o700);
    let missing = root.path().join("missing");
    assert!(Store::options().read_only(true).open(&missing).is_err());
    assert!(!missing.exists());
}

#[test]
fn dropping_a_store_closes_it_in_good_order() {
    let root = tempfile::tempdir().unwrap();
    let config = TopicConfig::new().durability(Durability::Process);
    let store = Store::open(root.path()).unwrap();
    let log = store.create_topic("t", config).unwrap().partition(0).unwrap();
    append(&log, &["v"]);
    drop(store);
    assert!(root.path().join(".kafka_cleanshutdown").exists());
    let store = Store::open(root.path()).unwrap();
    assert!(!root.path().join(".kafka_cleanshutdown").exists());
    assert!(store.report().clean);
    let again = store.topic("t").unwrap().partition(0).unwrap();
    assert!(again.recovery_report().clean);
    assert_eq!(values(&again, 0).len(), 1);
}

#[test]
fn handles_of_a_closed_store_read_and_do_nothing_else() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let topic = store.topic("t").unwrap();
    append(&log, &["a", "b"]);
    let mut reader = log.read_from(0).unwrap();
    store.close().unwrap();
    let calls = machine.disk.calls();
    for refused in [
        log.append(&Record::new("x")).map(drop),
        log.append_batch(&[Record::new("x")]).map(drop),
        topic.append(&Record::new("x")).map(drop),
        topic.configure([("retention.ms", Some("1"))]),
        topic.add_partitions(2),
        log.wait_for(2, Duration::from_secs(60)).map(drop),
        log.reopen(),
        log.accept_loss(0),
    ] {
        assert!(matches!(refused, Err(Error::Closed { .. })), "{refused:?}");
    }
    assert_eq!(machine.disk.calls(), calls);
    assert_eq!(reader.next().unwrap().unwrap().offset(), 0);
    assert_eq!(values(&log, 0).len(), 2);
    assert!(log.wait_for(1, Duration::ZERO).unwrap(), "it is there");
    assert_eq!(log.offset_for_timestamp(0).unwrap().unwrap().offset, 0);
    // The lock is free, and what comes now is none of their business.
    let (_store, new) = machine.restart();
    assert_eq!(append(&new, &["c"]), 2);
    assert_eq!(log.log_end(), 2);
}

// ---- partitions that fail alone ----

#[test]
fn a_partition_that_does_not_open_stops_no_other_and_opens_when_its_cause_is_gone() {
    let machine = Machine::new();
    let store = machine.open();
    let topic = store.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    let stranger = store.create_topic("u", TopicConfig::new()).unwrap();
    for log in topic.partitions().unwrap() {
        append(&log, &["v"]);
    }
    drop((topic, stranger));
    store.close().unwrap();
    let (mine, other) = ("t-1/partition.metadata", "u-0/partition.metadata");
    let right = machine.disk.read(mine).unwrap();
    machine.disk.write(mine, &machine.disk.read(other).unwrap()).unwrap();
    let store = machine.open();
    let warnings = store.report().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("t-1"), "{warnings:?}");
    let topic = store.topic("t").unwrap();
    assert_eq!(topic.partition_count(), 3);
    assert!(matches!(topic.partition(1), Err(Error::Corruption { .. })));
    assert!(topic.partitions().is_err());
    for number in [0, 2] {
        assert_eq!(append(&topic.partition(number).unwrap(), &["w"]), 1);
    }
    store.flush().unwrap();
    machine.disk.write(mine, &right).unwrap();
    assert_eq!(append(&topic.partition(1).unwrap(), &["w"]), 1);
    drop(topic);
    store.close().unwrap();
    let (store, _) = machine.restart();
    for log in store.topic("t").unwrap().partitions().unwrap() {
        assert_eq!(values(&log, 0).len(), 2);
    }
}

#[test]
fn a_read_that_fails_while_opening_concerns_one_partition() {
    let (machine, store) = two_topics();
    drop(store);
    // A crash, so that logs are read.
    machine.disk.remove(".kafka_cleanshutdown");
    machine.disk.fail(When::next().under("t-1").and_ever_after(), Fault::Error(5));
    let store = machine.open();
    assert!(is_whole(&store, "u"));
    let topic = store.topic("t").unwrap();
    assert!(matches!(topic.partition(1), Err(Error::Io { .. })));
    for number in [0, 2] {
        assert_eq!(append(&topic.partition(number).unwrap(), &["w"]), 2);
    }
    machine.disk.heal();
    assert_eq!(append(&topic.partition(1).unwrap(), &["w"]), 2);
}

#[test]
fn a_store_with_a_closed_partition_is_not_called_clean() {
    let (machine, store) = two_topics();
    drop(store);
    machine.disk.write(file(0, "log"), b"").unwrap();
    machine.disk.fail(When::next().under("t-1").and_ever_after(), Fault::Error(5));
    let store = machine.open();
    assert!(store.topic("t").unwrap().partition(0).unwrap().append(&Record::new("x")).is_err());
    let _ = store.close();
    machine.disk.heal();
    assert!(machine.disk.read(".kafka_cleanshutdown").is_none());
    let store = machine.open();
    let topic = store.topic("t").unwrap();
    let damage = &topic.partition(0).unwrap().recovery_report().damage;
    assert_eq!((damage[0].from, damage[0].to), (0, 2), "what was on disk is remembered");
    assert_eq!(values(&topic.partition(1).unwrap(), 0).len(), 2);
}

// ---- many partitions ----

const MANY: u32 = 10_000;

#[test]
fn ten_thousand_partitions_live_within_a_thousand_descriptors() {
    let test = "ten_thousand_partitions_live_within_a_thousand_descriptors";
    let Some(directory) = directory_of_parent() else {
        // In memory where there is such a place: this is about descriptors, and closing syncs every log.
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        assert!(child(test, root.path()).wait_with_output().unwrap().status.success());
        return;
    };
    let limit = rustix::process::Rlimit { current: Some(1024), maximum: Some(1024) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let open = || {
        let defaults = TopicConfig::new().durability(Durability::Process);
        Store::options().topic_defaults(defaults).open(&directory).unwrap()
    };
    let store = open();
    let topic = store.create_topic("t", TopicConfig::new().partitions(MANY)).unwrap();
    let text = |number: u32, round: u32| format!("record {round} of partition {number}");
    for round in 0..2 {
        for (number, log) in topic.partitions().unwrap().iter().enumerate() {
            assert_eq!(append(log, &[&text(number as u32, round)]), u64::from(round));
        }
    }
    drop(topic);
    store.close().unwrap();
    let store = open();
    assert!(store.report().clean && store.report().warnings.is_empty());
    for (number, log) in store.topic("t").unwrap().partitions().unwrap().iter().enumerate() {
        let number = number as u32;
        assert_eq!(values(log, 0), [(0, text(number, 0)), (1, text(number, 1))]);
    }
}

#[test]
fn a_handle_of_a_deleted_topic_never_reads_the_files_of_one_that_took_its_name() {
    let machine = Machine::new();
    let store = machine.options().max_open_files(1).open_in(Arc::new(machine.disk.clone())).unwrap();
    let old = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&old, &["old"]);
    store.delete_topic("t").unwrap();
    let new = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&new, &["new"]);
    for record in old.read_from(0).unwrap().flatten() {
        assert_eq!(record.value(), Some(b"old".as_slice()));
    }
    assert_eq!(values(&old, 0), [(0, "old".into())]);
    assert_eq!(values(&new, 0), [(0, "new".into())]);
}

#[test]
fn a_partition_that_waited_for_room_keeps_what_it_acknowledges() {
    let used = {
        let machine = Machine::new();
        let _store = machine.open();
        machine.disk.used()
    };
    let mut waited = 0;
    for room in 0..2_000 {
        let machine = Machine::new();
        let store = machine.open();
        machine.disk.set_capacity(Some(used + room));
        let made = store.create_topic("t", TopicConfig::new());
        machine.disk.set_capacity(None);
        let topic = match (made, store.topic("t")) {
            (Ok(_), _) => break,
            (Err(_), Ok(topic)) => topic,
            (Err(_), Err(_)) => continue,
        };
        waited += 1;
        append(&topic.partition(0).unwrap(), &["kept"]);
        let (_store, log) = machine.cut_off().restart();
        assert_eq!(values(&log, 0), [(0, "kept".into())], "{room} bytes of room");
    }
    assert!(waited > 0, "it was never there without its log");
}
