//! By which id and epoch the logs know a producer, so that they tell a retry from a new batch.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Result;
use crate::transaction::{ProducerIdAndEpoch, TransactionCoordinator};

/// Id and epoch of an idempotent producer.
#[derive(Debug)]
pub(super) struct Identity {
    coordinator: Arc<TransactionCoordinator>,
    now: Mutex<ProducerIdAndEpoch>,
}

impl Identity {
    pub(super) fn new(coordinator: Arc<TransactionCoordinator>, first: ProducerIdAndEpoch) -> Self {
        Identity { coordinator, now: Mutex::new(first) }
    }

    pub(super) fn now(&self) -> ProducerIdAndEpoch {
        *self.now.lock()
    }

    pub(super) fn set(&self, next: ProducerIdAndEpoch) {
        *self.now.lock() = next;
    }

    /// Begins another epoch, in which numbers start from 0; after the last one, as another producer. For one without
    /// transactions: nobody else speaks for its id.
    pub(super) fn bump(&self) -> Result<()> {
        let mut now = self.now.lock();
        *now = match now.epoch.checked_add(1) {
            Some(epoch) => ProducerIdAndEpoch { epoch, ..*now },
            None => self.coordinator.init_idempotent()?,
        };
        Ok(())
    }
}
