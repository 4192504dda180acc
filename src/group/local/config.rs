//! [`GroupConfig`]: the settings of a store's groups, and what a member may ask for.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::group::coordinator::{JoinRequest, OffsetCommit, check_group_id};
use crate::types::OFFSET_MAX;

/// What the formats of `__consumer_offsets` can hold of a text, in bytes.
const TEXT_BYTES_MAX: usize = 0x7fff;

/// Settings of the groups of a store, each with a default that suits most. The names in the errors are those of
/// Kafka's broker.
///
/// ```
/// use std::time::Duration;
/// use annals::Store;
/// use annals::group::GroupConfig;
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let config = GroupConfig::new().offsets_partitions(4).offsets_retention(Duration::from_secs(3600));
/// let groups = store.groups_with(config)?;
/// assert!(groups.list()?.is_empty());
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    pub(super) offsets_partitions: u32,
    pub(super) initial_rebalance_delay: Duration,
    pub(super) new_member_timeout: Duration,
    pub(super) session_timeout_min: Duration,
    pub(super) session_timeout_max: Duration,
    pub(super) groups_max: usize,
    pub(super) members_max: usize,
    pub(super) subscription_bytes_max: usize,
    pub(super) commit_metadata_bytes_max: usize,
    pub(super) offsets_retention: Duration,
    pub(super) retention_check_interval: Duration,
    pub(super) skip_damage: bool,
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig::new()
    }
}

impl GroupConfig {
    /// The defaults.
    pub fn new() -> Self {
        GroupConfig {
            offsets_partitions: 50,
            initial_rebalance_delay: Duration::ZERO,
            new_member_timeout: Duration::from_secs(5 * 60),
            session_timeout_min: Duration::from_millis(1),
            session_timeout_max: Duration::from_secs(30 * 60),
            groups_max: 100_000,
            members_max: 10_000,
            subscription_bytes_max: 1 << 20,
            commit_metadata_bytes_max: 4096,
            offsets_retention: Duration::from_secs(7 * 24 * 60 * 60),
            retention_check_interval: Duration::from_secs(10 * 60),
            skip_damage: false,
        }
    }

    /// How many partitions `__consumer_offsets` gets when it is made (`offsets.topic.num.partitions`); by default 50,
    /// at least 1. A topic that is there already keeps its number, and must not be given more: as in Kafka, groups
    /// would then be looked for where they are not.
    #[must_use]
    pub fn offsets_partitions(mut self, count: u32) -> Self {
        self.offsets_partitions = count.max(1);
        self
    }

    /// How long the first members of an empty group wait for more (`group.initial.rebalance.delay.ms`); each newcomer
    /// makes it as long again, up to the rebalance timeout.
    ///
    /// By default not at all, where Kafka waits 3 seconds: the members of one process are there at once, and sharing
    /// out anew costs microseconds, not round trips. A server whose clients come one by one may want Kafka's.
    #[must_use]
    pub fn initial_rebalance_delay(mut self, delay: Duration) -> Self {
        self.initial_rebalance_delay = delay;
        self
    }

