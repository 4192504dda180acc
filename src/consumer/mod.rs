//! [`Consumer`]: reads partitions in turn, remembers where it is, and shares topics with the others of its group.
//!
//! - what it wants and what it has: `subscription.rs`; where it is, and moving about: `positions.rs`.
//! - one poll, step by step: `poll.rs`; the partitions it reads in turn (`slots.rs`), each of them (`slot.rs`), and
//!   what wakes it (`bell.rs`).
//! - what is handed out: `records.rs`; who sees it before: `interceptor.rs`.

mod bell;
mod config;
mod interceptor;
mod poll;
mod positions;
mod records;
mod slot;
mod slots;
mod stats;
mod subscription;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

pub use bell::WakeupHandle;
pub use config::{ConsumerConfig, DeliveryGuarantee, OffsetReset};
pub use interceptor::ConsumerInterceptor;
pub use records::{ConsumerRecord, ConsumerRecords, IntoConsumerRecords};
pub use stats::ConsumerStats;

use crate::error::Result;
use crate::topic::{Attendant, Store, StoreHandle};
use crate::wake::Signal;
use bell::Bell;
use slots::Slots;
use stats::Counters;
use subscription::Wanted;

/// Reads topics of a store, as Kafka's consumer does: from where its group left off, sharing partitions with the
/// other members of the group.
///
/// It belongs to one thread at a time, and starts none: everything happens in calls of [`poll`](Self::poll). Another
/// thread can [wake](Self::wakeup_handle) it. It does not keep the store open: once that is closed, calls fail with
/// [`Error::Closed`](crate::Error::Closed).
///
/// ```
/// use std::time::Duration;
/// use annals::consumer::{ConsumerConfig, OffsetReset};
/// use annals::{Record, Store, TopicConfig};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let topic = store.create_topic("clicks", TopicConfig::new())?;
/// topic.append(&Record::new("lamp").key("user-7"))?;
///
/// let mut consumer = store.consumer(ConsumerConfig::new().offset_reset(OffsetReset::Earliest))?;
/// consumer.assign([topic.partition(0)?.id().clone()])?;
/// for record in consumer.poll(Duration::from_secs(1))? {
///     assert_eq!(record.value(), Some(&b"lamp"[..]));
/// }
/// # Ok::<(), annals::Error>(())
/// ```
pub struct Consumer {
    store: StoreHandle,
    config: ConsumerConfig,
    bell: Arc<Bell>,
    /// What its thread sleeps on.
    signal: Arc<Signal>,
    wanted: Wanted,
    slots: Slots,
    /// The version of the store's topics that it knows.
    topics_version: u64,
    counters: Counters,
    /// When something has to be done though nobody calls, by monotonic time.
    due: Duration,
}

impl Store {
    /// A consumer of its topics. It has nothing to read before it [subscribes](Consumer::subscribe) or is
    /// [assigned](Consumer::assign) something.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a setting outside its bounds, or two that contradict
    /// each other.
    pub fn consumer(&self, config: ConsumerConfig) -> Result<Consumer> {
        let config = config.resolve()?;
        let store = self.weak_handle();
        let signal = Signal::new();
        let bell = Bell::new(&signal);
        // Before looking at the topics, so that no change is missed.
        let attendant: Arc<dyn Attendant> = bell.clone();
        let attendant: Weak<dyn Attendant> = Arc::downgrade(&attendant);
        store.attend(attendant)?;
        let topics_version = store.topics_version()?;
        let slots = Slots::new(Arc::clone(&bell), &config);
        Ok(Consumer {
            store,
            config,
            bell,
            signal,
            wanted: Wanted::Nothing,
            slots,
            topics_version,
            counters: Counters::default(),
            due: Duration::MAX,
        })
    }
}

impl Consumer {
    /// To wake it from another thread.
    pub fn wakeup_handle(&self) -> WakeupHandle {
        WakeupHandle(Arc::clone(&self.bell))
    }

    fn now(&self) -> Duration {
        self.store.clock().monotonic()
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("group", &self.config.group)
            .field("wanted", &self.wanted)
            .field("assignment", &self.slots.names().map(ToString::to_string).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
