//! Producers with a coordinator, step by step, and a coordinator of groups that only keeps offsets.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking, and not every test that shares this module needs all of it"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use annals::format::coordinator_partition;
use annals::group::{
    Assigned, GroupCoordinator, GroupDescription, GroupListing, GroupMetadata, JoinRequest, Joined,
    OffsetAndMetadata, OffsetCommit, SyncRequest,
};
use annals::transaction::{ProducerIdAndEpoch, TransactionConfig, TransactionCoordinator};
use annals::{
    AppendOptions, CleanupPolicy, Error, Isolation, Partition, Record, Reply, Result, Store, Topic,
    TopicConfig, TopicPartition,
};
use std::sync::Mutex;

pub const MINUTE: Duration = Duration::from_secs(60);

/// The store's coordinator, with few partitions should it have to make its topic.
pub fn coordinator(store: &Store) -> Arc<TransactionCoordinator> {
    let coordinator = store.transactions().unwrap();
    coordinator.configure(TransactionConfig::new().partitions(1)).unwrap();
    coordinator
}

/// One record of a producer's transaction.
pub fn try_write(log: &Partition, producer: ProducerIdAndEpoch, sequence: i32) -> Result<()> {
    let options = AppendOptions::new().transactional(producer.id, producer.epoch, sequence);
    log.append_batch_with(&[Record::new("v").key("k")], options).map(|_| ())
}

pub fn write(log: &Partition, producer: ProducerIdAndEpoch, sequence: i32) {
    try_write(log, producer, sequence).unwrap();
}

/// How many records readers of committed data get.
pub fn committed(log: &Partition) -> usize {
    let records = log.read_from_with(log.log_start(), Isolation::ReadCommitted).unwrap();
    records.map(Result::unwrap).count()
}

/// Keeps the offsets of groups in `__consumer_offsets`, in no schema, and what it is told of transactions.
#[derive(Debug)]
pub struct Offsets {
    pub topic: Topic,
    pub ended: Mutex<Vec<(TopicPartition, i64, bool)>>,
}

impl Offsets {
    pub fn new(store: &Store) -> Arc<Self> {
        let config =
            TopicConfig::new().partitions(2).cleanup_policy(CleanupPolicy { delete: false, compact: true });
        let topic = store
            .topic("__consumer_offsets")
            .or_else(|_| store.create_topic("__consumer_offsets", config))
            .unwrap();
        Arc::new(Offsets { topic, ended: Mutex::default() })
    }

    pub fn partition(&self, group: &str) -> Partition {
        let number = coordinator_partition(group, self.topic.partition_count());
        self.topic.partition(number).unwrap()
    }
}

fn elsewhere<T>() -> Result<T> {
    Err(Error::Closed { what: "the coordinator of groups".into() })
}

impl GroupCoordinator for Offsets {
    fn join(&self, _: JoinRequest) -> Reply<Joined> {
        Reply::ready(elsewhere())
    }

    fn sync(&self, _: SyncRequest) -> Reply<Assigned> {
        Reply::ready(elsewhere())
    }

    fn heartbeat(&self, _: &GroupMetadata) -> Result<()> {
        elsewhere()
    }

    fn leave(&self, _: &GroupMetadata, _: Option<Duration>) -> Result<()> {
        elsewhere()
    }

    fn commit(&self, _: &GroupMetadata, _: &[OffsetCommit]) -> Result<()> {
        elsewhere()
    }

    fn commit_in_transaction(
        &self,
        member: &GroupMetadata,
        producer_id: i64,
        producer_epoch: i16,
        offsets: &[OffsetCommit],
    ) -> Result<()> {
        let log = self.partition(&member.group);
        let options = AppendOptions::new().transactional(producer_id, producer_epoch, 0).coordinator();
        for commit in offsets {
            let (key, value) = (commit.partition.to_string(), commit.position.offset.to_string());
            log.append_batch_with(&[Record::new(&value).key(&key)], options)?;
        }
        Ok(())
    }

    fn offsets_partition(&self, group: &str) -> Result<Option<TopicPartition>> {
        Ok(Some(self.partition(group).id().clone()))
    }

    fn transaction_ended(&self, partition: &TopicPartition, producer_id: i64, committed: bool) -> Result<()> {
        self.ended.lock().unwrap().push((partition.clone(), producer_id, committed));
        Ok(())
    }

    fn committed(
        &self,
        _: &str,
        _: Option<&[TopicPartition]>,
        _: bool,
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>> {
        elsewhere()
    }

    fn list(&self) -> Result<Vec<GroupListing>> {
        elsewhere()
    }

    fn describe(&self, _: &str) -> Result<GroupDescription> {
        elsewhere()
    }

    fn delete(&self, _: &str) -> Result<()> {
        elsewhere()
    }

    fn delete_offsets(&self, _: &str, _: &[TopicPartition]) -> Result<()> {
        elsewhere()
    }

    fn tick(&self) -> Result<Duration> {
        elsewhere()
    }
}
