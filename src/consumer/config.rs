//! How a consumer behaves: [`ConsumerConfig`], with Kafka's names and defaults.

use std::sync::Arc;
use std::time::Duration;

use super::interceptor::ConsumerInterceptor;
use crate::error::{Error, Result};
use crate::group::{Assignor, GroupCoordinator, check_group_id};
use crate::partition::Isolation;

/// Settings of a consumer, each with Kafka's default unless its documentation says why not.
///
/// ```
/// use annals::consumer::{ConsumerConfig, DeliveryGuarantee, OffsetReset};
/// let config = ConsumerConfig::new()
///     .group("billing")
///     .offset_reset(OffsetReset::Earliest)
///     .delivery(DeliveryGuarantee::AtLeastOnce);
/// ```
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    pub(super) group: Option<String>,
    pub(super) group_instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) coordinator: Option<Arc<dyn GroupCoordinator>>,
    pub(super) assignors: Vec<Arc<dyn Assignor>>,
    pub(super) offset_reset: OffsetReset,
    pub(super) isolation: Isolation,
    pub(super) max_poll_records: usize,
    pub(super) fetch_min_bytes: u64,
    pub(super) fetch_max_bytes: u64,
    pub(super) max_partition_fetch_bytes: u64,
    pub(super) fetch_max_wait: Duration,
    pub(super) enable_auto_commit: Option<bool>,
    pub(super) auto_commit_interval: Duration,
    pub(super) delivery: Option<DeliveryGuarantee>,
    pub(super) session_timeout: Duration,
    pub(super) heartbeat_interval: Duration,
    pub(super) max_poll_interval: Duration,
    pub(super) interceptors: Vec<Arc<dyn ConsumerInterceptor>>,
}

/// Where to begin with a partition of which nothing is committed, or whose position is not in its log any more
/// (`auto.offset.reset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OffsetReset {
    /// With its first record.
    Earliest,
    /// With the next one to come; Kafka's default. What was appended before the consumer first looked is passed over.
    #[default]
    Latest,
    /// Nowhere: poll fails with [`Error::NoOffset`], or with [`Error::OffsetOutOfRange`].
    None,
    /// With the first record that is not older than this (`by_duration`), by its timestamp; with the next one to
    /// come if all are.
    ByDuration(Duration),
}

/// What becomes of records when a process dies between taking them from the log and being done with them.
///
/// A mode decides who commits and when, so that a program need not. A record is *handled* once the call of
/// [`poll`](super::Consumer::poll) after the one that returned it begins, or the consumer is closed.
///
/// | mode | a crash | costs |
/// | --- | --- | --- |
/// | [`AtMostOnce`](Self::AtMostOnce) | loses the records of the last poll, repeats none | a durable commit before each poll that returns records |
/// | [`AtLeastOnce`](Self::AtLeastOnce) | repeats the records of the last poll, loses none | a durable commit after each poll that returned records |
/// | [`ExactlyOnce`](Self::ExactlyOnce) | neither, for what is written to topics of the store | a transaction each time, and readers of committed data wait for it |
///
/// A larger [`max_poll_records`](ConsumerConfig::max_poll_records) makes commits fewer, and what a crash repeats or
/// loses more. Without a mode, Kafka's settings hold ([`ConsumerConfig::enable_auto_commit`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeliveryGuarantee {
    /// Positions are committed before the records below them are handed out. If that fails, the poll fails, and the
    /// records come again.
    AtMostOnce,
    /// Positions are committed once what is below them was handled: by the next poll, before partitions go to
    /// another member, and on close. A consumer that is dropped by a panic commits nothing.
    AtLeastOnce,
    /// The consumer reads committed data and commits nothing itself: positions go with a producer's transaction, so
    /// that they count if what was made of the records does
    /// ([`positions_to_commit`](super::Consumer::positions_to_commit)).
    ExactlyOnce,
}

/// When positions are committed by the consumer itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommitMode {
    /// When it is told.
    Manual,
    /// At the first poll after so long.
    Interval(Duration),
    /// Before records are handed out.
    Before,
    /// With the poll after.
    After,
    /// Never, and it may not be told either.
    Transaction,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        ConsumerConfig::new()
    }
}

