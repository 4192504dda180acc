//! The coordinator of transactions: who may do what in which state, what a crash leaves at each step, and that all
//! partitions agree in the end.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/logs.rs"]
mod logs;

use std::sync::Arc;
use std::time::Duration;

use annals::transaction::TransactionConfig;
use annals::{
    AppendOptions, Isolation, Partition, ProducerIdAndEpoch, Record, Store, TopicConfig,
    TransactionCoordinator,
};
use logs::Machine;

const MINUTE: Duration = Duration::from_secs(60);

fn coordinator(store: &Store) -> Arc<TransactionCoordinator> {
    let coordinator = store.transactions().unwrap();
    coordinator.configure(TransactionConfig::new().partitions(2)).unwrap();
    coordinator
}

fn topic(store: &Store, partitions: u32) -> Vec<Partition> {
    store.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap().partitions().unwrap()
}

fn write(log: &Partition, producer: ProducerIdAndEpoch, sequence: i32) {
    let options = AppendOptions::new().transactional(producer.id, producer.epoch, sequence);
    log.append_batch_with(&[Record::new("v")], options).unwrap();
}

fn committed(log: &Partition) -> usize {
    log.read_from_with(0, Isolation::ReadCommitted).unwrap().map(Result::unwrap).count()
}

#[test]
fn smoke() {
    let machine = Machine::new();
    let store = machine.open();
    let logs = topic(&store, 2);
    let transactions = coordinator(&store);
    let producer = transactions.init_producer("a", MINUTE).unwrap();
    let ids: Vec<_> = logs.iter().map(|log| log.id().clone()).collect();
    transactions.add_partitions("a", producer, &ids).unwrap();
    logs.iter().for_each(|log| write(log, producer, 0));
    transactions.end("a", producer, true).unwrap();
    assert_eq!(committed(&logs[0]), 1);
    transactions.add_partitions("a", producer, &ids).unwrap();
    logs.iter().for_each(|log| write(log, producer, 1));
    machine.clock.advance(MINUTE + Duration::from_millis(1));
    store.maintain().unwrap();
    assert_eq!(committed(&logs[0]), 1);
    assert!(logs[0].open_transactions().is_empty());
    assert!(transactions.end("a", producer, false).is_err());
    let next = transactions.init_producer("a", MINUTE).unwrap();
    assert_eq!((next.id, next.epoch), (producer.id, producer.epoch + 2));
    transactions.add_partitions("a", next, &ids).unwrap();
    write(&logs[1], next, 0);
    drop((logs, transactions, store));
    let store = machine.killed().open();
    let transactions = store.transactions().unwrap();
    println!("{:?}", transactions.describe("a"));
    println!("{:?}", transactions.list());
    let next = transactions.init_producer("a", MINUTE).unwrap();
    assert_eq!((next.id, next.epoch), (producer.id, producer.epoch + 4));
    assert!(transactions.find_hanging().unwrap().is_empty());
}
