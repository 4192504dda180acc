//! What coordinators write down is Kafka's: a reader that shares no code with the crate, and knows Kafka's schemas
//! alone, reads `__consumer_offsets`, `__transaction_state` and `__share_group_state` to the last byte, and finds in
//! them what was done.
//!
//! The reader is `tests/compat/read_coordinator_topics.py`; without a `python3` the test is skipped.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests fail by panicking")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use annals::consumer::{DeliveryGuarantee, OffsetReset};
use annals::group::OffsetAndMetadata;
use annals::share::{ShareConfig, ShareOffsetReset};
use annals::{ConsumerConfig, ProducerConfig, Record, Store, TopicConfig};

const WAIT: Duration = Duration::from_secs(10);

/// What the reader says of all partitions of a topic that have segments with something in them, a line for each record;
/// `None` if there is no reader.
fn read(directory: &Path, topic: &str) -> Option<Vec<String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/read_coordinator_topics.py");
    let partitions = (0..50).map(|number| directory.join(format!("{topic}-{number}")));
    let output = match Command::new("python3").arg(script).args(partitions).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("!!! SKIPPED: nothing but the crate itself reads {topic}: cannot run python3: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

/// Lines that have all these in them.
fn count(lines: &[String], parts: &[&str]) -> usize {
    lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

fn use_everything(store: &Store) {
    let topic = store.create_topic("orders", TopicConfig::new().partitions(2)).unwrap();
    store.create_topic("bills", TopicConfig::new()).unwrap();
    for partition in topic.partitions().unwrap() {
        partition.append_batch(&[Record::new("one"), Record::new("two"), Record::new("three")]).unwrap();
    }

    // A group with a static member, offsets with metadata.
    let config = ConsumerConfig::new().offset_reset(OffsetReset::Earliest).enable_auto_commit(false);
    let mut consumer = store
        .consumer(config.clone().group("billing").group_instance_id("till-1").client_id("till"))
        .unwrap();
    consumer.subscribe(["orders"]).unwrap();
    assert!(!consumer.poll(WAIT).unwrap().is_empty());
    let position = OffsetAndMetadata { metadata: "as of today: 1 €".into(), ..OffsetAndMetadata::new(2) };
    let commits: Vec<_> =
        consumer.assignment().into_iter().map(|partition| (partition, position.clone())).collect();
    consumer.commit_offsets(commits).unwrap();
    consumer.close().unwrap();

    // A group whose offsets are in transactions, one of them aborted.
    let producer = store.producer(ProducerConfig::new().transactional_id("copier")).unwrap();
    let exactly_once = ConsumerConfig::new().offset_reset(OffsetReset::Earliest).group("copiers");
    let mut consumer = store.consumer(exactly_once.delivery(DeliveryGuarantee::ExactlyOnce)).unwrap();
    consumer.subscribe(["orders"]).unwrap();
    assert!(!consumer.poll(WAIT).unwrap().is_empty());
    for commit in [false, true] {
        producer.begin_transaction().unwrap();
        producer.send("bills", &Record::new("a bill")).unwrap();
        let member = consumer.group_metadata().unwrap();
        producer.send_offsets_to_transaction(consumer.positions_to_commit(), &member).unwrap();
        if commit { producer.commit_transaction() } else { producer.abort_transaction() }.unwrap();
    }
    consumer.close().unwrap();

    // A group that is deleted.
    let mut consumer = store.consumer(config.group("short-lived")).unwrap();
    consumer.subscribe(["orders"]).unwrap();
    assert!(!consumer.poll(WAIT).unwrap().is_empty());
    consumer.commit().unwrap();
    consumer.close().unwrap();
    store.groups().unwrap().delete("short-lived").unwrap();

    // A share group.
    let shared = ShareConfig::new().group("workers").offset_reset(ShareOffsetReset::Earliest);
    let mut workers = store.share_consumer(shared).unwrap();
    workers.subscribe(["orders"]).unwrap();
    assert!(!workers.poll(WAIT).unwrap().is_empty());
    workers.close().unwrap();
}

#[test]
fn what_coordinators_write_down_is_read_by_kafkas_schemas() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    use_everything(&store);
    store.close().unwrap();

    let Some(offsets) = read(directory.path(), "__consumer_offsets") else { return };
    // The text is that of the reader: JSON with its own order of fields.
    let committed = [
        r#""producer_id": -1"#,
        r#""group": "billing", "topic": "orders", "partition": 1"#,
        r#""value": {"offset": 2, "leader_epoch": -1, "metadata": "as of today: 1 \u20ac""#,
    ];
    assert_eq!(count(&offsets, &committed), 1, "{offsets:#?}");
    let member = [
        r#""type": "group", "group": "billing""#,
        r#""protocol_type": "consumer", "generation": 1, "protocol": "range""#,
        r#""group_instance_id": "till-1", "client_id": "till""#,
        r#""subscription": {"topics": ["orders"], "user_data": null, "owned": [], "generation": -1"#,
        r#""assignment": {"assigned": [{"topic": "orders", "partitions": [0, 1]}], "user_data": null}"#,
    ];
    assert_eq!(count(&offsets, &member), 1, "{offsets:#?}");
    assert_eq!(count(&offsets, &[r#""group": "copiers", "topic": "orders""#, r#""transactional": true"#]), 4);
    assert_eq!(count(&offsets, &[r#""control": true, "commit": false"#]), 1);
    assert_eq!(count(&offsets, &[r#""control": true, "commit": true"#]), 1);
    // A tombstone has no value.
    let deleted = offsets.iter().filter(|line| line.contains("short-lived") && !line.contains(r#""value""#));
    assert_eq!(deleted.count(), 3, "the group and its two offsets: {offsets:#?}");

    let transactions = read(directory.path(), "__transaction_state").unwrap();
    let states = |status: u32| {
        let status = format!(r#""transaction_status": {status}"#);
        count(&transactions, &[r#""type": "transaction", "transactional_id": "copier""#, &status])
    };
    // Empty; once each prepared to commit and to abort, and complete.
    assert_eq!([0, 2, 3, 4, 5].map(states), [1, 1, 1, 1, 1], "{transactions:#?}");
    assert!(states(1) >= 2, "{transactions:#?}");
    let partitions =
        [r#"{"topic": "bills", "partitions": [0]}"#, r#"{"topic": "__consumer_offsets", "partitions": ["#];
    assert!(count(&transactions, &partitions) >= 2, "{transactions:#?}");

    let shares = read(directory.path(), "__share_group_state").unwrap();
    assert!(count(&shares, &[r#""type": "share snapshot", "group_id": "workers""#]) >= 2, "{shares:#?}");
    assert!(shares.iter().all(|line| line.contains("share snapshot") || line.contains("share update")));
    assert_eq!(count(&shares, &[r#""start_offset": 3"#]), 2, "all of both partitions is done: {shares:#?}");
}
