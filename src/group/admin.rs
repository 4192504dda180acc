//! What administrators do with groups besides looking at them: set back or forward where one goes on, and see how far
//! it is behind. Works with any [`GroupCoordinator`].

use std::collections::BTreeMap;

use super::coordinator::{GroupCoordinator, GroupMetadata, GroupState, OffsetAndMetadata, OffsetCommit};
use crate::error::{Error, Result};
use crate::partition::Partition;
use crate::topic::Store;
use crate::types::TopicPartition;

/// Where a group is to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetTo {
    /// With the first record that is there.
    Earliest,
    /// With the next one to come.
    Latest,
    /// With the first record that is not older, in milliseconds since the epoch; if there is none, with the next to
    /// come.
    Timestamp(i64),
    /// So many offsets further than what is committed, or back. Of what is committed alone.
    Shift(i64),
    /// With this offset, in each partition.
    Offset(u64),
    /// With these offsets; other partitions are left as they are.
    Offsets(BTreeMap<TopicPartition, u64>),
}

/// How far a group is behind in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionLag {
    /// Where it goes on.
    pub committed: OffsetAndMetadata,
    /// Where those who read the partition come to its end; `None` if it is no more.
    pub end: Option<u64>,
    /// The distance between the two, in offsets. There may be fewer records, since some offsets have none.
    pub lag: Option<u64>,
}

/// What [`reset_offsets`] would commit, and commits nothing.
///
/// # Errors
/// As [`reset_offsets`].
pub fn plan_reset(
    store: &Store,
    groups: &dyn GroupCoordinator,
    group: &str,
    partitions: Option<&[TopicPartition]>,
    to: &ResetTo,
) -> Result<BTreeMap<TopicPartition, u64>> {
    match groups.describe(group) {
        // It begins with its first commit.
        Err(Error::UnknownGroup { .. }) => {}
        Ok(described) if described.state == GroupState::Empty => {}
        Ok(_) => return Err(Error::GroupNotEmpty { group: group.to_owned() }),
        Err(error) => return Err(error),
    }
    let committed = groups.committed(group, partitions, true)?;
    let wanted: Vec<TopicPartition> = match (partitions, to) {
        (Some(partitions), _) => partitions.to_vec(),
        (None, ResetTo::Offsets(offsets)) => offsets.keys().cloned().collect(),
        (None, _) => committed.keys().cloned().collect(),
    };
    let mut plan = BTreeMap::new();
    // What is committed of a topic that is deleted since stays as it is.
    let all_committed = partitions.is_none() && !matches!(to, ResetTo::Offsets(_));
    for id in wanted {
        let partition = match store.topic(&id.topic).and_then(|topic| topic.partition(id.partition)) {
            Err(Error::UnknownTopic { .. } | Error::UnknownPartition { .. }) if all_committed => continue,
            found => found?,
        };
        let before = committed.get(&id).map(|committed| committed.offset);
        if let Some(offset) = find(&partition, before, to)? {
            plan.insert(id, offset);
        }
    }
    Ok(plan)
}

/// Sets where a group goes on, in the partitions named or in all that it has committed and that are still there.
/// Returns what was committed; an offset outside of what there is was moved to its nearest end.
///
/// ```
/// use annals::group::{self, GroupMetadata, OffsetAndMetadata, OffsetCommit, ResetTo};
/// use annals::{Record, Store, TopicConfig};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let clicks = store.create_topic("clicks", TopicConfig::new())?.partition(0)?;
/// clicks.append_batch(&[Record::new("one"), Record::new("two"), Record::new("three")])?;
/// let groups = store.groups()?;
/// let done = OffsetCommit { partition: clicks.id().clone(), position: OffsetAndMetadata::new(3) };
/// groups.commit(&GroupMetadata::simple("billing"), &[done])?;
///
/// // What would be, and then what is.
/// let planned = group::plan_reset(&store, &*groups, "billing", None, &ResetTo::Shift(-2))?;
/// assert_eq!(planned[clicks.id()], 1);
/// assert_eq!(group::group_lag(&store, &*groups, "billing")?[clicks.id()].lag, Some(0));
/// group::reset_offsets(&store, &*groups, "billing", None, &ResetTo::Shift(-2))?;
/// assert_eq!(group::group_lag(&store, &*groups, "billing")?[clicks.id()].lag, Some(2));
/// # Ok::<(), annals::Error>(())
/// ```
///
/// # Errors
/// [`Error::GroupNotEmpty`] if the group has members; [`Error::UnknownTopic`], [`Error::UnknownPartition`];
/// [`Error::InvalidState`] for a shift where nothing is committed; [`Error::UnstableOffsets`]; otherwise as
/// [`GroupCoordinator::commit`].
pub fn reset_offsets(
    store: &Store,
    groups: &dyn GroupCoordinator,
    group: &str,
    partitions: Option<&[TopicPartition]>,
    to: &ResetTo,
) -> Result<BTreeMap<TopicPartition, u64>> {
    let plan = plan_reset(store, groups, group, partitions, to)?;
    let commits: Vec<OffsetCommit> = plan
        .iter()
        .map(|(partition, offset)| OffsetCommit {
            partition: partition.clone(),
            position: OffsetAndMetadata::new(*offset),
        })
        .collect();
    match groups.commit(&GroupMetadata::simple(group), &commits) {
        Ok(()) => Ok(plan),
        // Somebody has joined since.
        Err(Error::UnknownMember { .. }) => Err(Error::GroupNotEmpty { group: group.to_owned() }),
        Err(error) => Err(error),
    }
}

/// How far a group is behind, in every partition that it has committed.
///
/// # Errors
/// As [`GroupCoordinator::committed`], and as partitions cannot be opened.
pub fn group_lag(
    store: &Store,
    groups: &dyn GroupCoordinator,
    group: &str,
) -> Result<BTreeMap<TopicPartition, PartitionLag>> {
    let mut lags = BTreeMap::new();
    for (id, committed) in groups.committed(group, None, false)? {
        let end = match store.topic(&id.topic).and_then(|topic| topic.partition(id.partition)) {
            Ok(partition) => Some(partition.high_watermark()),
            Err(Error::UnknownTopic { .. } | Error::UnknownPartition { .. }) => None,
            Err(error) => return Err(error),
        };
        let lag = end.map(|end| end.saturating_sub(committed.offset));
        lags.insert(id, PartitionLag { committed, end, lag });
    }
    Ok(lags)
}

/// Where to go on in a partition; none if that is not to change.
fn find(partition: &Partition, before: Option<u64>, to: &ResetTo) -> Result<Option<u64>> {
    let (start, end) = (partition.log_start(), partition.high_watermark());
    let wanted = match to {
        ResetTo::Earliest => start,
        ResetTo::Latest => end,
        ResetTo::Timestamp(timestamp) => {
            partition.offset_for_timestamp(*timestamp)?.map_or(end, |found| found.offset)
        }
        ResetTo::Shift(by) => {
            let before = before.ok_or_else(|| Error::InvalidState {
                action: "shift the offset",
                reason: format!("nothing is committed for {}", partition.id()),
            })?;
            before.saturating_add_signed(*by)
        }
        ResetTo::Offset(offset) => *offset,
        ResetTo::Offsets(offsets) => match offsets.get(partition.id()) {
            Some(offset) => *offset,
            None => return Ok(None),
        },
    };
    Ok(Some(wanted.clamp(start, end.max(start))))
}