impl ConsumerConfig {
    /// Kafka's defaults: no group, positions reset to the end of the log.
    pub fn new() -> Self {
        ConsumerConfig {
            group: None,
            group_instance_id: None,
            client_id: String::new(),
            coordinator: None,
            assignors: Vec::new(),
            offset_reset: OffsetReset::default(),
            isolation: Isolation::ReadUncommitted,
            max_poll_records: 500,
            fetch_min_bytes: 1,
            fetch_max_bytes: 50 << 20,
            max_partition_fetch_bytes: 1 << 20,
            fetch_max_wait: Duration::from_millis(500),
            enable_auto_commit: None,
            auto_commit_interval: Duration::from_secs(5),
            delivery: None,
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            max_poll_interval: Duration::from_secs(5 * 60),
            interceptors: Vec::new(),
        }
    }

    /// The group (`group.id`) that it shares topics with and commits for. Without one it can only be
    /// [assigned](super::Consumer::assign) partitions, and remembers nothing.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Makes it a static member (`group.instance.id`): after it is closed its place, and with it its partitions, are
    /// kept for the [`session_timeout`](Self::session_timeout), so that a consumer that comes back with the same id
    /// goes on without a rebalance. One that comes while the other is there takes its place, and the older one gets
    /// [`Error::FencedInstance`].
    #[must_use]
    pub fn group_instance_id(mut self, id: impl Into<String>) -> Self {
        self.group_instance_id = Some(id.into());
        self
    }

