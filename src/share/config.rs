//! [`ShareConfig`]: how a consumer of a share group is set up.

use std::sync::Arc;
use std::time::Duration;

use super::order::PriorityOrder;
use super::queue::Priority;
use super::words::Limits;
use crate::error::{Error, Result};
use crate::group::check_group_id;
use crate::partition::Isolation;

/// Kafka's largest `group.share.partition.max.record.locks`; the states of so many fit into one record of the log of
/// states, however they lie.
const IN_FLIGHT_MAX: u64 = 10_000;

/// Where a group begins on a partition that it has never been on (`share.auto.offset.reset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ShareOffsetReset {
    /// At its end: with what is appended from now on. As in Kafka, the default.
    #[default]
    Latest,
    /// At its start.
    Earliest,
    /// With the first record that is no older.
    ByDuration(Duration),
}

/// How records are acknowledged (`share.acknowledgement.mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AcknowledgementMode {
    /// All records of a poll are accepted by the next poll, by a commit, and by closing.
    #[default]
    Implicit,
    /// Each is acknowledged by a call. What is not stays acquired until its lock runs out.
    Explicit,
}

/// How a [`ShareConsumer`](super::ShareConsumer) is set up. All members of a group have the same isolation level, lock
/// duration, limits and order; the rest is each one's own.
///
/// ```
/// use std::time::Duration;
/// use annals::share::{ShareConfig, ShareOffsetReset};
///
/// let config = ShareConfig::new()
///     .group("workers")
///     .offset_reset(ShareOffsetReset::Earliest)
///     .lock_duration(Duration::from_secs(60))
///     .max_poll_records(10);
/// ```
#[derive(Debug, Clone)]
pub struct ShareConfig {
    pub(super) group: String,
    pub(super) client_id: String,
    pub(super) offset_reset: ShareOffsetReset,
    pub(super) isolation: Isolation,
    pub(super) mode: AcknowledgementMode,
    pub(super) limits: Limits,
    pub(super) max_poll_records: Option<usize>,
    pub(super) fetch_max_bytes: usize,
    pub(super) order: Option<Arc<dyn PriorityOrder>>,
    pub(super) max_wait: Option<Duration>,
    pub(super) read_ahead_bytes: usize,
    pub(super) durable_delivery_count: bool,
}

impl Default for ShareConfig {
    fn default() -> Self {
        ShareConfig::new()
    }
}

impl ShareConfig {
    /// Kafka's defaults; the group is still to be named.
    pub fn new() -> Self {
        ShareConfig {
            group: String::new(),
            client_id: String::new(),
            offset_reset: ShareOffsetReset::default(),
            isolation: Isolation::ReadUncommitted,
            mode: AcknowledgementMode::default(),
            limits: Limits::new(),
            max_poll_records: None,
            fetch_max_bytes: 50 << 20,
            order: None,
            max_wait: None,
            read_ahead_bytes: 16 << 20,
            durable_delivery_count: false,
        }
    }