    /// How long a newcomer may wait for its first generation before it is taken for gone; by default 5 minutes.
    #[must_use]
    pub fn new_member_timeout(mut self, timeout: Duration) -> Self {
        self.new_member_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// The bounds of session timeouts (`group.min.session.timeout.ms`, `group.max.session.timeout.ms`). By default
    /// 1 ms to 30 minutes.
    ///
    /// Kafka asks for at least 6 seconds, to keep members on a bad network from flapping. In one process there is no
    /// network, and whoever wants to fail over fast may. Nor does the maximum bind the consumers of this process, whose
    /// session is as long as their `max.poll.interval.ms`: polls are their only heartbeats.
    #[must_use]
    pub fn session_timeout(mut self, min: Duration, max: Duration) -> Self {
        self.session_timeout_min = min.max(Duration::from_millis(1));
        self.session_timeout_max = max.max(self.session_timeout_min);
        self
    }

    /// How many groups there may be; by default 100,000. Those found in the log are taken whatever their number.
    #[must_use]
    pub fn groups_max(mut self, groups: usize) -> Self {
        self.groups_max = groups;
        self
    }

    /// How many members a group may have (`group.max.size`); by default 10,000.
    #[must_use]
    pub fn members_max(mut self, members: usize) -> Self {
        self.members_max = members;
        self
    }

    /// How many bytes the subscriptions of a member may have, all its protocols and their names together; by default
    /// 1 MiB.
    #[must_use]
    pub fn subscription_bytes_max(mut self, bytes: usize) -> Self {
        self.subscription_bytes_max = bytes;
        self
    }

    /// How many bytes of metadata a committed offset may have (`offset.metadata.max.bytes`); by default 4096, at most
    /// 32,767.
    #[must_use]
    pub fn commit_metadata_bytes_max(mut self, bytes: usize) -> Self {
        self.commit_metadata_bytes_max = bytes.min(TEXT_BYTES_MAX);
        self
    }

    /// How long offsets are kept that nobody needs (`offsets.retention.minutes`); by default 7 days. The time runs
    /// from when the group lost its last member; of a group without members ever, and of topics that a group no
    /// longer subscribes to, from the last commit. A partition of `__consumer_offsets` of which no group has been used
    /// since the store was opened is not looked at.
    #[must_use]
    pub fn offsets_retention(mut self, retention: Duration) -> Self {
        self.offsets_retention = retention;
        self
    }

    /// How often that is looked after (`offsets.retention.check.interval.ms`); by default every 10 minutes.
    #[must_use]
    pub fn retention_check_interval(mut self, interval: Duration) -> Self {
        self.retention_check_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Whether damage in the log of offsets is passed over. By default it is not, unless its loss was
    /// [accepted](crate::Partition::accept_loss): groups whose offsets may be damaged cannot be used, and say why. With
    /// it, they go on from what can still be read, which may be older than what they had committed: their records may
    /// be delivered again.
    #[must_use]
    pub fn skip_damage(mut self, skip: bool) -> Self {
        self.skip_damage = skip;
        self
    }

    /// Whether somebody may ask to join like that.
    pub(super) fn check_join(&self, request: &JoinRequest) -> Result<()> {
        check_group_id(&request.group)?;
        let longest = Duration::from_millis(i32::MAX as u64);
        // In this process, polls are the only heartbeats, and come as seldom as the member says.
        let local = request.client_host == JoinRequest::IN_PROCESS;
        let between_polls = if local { request.rebalance_timeout.min(longest) } else { Duration::ZERO };
        let timeouts = self.session_timeout_min..=self.session_timeout_max.max(between_polls);
        check_timeout("session.timeout.ms", request.session_timeout, &timeouts)?;
        let any = Duration::from_millis(1)..=longest;
        check_timeout("max.poll.interval.ms", request.rebalance_timeout, &any)?;
        let names = request.protocols.iter().map(|(name, _)| name);
        let texts = [&request.member_id, &request.client_id, &request.client_host, &request.protocol_type];
        for text in texts.into_iter().chain(&request.instance_id).chain(names) {
            check_size("a name of a member", text.len(), TEXT_BYTES_MAX, "Kafka's format")?;
        }
        let bytes = request.protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum();
        check_size(
            "a member's subscription",
            bytes,
            self.subscription_bytes_max,
            "GroupConfig::subscription_bytes_max",
        )
    }

    /// Whether these offsets may be committed.
    pub(super) fn check_offsets(&self, offsets: &[OffsetCommit]) -> Result<()> {
        for commit in offsets {
            let position = &commit.position;
            let limit = self.commit_metadata_bytes_max;
            check_size(
                "the metadata of a committed offset",
                position.metadata.len(),
                limit,
                "offset.metadata.max.bytes",
            )?;
            if position.offset > OFFSET_MAX {
                return Err(too_large("a committed offset", position.offset, OFFSET_MAX, "Kafka's format"));
            }
        }
        Ok(())
    }
}

fn check_timeout(key: &str, value: Duration, bounds: &std::ops::RangeInclusive<Duration>) -> Result<()> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let (min, max) = (bounds.start().as_millis(), bounds.end().as_millis());
    Err(Error::InvalidConfig {
        key: key.into(),
        value: value.as_millis().to_string(),
        reason: format!("between {min} and {max}"),
    })
}

fn check_size(what: &'static str, size: usize, limit: usize, setting: &'static str) -> Result<()> {
    if size <= limit { Ok(()) } else { Err(too_large(what, size as u64, limit as u64, setting)) }
}

pub(super) fn too_large(what: &'static str, size: u64, limit: u64, setting: &'static str) -> Error {
    Error::TooLarge { what, size, limit, setting }
}
