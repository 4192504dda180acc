//! How a transaction ends: the decision is written down, every partition gets a marker, and it is complete.
//!
//! Each step can be done again. A marker where no transaction is open ends none, so that after a crash all partitions
//! get one, whether or not they have it already.

use super::coordinator::Held;
use super::entry::Known;
use crate::error::{Error, Result};
use crate::format::EndTransactionMarker;
use crate::format::transaction_records::TransactionState;
use crate::partition::{AppendOptions, Durability, Partition};
use crate::types::TopicPartition;

/// The topic of which whoever coordinates groups hears when a transaction ends.
const CONSUMER_OFFSETS: &str = "__consumer_offsets";

impl Held<'_> {
    /// Leaves no transaction open: carries out what is decided, and aborts what is not, fencing its producer off.
    pub(super) fn retire(&mut self) -> Result<()> {
        if let Some(known) = &self.known {
            if matches!(known.value.state, TransactionState::Ongoing | TransactionState::PrepareEpochFence) {
                let epoch = known.value.producer_epoch.saturating_add(1);
                self.decide(false, epoch)?;
            }
        }
        self.finish()
    }

    /// Decides the open transaction, under the producer epoch that its markers will carry.
    pub(super) fn decide(&mut self, commit: bool, epoch: i16) -> Result<()> {
        let Some(known) = &self.known else { return Ok(()) };
        if commit {
            known.value.partitions.iter().try_for_each(|partition| self.make_durable(partition))?;
        }
        let mut next = known.clone();
        next.value.state =
            if commit { TransactionState::PrepareCommit } else { TransactionState::PrepareAbort };
        next.value.producer_epoch = epoch;
        next.unmarked.clone_from(&next.value.partitions);
        self.write(next, Durability::Synced)
    }

    /// Carries out what is decided, if anything is.
    pub(super) fn finish(&mut self) -> Result<()> {
        let commit = match self.state() {
            Some(TransactionState::PrepareCommit) => true,
            Some(TransactionState::PrepareAbort) => false,
            _ => return Ok(()),
        };
        let Some(mut next) = self.known.clone() else { return Ok(()) };
        let mut failed = Ok(());
        for partition in std::mem::take(&mut next.unmarked) {
            if let Err(error) = self.mark(&partition, &next, commit) {
                next.unmarked.insert(partition);
                failed = failed.and(Err(error));
            }
        }
        // Those that have it must not get it again each time that another is tried.
        self.put(Some(next.clone()));
        failed?;
        next.value.state =
            if commit { TransactionState::CompleteCommit } else { TransactionState::CompleteAbort };
        next.value.partitions.clear();
        if let Some(producer_id) = next.value.next_producer_id.take() {
            next.value.previous_producer_id = Some(next.value.producer_id);
            (next.value.producer_id, next.value.producer_epoch) = (producer_id, 0);
        }
        // Not synced: lost in a crash, it is found out again, with markers that end nothing.
        self.write(next, Durability::Process)
    }

    /// What was decided to be committed must not be lost with the power, even where appends are not synced.
    fn make_durable(&self, partition: &TopicPartition) -> Result<()> {
        match self.find(partition)? {
            Some(log) if log.recovery_point() < log.log_end() => log.with_reopen(|| log.flush()),
            _ => Ok(()),
        }
    }

    /// Ends the transaction on a partition.
    fn mark(&self, partition: &TopicPartition, known: &Known, commit: bool) -> Result<()> {
        let coordinator_epoch = self.log.coordinator_epoch(self.id)?;
        let mut marker = EndTransactionMarker { coordinator_epoch, commit };
        while let Some(log) = self.find(partition)? {
            let options = AppendOptions::new().durability(Durability::Synced);
            let (id, epoch) = (known.value.producer_id, known.value.producer_epoch);
            match log.with_reopen(|| log.end_transaction(id, epoch, marker, options)) {
                // Of a coordinator before this one, since there is one of each store.
                Err(Error::Fenced { what: "coordinator epoch", current, .. })
                    if current > marker.coordinator_epoch =>
                {
                    marker.coordinator_epoch = current;
                    continue;
                }
                Ok(_) => {}
                // Nothing of this epoch can be open there.
                Err(Error::Fenced { .. }) => break,
                // Deleted in between.
                Err(Error::Closed { .. }) if self.find(partition)?.is_none() => break,
                Err(error) => return Err(error),
            }
            if partition.topic.as_str() == CONSUMER_OFFSETS {
                if let Some(groups) = self.coordinator.groups_in_use()? {
                    groups.transaction_ended(partition, id, commit)?;
                }
            }
            break;
        }
        Ok(())
    }

    /// A partition, unless there is no such any more.
    fn find(&self, partition: &TopicPartition) -> Result<Option<Partition>> {
        let store = &self.coordinator.store;
        let found =
            store.topic(partition.topic.as_str()).and_then(|topic| topic.partition(partition.partition));
        match found {
            Ok(log) => Ok(Some(log)),
            Err(Error::UnknownTopic { .. } | Error::UnknownPartition { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
