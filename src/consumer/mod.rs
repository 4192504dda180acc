//! [`Consumer`]: reads partitions in turn, remembers where it is, and shares topics with the others of its group.
//!
//! - what it wants and what it has: `subscription.rs`; where it is, and moving about: `positions.rs`.
//! - one poll, step by step: `poll.rs`; the partitions it reads in turn (`slots.rs`), each of them (`slot.rs`), and
//!   what wakes it (`bell.rs`); as a task of a runtime: `stream.rs`.
//! - being in a group: `rebalance.rs`, and what is known of that: `membership.rs`; who is told: `listener.rs`; what
//!   the group remembers: `commit.rs`.
//! - what is handed out: `records.rs`; who sees it before: `interceptor.rs`.

mod bell;
mod commit;
mod config;
mod interceptor;
mod listener;
mod membership;
mod poll;
mod positions;
mod rebalance;
mod records;
mod slot;
mod slots;
mod stats;
#[cfg(feature = "async")]
mod stream;
mod subscription;

use std::fmt;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

pub use commit::Offsets;
pub use config::{ConsumerConfig, DeliveryGuarantee, OffsetReset};
pub use interceptor::ConsumerInterceptor;
pub use listener::RebalanceListener;
pub use records::{ConsumerRecord, ConsumerRecords, IntoConsumerRecords};
pub use stats::ConsumerStats;

use crate::error::Result;
use crate::topic::{Attendant, Store, StoreHandle};
use crate::wake::{Signal, WakeupHandle};
use bell::Bell;
use commit::Commits;
use config::CommitMode;
use listener::SharedListener;
use membership::Membership;
use slots::Slots;
use stats::Counters;
use subscription::Wanted;

/// Reads topics of a store, as Kafka's consumer does: from where its group left off, sharing partitions with the
/// other members of the group.
///
/// ```
/// use std::time::Duration;
/// use annals::consumer::{ConsumerConfig, OffsetReset};
/// use annals::{Record, Store, TopicConfig};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let topic = store.create_topic("clicks", TopicConfig::new().partitions(3))?;
/// topic.append(&Record::new("lamp").key("user-7"))?;
///
/// let config = ConsumerConfig::new().group("billing").offset_reset(OffsetReset::Earliest);
/// let mut consumer = store.consumer(config.clone())?;
/// consumer.subscribe(["clicks"])?;
/// for record in consumer.poll(Duration::from_millis(100))? {
///     assert_eq!(record.value(), Some(&b"lamp"[..]));
/// }
/// consumer.commit()?;
/// consumer.close()?;
///
/// // Whoever comes next in that group goes on behind what is committed.
/// let mut next = store.consumer(config)?;
/// next.subscribe(["clicks"])?;
/// assert!(next.poll(Duration::ZERO)?.is_empty());
/// # Ok::<(), annals::Error>(())
/// ```
///
/// | to | see |
/// | --- | --- |
/// | share topics with others | [`subscribe`](Self::subscribe), [`subscribe_pattern`](Self::subscribe_pattern), [`RebalanceListener`] |
/// | read certain partitions alone | [`assign`](Self::assign) |
/// | get records | [`poll`](Self::poll); as a task, [`poll_records`](Self::poll_records), or `Stream` with the feature `async` |
/// | have it remembered what is done | [`ConsumerConfig::delivery`], [`commit`](Self::commit), [`commit_async`](Self::commit_async) |
/// | move about | [`seek`](Self::seek), [`offsets_for_times`](Self::offsets_for_times), [`pause`](Self::pause) |
/// | know how far behind it is | [`lag`](Self::lag), [`records_left`](Self::records_left), [`stats`](Self::stats) |
/// | stop it from elsewhere | [`wakeup_handle`](Self::wakeup_handle) |
///
/// It belongs to one thread at a time, and starts none: everything happens in its calls. A member of a group is heard
/// of when it polls or commits, so it has to poll within [`max_poll_interval`](ConsumerConfig::max_poll_interval);
/// there is no heartbeat beside that, as there is no process that could die alone. It does not keep the store open:
/// once that is closed, calls fail with [`Error::Closed`](crate::Error::Closed).
pub struct Consumer {
    store: StoreHandle,
    config: ConsumerConfig,
    mode: CommitMode,
    bell: Arc<Bell>,
    /// What its thread sleeps on.
    signal: Arc<Signal>,
    wanted: Wanted,
    slots: Slots,
    /// Its place in its group, if it has one.
    group: Option<Membership>,
    group_waker: Waker,
    listener: Option<SharedListener>,
    /// Whether the listener is being told something.
    in_listener: bool,
    commits: Commits,
    /// The version of the store's topics that it knows.
    topics_version: u64,
    counters: Counters,
    /// Before then, what could not be found out of a partition is not tried again.
    settle_at: Duration,
    /// When something has to be done though nobody calls, by monotonic time.
    due: Duration,
    closed: bool,
}

impl Store {
    /// A consumer of its topics. It has nothing to read before it [subscribes](Consumer::subscribe) or is
    /// [assigned](Consumer::assign) something.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a setting outside its bounds, or two that contradict
    /// each other; [`Error::InvalidName`](crate::Error::InvalidName) for what cannot be the id of a group.
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
        let group = match &config.group {
            Some(group) => {
                let coordinator = config.coordinator.clone().map_or_else(|| self.groups(), Ok)?;
                Some(Membership::new(coordinator, group, &config))
            }
            None => None,
        };
        Ok(Consumer {
            mode: config.commit_mode(),
            slots: Slots::new(Arc::clone(&bell), &config),
            group_waker: bell.group_waker(),
            store,
            config,
            bell,
            signal,
            wanted: Wanted::Nothing,
            group,
            listener: None,
            in_listener: false,
            commits: Commits::default(),
            topics_version,
            counters: Counters::default(),
            settle_at: Duration::ZERO,
            due: Duration::MAX,
            closed: false,
        })
    }
}

impl Consumer {
    /// To wake it from another thread.
    pub fn wakeup_handle(&self) -> WakeupHandle {
        let bell = Arc::clone(&self.bell);
        WakeupHandle::new(bell)
    }

    /// Closes it in good order: what it has handled is committed if it commits by itself, waiting commits are made, the
    /// listener is told, and it leaves its group. A static member has its place kept for the
    /// [`session_timeout`](ConsumerConfig::session_timeout).
    ///
    /// Dropping it does the same, without anybody to report a failure to; except in a panic, where it only leaves its
    /// group: what was being handled then is not committed.
    ///
    /// # Errors
    /// The first failure, of a listener, too; it is closed nevertheless. [`Error::RebalanceInProgress`] if what it
    /// has handled could not be committed for one: who has the partition next sees the records again.
    ///
    /// [`Error::RebalanceInProgress`]: crate::Error::RebalanceInProgress
    pub fn close(mut self) -> Result<()> {
        self.closed = true;
        self.give_up_all()
    }

    fn now(&self) -> Duration {
        self.store.clock().monotonic()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        // Nobody is there to hear of a failure. What is not committed comes again.
        let _ = if std::thread::panicking() { self.leave() } else { self.give_up_all() };
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
