//! The seam [`RebalanceListener`]: who is told which partitions a consumer gets and gives up.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Consumer;
use crate::error::{Error, Result};
use crate::types::TopicPartition;

/// Is told which partitions a subscribed consumer gets and gives up, as it happens.
///
/// Each method may ask and tell the consumer anything but to poll, to close, or to want something else: commit what is
/// handled, seek, pause, look up positions.
///
/// # Contract
/// - All are called on the thread that polls, during its poll (or `unsubscribe` or `close`), never two at once.
/// - A partition is [assigned](Self::on_partitions_assigned) once before it is [revoked](Self::on_partitions_revoked)
///   or [lost](Self::on_partitions_lost), once. What is revoked is given up only when the call has returned, so that
///   no other member has it before.
/// - In an eager rebalance everything is revoked before the consumer joins, and everything it gets then is assigned.
///   In a cooperative one, what another member is to get is revoked once it is known, then what is new is assigned
///   (perhaps nothing).
/// - An error does not stop the rebalance; it is the error of a poll soon after. So is a panic, as
///   [`Error::InvalidState`].
///
/// ```
/// use annals::consumer::{Consumer, RebalanceListener};
/// use annals::{Result, TopicPartition};
///
/// /// Begins with the last hundred records of whatever it gets.
/// struct LastHundred;
///
/// impl RebalanceListener for LastHundred {
///     fn on_partitions_assigned(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
///         let ends = consumer.end_offsets(partitions)?;
///         ends.iter().try_for_each(|(partition, end)| consumer.seek(partition, end.saturating_sub(100)))
///     }
/// }
/// ```
pub trait RebalanceListener: Send {
    /// The consumer has these from now on, besides those it kept.
    fn on_partitions_assigned(
        &mut self,
        consumer: &mut Consumer,
        partitions: &[TopicPartition],
    ) -> Result<()> {
        let _ = (consumer, partitions);
        Ok(())
    }

    /// The consumer gives these up. What its settings have it commit is committed already; what is committed here still
    /// counts.
    fn on_partitions_revoked(
        &mut self,
        consumer: &mut Consumer,
        partitions: &[TopicPartition],
    ) -> Result<()> {
        let _ = (consumer, partitions);
        Ok(())
    }

    /// The consumer was taken for gone, and these may be another's by now: nothing can be committed for them any more.
    /// Unless it is implemented, they count as revoked.
    fn on_partitions_lost(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        self.on_partitions_revoked(consumer, partitions)
    }
}

/// A listener, in the hands of its consumer.
pub(super) type SharedListener = Arc<Mutex<dyn RebalanceListener>>;

/// What a listener is told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    Assigned,
    Revoked,
    Lost,
}

impl Consumer {
    /// Tells the listener, if there is one. Its error is that of a later poll.
    pub(super) fn tell(&mut self, what: Told, partitions: &[TopicPartition]) {
        let Some(listener) = self.listener.clone() else { return };
        let before = std::mem::replace(&mut self.in_listener, true);
        let mut listener = listener.lock();
        let told = self.call_out("a rebalance listener", |consumer| match what {
            Told::Assigned => listener.on_partitions_assigned(consumer, partitions),
            Told::Revoked => listener.on_partitions_revoked(consumer, partitions),
            Told::Lost => listener.on_partitions_lost(consumer, partitions),
        });
        self.in_listener = before;
        let panicked = |said| {
            let (action, reason) = ("tell the rebalance listener", format!("it panicked: {said}"));
            Err(Error::InvalidState { action, reason })
        };
        if let Err(error) = told.unwrap_or_else(panicked) {
            self.slots.failed.push_back(error);
        }
    }
}