    /// The group (`group.id`); it must be given.
    #[must_use]
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = name.into();
        self
    }

    /// A name for this consumer, shown in descriptions (`client.id`).
    #[must_use]
    pub fn client_id(mut self, name: impl Into<String>) -> Self {
        self.client_id = name.into();
        self
    }

    /// Where the group begins on a partition that it has never been on; at the end unless set.
    #[must_use]
    pub fn offset_reset(mut self, reset: ShareOffsetReset) -> Self {
        self.offset_reset = reset;
        self
    }

    /// Whether records of undecided transactions are delivered, as by default, or committed ones alone
    /// (`share.isolation.level`). Above the high watermark nothing is.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// How records are acknowledged; implicitly unless set.
    #[must_use]
    pub fn acknowledgement_mode(mut self, mode: AcknowledgementMode) -> Self {
        self.mode = mode;
        self
    }

    /// How long a record stays with whoever got it (`share.record.lock.duration.ms`); 30 seconds unless set. Then it
    /// goes to somebody else, and can no longer be acknowledged.
    #[must_use]
    pub fn lock_duration(mut self, duration: Duration) -> Self {
        self.limits.lock_duration = duration;
        self
    }

    /// After how many deliveries a record that was not accepted is given up (`share.delivery.count.limit`); 5 unless
    /// set. It stays in the log, and is not delivered to this group again.
    #[must_use]
    pub fn delivery_count_limit(mut self, limit: u16) -> Self {
        self.limits.delivery_count = limit;
        self
    }

    /// Whether a delivery is counted durably before it is made; otherwise, as in Kafka, when the record is given back.
    /// Costs another append for each poll. With it, the limit holds also for a record that brings the whole process
    /// down each time.
    #[must_use]
    pub fn durable_delivery_count(mut self, durable: bool) -> Self {
        self.durable_delivery_count = durable;
        self
    }

    /// How many records of a partition may be delivered, or read ahead, and not finished
    /// (`share.partition.max.record.locks`); 2000 unless set, at most 10,000.
    ///
    /// Kafka counts those that are finished behind one that is not, too; here they are kept as ranges, and so one
    /// record that takes long does not keep the others waiting. Only if there come to be more than 16,000 ranges, as
    /// where records are accepted and rejected by turns, nothing new is delivered before that one is finished.
    #[must_use]
    pub fn max_in_flight(mut self, records: u64) -> Self {
        self.limits.in_flight = records;
        self
    }

    /// How many records a poll returns at most (`max.poll.records`); 500 unless set, and 1 by priority: what was
    /// returned is not overtaken any more.
    #[must_use]
    pub fn max_poll_records(mut self, records: usize) -> Self {
        self.max_poll_records = Some(records);
        self
    }

    /// How many bytes a poll returns, about (`fetch.max.bytes`); 50 MiB unless set. One record always.
    #[must_use]
    pub fn fetch_max_bytes(mut self, bytes: u64) -> Self {
        self.fetch_max_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self
    }

    /// Delivers by priority instead of by offset.
    #[must_use]
    pub fn priority(mut self, order: impl PriorityOrder + 'static) -> Self {
        self.order = Some(Arc::new(order));
        self
    }

    /// By priority, how long a record may wait at most: then it goes before all others, the oldest first. For ever
    /// unless set.
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = Some(wait);
        self
    }

    /// By priority, how many bytes of a partition are read ahead, about; 16 MiB unless set. One record always.
    #[must_use]
    pub fn read_ahead_bytes(mut self, bytes: usize) -> Self {
        self.read_ahead_bytes = bytes;
        self
    }

    pub(super) fn poll_records(&self) -> usize {
        let default = if self.order.is_some() { 1 } else { 500 };
        self.max_poll_records.unwrap_or(default)
    }

    pub(super) fn settings(&self) -> Settings {
        let priority = self.order.as_ref().map(|order| Priority {
            order: Arc::clone(order),
            max_wait: self.max_wait,
            read_ahead_bytes: self.read_ahead_bytes,
        });
        Settings { isolation: self.isolation, limits: self.limits, priority }
    }

    pub(super) fn check(&self) -> Result<()> {
        check_group_id(&self.group)?;
        let invalid = |key: &str, value: String, reason: &str| {
            Err(Error::InvalidConfig { key: key.into(), value, reason: reason.into() })
        };
        let Limits { lock_duration, delivery_count, in_flight } = self.limits;
        if lock_duration.is_zero() {
            let millis = lock_duration.as_millis().to_string();
            return invalid("share.record.lock.duration.ms", millis, "it must be longer than nothing");
        }
        if !(1..=i16::MAX as u16).contains(&delivery_count) {
            return invalid("share.delivery.count.limit", delivery_count.to_string(), "1 to 32767");
        }
        if !(1..=IN_FLIGHT_MAX).contains(&in_flight) {
            return invalid("share.partition.max.record.locks", in_flight.to_string(), "1 to 10000");
        }
        if self.max_poll_records == Some(0) {
            return invalid("max.poll.records", "0".into(), "at least 1");
        }
        if self.fetch_max_bytes == 0 {
            return invalid("fetch.max.bytes", "0".into(), "at least 1");
        }
        if self.isolation == Isolation::LogEnd {
            let reason = "read_uncommitted or read_committed: consumers see nothing above the high watermark";
            return invalid("share.isolation.level", "log end".into(), reason);
        }
        Ok(())
    }
}

/// What all members of a group have in common.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) isolation: Isolation,
    pub(super) limits: Limits,
    pub(super) priority: Option<Priority>,
}

impl Settings {
    /// In what another's settings differ, if they do.
    pub(super) fn difference(&self, other: &Settings) -> Option<&'static str> {
        let order =
            |settings: &Settings| settings.priority.as_ref().map(|priority| priority.order.name().to_owned());
        let ahead = |settings: &Settings| {
            settings.priority.as_ref().map(|priority| (priority.max_wait, priority.read_ahead_bytes))
        };
        if self.isolation != other.isolation {
            Some("isolation level")
        } else if self.limits != other.limits {
            Some("lock duration, delivery limit or number of records in flight")
        } else if order(self) != order(other) {
            Some("order")
        } else if ahead(self) != ahead(other) {
            Some("wait or reading ahead")
        } else {
            None
        }
    }
}
