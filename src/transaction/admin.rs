//! What administrators ask of transactions: which there are, how they stand, which nobody looks after; and an end to
//! one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::coordinator::{ProducerIdAndEpoch, TransactionCoordinator};
use super::entry::{Entry, Known, Turn};
use crate::error::{Error, Result};
use crate::format::transaction_records::{TransactionState, TransactionValue};
use crate::partition::OpenTransaction;
use crate::types::TopicPartition;

/// A transactional id in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionListing {
    /// The transactional id.
    pub transactional_id: String,
    /// Its producer.
    pub producer_id: i64,
    /// Where it stands.
    pub state: TransactionState,
}

/// A transactional id, and its transaction if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionDescription {
    /// The transactional id.
    pub transactional_id: String,
    /// Its producer.
    pub producer: ProducerIdAndEpoch,
    /// Where it stands.
    pub state: TransactionState,
    /// How long its transactions may be open.
    pub timeout: Duration,
    /// When the transaction, or the last one, was begun, in milliseconds since the epoch.
    pub started: Option<i64>,
    /// When it was last used, in milliseconds since the epoch.
    pub last_update: i64,
    /// The partitions that the transaction writes to, in order.
    pub partitions: Vec<TopicPartition>,
}

impl TransactionCoordinator {
    /// All transactional ids, in order.
    ///
    /// # Errors
    /// As `__transaction_state` cannot be read.
    pub fn list(&self) -> Result<Vec<TransactionListing>> {
        let list = |id: &str, known: &Known| TransactionListing {
            transactional_id: id.to_owned(),
            producer_id: known.value.producer_id,
            state: known.value.state,
        };
        let mut listed = self.each(list)?;
        listed.sort_unstable_by(|one, other| one.transactional_id.cmp(&other.transactional_id));
        Ok(listed)
    }

    /// A transactional id.
    ///
    /// # Errors
    /// [`Error::UnknownTransactionalId`]; otherwise as [`list`](Self::list).
    pub fn describe(&self, transactional_id: &str) -> Result<TransactionDescription> {
        let describe = |known: &Known| TransactionDescription {
            transactional_id: transactional_id.to_owned(),
            producer: ProducerIdAndEpoch { id: known.value.producer_id, epoch: known.value.producer_epoch },
            state: known.value.state,
            timeout: Duration::from_millis(known.value.timeout_ms.max(0).unsigned_abs().into()),
            started: known.value.started,
            last_update: known.value.last_update,
            partitions: known.value.partitions.iter().cloned().collect(),
        };
        let Some(log) = self.state_log(false)? else { return Err(unknown(transactional_id)) };
        let entry = log.shard_of(transactional_id)?.entry(&log, &self.store, transactional_id, None)?;
        entry.and_then(|entry| entry.look(describe)).ok_or_else(|| unknown(transactional_id))
    }

    /// Fences off the producer of a transactional id, and aborts what it has open; what is decided already is carried
    /// out.
    ///
    /// # Errors
    /// [`Error::UnknownTransactionalId`]; otherwise as [`end`](Self::end).
    pub fn abort(&self, transactional_id: &str) -> Result<()> {
        let known =
            |value: Option<&TransactionValue>| value.map(|_| ()).ok_or_else(|| unknown(transactional_id));
        let held = self.hold_if(transactional_id, None, Turn::Wait, known)?;
        let mut held = held.ok_or_else(|| unknown(transactional_id))?;
        if held.state() == Some(TransactionState::Ongoing) {
            // The markers carry the epoch that fences the producer off.
            return held.retire();
        }
        held.retire()?;
        held.begin_incarnation(None).map(|_| ())
    }

    /// Open transactions that no transactional id accounts for, by partition: those of
    /// [`AppendOptions::transactional`](crate::AppendOptions::transactional) alone, or of a coordinator whose log was
    /// lost. Readers of committed data wait for them until somebody ends them with
    /// [`Partition::end_transaction`](crate::Partition::end_transaction).
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn find_hanging(&self) -> Result<Vec<(TopicPartition, OpenTransaction)>> {
        let mut open = Vec::new();
        for topic in self.store.topics()? {
            // One that cannot be opened has no readers that wait.
            for log in (0..topic.partition_count()).filter_map(|number| topic.partition(number).ok()) {
                let transactions = log.open_transactions();
                open.extend(transactions.into_iter().map(|transaction| (log.clone(), transaction)));
            }
        }
        // Asked after the partitions: a transaction is known here before they hear of it.
        let accounted: HashSet<(i64, TopicPartition)> = self
            .each(|_, known| {
                let value = &known.value;
                let of = |partition: &TopicPartition| (value.producer_id, partition.clone());
                value.partitions.iter().map(of).collect::<Vec<_>>()
            })?
            .into_iter()
            .flatten()
            .collect();
        // And the partitions once more: it may have ended in between.
        open.retain(|(log, transaction)| {
            let is_it = |other: &OpenTransaction| {
                (other.producer_id, other.first_offset) == (transaction.producer_id, transaction.first_offset)
            };
            !accounted.contains(&(transaction.producer_id, log.id().clone()))
                && log.open_transactions().iter().any(is_it)
        });
        Ok(open.into_iter().map(|(log, transaction)| (log.id().clone(), transaction)).collect())
    }

    /// Looks at every transactional id.
    fn each<T>(&self, look: impl Fn(&str, &Known) -> T) -> Result<Vec<T>> {
        let mut looked = Vec::new();
        let Some(log) = self.state_log(false)? else { return Ok(looked) };
        for shard in &log.shards {
            let pick = |id: &Arc<str>, entry: &Arc<Entry>| entry.look(|known| look(id, known));
            looked.extend(shard.pick(&log, &self.store, pick)?);
        }
        Ok(looked)
    }
}

fn unknown(transactional_id: &str) -> Error {
    Error::UnknownTransactionalId { transactional_id: transactional_id.to_owned() }
}