    /// How it calls itself where groups are described (`client.id`); empty by default.
    #[must_use]
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = id.into();
        self
    }

    /// Who coordinates its group; by default the store does.
    #[must_use]
    pub fn coordinator(mut self, coordinator: Arc<dyn GroupCoordinator>) -> Self {
        self.coordinator = Some(coordinator);
        self
    }

    /// How the group may share out partitions (`partition.assignment.strategy`), best first. Rebalances are
    /// cooperative if all of them can be. By default range, then cooperative-sticky, which is eager and lets a group
    /// go over to cooperative rebalances member by member.
    #[must_use]
    pub fn assignors(mut self, assignors: impl IntoIterator<Item = Arc<dyn Assignor>>) -> Self {
        self.assignors = assignors.into_iter().collect();
        self
    }

    /// Where to begin without a committed position (`auto.offset.reset`); by default with the next record to come.
    #[must_use]
    pub fn offset_reset(mut self, reset: OffsetReset) -> Self {
        self.offset_reset = reset;
        self
    }

    /// Whether records of transactions come before these are committed (`isolation.level`); by default they do.
    /// [`Isolation::LogEnd`] is not for consumers.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// The most records that one poll returns (`max.poll.records`); by default 500.
    #[must_use]
    pub fn max_poll_records(mut self, records: usize) -> Self {
        self.max_poll_records = records;
        self
    }

    /// Poll waits for so many bytes of records (`fetch.min.bytes`), but no longer than
    /// [`fetch_max_wait`](Self::fetch_max_wait) once it waits for some; by default 1. It does not wait when a poll is
    /// full already.
    #[must_use]
    pub fn fetch_min_bytes(mut self, bytes: u64) -> Self {
        self.fetch_min_bytes = bytes;
        self
    }

    /// About how many bytes of records one poll returns at most (`fetch.max.bytes`), by default 50 MiB; always one
    /// record if there is any.
    #[must_use]
    pub fn fetch_max_bytes(mut self, bytes: u64) -> Self {
        self.fetch_max_bytes = bytes;
        self
    }

    /// About how many bytes of records of one partition one poll returns at most (`max.partition.fetch.bytes`), by
    /// default 1 MiB; always one record if there is any.
    #[must_use]
    pub fn max_partition_fetch_bytes(mut self, bytes: u64) -> Self {
        self.max_partition_fetch_bytes = bytes;
        self
    }

    /// How long to wait for [`fetch_min_bytes`](Self::fetch_min_bytes) (`fetch.max.wait.ms`); by default 500 ms.
    #[must_use]
    pub fn fetch_max_wait(mut self, wait: Duration) -> Self {
        self.fetch_max_wait = wait;
        self
    }

    /// Whether positions are committed without being told (`enable.auto.commit`): by the first poll after each
    /// [`auto_commit_interval`](Self::auto_commit_interval), which commits what earlier polls returned; before
    /// partitions go to another member; and on close. By default a consumer with a group does, as Kafka's. That is at
    /// least once, provided that records are done with before the next poll.
    #[must_use]
    pub fn enable_auto_commit(mut self, enable: bool) -> Self {
        self.enable_auto_commit = Some(enable);
        self
    }

    /// How often that is (`auto.commit.interval.ms`); by default 5 s.
    #[must_use]
    pub fn auto_commit_interval(mut self, interval: Duration) -> Self {
        self.auto_commit_interval = interval;
        self
    }

    /// A named guarantee instead of `enable.auto.commit`. It needs a group.
    #[must_use]
    pub fn delivery(mut self, guarantee: DeliveryGuarantee) -> Self {
        self.delivery = Some(guarantee);
        self
    }

    /// How long the place of a static member is kept once it is closed (`session.timeout.ms`); by default 45 s.
    ///
    /// No thread sends heartbeats: a member is heard of when it polls or commits. It is therefore given the longer of
    /// this and [`max_poll_interval`](Self::max_poll_interval) before the group goes on without it. Nothing is lost by
    /// that: consumers of one store live and die with its process, and one that is dropped leaves its group.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// How often a consumer that polls tells its coordinator so, at least (`heartbeat.interval.ms`); by default 3 s.
    /// Of a rebalance it hears at its next poll in any case.
    #[must_use]
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// How long a member may take between two polls before its partitions go to others (`max.poll.interval.ms`), and
    /// how long a rebalance waits for it; by default 5 minutes. More than 30 minutes have to be allowed by
    /// [`GroupConfig::session_timeout`](crate::group::GroupConfig::session_timeout).
    #[must_use]
    pub fn max_poll_interval(mut self, interval: Duration) -> Self {
        self.max_poll_interval = interval;
        self
    }

    /// Adds somebody who sees, and may change, what polls return (`interceptor.classes`). They are called in the order
    /// in which they were added.
    #[must_use]
    pub fn interceptor(mut self, interceptor: impl ConsumerInterceptor + 'static) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    pub(super) fn commit_mode(&self) -> CommitMode {
        match (self.delivery, self.enable_auto_commit) {
            (Some(DeliveryGuarantee::AtMostOnce), _) => CommitMode::Before,
            (Some(DeliveryGuarantee::AtLeastOnce), _) => CommitMode::After,
            (Some(DeliveryGuarantee::ExactlyOnce), _) => CommitMode::Transaction,
            (None, Some(false)) => CommitMode::Manual,
            (None, _) if self.group.is_none() => CommitMode::Manual,
            (None, _) => CommitMode::Interval(self.auto_commit_interval),
        }
    }

    /// With everything that follows from other settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], [`Error::InvalidName`] for the group.
    pub(super) fn resolve(mut self) -> Result<Self> {
        self.check()?;
        self.group.as_deref().map_or(Ok(()), check_group_id)?;
        if self.delivery == Some(DeliveryGuarantee::ExactlyOnce) {
            self.isolation = Isolation::ReadCommitted;
        }
        Ok(self)
    }

    fn check(&self) -> Result<()> {
        if self.max_poll_records == 0 {
            return Err(invalid("max.poll.records", 0, "at least 1"));
        }
        if self.isolation == Isolation::LogEnd {
            return Err(invalid("isolation.level", "log_end", "read_uncommitted or read_committed"));
        }
        let heartbeat = self.heartbeat_interval.as_millis();
        if self.heartbeat_interval.is_zero() || self.heartbeat_interval >= self.session_timeout {
            return Err(invalid("heartbeat.interval.ms", heartbeat, "above 0 and below session.timeout.ms"));
        }
        if self.max_poll_interval.is_zero() {
            return Err(invalid("max.poll.interval.ms", 0, "above 0"));
        }
        if let (None, Some(id)) = (&self.group, &self.group_instance_id) {
            return Err(invalid("group.instance.id", id, "none without a group"));
        }
        if self.group_instance_id.as_deref() == Some("") {
            return Err(invalid("group.instance.id", "", "not empty"));
        }
        if let (None, Some(true)) = (&self.group, self.enable_auto_commit) {
            return Err(invalid("enable.auto.commit", true, "false without a group"));
        }
        if let Some(delivery) = self.delivery {
            let value = format!("{delivery:?}");
            if self.group.is_none() {
                return Err(invalid(
                    "delivery",
                    value,
                    "none without a group: it is the group that remembers",
                ));
            }
            if self.enable_auto_commit.is_some() {
                return Err(invalid(
                    "delivery",
                    value,
                    "none beside enable.auto.commit: both say who commits",
                ));
            }
        }
        Ok(())
    }
}

fn invalid(key: &str, value: impl ToString, reason: &str) -> Error {
    Error::InvalidConfig { key: key.into(), value: value.to_string(), reason: reason.into() }
}
