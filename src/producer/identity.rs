//! By which id and epoch the log knows a producer, so that it tells a retry from a new batch.

use parking_lot::Mutex;

use crate::error::Result;
use crate::topic::StoreHandle;

/// Id and epoch of an idempotent producer.
#[derive(Debug)]
pub(super) struct Identity {
    now: Mutex<(i64, i16)>,
}

impl Identity {
    /// A new one.
    pub(super) fn new(handle: &StoreHandle) -> Result<Self> {
        Ok(Identity { now: Mutex::new((new_producer_id(handle)?, 0)) })
    }

    pub(super) fn now(&self) -> (i64, i16) {
        *self.now.lock()
    }

    /// Begins another epoch, in which numbers start from 0: nobody knows whether a batch of the last one is in the log.
    pub(super) fn bump(&self, handle: &StoreHandle) -> Result<()> {
        let mut now = self.now.lock();
        let (id, epoch) = *now;
        *now = match epoch.checked_add(1) {
            Some(next) => (id, next),
            None => (new_producer_id(handle)?, 0),
        };
        Ok(())
    }
}

fn new_producer_id(handle: &StoreHandle) -> Result<i64> {
    Ok((handle.random()? >> 2) as i64)
}
